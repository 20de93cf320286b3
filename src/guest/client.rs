//! The daemon's side of the wire: starts runs in a sandbox and hears how they ended.
//!
//! [`Guest`] is the handle. [`Connection`] is the task behind it: it reads answers and exits, and sends what the socket
//! did not take at once. Whoever connects owns that task. When it ends, for whatever reason, every answer and exit that
//! is still awaited becomes [`GuestError::Lost`]: an exit status comes from the guest or not at all.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};
use tokio::time::timeout;

use super::readiness;
use super::socket;
use super::wire::{self, FromGuest, Hello, Purpose, Receiver, Step, ToGuest, Welcome, from_guest, to_guest};
use crate::ids::RunId;

/// How long the guest may take to answer. It answers in well under a millisecond; a sandbox that thrashes at its memory
/// limit is slower.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why the guest did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The sandbox, its guest or the connection is gone.
    #[error("the connection to the guest is lost")]
    Lost,
    /// The guest is there and does not answer.
    #[error("the guest did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Silent,
    /// The guest refused.
    #[error("the guest refused at step {step:?}: {errno}")]
    Refused {
        /// Where.
        step: Step,
        /// The kernel's word.
        errno: nix::errno::Errno,
    },
    /// No connection could be made.
    #[error("connect to the guest")]
    Connect(#[source] io::Error),
}

/// How a run's leader ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// It exited with this code.
    Code(i32),
    /// This signal ended it.
    Signal(i32),
}

/// A run that has begun.
#[derive(Debug)]
pub struct SpawnedRun {
    /// Its leader's process id inside the sandbox.
    pub pid: u32,
    /// The daemon's end of its terminal, if it has one.
    pub terminal: Option<OwnedFd>,
    /// How the leader ended, once it has; an error if that is never to be known.
    pub exit: oneshot::Receiver<ExitStatus>,
}

/// A handle on the guest of one sandbox.
#[derive(Debug, Clone)]
pub struct Guest {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// Told when frames wait to be sent.
    unsent: Notify,
}

/// What handle and task share; only ever locked for a few instructions.
#[derive(Debug, Default)]
struct State {
    last_request: u64,
    answers: HashMap<u64, Waiting>,
    exits: HashMap<String, oneshot::Sender<ExitStatus>>,
    unsent: VecDeque<Unsent>,
    lost: bool,
}

#[derive(Debug)]
struct Waiting {
    answer: oneshot::Sender<(from_guest::Body, Option<OwnedFd>)>,
    brings_fd: bool,
}

#[derive(Debug)]
struct Unsent {
    frame: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// The task behind a [`Guest`].
#[derive(Debug)]
#[must_use = "the handle is of no use unless this is served"]
pub struct Connection {
    shared: Arc<Shared>,
    receiver: Receiver,
}

impl Guest {
    /// Connects to a guest and waits until it is ready. `pid` is its process id on the node: whoever else listens there
    /// is refused.
    ///
    /// # Errors
    /// [`GuestError::Connect`], [`GuestError::Silent`].
    pub async fn connect(socket: &Path, pid: u32) -> Result<(Self, Connection), GuestError> {
        let stream = socket::connect(socket).map_err(GuestError::Connect)?;
        check_peer(&stream, pid).map_err(GuestError::Connect)?;
        stream.set_nonblocking(true).map_err(GuestError::Connect)?;
        let socket = readiness::watch(OwnedFd::from(stream), Interest::READABLE | Interest::WRITABLE)
            .map_err(GuestError::Connect)?;
        let mut receiver = Receiver::default();
        let hello = Hello { version: wire::VERSION, purpose: Purpose::Control.into() };
        let greeting = greet(&socket, &mut receiver, &hello);
        timeout(ANSWER_DEADLINE, greeting).await.map_err(|_| GuestError::Silent)?.map_err(GuestError::Connect)?;
        let shared = Arc::new(Shared { socket, state: Mutex::default(), unsent: Notify::new() });
        Ok((Self { shared: Arc::clone(&shared) }, Connection { shared, receiver }))
    }

    /// Starts a run; `fds` as [`wire::Spawn`] says.
    ///
    /// # Errors
    /// Any [`GuestError`]; unless it is `Lost` or `Silent`, nothing runs.
    pub async fn spawn(&self, spawn: wire::Spawn, fds: Vec<OwnedFd>) -> Result<SpawnedRun, GuestError> {
        let (sender, exit) = oneshot::channel();
        let run = spawn.run.clone();
        let brings_fd = spawn.pty.is_some();
        self.shared.lock().exits.insert(run.clone(), sender);
        let answer = self.request(to_guest::Body::Spawn(spawn), fds, brings_fd).await;
        match answer {
            Ok((from_guest::Body::Spawned(spawned), terminal)) => {
                Ok(SpawnedRun { pid: spawned.pid.unsigned_abs(), terminal, exit })
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
        match self.request(to_guest::Body::Signal(signal), Vec::new(), false).await {
            Ok((from_guest::Body::Done(_), _)) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Signals all that is left of a run without a cgroup (0 only looks); answers what was there.
    ///
    /// # Errors
    /// Any [`GuestError`].
    pub async fn sweep(&self, run: &RunId, signal: i32) -> Result<Vec<wire::Process>, GuestError> {
        let sweep = wire::Sweep { run: run.to_string(), signal };
        match self.request(to_guest::Body::Sweep(sweep), Vec::new(), false).await {
            Ok((from_guest::Body::Swept(swept), _)) => Ok(swept.processes),
            other => Err(unexpected(other)),
        }
    }

    async fn request(
        &self,
        body: to_guest::Body,
        fds: Vec<OwnedFd>,
        brings_fd: bool,
    ) -> Result<(from_guest::Body, Option<OwnedFd>), GuestError> {
        let (answer, answered) = oneshot::channel();
        let request = self.shared.send(body, fds, Waiting { answer, brings_fd })?;
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

/// The error in an answer that is not the one asked for.
fn unexpected(answer: Result<(from_guest::Body, Option<OwnedFd>), GuestError>) -> GuestError {
    match answer {
        Ok((from_guest::Body::Refused(refused), _)) => {
            let errno = nix::errno::Errno::from_raw(refused.errno);
            GuestError::Refused { step: refused.step(), errno }
        }
        // A guest that answers something else is not one that can be worked with.
        Ok(_) => GuestError::Lost,
        Err(error) => error,
    }
}

impl Shared {
    /// A holder of this lock cannot panic half-way through a change, so a poisoned one is as good as any.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, at once if the socket takes it; answers its number.
    fn send(&self, body: to_guest::Body, fds: Vec<OwnedFd>, waiting: Waiting) -> Result<u64, GuestError> {
        let mut state = self.lock();
        if state.lost {
            return Err(GuestError::Lost);
        }
        state.last_request += 1;
        let request = state.last_request;
        let frame = wire::frame(&ToGuest { request, body: Some(body) }).map_err(GuestError::Connect)?;
        state.answers.insert(request, waiting);
        state.unsent.push_back(Unsent { frame, sent: 0, fds });
        if state.flush(&self.socket).is_err() || !state.unsent.is_empty() {
            // The task meets the error too, and ends the connection.
            self.unsent.notify_one();
        }
        Ok(request)
    }
}

impl State {
    /// Sends what waits, as far as the socket takes it.
    fn flush(&mut self, socket: &AsyncFd<OwnedFd>) -> io::Result<()> {
        while let Some(unsent) = self.unsent.front_mut() {
            let fds: Vec<RawFd> = unsent.fds.iter().map(AsRawFd::as_raw_fd).collect();
            match wire::send(socket.as_fd(), &unsent.frame[unsent.sent..], &fds) {
                Ok(count) => {
                    unsent.sent += count;
                    unsent.fds.clear();
                    if unsent.sent == unsent.frame.len() {
                        self.unsent.pop_front();
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn deliver(&mut self, message: FromGuest, receiver: &mut Receiver) {
        match (message.request, message.body) {
            (0, Some(from_guest::Body::Exited(exited))) => {
                let status = exited.code.map_or(ExitStatus::Signal(exited.signal), ExitStatus::Code);
                if let Some(exit) = self.exits.remove(&exited.run) {
                    // Whoever does not wait any more does not need it.
                    let _ = exit.send(status);
                }
            }
            (request, Some(body)) => {
                if let Some(waiting) = self.answers.remove(&request) {
                    let takes_fd = waiting.brings_fd && matches!(body, from_guest::Body::Spawned(_));
                    let fd = if takes_fd { receiver.take_fd() } else { None };
                    let _ = waiting.answer.send((body, fd));
                }
            }
            // A newer guest's word, which this build does not know.
            (_, None) => {}
        }
    }
}

impl Connection {
    /// Serves the handle until the guest is gone.
    pub async fn serve(mut self) {
        if let Err(error) = self.work().await {
            tracing::debug!(%error, "the connection to a guest broke");
        }
    }

    async fn work(&mut self) -> io::Result<()> {
        enum Event<'a> {
            Ready(tokio::io::unix::AsyncFdReadyGuard<'a, OwnedFd>),
            Unsent,
        }
        loop {
            let is_waiting = !self.shared.lock().unsent.is_empty();
            let interest = if is_waiting { Interest::READABLE | Interest::WRITABLE } else { Interest::READABLE };
            // Both are cancel-safe: readiness stays, and a notification that nobody took is kept.
            let event = tokio::select! {
                ready = self.shared.socket.ready(interest) => Event::Ready(ready?),
                () = self.shared.unsent.notified() => Event::Unsent,
            };
            match event {
                Event::Unsent => self.shared.lock().flush(&self.shared.socket)?,
                Event::Ready(mut guard) => {
                    if guard.ready().is_writable() {
                        self.shared.lock().flush(&self.shared.socket)?;
                        if !self.shared.lock().unsent.is_empty() {
                            guard.clear_ready_matching(tokio::io::Ready::WRITABLE);
                        }
                    }
                    match self.receiver.read(self.shared.socket.as_fd()) {
                        Ok(0) => return Ok(()),
                        Ok(_) => {}
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                            guard.clear_ready_matching(tokio::io::Ready::READABLE);
                        }
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                        Err(error) => return Err(error),
                    }
                }
            }
            while let Some(message) = self.receiver.next_message::<FromGuest>()? {
                self.shared.lock().deliver(message, &mut self.receiver);
            }
        }
    }
}

/// However the connection ends, also when its task is aborted: nobody waits for it any more.
impl Drop for Connection {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.lost = true;
        // Dropping the senders tells everyone who waits.
        state.answers.clear();
        state.exits.clear();
        state.unsent.clear();
    }
}

/// Says hello and waits for the welcome.
async fn greet(socket: &AsyncFd<OwnedFd>, receiver: &mut Receiver, hello: &Hello) -> io::Result<Welcome> {
    // A fresh socket has room for a few bytes.
    wire::send_all(socket.as_fd(), &wire::frame(hello)?, &[])?;
    loop {
        if let Some(welcome) = receiver.next_message()? {
            return Ok(welcome);
        }
        let read = socket.async_io(Interest::READABLE, |socket| receiver.read(socket.as_fd())).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Nobody but the guest itself may listen there.
fn check_peer(stream: &std::os::unix::net::UnixStream, pid: u32) -> io::Result<()> {
    let peer = getsockopt(stream, PeerCredentials)?.pid();
    if u32::try_from(peer) == Ok(pid) { Ok(()) } else { Err(io::ErrorKind::PermissionDenied.into()) }
}
