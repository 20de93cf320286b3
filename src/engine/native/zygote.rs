//! The zygote: the process that makes sandboxes.
//!
//! The daemon has many threads and much memory, so that forking it is slow and what its child may do is little. The
//! zygote is our own binary once more, started before anything else, with one thread and next to no memory. It has a
//! mount namespace of its own, in which it keeps what sandboxes share; without root also a user namespace.
//!
//! The daemon writes an [`Order`] on a socket and gets an [`Outcome`] with the descriptor of the sandbox's first process,
//! whose parent is the daemon (`CLONE_PARENT`), so that a zygote which dies takes no sandbox with it and is replaced.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::time::{TimeVal, TimeValLike};
use tokio::sync::{mpsc, oneshot, watch};

use super::super::EngineError;
use crate::guest::wire::{self, Receiver};

pub mod process;

/// How the zygote is told what it is: the first argument.
pub const ARGUMENT: &str = "zygote";

/// How long a sandbox may take to be made. It takes some 3 ms; 30 ms where cgroup attaches are slow.
const DEADLINE_SECONDS: i64 = 20;

/// Orders that may wait. One is served at a time, in a few milliseconds; more callers than this wait for a place.
const QUEUE: usize = 64;

/// How long a zygote gets to end when its socket is closed.
const STOP_GRACE: Duration = Duration::from_secs(2);

/// What the zygote has to know from the start.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Setup {
    /// An empty directory of ours; what sandboxes share is mounted below it, in the zygote's own mount namespace.
    #[prost(string, tag = "1")]
    pub directory: String,
    /// First id on the node that sandboxes are mapped to.
    #[prost(uint32, tag = "2")]
    pub id_base: u32,
    /// How many ids are mapped. 1: without root.
    #[prost(uint32, tag = "3")]
    pub id_count: u32,
}

/// A sandbox to be made; one without an id only asks whether the zygote answers.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Order {
    /// Its id; also its host name.
    #[prost(string, tag = "1")]
    pub id: String,
    /// Its directory on the node, where the writable layers are and the guest's socket is to be.
    #[prost(string, tag = "2")]
    pub directory: String,
    /// What is mounted where, the root first.
    #[prost(message, repeated, tag = "3")]
    pub trees: Vec<Tree>,
    /// Its directory in the version 2 cgroup tree; empty: none.
    #[prost(string, tag = "4")]
    pub cgroup: String,
    /// `tasks` files of the cgroups of version 1 that the first process enters.
    #[prost(string, repeated, tag = "5")]
    pub v1_tasks: Vec<String>,
    /// Made if it is missing, for the user.
    #[prost(string, tag = "6")]
    pub workspace: String,
    /// name, uid, name:group or uid:gid. Empty: root.
    #[prost(string, tag = "7")]
    pub user: String,
    /// The address of its resolver; empty: it keeps what the image says.
    #[prost(string, tag = "8")]
    pub resolver: String,
    /// Bytes that /dev/shm may hold.
    #[prost(uint64, tag = "9")]
    pub shared_memory: u64,
}

/// Layers that are mounted as one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Tree {
    /// Where in the sandbox.
    #[prost(string, tag = "1")]
    pub target: String,
    /// Read-only layers on the node, the uppermost first.
    #[prost(string, repeated, tag = "2")]
    pub layers: Vec<String>,
    /// Directory on the node that has `upper` and `work`.
    #[prost(string, tag = "3")]
    pub writable: String,
}

/// What became of an order. Brings the descriptor of the process, if there is one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Outcome {
    /// Its id on the node; 0 if none was made.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// What was being done when it failed; empty if it did not. The process, if there is one, has exited then.
    #[prost(string, tag = "2")]
    pub step: String,
    /// The kernel's word.
    #[prost(int32, tag = "3")]
    pub errno: i32,
}

/// The first process of a sandbox.
#[derive(Debug)]
pub struct Born {
    /// Its id on the node.
    pub pid: u32,
    /// Its descriptor.
    pub pidfd: OwnedFd,
}

/// A handle on the zygote. The thread behind it ends when the last handle is dropped.
#[derive(Debug, Clone)]
pub struct Zygote {
    jobs: mpsc::Sender<Job>,
    /// It is at work.
    is_busy: watch::Receiver<bool>,
}

/// Something for the zygote to do, and where it is answered.
#[derive(Debug)]
enum Job {
    Make(Order, oneshot::Sender<Result<Born, EngineError>>),
    Ping(oneshot::Sender<Result<(), EngineError>>),
}

impl Zygote {
    /// Starts the zygote, from handsd's own binary, and the thread that talks to it. Talking blocks, one order at a time, which is all that a
    /// single-threaded zygote can use.
    ///
    /// # Errors
    /// [`EngineError::Step`] if the process cannot be started or set up.
    pub fn start(executable: PathBuf, setup: Setup) -> Result<Self, EngineError> {
        let mut process = Process::start(&executable, &setup)?;
        let (jobs, mut queue) = mpsc::channel(QUEUE);
        let (busy, is_busy) = watch::channel(false);
        let thread = std::thread::Builder::new().name("zygote".to_owned());
        let talk = move || {
            let mut ask = |order: &Order| {
                process.serve(order).or_else(|error| {
                    tracing::warn!(%error, "the zygote is gone or hangs; starting another");
                    std::mem::replace(&mut process, Process::start(&executable, &setup)?).stop();
                    process.serve(order).map_err(|source| failed("talk to the zygote", source))
                })
            };
            while let Some(job) = queue.blocking_recv() {
                busy.send_replace(true);
                // A caller that has left does not undo what was begun; the engine removes what nobody owns.
                match job {
                    Job::Make(order, reply) => drop(reply.send(ask(&order).and_then(Process::judge))),
                    Job::Ping(reply) => drop(reply.send(ask(&Order::default()).map(drop))),
                }
                busy.send_replace(false);
            }
            process.stop();
        };
        thread.spawn(talk).map_err(|source| failed("start the zygote's thread", source))?;
        Ok(Self { jobs, is_busy })
    }

    /// Makes a sandbox.
    ///
    /// # Errors
    /// [`EngineError::Step`] with the step that failed; nothing runs then.
    pub async fn make(&self, order: Order) -> Result<Born, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Make(order, reply)).await.map_err(|_| EngineError::Gone)?;
        answer.await.map_err(|_| EngineError::Gone)?
    }

    /// Answers when the zygote does, or is done with the order that it is at: a long queue is no fault.
    ///
    /// # Errors
    /// Another zygote cannot be started in the place of one that is gone.
    pub async fn ping(&self) -> Result<(), EngineError> {
        let mut is_busy = self.is_busy.clone();
        if *is_busy.borrow_and_update() {
            return is_busy.changed().await.map_err(|_| EngineError::Gone);
        }
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Ping(reply)).await.map_err(|_| EngineError::Gone)?;
        answer.await.map_err(|_| EngineError::Gone)?
    }
}

fn failed(step: &str, source: io::Error) -> EngineError {
    EngineError::Step { step: step.to_owned(), source }
}

/// The running zygote.
struct Process {
    child: Child,
    socket: UnixStream,
    receiver: Receiver,
}

impl Process {
    fn start(executable: &Path, setup: &Setup) -> Result<Self, EngineError> {
        Self::try_start(executable, setup).map_err(|source| failed("start the zygote", source))
    }

    fn try_start(executable: &Path, setup: &Setup) -> io::Result<Self> {
        let (socket, theirs) = UnixStream::pair()?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(DEADLINE_SECONDS))?;
        let mut command = Command::new(executable);
        // In a group of its own: Ctrl-C in the daemon's terminal is the daemon's to act on.
        command.arg(ARGUMENT).stdin(Stdio::from(OwnedFd::from(theirs))).env_clear().process_group(0);
        let child = command.spawn()?;
        let mut process = Self { child, socket, receiver: Receiver::default() };
        wire::send_all(process.socket.as_fd(), &wire::frame(setup)?, &[])?;
        match process.answer()? {
            (outcome, _) if outcome.step.is_empty() => Ok(process),
            (outcome, _) => {
                process.stop();
                Err(outcome.error())
            }
        }
    }

    fn serve(&mut self, order: &Order) -> io::Result<(Outcome, Option<OwnedFd>)> {
        wire::send_all(self.socket.as_fd(), &wire::frame(order)?, &[])?;
        self.answer()
    }

    fn answer(&mut self) -> io::Result<(Outcome, Option<OwnedFd>)> {
        let outcome: Option<Outcome> = self.receiver.wait(self.socket.as_fd())?;
        let outcome = outcome.ok_or(io::ErrorKind::UnexpectedEof)?;
        let pidfd = if outcome.pid > 0 { self.receiver.take_fd() } else { None };
        Ok((outcome, pidfd))
    }

    fn judge((outcome, pidfd): (Outcome, Option<OwnedFd>)) -> Result<Born, EngineError> {
        if outcome.step.is_empty() {
            let lost = || failed("take over the sandbox's process", io::ErrorKind::UnexpectedEof.into());
            return Ok(Born { pid: outcome.pid.unsigned_abs(), pidfd: pidfd.ok_or_else(lost)? });
        }
        if let Some(pidfd) = pidfd {
            // It has exited or is about to, and is our child.
            let _ = super::wait_for_exit(&pidfd);
        }
        Err(EngineError::Step { step: outcome.step.clone(), source: outcome.error() })
    }

    /// Closes its socket, which ends it.
    fn stop(mut self) {
        drop(self.socket);
        let until = std::time::Instant::now() + STOP_GRACE;
        while self.child.try_wait().is_ok_and(|status| status.is_none()) {
            if std::time::Instant::now() > until {
                let _ = self.child.kill();
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

impl Outcome {
    fn error(&self) -> io::Error {
        io::Error::from_raw_os_error(self.errno)
    }
}

/// A path as the messages carry it. The state directory is checked to be UTF-8 when the engine opens.
pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where a sandbox's guest listens.
#[must_use]
pub fn socket(directory: &Path) -> PathBuf {
    directory.join("guest.sock")
}
