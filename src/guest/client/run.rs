//! Runs, as the guest tells of them.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::guest::wire;
use crate::ids::RunId;

/// How a run's leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

impl From<wire::Ended> for ExitStatus {
    fn from(ended: wire::Ended) -> Self {
        ended.code.map_or(Self::Signal(ended.signal), Self::Code)
    }
}

/// A run that has begun.
#[derive(Debug)]
pub struct SpawnedRun {
    /// Its leader's process id inside the sandbox.
    pub pid: u32,
    /// The daemon's end of its terminal, if it has one: the master, or a socket that stands for it.
    pub terminal: Option<OwnedFd>,
    /// How the leader ended, once it has; an error if that is never to be known.
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// A run of a daemon that died.
#[derive(Debug)]
pub struct HeldRun {
    /// Which.
    pub run: RunId,
    /// What its leader's process id inside the sandbox is or was.
    pub pid: u32,
    /// How the leader ended, if it has.
    pub status: Option<ExitStatus>,
    /// The same, once it has; an error if that is never to be known.
    pub exit: oneshot::Receiver<ExitStatus>,
    /// The daemon's end of its stdin, if that is a pipe and open. The guest has another: see [`Guest::close_input`](super::Guest::close_input).
    pub stdin: Option<OwnedFd>,
    /// Where its output comes from. What the daemon that died did not take is still in there.
    pub output: HeldOutput,
    /// It has no cgroup: its processes are found by [`Guest::sweep`](super::Guest::sweep).
    pub has_keeper: bool,
}

/// The daemon's ends of a run's output.
#[derive(Debug)]
pub enum HeldOutput {
    /// The read ends of its pipes.
    Pipes {
        /// Of stdout.
        stdout: OwnedFd,
        /// Of stderr.
        stderr: OwnedFd,
    },
    /// The master of its terminal, or a socket that stands for it.
    Terminal(OwnedFd),
}

impl HeldRun {
    /// The run, and who is to be told of its exit, if that is not known; `None` for one that is not the daemon's.
    pub(super) fn new(
        held: wire::Held,
        fds: Vec<OwnedFd>,
    ) -> io::Result<Option<(Self, Option<oneshot::Sender<ExitStatus>>)>> {
        let mut fds = fds.into_iter();
        let mut take =
            || fds.next().ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "a run lacks descriptors"));
        let stdin = if held.stdin { Some(take()?) } else { None };
        let output = if held.pty {
            HeldOutput::Terminal(take()?)
        } else {
            HeldOutput::Pipes { stdout: take()?, stderr: take()? }
        };
        let Ok(run) = held.run.parse() else { return Ok(None) };
        let status = held.ended.map(ExitStatus::from);
        let (sender, exit) = oneshot::channel();
        let sender = match status {
            None => Some(sender),
            Some(status) => {
                sender.send(status).expect("its receiver is here");
                None
            }
        };
        let pid = held.pid.unsigned_abs();
        Ok(Some((Self { run, pid, status, exit, stdin, output, has_keeper: held.keeper }, sender)))
    }
}
