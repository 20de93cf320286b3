//! The daemon's side of the wire: starts runs in a sandbox and hears how they ended.
//!
//! [`Guest`] is the handle. [`Connection`] is the task behind it: it reads answers and exits, and sends what the socket
//! did not take at once. Whoever connects owns that task. When it ends, for whatever reason, every answer and exit that
//! is still awaited becomes [`GuestError::Lost`]: an exit status comes from the guest or not at all.
//!
//! The guest keeps every run until it is released. A daemon that follows one that died takes over what that one had not
//! released, before it starts runs of its own.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use tokio::io::Interest;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::readiness;
use super::socket;
use super::wire::{self, from_guest, to_guest};
use crate::ids::RunId;
pub use connection::Connection;
use connection::{Answer, Shared, Waiting};
use error::ANSWER_DEADLINE;
pub use error::GuestError;
pub use run::{ExitStatus, HeldOutput, HeldRun, SpawnedRun};

mod connection;
mod error;
mod run;

/// A handle on the guest of one sandbox.
#[derive(Debug, Clone)]
pub struct Guest {
    shared: Arc<Shared>,
}

impl Guest {
    /// Connects to a guest and waits until it is ready. `pid` is its process id on the node, or its relay's: whoever
    /// else listens there is refused.
    ///
    /// # Errors
    /// [`GuestError::Connect`], [`GuestError::Silent`].
    pub async fn connect(socket: &Path, pid: u32) -> Result<(Self, Connection), GuestError> {
        let stream = socket::connect(socket).map_err(GuestError::Connect)?;
        check_peer(&stream, pid).map_err(GuestError::Connect)?;
        stream.set_nonblocking(true).map_err(GuestError::Connect)?;
        let socket = readiness::watch(OwnedFd::from(stream), Interest::READABLE | Interest::WRITABLE)
            .map_err(GuestError::Connect)?;
        let opened = timeout(ANSWER_DEADLINE, Connection::open(socket)).await;
        let connection = opened.map_err(|_| GuestError::Silent)?.map_err(GuestError::Connect)?;
        Ok((Self { shared: connection.shared() }, connection))
    }

    /// Starts a run; `fds` as [`wire::Spawn`] says.
    ///
    /// # Errors
    /// Any [`GuestError`]; unless it is `Lost` or `Silent`, nothing runs.
    pub async fn spawn(&self, spawn: wire::Spawn, fds: Vec<OwnedFd>) -> Result<SpawnedRun, GuestError> {
        let (sender, exit) = oneshot::channel();
        let run = spawn.run.clone();
        self.shared.lock().exits.insert(run.clone(), sender);
        let answer = self.request(to_guest::Body::Spawn(spawn), fds).await;
        match answer {
            Ok(Answer { body: from_guest::Body::Spawned(spawned), fds, .. }) => {
                Ok(SpawnedRun { pid: spawned.pid.unsigned_abs(), terminal: fds.into_iter().next(), exit })
            }
            other => {
                self.shared.lock().exits.remove(&run);
                Err(unexpected(other))
            }
        }
    }

    /// The guest is gone.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.shared.lock().lost
    }

    /// Signals the process group of a run's leader.
    ///
    /// # Errors
    /// Any [`GuestError`]; `Refused` if the leader has ended.
    pub async fn signal(&self, run: &RunId, signal: i32) -> Result<(), GuestError> {
        let signal = wire::Signal { run: run.to_string(), signal };
        self.request(to_guest::Body::Signal(signal), Vec::new()).await.and_then(done)
    }

    /// Signals all that is left of a run without a cgroup (0 only looks); answers what was there.
    ///
    /// # Errors
    /// Any [`GuestError`].
    pub async fn sweep(&self, run: &RunId, signal: i32) -> Result<Vec<wire::Process>, GuestError> {
        let sweep = wire::Sweep { run: run.to_string(), signal };
        match self.request(to_guest::Body::Sweep(sweep), Vec::new()).await {
            Ok(Answer { body: from_guest::Body::Swept(swept), .. }) => Ok(swept.processes),
            other => Err(unexpected(other)),
        }
    }

    /// Lets the guest close its duplicate of the daemon's end of a run's stdin. When the daemon has closed its own, the run
    /// sees the end of its input.
    ///
    /// # Errors
    /// Any [`GuestError`] but `Refused`: a run that is not there has no stdin.
    pub async fn close_input(&self, run: &RunId) -> Result<(), GuestError> {
        let close = wire::CloseInput { run: run.to_string() };
        self.request(to_guest::Body::CloseInput(close), Vec::new()).await.and_then(done)
    }

    /// Lets the guest forget a run whose exit and output the daemon has.
    ///
    /// # Errors
    /// Any [`GuestError`] but `Refused`: a run that is not there is forgotten.
    pub async fn release(&self, run: &RunId) -> Result<(), GuestError> {
        let release = wire::Release { run: run.to_string() };
        self.request(to_guest::Body::Release(release), Vec::new()).await.and_then(done)
    }

    /// The runs that no daemon has released, in no order; not those that were started or taken over on this connection.
    /// Nothing changes for the guest: whoever does not get through with them can ask again.
    ///
    /// # Errors
    /// Any [`GuestError`].
    pub async fn takeover(&self) -> Result<Vec<HeldRun>, GuestError> {
        match self.request(to_guest::Body::Takeover(wire::Takeover {}), Vec::new()).await {
            Ok(Answer { body: from_guest::Body::Done(_), held, .. }) => Ok(held),
            other => Err(unexpected(other)),
        }
    }

    /// Makes a TCP socket inside the sandbox's network, neither bound nor connected; it does not block.
    ///
    /// # Errors
    /// Any [`GuestError`]; `Refused` if the sandbox has no such network.
    pub async fn make_socket(&self, ipv6: bool) -> Result<OwnedFd, GuestError> {
        socket_of(self.request(to_guest::Body::MakeSocket(wire::MakeSocket { ipv6 }), Vec::new()).await)
    }

    /// The socket that listens on a port of the sandbox's loopback, made if there is none; it does not block. The guest
    /// keeps another descriptor of it.
    ///
    /// # Errors
    /// Any [`GuestError`]; `Refused` if somebody else has the port.
    pub async fn listen(&self, port: u16) -> Result<OwnedFd, GuestError> {
        let listen = wire::Listen { port: port.into() };
        socket_of(self.request(to_guest::Body::Listen(listen), Vec::new()).await)
    }

    /// A connection to a port of the sandbox's loopback, of a guest that no socket gets out of; it does not block.
    ///
    /// # Errors
    /// Any [`GuestError`]; `Refused` with `ECONNREFUSED` if nobody listens there.
    pub async fn connect_to(&self, port: u16) -> Result<OwnedFd, GuestError> {
        let connect = wire::Connect { port: port.into(), channel: 0 };
        socket_of(self.request(to_guest::Body::Connect(connect), Vec::new()).await)
    }

    /// Gives the terminal of a run another size, where its master is out of reach.
    ///
    /// # Errors
    /// Any [`GuestError`].
    pub async fn resize(&self, run: &RunId, size: wire::PtySize) -> Result<(), GuestError> {
        let resize = wire::Resize { run: run.to_string(), size: Some(size) };
        self.request(to_guest::Body::Resize(resize), Vec::new()).await.and_then(done)
    }

    async fn request(&self, body: to_guest::Body, fds: Vec<OwnedFd>) -> Result<Answer, GuestError> {
        let (answer, answered) = oneshot::channel();
        let request = self.shared.send(body, fds, Waiting { answer, held: Vec::new() })?;
        match timeout(ANSWER_DEADLINE, answered).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(_)) => Err(GuestError::Lost),
            Err(_) => {
                self.shared.lock().answers.remove(&request);
                Err(GuestError::Silent)
            }
        }
    }
}

/// The answer to a request that has nothing to say.
fn done(answer: Answer) -> Result<(), GuestError> {
    match answer.body {
        from_guest::Body::Done(_) => Ok(()),
        _ => Err(unexpected(Ok(answer))),
    }
}

/// The socket that an answer brings.
fn socket_of(answer: Result<Answer, GuestError>) -> Result<OwnedFd, GuestError> {
    match answer {
        Ok(Answer { body: from_guest::Body::SocketMade(_), fds, .. }) => {
            // The guest is not trusted to have done it: a socket that blocks would stop a thread of the daemon.
            let socket = fds.into_iter().next().ok_or(GuestError::Lost)?;
            fcntl(&socket, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).map_err(|_| GuestError::Lost)?;
            Ok(socket)
        }
        other => Err(unexpected(other)),
    }
}

/// The error in an answer that is not the one asked for.
fn unexpected(answer: Result<Answer, GuestError>) -> GuestError {
    match answer {
        Ok(Answer { body: from_guest::Body::Refused(refused), .. }) => {
            let errno = nix::errno::Errno::from_raw(refused.errno);
            GuestError::Refused { step: refused.step(), errno }
        }
        // A guest that answers something else is not one that can be worked with.
        Ok(_) => GuestError::Lost,
        Err(error) => error,
    }
}

/// Nobody but the guest itself may listen there.
fn check_peer(stream: &std::os::unix::net::UnixStream, pid: u32) -> io::Result<()> {
    let peer = getsockopt(stream, PeerCredentials)?.pid();
    if u32::try_from(peer) == Ok(pid) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
