//! A handle on a run: what is known of it, and what can be asked of it. Its [`task`](super::task) owns it.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::input::{Input, Refusal, Sender};
use super::output::Spool;
use super::{Command, Exited, RunError};
use crate::ids::RunId;

/// Requests to end a run that may wait: they all want the same.
const CANCEL_QUEUE: usize = 4;

/// A handle on a run.
#[derive(Debug, Clone)]
pub struct Run {
    shared: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    id: RunId,
    key: Option<String>,
    command: Command,
    state: watch::Receiver<State>,
    cancel: mpsc::Sender<Duration>,
    evicted: CancellationToken,
}

/// What is published of a run. The task alone changes it.
#[derive(Debug, Clone)]
pub(super) enum State {
    Starting,
    Running(Started),
    Ended(Started, Exited),
}

/// A run that has begun.
#[derive(Debug, Clone)]
pub struct Started {
    /// Its id.
    pub id: RunId,
    /// Its leader's process id inside the sandbox.
    pub pid: u32,
    /// When it began.
    pub at: SystemTime,
    /// When it will be ended.
    pub deadline: Option<SystemTime>,
    /// Its output.
    pub spool: Spool,
    /// Its stdin or terminal.
    pub(super) input: Option<Sender>,
}

/// The task's side of a handle.
#[derive(Debug)]
pub struct Publisher {
    /// Who publishes it.
    pub(super) state: watch::Sender<State>,
    /// Requests to end it, each with its grace.
    pub(super) cancels: mpsc::Receiver<Duration>,
    /// Its retention is over.
    pub(super) evicted: CancellationToken,
}

impl Run {
    /// A run to be started, and its task's side.
    pub(super) fn new(id: RunId, key: Option<String>, command: Command) -> (Self, Publisher) {
        let (sender, state) = watch::channel(State::Starting);
        let (cancel, cancels) = mpsc::channel(CANCEL_QUEUE);
        let evicted = CancellationToken::new();
        let publisher = Publisher { state: sender, cancels, evicted: evicted.clone() };
        (Self { shared: Arc::new(Handle { id, key, command, state, cancel, evicted }) }, publisher)
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &RunId {
        &self.shared.id
    }

    /// The idempotency key with which it was asked for.
    #[must_use]
    pub fn key(&self) -> Option<&str> {
        self.shared.key.as_deref()
    }

    /// What was asked for.
    #[must_use]
    pub fn command(&self) -> &Command {
        &self.shared.command
    }

    /// How it began, if it has.
    #[must_use]
    pub fn started(&self) -> Option<Started> {
        match &*self.shared.state.borrow() {
            State::Starting => None,
            State::Running(started) | State::Ended(started, _) => Some(started.clone()),
        }
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exited(&self) -> Option<Exited> {
        match &*self.shared.state.borrow() {
            State::Starting | State::Running(_) => None,
            State::Ended(_, exited) => Some(exited.clone()),
        }
    }

    /// It has begun. Cheaper than to ask how.
    pub(super) fn has_started(&self) -> bool {
        !matches!(&*self.shared.state.borrow(), State::Starting)
    }

    /// It has ended. Cheaper than to ask how.
    pub(super) fn has_ended(&self) -> bool {
        matches!(&*self.shared.state.borrow(), State::Ended(..))
    }

    /// Waits until it has begun; `None` if it could not.
    pub async fn wait_started(&self) -> Option<Started> {
        let mut state = self.shared.state.clone();
        // An error means that the task is gone; what it published last says the rest.
        let _ = state.wait_for(|state| !matches!(state, State::Starting)).await;
        self.started()
    }

    /// Waits until it has ended.
    pub async fn wait_exited(&self) -> Exited {
        let mut state = self.shared.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Ended(..))).await;
        self.exited().unwrap_or_else(Exited::lost)
    }

    /// Ends it and all that it left, and waits until that is done.
    ///
    /// # Errors
    /// [`RunError::NotFound`] if it has ended.
    pub async fn cancel(&self, grace: Duration) -> Result<Exited, RunError> {
        if self.exited().is_some() || self.shared.cancel.send(grace).await.is_err() {
            return Err(RunError::NotFound(self.id().clone()));
        }
        Ok(self.wait_exited().await)
    }

    /// Writes to its stdin or terminal, and waits until that is done.
    ///
    /// # Errors
    /// [`RunError::StdinClosed`], [`RunError::NoTerminal`]; [`RunError::NotFound`] if it has ended.
    pub async fn input(&self, input: Input) -> Result<(), RunError> {
        let id = || self.id().clone();
        let Some(started) = self.started().filter(|_| self.exited().is_none()) else {
            return Err(RunError::NotFound(id()));
        };
        let Some(sender) = started.input else {
            return Err(if matches!(input, Input::Resize(_)) {
                RunError::NoTerminal(id())
            } else {
                RunError::StdinClosed(id())
            });
        };
        sender.send(input).await.map_err(|refusal| match refusal {
            Refusal::Closed => RunError::StdinClosed(id()),
            Refusal::NoTerminal => RunError::NoTerminal(id()),
        })
    }

    /// Ends its retention.
    pub(super) fn evict(&self) {
        self.shared.evicted.cancel();
    }
}
