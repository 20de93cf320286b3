//! The task that owns a session: it alone writes it.
//!
//! It waits for whatever happens, has [`State::on`] say what follows, stores that, and then does it. What takes time is
//! done beside it, in tasks that it owns, and comes back as an input. All that has happened while one write was made is
//! dealt with in the next: so the more happens, the more share a write.

mod act;
mod hear;
mod mind;
mod write;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::SessionError;
use super::brains::Brains;
use super::content::Contents;
use super::event::Actor;
use super::house::{Found, HouseError, Kept};
use super::record::Profile;
use super::state::{Input, Record, State};
use super::tools::{Finished, Note};
use crate::credential::Credentials;
use crate::gateway::Gateway;
use crate::ids::{SandboxId, SessionId};
use crate::network::Port;
use crate::runtime::process::{Line, Process};
use crate::runtime::{Call, Dialogue, Usage};
use crate::sandbox::{Sandbox, Sandboxes};
use crate::store::{Claim, Store, StoreError};
use crate::telemetry::chain;

/// Inputs that may share a write. More would make the first of them wait.
const BATCH: usize = 64;

/// Notes of calls that may wait: a call that writes faster waits, which slows nobody else.
const NOTES: usize = 64;

/// Between two tries to write to a store that fails, such as one on a full disk.
const RETRY: Duration = Duration::from_secs(1);

/// What a driver is asked.
pub enum Request {
    /// To take a message; the claim says that it may be said again.
    Send(Box<Post>),
    /// To end the turn.
    Cancel(Reply<()>),
    /// To end the session.
    Archive(Reply<()>),
}

/// Where a request is answered.
pub type Reply<T> = oneshot::Sender<Result<T, SessionError>>;

/// A message and where its `seq` is told.
pub struct Post {
    /// Who says it.
    pub actor: Actor,
    /// What.
    pub body: serde_json::Value,
    /// The caller's references, or null.
    pub refs: serde_json::Value,
    /// The key and the digest of the request, if it may be said again.
    pub claim: Option<(String, String)>,
    /// Answered with the `seq`, and whether it is new.
    pub reply: Reply<(u64, bool)>,
}

/// Says where a port of a sandbox is seen; `None` where it is not.
pub type Preview = Arc<dyn Fn(&SandboxId, u16) -> Option<String> + Send + Sync>;

/// What all drivers share.
#[derive(Clone)]
pub struct Context {
    /// Where sessions are stored.
    pub store: Store,
    /// Keys of model providers.
    pub credentials: Credentials,
    /// Where long bodies are.
    pub contents: Contents,
    /// Where sandboxes are made.
    pub sandboxes: Sandboxes,
    /// Says where a port is seen.
    pub preview: Preview,
    /// What is needed to start brains.
    pub brains: Arc<Brains>,
    /// The daemon is to end.
    pub stop: CancellationToken,
}

/// The task.
pub struct Driver {
    context: Context,
    id: SessionId,
    number: u64,
    profile: Profile,
    state: State,
    requests: mpsc::Receiver<Request>,
    /// What has happened and is not dealt with.
    backlog: VecDeque<Task>,
    process: Option<Process>,
    dialogue: Option<Box<dyn Dialogue>>,
    /// The brain's door to its model, as long as it has a process.
    gateway: Option<Gateway>,
    /// Both sandboxes, awake, while they are needed.
    kept: Option<(Kept, Kept)>,
    /// The hands' sandbox, and which of its ports are listened on.
    ports: Option<(SandboxId, watch::Receiver<Vec<Port>>)>,
    /// Calls that wait for the hands.
    parked: Vec<Parked>,
    jobs: JoinSet<Job>,
    is_searching: bool,
    copying: Copying,
    notes: (mpsc::Sender<Note>, mpsc::Receiver<Note>),
    stop_calls: CancellationToken,
    /// How each call that is under way is stopped by itself.
    stops: HashMap<String, CancellationToken>,
    /// Texts of messages that came while this task was there.
    texts: HashMap<u64, String>,
}

/// An input, and who waits for it to be stored.
struct Task {
    input: Input,
    waits: Waits,
}

/// Who waits for an input.
enum Waits {
    Nobody,
    Caller(Reply<()>),
    Sender(Option<Claim>, Reply<(u64, bool)>),
}

/// A call that waits for the hands.
enum Parked {
    Run(Call),
    Follow(String),
}

impl Parked {
    fn id(&self) -> &str {
        match self {
            Self::Run(call) => &call.id,
            Self::Follow(id) => id,
        }
    }
}

/// How the copy of the brain's conversation stands. One is made at a time, so that none is put in place of a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Copying {
    /// It is as the last turn left it.
    Done,
    /// It is being made.
    Begun,
    /// The same, and it is too old already.
    Again,
}

/// What a task of the driver has come to.
enum Job {
    Found(Box<Result<Found, HouseError>>),
    Finished(Finished),
    Copied,
    Disposed,
    Done,
}

/// What the driver waits for.
enum Happened {
    Stop,
    Requested(Option<Request>),
    Noted(Option<Note>),
    Ended(Job),
    Spent(Usage),
    Said(Line),
    Opened,
    Clock,
}

impl Driver {
    /// Loads a session.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`], [`SessionError::Record`].
    pub async fn load(
        context: Context,
        id: SessionId,
        requests: mpsc::Receiver<Request>,
    ) -> Result<Self, (SessionError, mpsc::Receiver<Request>)> {
        match Self::read(&context, &id).await {
            Ok((number, profile, state)) => Ok(Self {
                context,
                id,
                number,
                profile,
                state,
                requests,
                backlog: VecDeque::new(),
                process: None,
                dialogue: None,
                gateway: None,
                kept: None,
                ports: None,
                parked: Vec::new(),
                jobs: JoinSet::new(),
                is_searching: false,
                copying: Copying::Done,
                notes: mpsc::channel(NOTES),
                stop_calls: CancellationToken::new(),
                stops: HashMap::new(),
                texts: HashMap::new(),
            }),
            Err(error) => Err((error, requests)),
        }
    }

    async fn read(context: &Context, id: &SessionId) -> Result<(u64, Profile, State), SessionError> {
        let stored = context.store.session(id).await.map_err(SessionError::Store)?;
        let stored = stored.ok_or_else(|| SessionError::NotFound(id.clone()))?;
        let mut state = super::record::state(&stored)?;
        let calls = context.store.calls(stored.number).await.map_err(SessionError::Store)?;
        for (call, record) in calls {
            let damaged = |source| SessionError::Record { what: "call", id: call.clone(), source };
            let mut record: Record = serde_json::from_str(&record).map_err(damaged)?;
            if let Some(answer) = &mut record.answer {
                answer.text.clear();
            }
            state.calls.insert(call, record);
        }
        Ok((stored.number, super::record::profile(&stored)?, state))
    }

    /// The session's life in this daemon.
    pub async fn live(mut self) {
        self.push(Input::Recovered);
        let hands = self.state.house.hands.as_ref();
        if let Some(sandbox) = hands.and_then(|id| self.context.sandboxes.get(id).ok()) {
            self.watch_ports(&sandbox);
        }
        while self.deal().await {
            if self.state.is_archived && !self.state.is_to_be_disposed() && self.state.active.is_none() {
                break;
            }
            match self.wait().await {
                Happened::Stop => break,
                happened => self.take(happened).await,
            }
        }
        // Whoever waits is told that nobody is here by the reply that is dropped.
        self.requests.close();
        self.jobs.shutdown().await;
    }

    fn push(&mut self, input: Input) {
        self.backlog.push_back(Task { input, waits: Waits::Nobody });
    }

    /// All are cancel-safe: channels keep what was not received, jobs what was not joined, the gateway what was not told, and
    /// the process keeps what it has read of a line. Tokens come before the line that they were spent for.
    async fn wait(&mut self) -> Happened {
        let alarm =
            self.state.alarm().map(|at| Instant::now() + at.duration_since(SystemTime::now()).unwrap_or_default());
        let clock = async {
            match alarm {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let said = async {
            match &mut self.process {
                Some(process) => process.next().await,
                None => std::future::pending().await,
            }
        };
        let opened = async {
            let changed = match &mut self.ports {
                Some((_, ports)) => ports.changed().await.is_ok(),
                None => false,
            };
            // Nobody tells of a sandbox that is gone.
            if !changed {
                std::future::pending().await
            }
        };
        let spent = async {
            match &mut self.gateway {
                Some(gateway) => gateway.spent().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.context.stop.cancelled() => Happened::Stop,
            Some(note) = self.notes.1.recv() => Happened::Noted(Some(note)),
            Some(job) = self.jobs.join_next() => Happened::Ended(job.unwrap_or(Job::Done)),
            request = self.requests.recv() => Happened::Requested(request),
            usage = spent => Happened::Spent(usage),
            line = said => Happened::Said(line),
            () = opened => Happened::Opened,
            () = clock => Happened::Clock,
        }
    }

    /// From now on it is told of the ports of this sandbox, those that are listened on already among them.
    fn watch_ports(&mut self, sandbox: &Sandbox) {
        let id = &sandbox.profile().id;
        if self.ports.as_ref().is_none_or(|(watched, _)| watched != id) {
            let mut ports = sandbox.open_ports();
            ports.mark_changed();
            self.ports = Some((id.clone(), ports));
        }
    }

    /// Says where the ports are seen that are listened on; those that were told before are known to the state.
    fn opened(&mut self) {
        let Some((sandbox, ports)) = &mut self.ports else { return };
        let (sandbox, ports) = (sandbox.clone(), ports.borrow_and_update().clone());
        for Port { port, .. } in ports {
            if let Some(url) = (self.context.preview)(&sandbox, port) {
                self.push(Input::Opened { sandbox: sandbox.clone(), port, url });
            }
        }
    }

    /// Deals with what has happened; `false` if the session cannot go on here.
    async fn deal(&mut self) -> bool {
        while !self.backlog.is_empty() {
            let count = self.backlog.len().min(BATCH);
            let tasks: Vec<Task> = self.backlog.drain(..count).collect();
            match self.apply(tasks).await {
                Ok(effects) => {
                    for effect in effects {
                        if let Err(error) = self.act(effect).await {
                            tracing::error!(session.id = %self.id, error = %chain(&error), "a session cannot go on");
                            return false;
                        }
                    }
                }
                Err(SessionError::Store(error @ (StoreError::Overtaken | StoreError::Gone))) => {
                    tracing::error!(session.id = %self.id, error = %chain(&error), "a session cannot go on");
                    return false;
                }
                Err(error) => {
                    tracing::error!(session.id = %self.id, error = %chain(&error), "a session cannot be stored");
                    tokio::select! {
                        () = self.context.stop.cancelled() => return false,
                        () = sleep_until(Instant::now() + RETRY) => {}
                    }
                }
            }
        }
        true
    }
}
