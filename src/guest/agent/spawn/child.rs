//! The child, between clone and exec.

use std::os::fd::{AsRawFd, RawFd};
use std::ptr;

use nix::errno::Errno;

use super::{Failure, Plan, Stdio};
use crate::guest::agent::seccomp;
use crate::guest::wire::Step;

/// What the child reads, and the one thing that it writes.
pub struct Child<'a> {
    pub plan: &'a Plan,
    pub argv: *const *const libc::c_char,
    pub env: *const *const libc::c_char,
    pub open_files: Option<libc::rlimit>,
    pub deny_clone3: bool,
    pub failure: Option<Failure>,
}

/// The child, from its first instruction to its program. It shares the parent's memory: it only makes system calls, and
/// raw ones where the C library's would tell the other threads of a process that is not ours.
///
/// # Safety
/// `argument` is a [`Child`] that nobody else touches until the child has executed its program or exited.
pub unsafe extern "C" fn run_child(argument: *mut libc::c_void) -> ! {
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
