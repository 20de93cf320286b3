//! Making the child: clone3(2), and clone(2) where it is hidden.

use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};

use super::child::{Child, run_child};

/// From linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// The child calls nothing but thin wrappers of system calls.
const CHILD_STACK: usize = 32 << 10;

/// Makes children; owns the stack that they use until they execute their program.
pub struct Launcher {
    stack: Box<[u8; CHILD_STACK]>,
    /// How many files a child may have open: as many as we could, before we allowed ourselves more.
    pub(super) open_files: Option<libc::rlimit>,
    pub(super) deny_clone3: bool,
}

impl Launcher {
    /// A launcher. Allows this process to have as many files open as it may allow itself, because it keeps up to three
    /// for each run; the children get the limit that it had. With `deny_clone3` they cannot call it.
    pub fn new(deny_clone3: bool) -> Self {
        Self { stack: Box::new([0; CHILD_STACK]), open_files: raise_open_files().ok(), deny_clone3 }
    }

    pub(super) fn clone_child(
        &mut self,
        child: &mut Child<'_>,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> nix::Result<libc::pid_t> {
        let mut flags = libc::CLONE_VM | libc::CLONE_VFORK;
        // SAFETY: all-zero is a valid clone_args.
        let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
        if let Some(cgroup) = cgroup {
            // Beyond the 32 bits of the other flags, so libc's constant has another type on some targets.
            args.flags |= CLONE_INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        flags &= !libc::CSIGNAL;
        args.flags |= u64::from(flags.unsigned_abs());
        args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
        args.stack = self.stack.as_mut_ptr().addr() as u64;
        args.stack_size = CHILD_STACK as u64;
        // All signals are blocked while the child shares our memory: a handler of ours must not run in it.
        let mut mask = SigSet::empty();
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&SigSet::all()), Some(&mut mask))?;
        // SAFETY: the stack is ours alone and, because of CLONE_VFORK, used by one child at a time; `run_child` never
        // returns; `child` outlives the call, and the child touches nothing after its exec or exit.
        let mut result = unsafe { clone3(&raw const args, run_child, ptr::from_mut(child).cast()) };
        if result < 0 && Errno::last() == Errno::ENOSYS && cgroup.is_none() {
            let top = self.stack.as_mut_ptr_range().end;
            // SAFETY: as above, with the end of the stack as clone(2) wants it.
            result = unsafe { clone(top.cast(), flags | libc::SIGCHLD, ptr::from_mut(child).cast()) };
        }
        nix::sys::signal::pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(&mask), None)?;
        Errno::result(result)
    }
}

/// Raises the soft limit of open files to the hard one; answers what it was.
fn raise_open_files() -> nix::Result<libc::rlimit> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(libc::rlimit { rlim_cur: soft, rlim_max: hard })
}

/// clone3(2), with the child calling `function(argument)` on the stack given in `args`. A system call that returns twice
/// cannot be written in Rust: the child must never come back on the parent's stack frame.
///
/// # Safety
/// `args` is valid and its stack large enough; `function` never returns.
unsafe fn clone3(
    args: *const libc::clone_args,
    function: unsafe extern "C" fn(*mut libc::c_void) -> !,
    argument: *mut libc::c_void,
) -> libc::c_int {
    let result: libc::c_long;
    #[cfg(target_arch = "x86_64")]
    // SAFETY: the system call clobbers rcx and r11 only (syscall(2)); in the child it goes on with the registers of the
    // parent and the new stack, calls `function` and never leaves this block.
    unsafe {
        std::arch::asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 => result,
            in("rdi") args,
            in("rsi") size_of::<libc::clone_args>(),
            in("r12") argument,
            in("r13") function,
            lateout("rcx") _,
            lateout("r11") _,
        );
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above; svc clobbers x0 only.
    unsafe {
        std::arch::asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            inlateout("x0") args => result,
            in("x1") size_of::<libc::clone_args>(),
            in("x8") libc::SYS_clone3,
            in("x20") argument,
            in("x21") function,
        );
    }
    match result {
        // The kernel answers -errno; libc's callers expect -1 and errno.
        -4095..=-1 => {
            Errno::from_raw(i32::try_from(-result).unwrap_or(libc::EINVAL)).set();
            -1
        }
        pid => libc::c_int::try_from(pid).unwrap_or(-1),
    }
}

/// clone(2), for where a system call filter hides clone3, with the child calling [`run_child`].
///
/// # Safety
/// `top` is the end of a stack that is large enough.
unsafe fn clone(top: *mut libc::c_void, flags: libc::c_int, argument: *mut libc::c_void) -> libc::c_int {
    extern "C" fn start(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: only `clone` passes it on, with what its caller has for `run_child`.
        unsafe { run_child(argument) }
    }
    // SAFETY: the C library aligns the stack; the rest is the caller's promise.
    unsafe { libc::clone(start, top, flags, argument) }
}
