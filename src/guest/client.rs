//! The daemon's side of the wire: starts runs in a sandbox and hears how they ended.
//!
//! [`Guest`] is the handle. [`Connection`] is the task behind it: it reads answers and exits, and sends what the socket
//! did not take at once. Whoever connects owns that task. When it ends, for whatever reason, every answer and exit that
//! is still awaited becomes [`GuestError::Lost`]: an exit status comes from the guest or not at all.
//!
//! The guest keeps every run until it is released. A daemon that follows one that died takes over what that one had not
//! released, before it starts runs of its own.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use serde::{Deserialize, Serialize};
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

/// Most runs that one takeover brings: as many as may be under way at once (`run.max_runs` is 32,768 at most), and those
/// that have ended and that a guest keeps. A guest that sends more is not ours.
const MAX_HELD: usize = (1 << 15) + wire::MAX_ENDED;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The daemon's end of its stdin, if that is a pipe and open. The guest has another: see [`Guest::close_input`].
    pub stdin: Option<OwnedFd>,
    /// Where its output comes from. What the daemon that died did not take is still in there.
    pub output: HeldOutput,
    /// It has no cgroup: its processes are found by [`Guest::sweep`].
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
    /// The master of its terminal.
    Terminal(OwnedFd),
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
    answer: oneshot::Sender<Answer>,
    held: Vec<HeldRun>,
}

/// The last answer to a request, and what came before it.
#[derive(Debug)]
struct Answer {
    body: from_guest::Body,
    fds: Vec<OwnedFd>,
    held: Vec<HeldRun>,
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
        let count = u32::try_from(fds.len()).expect("a request brings a few descriptors");
        let message = ToGuest { request, fds: count, body: Some(body) };
        let frame = wire::frame(&message).map_err(GuestError::Connect)?;
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

    /// Gives a message to who waits for it. Fails if no guest of ours says such a thing.
    fn deliver(&mut self, message: FromGuest, fds: Vec<OwnedFd>) -> io::Result<()> {
        match (message.request, message.body) {
            (0, Some(from_guest::Body::Exited(exited))) => {
                if let Some((ended, exit)) = exited.ended.zip(self.exits.remove(&exited.run)) {
                    // Whoever does not wait any more does not need it.
                    let _ = exit.send(ended.into());
                }
            }
            (request, Some(from_guest::Body::Held(held))) => self.hold(request, held, fds)?,
            (request, Some(body)) => {
                if let Some(Waiting { answer, held }) = self.answers.remove(&request) {
                    let _ = answer.send(Answer { body, fds, held });
                }
            }
            // A newer guest's word, which this build does not know.
            (_, None) => {}
        }
        Ok(())
    }

    /// Puts a run to those that are taken over. From here on its exit is awaited: the guest may tell of it next.
    fn hold(&mut self, request: u64, held: wire::Held, fds: Vec<OwnedFd>) -> io::Result<()> {
        let Some(waiting) = self.answers.get_mut(&request) else { return Ok(()) };
        if waiting.held.len() == MAX_HELD {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more runs than a sandbox has"));
        }
        let run = held.run.clone();
        let is_known = self.exits.get(&run).is_some_and(|exit| !exit.is_closed());
        if let Some((held, exit)) = HeldRun::new(held, fds)?.filter(|_| !is_known) {
            waiting.held.push(held);
            if let Some(exit) = exit {
                self.exits.insert(run, exit);
            }
        }
        Ok(())
    }
}

impl HeldRun {
    /// The run, and who is to be told of its exit, if that is not known; `None` for one that is not the daemon's.
    fn new(held: wire::Held, fds: Vec<OwnedFd>) -> io::Result<Option<(Self, Option<oneshot::Sender<ExitStatus>>)>> {
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

impl From<wire::Ended> for ExitStatus {
    fn from(ended: wire::Ended) -> Self {
        ended.code.map_or(Self::Signal(ended.signal), Self::Code)
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
                let fds = self.receiver.take_fds(message.fds)?;
                self.shared.lock().deliver(message, fds)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    const RUN: &str = "run_0123456789abcdefghij";

    fn fds(count: usize) -> Vec<OwnedFd> {
        (0..count).map(|_| std::fs::File::open("/dev/null").unwrap().into()).collect()
    }

    fn held(run: &str, ended: Option<wire::Ended>) -> FromGuest {
        let held = wire::Held { run: run.to_owned(), pid: 7, ended, keeper: false, stdin: true, pty: false };
        FromGuest { request: 1, fds: 3, body: Some(from_guest::Body::Held(held)) }
    }

    /// A state in which a takeover, the first request, waits for its answers.
    fn waiting() -> (State, oneshot::Receiver<Answer>) {
        let (answer, answered) = oneshot::channel();
        let mut state = State::default();
        state.answers.insert(1, Waiting { answer, held: Vec::new() });
        (state, answered)
    }

    fn finish(mut state: State, mut answered: oneshot::Receiver<Answer>) -> Vec<HeldRun> {
        let done = FromGuest { request: 1, fds: 0, body: Some(from_guest::Body::Done(wire::Done {})) };
        state.deliver(done, Vec::new()).unwrap();
        answered.try_recv().unwrap().held
    }

    #[test]
    fn an_exit_told_between_the_answers_is_heard() {
        let (mut state, answered) = waiting();
        state.deliver(held(RUN, None), fds(3)).unwrap();
        let ended = Some(wire::Ended { code: None, signal: 9 });
        let exited = from_guest::Body::Exited(wire::Exited { run: RUN.to_owned(), ended });
        state.deliver(FromGuest { request: 0, fds: 0, body: Some(exited) }, Vec::new()).unwrap();
        let mut run = finish(state, answered).remove(0);
        assert_eq!((run.status, run.exit.try_recv()), (None, Ok(ExitStatus::Signal(9))));
        assert!(run.stdin.is_some());
    }

    #[test]
    fn an_exit_of_before_comes_with_the_run_and_a_second_word_of_it_is_nothing() {
        let (mut state, answered) = waiting();
        let ended = Some(wire::Ended { code: Some(3), signal: 0 });
        state.deliver(held(RUN, ended), fds(3)).unwrap();
        let exited = from_guest::Body::Exited(wire::Exited { run: RUN.to_owned(), ended });
        state.deliver(FromGuest { request: 0, fds: 0, body: Some(exited) }, Vec::new()).unwrap();
        let mut run = finish(state, answered).remove(0);
        assert_eq!((run.status, run.exit.try_recv()), (Some(ExitStatus::Code(3)), Ok(ExitStatus::Code(3))));
    }

    #[test]
    fn a_run_of_this_connection_is_not_taken_over_and_one_that_was_given_up_is() {
        let (mut state, answered) = waiting();
        let (sender, mut exit) = oneshot::channel();
        state.exits.insert(RUN.to_owned(), sender);
        state.deliver(held(RUN, None), fds(3)).unwrap();
        assert_eq!(exit.try_recv(), Err(oneshot::error::TryRecvError::Empty));
        drop(exit);
        state.deliver(held(RUN, None), fds(3)).unwrap();
        assert_eq!(finish(state, answered).len(), 1);
    }

    #[test]
    fn a_run_that_is_not_ours_is_passed_over_and_one_without_its_descriptors_ends_the_connection() {
        let (mut state, answered) = waiting();
        state.deliver(held("../../etc", None), fds(3)).unwrap();
        let error = state.deliver(held(RUN, None), fds(2)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert!(finish(state, answered).is_empty());
    }
}
