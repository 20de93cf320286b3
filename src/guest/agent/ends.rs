//! The pipes and terminals of runs: the ends that a run gets, and those that the guest keeps for the next daemon.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;

use super::spawn::{Failure, Stdio};
use crate::guest::terminal::open_terminal;
use crate::guest::wire::{Spawn, Step};

/// What came with a request to start a run, taken apart.
pub struct Ends {
    /// For the run.
    pub stdio: Stdio,
    /// The daemon's ends.
    pub kept: Kept,
    /// Where the run is to begin, if it has a cgroup.
    pub cgroup: Option<OwnedFd>,
}

/// The daemon's ends of a run's pipes or terminal: with them open, nothing that the run does fails because the daemon has
/// died. Nobody in the sandbox can get at them, as they are close-on-exec and the guest is not dumpable.
#[derive(Debug)]
pub enum Kept {
    /// Of pipes.
    Pipes {
        /// Until the end of input.
        stdin: Option<Rc<OwnedFd>>,
        /// The read end.
        stdout: Rc<OwnedFd>,
        /// The read end.
        stderr: Rc<OwnedFd>,
    },
    /// Of a terminal: its master.
    Terminal(Rc<OwnedFd>),
}

impl Ends {
    /// Takes them out of what came with the request; makes a terminal, owned by `uid`, if one is asked for.
    pub fn take(spawn: &Spawn, fds: Vec<OwnedFd>, uid: u32, null: &File) -> Result<Self, Failure> {
        let mut fds = fds.into_iter();
        let mut take = || fds.next().ok_or(Failure { step: Step::Request, errno: Errno::EBADF });
        let (stdio, kept) = if let Some(size) = spawn.pty {
            let terminal = open_terminal(size, uid).map_err(Failure::of(Step::Pty))?;
            (Stdio::Terminal(terminal.slave), Kept::Terminal(Rc::new(terminal.master)))
        } else {
            let stdin = if spawn.stdin { take()? } else { clone(null)? };
            let stdio = Stdio::Pipes(stdin, take()?, take()?);
            let stdin = if spawn.stdin { Some(Rc::new(take()?)) } else { None };
            (stdio, Kept::Pipes { stdin, stdout: Rc::new(take()?), stderr: Rc::new(take()?) })
        };
        let cgroup = if spawn.cgroup { Some(take()?) } else { None };
        Ok(Self { stdio, kept, cgroup })
    }
}

impl Kept {
    /// In the order of [`crate::guest::wire::Held`].
    pub fn fds(&self) -> Vec<Rc<OwnedFd>> {
        match self {
            Self::Pipes { stdin, stdout, stderr } => stdin.iter().chain([stdout, stderr]).cloned().collect(),
            Self::Terminal(master) => vec![Rc::clone(master)],
        }
    }

    /// The master of a terminal.
    pub fn terminal(&self) -> Option<Rc<OwnedFd>> {
        match self {
            Self::Pipes { .. } => None,
            Self::Terminal(master) => Some(Rc::clone(master)),
        }
    }

    /// There is a pipe for input, and it is open.
    pub fn has_stdin(&self) -> bool {
        matches!(self, Self::Pipes { stdin: Some(_), .. })
    }

    /// Closes the pipe for input.
    pub fn close_stdin(&mut self) {
        if let Self::Pipes { stdin, .. } = self {
            *stdin = None;
        }
    }
}

fn clone(file: &File) -> Result<OwnedFd, Failure> {
    let copy = file.try_clone();
    copy.map(OwnedFd::from).map_err(|_| Failure { step: Step::Fork, errno: Errno::EMFILE })
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    fn null() -> File {
        File::options().read(true).write(true).open("/dev/null").unwrap()
    }

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| null().into()).collect()
    }

    #[test]
    fn each_end_goes_where_it_belongs() {
        let given = fds(7);
        let numbers: Vec<_> = given.iter().map(AsRawFd::as_raw_fd).collect();
        let spawn = Spawn { stdin: true, cgroup: true, ..Spawn::default() };
        let ends = Ends::take(&spawn, given, 0, &null()).unwrap();
        let Stdio::Pipes(stdin, stdout, stderr) = &ends.stdio else { panic!("pipes were asked for") };
        let mut found = vec![stdin.as_raw_fd(), stdout.as_raw_fd(), stderr.as_raw_fd()];
        found.extend(ends.kept.fds().iter().map(AsRawFd::as_raw_fd));
        found.push(ends.cgroup.as_ref().unwrap().as_raw_fd());
        assert_eq!(found, numbers);
        assert!(ends.kept.terminal().is_none());
    }

    #[test]
    fn a_closed_stdin_is_not_handed_on() {
        let spawn = Spawn { stdin: true, ..Spawn::default() };
        let mut kept = Ends::take(&spawn, fds(6), 0, &null()).unwrap().kept;
        assert!(kept.has_stdin());
        kept.close_stdin();
        assert!(!kept.has_stdin());
        assert_eq!(kept.fds().len(), 2);
    }

    #[test]
    fn a_request_that_lacks_descriptors_is_refused() {
        for (stdin, cgroup, count) in [(false, false, 3), (true, false, 5), (true, true, 6)] {
            let spawn = Spawn { stdin, cgroup, ..Spawn::default() };
            let failure = Ends::take(&spawn, fds(count), 0, &null()).err();
            assert_eq!(failure, Some(Failure { step: Step::Request, errno: Errno::EBADF }));
        }
    }
}
