//! One process, from fork to exec.
//!
//! A [`Plan`] holds everything that the child needs, in the form in which the kernel wants it, so that between fork and
//! exec nothing is allocated and nothing is decided. [`Plan::launch`] makes the child with
//! `clone3(CLONE_VM | CLONE_VFORK)`: it shares our memory and we stand still until it has executed its program or given
//! up, which costs half of what a fork does and lets it report its error by writing to our memory. With
//! `CLONE_INTO_CGROUP` it begins its life in the run's cgroup, without the wait that moving it there later would take.

use std::ffi::{CStr, CString};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{AccessFlags, faccessat};

use super::users::{User, may_set_groups};
use crate::guest::wire::Step;
use child::Child;
pub use clone::Launcher;

mod child;
mod clone;

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
