//! Drives a writer: waits for the pipes of a run, and moves what comes.

use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use tokio::net::unix::pipe::Receiver;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use super::SpoolError;
use super::layout::Stream;
use super::writer::{Drained, SpoolWriter};

/// Most bytes moved at a time on the thread of the task. More than almost all commands write; done in some 30 µs.
const INLINE: usize = 64 << 10;
/// Most bytes moved in one visit to a thread for blocking work. A stop waits for it: some 5 ms.
const BULK: usize = 8 << 20;
/// Most bytes moved from one source before it is the other's turn.
const TURN: usize = 256 << 10;
/// Most bytes dropped at a time.
const SCRAP: usize = 16 << 10;
/// Who writes so much in so little time writes faster than it can be taken out bit by bit.
const BURST: u64 = 256 << 10;
const BURST_TIME: Duration = Duration::from_millis(20);
/// How long a fast producer's pipe is left to fill: it takes 0.5 ms to write what the pipe holds.
const FILL: Duration = Duration::from_micros(500);
/// What the pipe of a fast producer is enlarged to, so that both sides move much at a time. The kernel's default limit for
/// whoever is not privileged.
const FAST_PIPE: i32 = 1 << 20;

/// What a pump has come to.
#[derive(Debug)]
pub struct Pumped {
    /// To be closed, or pumped again.
    pub writer: SpoolWriter,
    /// What has not ended: nothing, unless the pump was stopped.
    pub sources: Sources,
}

/// Moves what comes from `sources` into the spool until all of them are at their end, or `stop` fires. What they hold at
/// that moment is still moved: all that a process wrote before the stop is in the spool.
///
/// A little output is moved on the thread of the task, much of it on a thread for blocking work. Not cancel-safe: dropped
/// early, it takes the writer with it; `stop` is the way to end it.
///
/// # Errors
/// [`SpoolError::Gone`].
pub async fn pump(
    mut writer: SpoolWriter,
    mut sources: Sources,
    stop: &CancellationToken,
) -> Result<Pumped, SpoolError> {
    let mut pace = Pace::of(writer.len());
    while !sources.ended() {
        let ready = tokio::select! {
            biased;
            () = stop.cancelled() => None,
            ready = sources.ready() => Some(ready.map_err(|_| SpoolError::Gone)?),
        };
        let Some(number) = ready else {
            let turns = sources.capacity().div_ceil(TURN);
            writer = sources.take_turns(writer, turns).await?;
            break;
        };
        let drained = sources.drain(number, &mut writer);
        if drained == Drained::More || pace.is_fast(writer.len()) {
            if drained != Drained::End {
                sources.enlarge(number);
            }
            writer = sources.take_turns(writer, BULK / TURN).await?;
        }
    }
    Ok(Pumped { writer, sources })
}

/// How fast output comes.
///
/// A producer that writes 8 KiB at a time never fills its pipe while each write is taken out at once: it and we wake each
/// other in turn. One that is known to be fast gets time to fill a large pipe.
struct Pace {
    since: Instant,
    len: u64,
}

impl Pace {
    fn of(len: u64) -> Self {
        Self { since: Instant::now(), len }
    }

    /// The last [`BURST`] bytes came within [`BURST_TIME`].
    fn is_fast(&mut self, len: u64) -> bool {
        if len - self.len < BURST {
            return false;
        }
        let before = std::mem::replace(self, Self::of(len));
        before.since.elapsed() < BURST_TIME
    }
}

/// Where the output of a run comes from: the read ends of its pipes, or the master of its terminal. Those that have come
/// to their end are closed.
#[derive(Debug)]
pub struct Sources(Vec<Source>);

/// Shared with the thread that does the bulk.
#[derive(Debug, Clone)]
struct Source {
    /// A terminal's master passes for a pipe: all that is asked of it is to wait.
    end: Arc<Receiver>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Pipe(Stream),
    Terminal,
}

impl Sources {
    /// The read ends of two pipes. Makes them non-blocking, for all who share them.
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll_ctl(2); `InvalidInput` for anything but the read end of a pipe.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn pipes(stdout: OwnedFd, stderr: OwnedFd) -> io::Result<Sources> {
        let stdout = Source { end: Arc::new(Receiver::from_owned_fd(stdout)?), kind: Kind::Pipe(Stream::Stdout) };
        let stderr = Source { end: Arc::new(Receiver::from_owned_fd(stderr)?), kind: Kind::Pipe(Stream::Stderr) };
        Ok(Sources(vec![stdout, stderr]))
    }

    /// The master of a terminal. Makes it non-blocking, for all who share it.
    ///
    /// # Errors
    /// Those of fcntl(2) and epoll_ctl(2).
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn terminal(master: OwnedFd) -> io::Result<Sources> {
        let flags = OFlag::from_bits_retain(fcntl(&master, FcntlArg::F_GETFL)?);
        fcntl(&master, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
        let end = Arc::new(Receiver::from_owned_fd_unchecked(master)?);
        Ok(Sources(vec![Source { end, kind: Kind::Terminal }]))
    }

    /// Drops what comes until all of them are at their end: whoever writes neither blocks nor dies of it. Cancel-safe.
    pub async fn discard(mut self) {
        let mut scrap = vec![0; SCRAP];
        while !self.ended() {
            let Ok(number) = self.ready().await else { return };
            let source = &self.0[number];
            match source.end.try_io(|| Ok(nix::unistd::read(&*source.end, &mut scrap)?)) {
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Ok(0) | Err(_) => drop(self.0.remove(number)),
                Ok(_) => {}
            }
        }
    }

    /// All have come to their end.
    #[must_use]
    pub fn ended(&self) -> bool {
        self.0.is_empty()
    }

    /// Waits until one may have something, and says which. Fair: of two that do, it takes either. Cancel-safe: readiness
    /// stays until a read finds nothing.
    async fn ready(&self) -> io::Result<usize> {
        let ready = async |number: usize| match self.0.get(number) {
            Some(source) => source.end.readable().await.map(|_| number),
            None => pending().await,
        };
        tokio::select! {
            first = ready(0) => first,
            second = ready(1) => second,
        }
    }

    /// Moves a little from one of them, and forgets that it was ready if it had no more.
    fn drain(&mut self, number: usize, writer: &mut SpoolWriter) -> Drained {
        let source = &self.0[number];
        let result = source.end.try_io(|| match source.drain(writer, INLINE) {
            Drained::Empty => Err(io::ErrorKind::WouldBlock.into()),
            drained => Ok(drained),
        });
        let drained = result.unwrap_or(Drained::Empty);
        if drained == Drained::End {
            self.0.remove(number);
        }
        drained
    }

    /// Moves much from all of them, in turns, until they have no more or have had `turns` each.
    async fn take_turns(&mut self, mut writer: SpoolWriter, turns: usize) -> Result<SpoolWriter, SpoolError> {
        let sources = self.0.clone();
        let moving = spawn_blocking(move || {
            let ended = take_turns(&mut writer, &sources, turns);
            (writer, ended)
        });
        let (writer, ended) = moving.await.map_err(|_| SpoolError::Gone)?;
        let mut ended = ended.into_iter();
        self.0.retain(|_| ended.next() != Some(true));
        Ok(writer)
    }

    /// Most bytes that one of them can hold.
    fn capacity(&self) -> usize {
        let sizes = self.0.iter().filter_map(|source| fcntl(&*source.end, FcntlArg::F_GETPIPE_SZ).ok());
        // A terminal does not say, and holds less than a turn.
        sizes.filter_map(|size| usize::try_from(size).ok()).fold(TURN, usize::max)
    }

    /// Makes room for a fast producer. Where the kernel does not want to, it stays slower.
    fn enlarge(&self, number: usize) {
        let pipe = &*self.0[number].end;
        if fcntl(pipe, FcntlArg::F_GETPIPE_SZ).is_ok_and(|size| size < FAST_PIPE) {
            let _ = fcntl(pipe, FcntlArg::F_SETPIPE_SZ(FAST_PIPE));
        }
    }
}

/// See [`Sources::take_turns`]. Says of each source whether it has ended.
fn take_turns(writer: &mut SpoolWriter, sources: &[Source], turns: usize) -> Vec<bool> {
    let mut ended = vec![false; sources.len()];
    for _ in 0..turns {
        let before = writer.len();
        let mut more = false;
        for (source, ended) in sources.iter().zip(&mut ended).filter(|(_, ended)| !**ended) {
            match source.drain(writer, TURN) {
                Drained::More => more = true,
                Drained::End => *ended = true,
                Drained::Empty => {}
            }
        }
        if more {
            continue;
        }
        if writer.len() == before || !ended.contains(&false) {
            break;
        }
        std::thread::park_timeout(FILL);
    }
    ended
}

impl Source {
    /// A source that fails has nothing more to give, as one that has come to its end.
    fn drain(&self, writer: &mut SpoolWriter, limit: usize) -> Drained {
        let result = match self.kind {
            Kind::Pipe(stream) => writer.drain(stream, self.end.as_fd(), limit),
            Kind::Terminal => writer.drain_terminal(self.end.as_fd(), limit),
        };
        result.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a run's output is cut off here");
            Drained::End
        })
    }
}
