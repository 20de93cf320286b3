//! One process, from fork to exec.
//!
//! A [`Plan`] holds everything that the child needs, in the form in which the kernel wants it, so that between fork and
//! exec nothing is allocated and nothing is decided. [`Plan::launch`] makes the child with
//! `clone3(CLONE_VM | CLONE_VFORK)`: it shares our memory and we stand still until it has executed its program or given
//! up, which costs half of what a fork does and lets it report its error by writing to our memory. With
//! `CLONE_INTO_CGROUP` it begins its life in the run's cgroup, without the wait that moving it there later would take.

use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{SigSet, SigmaskHow};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use super::seccomp;
use super::users::{User, may_set_groups};
use crate::guest::wire::Step;

/// Where programs are looked up if the environment does not say (as in execvpe(3), with the usual sbin directories).
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Shells for a command line, in order of preference.
const SHELLS: [&CStr; 3] = [c"/bin/bash", c"/usr/bin/bash", c"/bin/sh"];

/// Where and why a process could not be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    /// The step.
    pub step: Step,
    /// The kernel's word.
    pub errno: Errno,
}

impl Failure {
    /// A failure of a step.
    pub fn of(step: Step) -> impl Fn(Errno) -> Self {
        move |errno| Self { step, errno }
    }
}

/// What the process's standard descriptors are.
pub enum Stdio {
    /// Three descriptors; all may be the same.
    Pipes(OwnedFd, OwnedFd, OwnedFd),
    /// A terminal, which becomes the controlling one.
    Terminal(OwnedFd),
}

/// A process to be.
pub struct Plan {
    /// Files to try in turn.
    candidates: Vec<CString>,
    argv: Vec<CString>,
    env: Vec<CString>,
    cwd: CString,
    uid: u32,
    gid: u32,
    /// `None`: they cannot be set here.
    groups: Option<Vec<libc::gid_t>>,
    stdio: Stdio,
}

impl Plan {
    /// Prepares a program with its arguments. `env` gets what the user's entry knows and it lacks.
    pub fn program(argv: &[Vec<u8>], env: &[Vec<u8>], cwd: &[u8], user: User, stdio: Stdio) -> Result<Self, Failure> {
        let Some(program) = argv.first() else { return Err(malformed(Errno::EINVAL)) };
        let env = complete(env, &user)?;
        let candidates = lookup(program, &env)?;
        Self::new(candidates, strings(argv)?, env, cwd, user, stdio)
    }

    /// Prepares a line for the shell.
    pub fn shell(line: &[u8], env: &[Vec<u8>], cwd: &[u8], user: User, stdio: Stdio) -> Result<Self, Failure> {
        let shell = SHELLS.into_iter().find(|shell| can_execute(shell)).unwrap_or(c"/bin/sh").to_owned();
        let name = shell.to_bytes().rsplit(|byte| *byte == b'/').next().unwrap_or(b"sh");
        let argv = strings(&[name.to_vec(), b"-c".to_vec(), line.to_vec()])?;
        let env = complete(env, &user)?;
        Self::new(vec![shell], argv, env, cwd, user, stdio)
    }

    fn new(
        candidates: Vec<CString>,
        argv: Vec<CString>,
        env: Vec<CString>,
        cwd: &[u8],
        user: User,
        stdio: Stdio,
    ) -> Result<Self, Failure> {
        let User { uid, gid, groups, .. } = user;
        let groups = may_set_groups().then_some(groups);
        Ok(Self { candidates, argv, env, cwd: string(cwd)?, uid, gid, groups, stdio })
    }

    /// Starts the process and answers its id once it executes its program. Does not allocate after the pointers below,
    /// so that a forked process may call it too.
    pub fn launch(&self, launcher: &mut Launcher, cgroup: Option<BorrowedFd<'_>>) -> Result<libc::pid_t, Failure> {
        let argv = pointers(&self.argv);
        let env = pointers(&self.env);
        self.launch_with(&argv, &env, launcher, cgroup)
    }

    /// The pointer arrays of `argv` and the environment, for [`Plan::launch_with`].
    pub fn pointers(&self) -> (Vec<*const libc::c_char>, Vec<*const libc::c_char>) {
        (pointers(&self.argv), pointers(&self.env))
    }

    /// As [`Plan::launch`], with pointers made before; allocates nothing.
    pub fn launch_with(
        &self,
        argv: &[*const libc::c_char],
        env: &[*const libc::c_char],
        launcher: &mut Launcher,
        cgroup: Option<BorrowedFd<'_>>,
    ) -> Result<libc::pid_t, Failure> {
        let (open_files, deny_clone3) = (launcher.open_files, launcher.deny_clone3);
        let (argv, env) = (argv.as_ptr(), env.as_ptr());
        let mut child = Child { plan: self, argv, env, open_files, deny_clone3, failure: None };
        let pid = launcher.clone_child(&mut child, cgroup).map_err(Failure::of(Step::Fork))?;
        // SAFETY: the child, which had a pointer to it, has executed its program or exited. It wrote behind the
        // compiler's back, so this read must not be optimised away.
        match unsafe { ptr::read_volatile(&raw const child.failure) } {
            None => Ok(pid),
            Some(failure) => {
                reap(pid);
                Err(self.explain(failure))
            }
        }
    }

    /// ENOENT from execve(2) also means that the file is there and its interpreter is not. Allocates nothing.
    fn explain(&self, failure: Failure) -> Failure {
        if failure.step != Step::Exec || failure.errno != Errno::ENOENT {
            return failure;
        }
        // The process looked from its own working directory.
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let Ok(cwd) = open(self.cwd.as_c_str(), flags, Mode::empty()) else { return failure };
        let is_there = |path: &CString| faccessat(&cwd, path.as_c_str(), AccessFlags::F_OK, AtFlags::empty()).is_ok();
        if self.candidates.iter().any(is_there) {
            return Failure { step: Step::Interpreter, errno: Errno::ENOENT };
        }
        failure
    }
}

/// Waits for a child that has exited or is about to.
fn reap(pid: libc::pid_t) {
    // SAFETY: waitpid(2) with a null status only takes the child off the process table.
    unsafe { libc::waitpid(pid, ptr::null_mut(), libc::__WALL) };
}

fn malformed(errno: Errno) -> Failure {
    Failure { step: Step::Request, errno }
}

fn string(bytes: &[u8]) -> Result<CString, Failure> {
    CString::new(bytes).map_err(|_| malformed(Errno::EINVAL))
}

fn strings(list: &[Vec<u8>]) -> Result<Vec<CString>, Failure> {
    list.iter().map(|bytes| string(bytes)).collect()
}

fn pointers(list: &[CString]) -> Vec<*const libc::c_char> {
    list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
}

/// The environment with HOME, USER and LOGNAME.
fn complete(env: &[Vec<u8>], user: &User) -> Result<Vec<CString>, Failure> {
    let mut list = strings(env)?;
    for (key, value) in [("HOME", &user.home), ("USER", &user.name), ("LOGNAME", &user.name)] {
        if variable(&list, key).is_none() {
            list.push(string(&[key.as_bytes(), b"=", value].concat())?);
        }
    }
    Ok(list)
}

fn variable<'a>(env: &'a [CString], key: &str) -> Option<&'a [u8]> {
    env.iter().find_map(|entry| entry.to_bytes().strip_prefix(key.as_bytes())?.strip_prefix(b"="))
}

/// The files that a program's name may mean, as execvpe(3) tries them.
fn lookup(program: &[u8], env: &[CString]) -> Result<Vec<CString>, Failure> {
    if program.contains(&b'/') || program.is_empty() {
        return Ok(vec![string(program)?]);
    }
    let path = variable(env, "PATH").unwrap_or(DEFAULT_PATH);
    path.split(|byte| *byte == b':').map(|directory| string(&join(directory, program))).collect()
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

fn can_execute(path: &CStr) -> bool {
    faccessat(nix::fcntl::AT_FDCWD, path, AccessFlags::X_OK, AtFlags::empty()).is_ok()
}

/// Makes children; owns the stack that they use until they execute their program.
pub struct Launcher {
    stack: Box<[u8; CHILD_STACK]>,
    /// How many files a child may have open: as many as we could, before we allowed ourselves more.
    open_files: Option<libc::rlimit>,
    deny_clone3: bool,
}

/// The child calls nothing but thin wrappers of system calls.
const CHILD_STACK: usize = 32 << 10;

/// What the child reads, and the one thing that it writes.
struct Child<'a> {
    plan: &'a Plan,
    argv: *const *const libc::c_char,
    env: *const *const libc::c_char,
    open_files: Option<libc::rlimit>,
    deny_clone3: bool,
    failure: Option<Failure>,
}

impl Launcher {
    /// A launcher. Allows this process to have as many files open as it may allow itself, because it keeps up to three
    /// for each run; the children get the limit that it had. With `deny_clone3` they cannot call it.
    pub fn new(deny_clone3: bool) -> Self {
        Self { stack: Box::new([0; CHILD_STACK]), open_files: raise_open_files().ok(), deny_clone3 }
    }

    fn clone_child(&mut self, child: &mut Child<'_>, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<libc::pid_t> {
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

/// From linux/sched.h.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

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

/// The child, from its first instruction to its program. It shares the parent's memory: it only makes system calls, and
/// raw ones where the C library's would tell the other threads of a process that is not ours.
unsafe extern "C" fn run_child(argument: *mut libc::c_void) -> ! {
    // SAFETY: `clone_child` passes a `Child` that lives until we have executed or exited, and its only other user, the
    // parent, stands still.
    let child = unsafe { &mut *argument.cast::<Child<'_>>() };
    // SAFETY: we are the child, and own no more than its registers and stack.
    let failure = unsafe { become_program(child) };
    child.failure = Some(failure);
    // SAFETY: leaves without running what the parent registered for its own exit.
    unsafe { libc::_exit(127) }
}

/// Only returns with a failure.
///
/// # Safety
/// To be called in a cloned child only.
unsafe fn become_program(child: &Child<'_>) -> Failure {
    let plan = child.plan;
    // SAFETY: plain system calls on values that `plan` keeps alive.
    unsafe {
        reset_signals();
        if let Some(limit) = &child.open_files {
            libc::setrlimit(libc::RLIMIT_NOFILE, limit);
        }
        libc::setsid();
        if let Err(errno) = attach_stdio(&plan.stdio) {
            return Failure { step: Step::Pty, errno };
        }
        if let Err(errno) = become_user(plan) {
            return Failure { step: Step::Credentials, errno };
        }
        if child.deny_clone3
            && let Err(errno) = seccomp::deny_clone3()
        {
            return Failure { step: Step::Fork, errno };
        }
        if libc::chdir(plan.cwd.as_ptr()) < 0 {
            return Failure { step: Step::Cwd, errno: Errno::last() };
        }
        let mut denied = None;
        for candidate in &plan.candidates {
            libc::execve(candidate.as_ptr(), child.argv, child.env);
            match Errno::last() {
                // As in execvpe(3): look further, but remember that one was there.
                Errno::EACCES => denied = Some(Errno::EACCES),
                Errno::ENOENT | Errno::ENOTDIR => {}
                errno => return Failure { step: Step::Exec, errno },
            }
        }
        Failure { step: Step::Exec, errno: denied.unwrap_or(Errno::ENOENT) }
    }
}

/// Every signal at its default and none blocked: Rust ignores SIGPIPE, and we block SIGCHLD.
///
/// # Safety
/// To be called in a cloned child only.
unsafe fn reset_signals() {
    // SAFETY: plain system calls; signals that cannot be set are refused by the kernel, which is fine. The C library's
    // own two signals (32 and 33) have no handlers in a process that has not used them.
    unsafe {
        for signal in 1..=64 {
            libc::signal(signal, libc::SIG_DFL);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
}

/// # Safety
/// To be called in a cloned child only.
unsafe fn attach_stdio(stdio: &Stdio) -> Result<(), Errno> {
    let fds: [RawFd; 3] = match stdio {
        Stdio::Pipes(stdin, stdout, stderr) => [stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()],
        Stdio::Terminal(slave) => [slave.as_raw_fd(); 3],
    };
    for (target, fd) in (0..).zip(fds) {
        // SAFETY: dup2(2) on descriptors that the parent holds; the guest's own 0, 1 and 2 are never among them, so none
        // is overwritten before it was copied.
        Errno::result(unsafe { libc::dup2(fd, target) })?;
    }
    if let Stdio::Terminal(_) = stdio {
        // SAFETY: TIOCSCTTY takes an int by value.
        Errno::result(unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) })?;
    }
    Ok(())
}

/// # Safety
/// To be called in a cloned child only.
unsafe fn become_user(plan: &Plan) -> Result<(), Errno> {
    let Plan { uid, gid, groups, .. } = plan;
    // SAFETY: plain system calls. The C library's functions would signal every thread of the parent to follow.
    unsafe {
        if let Some(groups) = groups {
            Errno::result(libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()))?;
        }
        Errno::result(libc::syscall(libc::SYS_setresgid, *gid, *gid, *gid))?;
        Errno::result(libc::syscall(libc::SYS_setresuid, *uid, *uid, *uid))?;
    }
    Ok(())
}
