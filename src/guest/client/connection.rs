//! The connection to a guest: what waits for an answer, what waits to be sent, and the task that serves both.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot};

use super::error::GuestError;
use super::run::{ExitStatus, HeldRun};
use crate::guest::wire::{self, FromGuest, Hello, Purpose, Receiver, ToGuest, Welcome, from_guest, to_guest};

/// Most runs that one takeover brings: as many as may be under way at once (`run.max_runs` is 32,768 at most), and those
/// that have ended and that a guest keeps. A guest that sends more is not ours.
const MAX_HELD: usize = (1 << 15) + wire::MAX_ENDED;

#[derive(Debug)]
pub struct Shared {
    socket: AsyncFd<OwnedFd>,
    state: Mutex<State>,
    /// Told when frames wait to be sent.
    unsent: Notify,
}

/// What handle and task share; only ever locked for a few instructions.
#[derive(Debug, Default)]
pub struct State {
    last_request: u64,
    pub answers: HashMap<u64, Waiting>,
    pub exits: HashMap<String, oneshot::Sender<ExitStatus>>,
    unsent: VecDeque<Unsent>,
    pub lost: bool,
}

#[derive(Debug)]
pub struct Waiting {
    pub answer: oneshot::Sender<Answer>,
    pub held: Vec<HeldRun>,
}

/// The last answer to a request, and what came before it.
#[derive(Debug)]
pub struct Answer {
    pub body: from_guest::Body,
    pub fds: Vec<OwnedFd>,
    pub held: Vec<HeldRun>,
}

#[derive(Debug)]
struct Unsent {
    frame: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// The task behind a [`Guest`](super::Guest).
#[derive(Debug)]
#[must_use = "the handle is of no use unless this is served"]
pub struct Connection {
    shared: Arc<Shared>,
    receiver: Receiver,
}

impl Shared {
    /// A holder of this lock cannot panic half-way through a change, so a poisoned one is as good as any.
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a request, at once if the socket takes it; answers its number.
    pub fn send(&self, body: to_guest::Body, fds: Vec<OwnedFd>, waiting: Waiting) -> Result<u64, GuestError> {
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

impl Connection {
    /// Says hello on a fresh socket, and waits for the welcome.
    ///
    /// # Errors
    /// Whatever the socket says; `UnexpectedEof` if the guest closes it.
    pub async fn open(socket: AsyncFd<OwnedFd>) -> io::Result<Self> {
        let mut receiver = Receiver::default();
        let hello = Hello { version: wire::VERSION, purpose: Purpose::Control.into() };
        greet(&socket, &mut receiver, &hello).await?;
        let shared = Arc::new(Shared { socket, state: Mutex::default(), unsent: Notify::new() });
        Ok(Self { shared, receiver })
    }

    /// What the handle shares with it.
    pub fn shared(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

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
        let ended = Some(wire::Ended { code: None, signal: 9, written: None });
        let exited = from_guest::Body::Exited(wire::Exited { run: RUN.to_owned(), ended });
        state.deliver(FromGuest { request: 0, fds: 0, body: Some(exited) }, Vec::new()).unwrap();
        let mut run = finish(state, answered).remove(0);
        assert_eq!((run.status, run.exit.try_recv()), (None, Ok(ExitStatus::Signal(9))));
        assert!(run.stdin.is_some());
    }

    #[test]
    fn an_exit_of_before_comes_with_the_run_and_a_second_word_of_it_is_nothing() {
        let (mut state, answered) = waiting();
        let ended = Some(wire::Ended { code: Some(3), signal: 0, written: None });
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
