//! Which agents and sessions there are, and asking the tasks that own sessions.
//!
//! What is only looked at comes from the store. What changes a session goes to its driver, which is started when it is
//! needed first: by a request, or at the daemon's start if something was under way.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use futures_util::{Stream, StreamExt};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::SessionError;
use super::agent::{Agent, AgentChange, AgentSpec, Limits, bounded};
use super::content::Contents;
use super::driver::{Context, Driver, Post, Reply, Request};
use super::event::{Actor, Event};
use super::log::{self, EventQuery};
use super::state::{Input, Rules, State, Status};
use super::turn::{Failure, Turn};
use crate::ids::{AgentId, EventId, SandboxId, SessionId, TurnId};
use crate::runtime::Usage;
use crate::runtime::policy::Policy;
use crate::sandbox::Sandboxes;
use crate::store::{Added, Claim, NewSession as Row, SessionQuery, Store, StoredAgent, StoredSession};

/// Requests that may wait for a driver: it takes all that wait at once, so that only a store that is slow fills this.
const REQUESTS: usize = 64;

/// Longest text of a message, in bytes.
const MAX_TEXT: usize = 512 << 10;
/// Longest key, in bytes.
const MAX_KEY: usize = 256;
/// Longest metadata and references, in bytes of JSON.
const MAX_METADATA: usize = 16 << 10;
/// Tries to ask a driver that ends at the same moment.
const TRIES: usize = 3;

/// The agents and sessions of the node. A handle; clones share it.
#[derive(Clone)]
pub struct Sessions {
    shared: Arc<Shared>,
}

struct Shared {
    context: Context,
    drivers: Mutex<HashMap<SessionId, mpsc::Sender<Request>>>,
    /// Owns the drivers.
    tasks: TaskTracker,
}

/// What a session is; does not change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Profile {
    /// Its agent.
    #[serde(with = "super::text")]
    pub agent: AgentId,
    /// The agent's revision then.
    pub revision: u64,
    /// The agent as it was then.
    pub spec: AgentSpec,
    /// Its bounds: what was asked for, over the agent's.
    pub limits: Limits,
    /// The caller's name for it.
    pub key: Option<String>,
    /// The caller's own words on it, or null.
    pub metadata: Value,
    /// When it was made, in milliseconds since 1970.
    pub created_at_ms: u64,
}

impl Profile {
    /// When the session was made.
    #[must_use]
    pub fn created_at(&self) -> SystemTime {
        super::time(self.created_at_ms)
    }
}

/// A session as it stands.
#[derive(Debug, Clone)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// What it is.
    pub profile: Profile,
    /// Where it stands.
    pub status: Status,
    /// The `seq` of its newest event.
    pub head: u64,
    /// The turn under way.
    pub active_turn: Option<Turn>,
    /// The last turn that has ended.
    pub last_turn: Option<Turn>,
    /// Turns that have begun.
    pub turns: u64,
    /// What all turns used.
    pub usage: Usage,
    /// How long turns were under way, in milliseconds.
    pub active_ms: u64,
    /// Its sandboxes: the brain's and the hands'.
    pub sandboxes: (Option<SandboxId>, Option<SandboxId>),
    /// Why it has failed, if it has.
    pub failure: Option<Failure>,
}

/// Which agent is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AgentName {
    /// The one with this id.
    Id(AgentId),
    /// The one with this name.
    Name(String),
}

/// A message of a user.
#[derive(Debug, Clone, PartialEq)]
pub struct UserMessage {
    /// Who says it.
    pub actor: Actor,
    /// What.
    pub text: String,
    /// What it came from, kept as it is, or null.
    pub raw: Value,
    /// The caller's references, or null.
    pub refs: Value,
}

/// A session that is wanted.
#[derive(Debug, Clone, PartialEq)]
pub struct NewSession {
    /// Of which agent.
    pub agent: AgentName,
    /// What it is to begin with; `None`: it waits for the first message.
    pub input: Option<UserMessage>,
    /// Another model than the agent's.
    pub model: Option<String>,
    /// Bounds over the agent's.
    pub limits: Limits,
    /// The caller's own words on it, or null.
    pub metadata: Value,
    /// The same key is the same session.
    pub key: Option<String>,
    /// A second request with the same key and content is answered as the first.
    pub idempotency_key: Option<String>,
}

/// What became of an agent that was wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentMade {
    /// The agent.
    pub agent: Agent,
    /// It was made now.
    pub is_new: bool,
}

/// What became of a session that was wanted.
#[derive(Debug, Clone)]
pub struct Created {
    /// The session.
    pub session: Session,
    /// It was made now.
    pub is_new: bool,
}

/// What became of a message.
#[derive(Debug, Clone)]
pub struct Sent {
    /// Its event.
    pub event: EventId,
    /// The session after it.
    pub session: Session,
    /// It was taken now, and not before.
    pub is_new: bool,
}

/// Which sessions are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// With this status.
    pub status: Option<Status>,
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// With this key.
    pub key: Option<String>,
}

/// A page of a list, newest first.
#[derive(Debug, Clone)]
pub struct Page<T> {
    /// What is on it.
    pub items: Vec<T>,
    /// There is more behind the last one.
    pub has_more: bool,
}

/// What a session has come to.
#[derive(Debug, Clone)]
pub struct SessionResult {
    /// The last turn that has ended.
    pub last_turn: Option<Turn>,
    /// The last message to the user in it.
    pub result: Option<Event>,
}

impl Sessions {
    /// The sessions of a store, whose long bodies are below `contents`. What was under way goes on at once.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn open(store: Store, sandboxes: Sandboxes, contents: PathBuf) -> Result<Self, SessionError> {
        let context = Context { store, contents: Contents::new(contents), sandboxes, stop: CancellationToken::new() };
        let shared = Shared { context, drivers: Mutex::default(), tasks: TaskTracker::new() };
        let this = Self { shared: Arc::new(shared) };
        for status in [Status::Queued.name(), Status::Running.name(), DISPOSING] {
            let query = SessionQuery { status: Some(status.to_owned()), ..SessionQuery::default() };
            let found = this.store().sessions(query, usize::MAX).await.map_err(SessionError::Store)?;
            for session in found {
                tracing::info!(session.id = %session.id, status, "a session goes on");
                this.driver(&session.id)?;
            }
        }
        Ok(this)
    }

    fn store(&self) -> &Store {
        &self.shared.context.store
    }

    /// Ends the tasks of all sessions. What is under way goes on when the next daemon opens them.
    pub async fn close(&self) {
        self.shared.context.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    // --- Agents.

    /// Makes an agent. The same name with the same content is the same agent.
    ///
    /// # Errors
    /// [`SessionError::Invalid`], [`SessionError::AgentDiffers`], [`SessionError::Store`].
    pub async fn create_agent(&self, spec: AgentSpec) -> Result<AgentMade, SessionError> {
        spec.check()?;
        // To the millisecond, as it is stored.
        let created_at = super::time(super::millis(SystemTime::now()));
        let agent = Agent { id: AgentId::random(), spec, revision: 1, created_at };
        let stored = StoredAgent { id: agent.id.clone(), name: agent.spec.name.clone(), record: agent.to_record() };
        match self.store().add_agent(stored).await.map_err(SessionError::Store)? {
            None => Ok(AgentMade { agent, is_new: true }),
            Some(existing) => {
                let existing = Agent::from_record(existing.id, &existing.record)?;
                if existing.spec != agent.spec {
                    return Err(SessionError::AgentDiffers { id: existing.id });
                }
                Ok(AgentMade { agent: existing, is_new: false })
            }
        }
    }

    /// An agent.
    ///
    /// # Errors
    /// [`SessionError::UnknownAgent`], [`SessionError::Store`].
    pub async fn agent(&self, name: &AgentName) -> Result<Agent, SessionError> {
        let (found, name) = match name {
            AgentName::Id(id) => (self.store().agent(id).await, id.to_string()),
            AgentName::Name(name) => (self.store().agent_named(name.clone()).await, name.clone()),
        };
        let found = found.map_err(SessionError::Store)?.ok_or(SessionError::UnknownAgent(name))?;
        Agent::from_record(found.id, &found.record)
    }

    /// Changes an agent. Sessions that were made before keep the one they have.
    ///
    /// # Errors
    /// [`SessionError::UnknownAgent`], [`SessionError::Invalid`], [`SessionError::AgentChanged`],
    /// [`SessionError::Store`].
    pub async fn update_agent(&self, name: &AgentName, change: AgentChange) -> Result<Agent, SessionError> {
        let before = self.agent(name).await?;
        let mut spec = before.spec.clone();
        spec.model = change.model.unwrap_or(spec.model);
        spec.prompt = change.prompt.unwrap_or(spec.prompt);
        spec.limits = change.limits.unwrap_or(spec.limits);
        spec.check()?;
        if spec == before.spec {
            return Ok(before);
        }
        let after = Agent { spec, revision: before.revision + 1, ..before.clone() };
        let changed = self.store().change_agent(&after.id, before.to_record(), after.to_record()).await;
        if changed.map_err(SessionError::Store)? { Ok(after) } else { Err(SessionError::AgentChanged(after.id)) }
    }

    /// A page of agents, newest first: those that were made before one of them.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn agents(&self, before: Option<AgentId>, limit: usize) -> Result<Page<Agent>, SessionError> {
        let found = self.store().agents(before, limit.saturating_add(1)).await.map_err(SessionError::Store)?;
        let has_more = found.len() > limit;
        let items = found.into_iter().take(limit).map(|agent| Agent::from_record(agent.id, &agent.record));
        Ok(Page { items: items.collect::<Result<_, _>>()?, has_more })
    }

    // --- Sessions.

    /// Makes a session, which begins to work on its input.
    ///
    /// # Errors
    /// [`SessionError::Invalid`], [`SessionError::UnknownAgent`], [`SessionError::Conflict`], [`SessionError::Store`].
    pub async fn create(&self, wish: NewSession) -> Result<Created, SessionError> {
        check_wish(&wish)?;
        let agent = self.agent(&wish.agent).await?;
        let digest = wish_digest(&wish);
        let id = SessionId::random();
        let claim = |scope: &str, key: &Option<String>| {
            key.clone().map(|key| Claim { scope: scope.to_owned(), key, digest: digest.clone(), value: id.to_string() })
        };
        let claims = [claim("key", &wish.key), claim("idempotency_key", &wish.idempotency_key)];
        let mut spec = agent.spec;
        spec.model = wish.model.unwrap_or(spec.model);
        let profile = Profile {
            agent: agent.id,
            revision: agent.revision,
            limits: wish.limits.or(spec.limits),
            spec,
            key: wish.key,
            metadata: wish.metadata,
            created_at_ms: super::millis(SystemTime::now()),
        };
        let row = self.row(&id, &profile, wish.input, claims.into_iter().flatten().collect()).await?;
        match self.store().add_session(row).await.map_err(SessionError::Store)? {
            Added::New(_) => {
                self.driver(&id)?;
                Ok(Created { session: self.get(&id).await?, is_new: true })
            }
            Added::Existing(existing) => {
                let id = existing.parse().map_err(|_| SessionError::Conflict { field: "key" })?;
                Ok(Created { session: self.get(&id).await?, is_new: false })
            }
            Added::Conflict => Err(SessionError::Conflict { field: "key" }),
        }
    }

    /// What the store is to keep of a new session.
    async fn row(
        &self,
        id: &SessionId,
        profile: &Profile,
        input: Option<UserMessage>,
        claims: Vec<Claim>,
    ) -> Result<Row, SessionError> {
        let now = SystemTime::now();
        let mut state = State::default();
        let mut events = Vec::new();
        if let Some(message) = input {
            let rules = Rules { session: id, limits: profile.limits, policy: Policy::default() };
            let (actor, body, refs) = message.into_parts();
            events = state.on(Input::Message { actor, body, refs }, rules, now).events;
        }
        Ok(Row {
            id: id.clone(),
            agent: profile.agent.to_string(),
            status: column(&state),
            key: profile.key.clone(),
            profile: json(profile),
            state: json(&state),
            entries: log::entries(&self.shared.context.contents, id, 0, &events, now).await?,
            claims,
        })
    }

    /// A session.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn get(&self, id: &SessionId) -> Result<Session, SessionError> {
        view(&self.stored(id).await?)
    }

    async fn stored(&self, id: &SessionId) -> Result<StoredSession, SessionError> {
        let found = self.store().session(id).await.map_err(SessionError::Store)?;
        found.ok_or_else(|| SessionError::NotFound(id.clone()))
    }

    /// A page of sessions, newest first: those that were made before one of them.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn list(
        &self,
        filter: SessionFilter,
        before: Option<SessionId>,
        limit: usize,
    ) -> Result<Page<Session>, SessionError> {
        let query = SessionQuery {
            status: filter.status.map(|status| status.name().to_owned()),
            agent: filter.agent.map(|agent| agent.to_string()),
            key: filter.key,
            before,
        };
        let found = self.store().sessions(query, limit.saturating_add(1)).await.map_err(SessionError::Store)?;
        let has_more = found.len() > limit;
        let items = found.iter().take(limit).map(view).collect::<Result<_, _>>()?;
        Ok(Page { items, has_more })
    }

    /// Gives a session a message: it wakes, and if a turn is under way it is steered. Answers once the message is durable.
    /// The same key with the same message is the same message.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Invalid`], [`SessionError::Archived`], [`SessionError::Conflict`],
    /// [`SessionError::Busy`], [`SessionError::Store`].
    pub async fn send(&self, id: &SessionId, message: UserMessage, key: Option<String>) -> Result<Sent, SessionError> {
        check_message(&message)?;
        check_key("idempotency_key", key.as_deref())?;
        let claim = key.map(|key| (key, message_digest(&message)));
        let (actor, body, refs) = message.into_parts();
        let (seq, is_new) = self
            .ask(id, |reply| {
                let (actor, body, refs) = (actor.clone(), body.clone(), refs.clone());
                Request::Send(Box::new(Post { actor, body, refs, claim: claim.clone(), reply }))
            })
            .await?;
        Ok(Sent { event: EventId::of(id, seq), session: self.get(id).await?, is_new })
    }

    /// Has the turn that is under way end; does nothing if none is.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn cancel(&self, id: &SessionId) -> Result<Session, SessionError> {
        self.ask(id, Request::Cancel).await?;
        self.get(id).await
    }

    /// Ends a session: its turn is canceled, its sandboxes are removed, its log can still be read.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn archive(&self, id: &SessionId) -> Result<Session, SessionError> {
        self.ask(id, Request::Archive).await?;
        self.get(id).await
    }

    // --- What is in a session.

    /// What a session has come to.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn result(&self, id: &SessionId) -> Result<SessionResult, SessionError> {
        let last_turn = self.get(id).await?.last_turn;
        let result = match last_turn.as_ref().and_then(|turn| turn.result.as_ref()) {
            Some(event) => Some(self.event(id, event).await?),
            None => None,
        };
        Ok(SessionResult { last_turn, result })
    }

    /// A page of turns, newest first: those before a number.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn turns(&self, id: &SessionId, before: Option<u64>, limit: usize) -> Result<Page<Turn>, SessionError> {
        let number = self.stored(id).await?.number;
        let found = self.store().turns(number, before, limit.saturating_add(1)).await.map_err(SessionError::Store)?;
        let has_more = found.len() > limit;
        let items = found.iter().take(limit).map(|record| {
            let damaged = |source| SessionError::Record { what: "a turn of session", id: id.to_string(), source };
            serde_json::from_str(record).map_err(damaged)
        });
        Ok(Page { items: items.collect::<Result<_, _>>()?, has_more })
    }

    /// A turn.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::UnknownTurn`], [`SessionError::Store`].
    pub async fn turn(&self, id: &SessionId, turn: &TurnId) -> Result<Turn, SessionError> {
        let page = self.turns(id, Some(turn.number().saturating_add(1)), 1).await?;
        let found = page.items.into_iter().find(|found| found.id == *turn);
        found.ok_or_else(|| SessionError::UnknownTurn(turn.clone()))
    }

    /// Events that a query finds, in order: at most `limit`, and fewer where they are large. An empty page means that
    /// there are none yet.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn events(&self, id: &SessionId, query: EventQuery, limit: usize) -> Result<Vec<Event>, SessionError> {
        let number = self.stored(id).await?.number;
        let found = self.store().log(number, query.to_store(), limit).await.map_err(SessionError::Store)?;
        found.into_iter().map(|entry| log::event(id, entry)).collect()
    }

    /// Events that a query finds, and then those that come, each once it is durable. Ends only with an error, or with the
    /// daemon.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn follow(
        &self,
        id: &SessionId,
        query: EventQuery,
    ) -> Result<impl Stream<Item = Result<Event, SessionError>> + Send + use<>, SessionError> {
        let number = self.stored(id).await?.number;
        let stop = self.shared.context.stop.clone().cancelled_owned();
        Ok(log::follow(self.store().clone(), id.clone(), number, query).take_until(stop))
    }

    /// Changes whenever the log of a session has grown.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn grown(&self, id: &SessionId) -> Result<watch::Receiver<u64>, SessionError> {
        Ok(self.store().follow_log(self.stored(id).await?.number))
    }

    /// An event.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::UnknownEvent`], [`SessionError::Store`].
    pub async fn event(&self, id: &SessionId, event: &EventId) -> Result<Event, SessionError> {
        let number = self.stored(id).await?.number;
        let found = self.store().log_entry(number, event).await.map_err(SessionError::Store)?;
        log::event(id, found.ok_or_else(|| SessionError::UnknownEvent(event.clone()))?)
    }

    /// The whole body of an event, as JSON.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::UnknownEvent`], [`SessionError::Content`], [`SessionError::Store`].
    pub async fn content(&self, id: &SessionId, event: &EventId) -> Result<Vec<u8>, SessionError> {
        let found = self.event(id, event).await?;
        match found.content_bytes {
            Some(_) => self.shared.context.contents.get(id, event).await.map_err(SessionError::Content),
            None => Ok(found.body.to_string().into_bytes()),
        }
    }

    // --- Drivers.

    /// No change is made in more than one step that could panic.
    fn lock(&self) -> MutexGuard<'_, HashMap<SessionId, mpsc::Sender<Request>>> {
        self.shared.drivers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The driver of a session: the one that is there, or a new one.
    fn driver(&self, id: &SessionId) -> Result<mpsc::Sender<Request>, SessionError> {
        let mut drivers = self.lock();
        if self.shared.context.stop.is_cancelled() {
            return Err(SessionError::ShuttingDown);
        }
        if let Some(driver) = drivers.get(id).filter(|driver| !driver.is_closed()) {
            return Ok(driver.clone());
        }
        let (sender, requests) = mpsc::channel(REQUESTS);
        drivers.insert(id.clone(), sender.clone());
        let (this, id, own) = (self.clone(), id.clone(), sender.clone());
        self.shared.tasks.spawn(async move {
            match Driver::load(this.shared.context.clone(), id.clone(), requests).await {
                Ok(driver) => driver.live().await,
                Err((error, requests)) => refuse(error, requests).await,
            }
            let mut drivers = this.lock();
            // A later one may have taken its place.
            if drivers.get(&id).is_some_and(|driver| driver.same_channel(&own)) {
                drivers.remove(&id);
            }
        });
        Ok(sender)
    }

    async fn ask<T>(&self, id: &SessionId, request: impl Fn(Reply<T>) -> Request) -> Result<T, SessionError> {
        // Of a session that is not there no task is started.
        self.stored(id).await?;
        for _ in 0..TRIES {
            let (reply, answer) = oneshot::channel();
            let sent = self.driver(id)?.send(request(reply)).await;
            match answer.await {
                Ok(answer) if sent.is_ok() => return answer,
                // It has ended; the next one is there at once.
                Ok(_) | Err(_) => {}
            }
        }
        Err(SessionError::ShuttingDown)
    }
}

/// Tells those who ask why the session cannot be loaded.
async fn refuse(error: SessionError, mut requests: mpsc::Receiver<Request>) {
    tracing::error!(error = %crate::telemetry::chain(&error), "a session cannot be loaded");
    requests.close();
    let mut error = Some(error);
    while let Some(request) = requests.recv().await {
        let error = error.take().unwrap_or(SessionError::ShuttingDown);
        match request {
            Request::Cancel(reply) | Request::Archive(reply) => drop(reply.send(Err(error))),
            Request::Send(post) => drop(post.reply.send(Err(error))),
        }
    }
}

impl UserMessage {
    fn into_parts(self) -> (Actor, Value, Value) {
        let mut body = json!({ "text": self.text });
        if !self.raw.is_null() {
            body["raw"] = self.raw;
        }
        (self.actor, body, self.refs)
    }
}

fn check_wish(wish: &NewSession) -> Result<(), SessionError> {
    wish.input.as_ref().map_or(Ok(()), check_message)?;
    wish.limits.check()?;
    check_json("metadata", &wish.metadata)?;
    check_key("key", wish.key.as_deref())?;
    check_key("idempotency_key", wish.idempotency_key.as_deref())
}

fn check_message(message: &UserMessage) -> Result<(), SessionError> {
    bounded("text", &message.text, 1, MAX_TEXT)?;
    check_json("refs", &message.refs)?;
    check_json("raw", &message.raw)
}

fn check_key(field: &'static str, key: Option<&str>) -> Result<(), SessionError> {
    key.map_or(Ok(()), |key| bounded(field, key, 1, MAX_KEY))
}

fn check_json(field: &'static str, value: &Value) -> Result<(), SessionError> {
    let len = value.to_string().len();
    if len <= MAX_METADATA {
        return Ok(());
    }
    Err(SessionError::Invalid { field, message: format!("has {len} bytes, at most {MAX_METADATA} are allowed") })
}

/// Tells one request from another.
fn digest(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn message_digest(message: &UserMessage) -> String {
    digest(&json!([message.text, message.raw, message.refs]))
}

fn wish_digest(wish: &NewSession) -> String {
    let agent = match &wish.agent {
        AgentName::Id(id) => id.to_string(),
        AgentName::Name(name) => name.clone(),
    };
    let input = wish.input.as_ref().map(message_digest);
    digest(&json!([agent, input, wish.model, wish.limits, wish.metadata, wish.key]))
}

/// The status of a session that is archived and whose sandboxes are not removed yet: so that the next daemon does.
const DISPOSING: &str = "disposing";

/// The status by which the store finds a session.
pub(super) fn column(state: &State) -> &'static str {
    let is_done = !state.is_archived || (state.active.is_none() && !state.is_to_be_disposed());
    if is_done { state.status().name() } else { DISPOSING }
}

pub(super) fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("records of strings and numbers are JSON")
}

pub(super) fn profile(stored: &StoredSession) -> Result<Profile, SessionError> {
    let damaged = |source| SessionError::Record { what: "session", id: stored.id.to_string(), source };
    serde_json::from_str(&stored.profile).map_err(damaged)
}

pub(super) fn state(stored: &StoredSession) -> Result<State, SessionError> {
    let damaged = |source| SessionError::Record { what: "the state of session", id: stored.id.to_string(), source };
    let state: State = serde_json::from_str(&stored.state).map_err(damaged)?;
    Ok(State { head: stored.head, ..state })
}

fn view(stored: &StoredSession) -> Result<Session, SessionError> {
    let state = state(stored)?;
    Ok(Session {
        id: stored.id.clone(),
        profile: profile(stored)?,
        status: state.status(),
        head: stored.head,
        active_turn: state.active.map(|active| active.turn),
        last_turn: state.last_turn,
        turns: state.turns,
        usage: state.usage,
        active_ms: state.active_ms,
        sandboxes: (state.house.brain, state.house.hands),
        failure: state.failure,
    })
}
