//! Which sessions there are, and asking the tasks that own them.
//!
//! What changes a session goes to its driver, which is started when it is needed first: by a request, or at the daemon's
//! start if something was under way.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::brains::Brains;
use super::content::Contents;
use super::driver::{Context, Driver, Post, Preview, Reply, Request};
use super::record::{DISPOSING, Profile, Session, column, json};
use super::state::{Input, Rules, State, Status};
use super::wish::{
    NewSession, UserMessage, check_key, check_message, check_wish, claim_scope, message_digest, wish_digest,
};
use super::{SessionError, log};
use crate::credential::Credentials;
use crate::ids::{EventId, SessionId};
use crate::image::ImageRef;
use crate::sandbox::Sandboxes;
use crate::store::{Added, Claim, NewSession as Row, SessionQuery, Store};
use crate::telemetry::chain;

/// Requests that may wait for a driver: it takes all that wait at once, so that only a store that is slow fills this.
const REQUESTS: usize = 64;

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

impl Sessions {
    /// The sessions of a store, whose long bodies are below `contents`; `preview` says where ports of their sandboxes are
    /// seen. What was under way goes on at once.
    ///
    /// # Errors
    /// [`SessionError::Store`].
    pub async fn open(
        store: Store,
        credentials: Credentials,
        sandboxes: Sandboxes,
        contents: PathBuf,
        preview: Preview,
        brains: Brains,
    ) -> Result<Self, SessionError> {
        let (all, _) = sandboxes.list(None, usize::MAX, &BTreeMap::new());
        let images = all.iter().map(|sandbox| sandbox.profile().image.clone());
        let in_use = images.filter_map(|image| match image {
            ImageRef::Dir(path) | ImageRef::Tar(path) => Some(path),
            ImageRef::Host | ImageRef::Archive(..) | ImageRef::Registry(_) => None,
        });
        if let Err(error) = brains.cages.clear(in_use.collect()).await {
            tracing::warn!(error = %chain(&error), "old cages of brains stay");
        }
        let (contents, stop) = (Contents::new(contents), CancellationToken::new());
        let context = Context { store, credentials, contents, sandboxes, preview, brains: Arc::new(brains), stop };
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

    pub(super) fn store(&self) -> &Store {
        &self.shared.context.store
    }

    /// Keys of model providers.
    #[must_use]
    pub fn credentials(&self) -> &Credentials {
        &self.shared.context.credentials
    }

    pub(super) fn contents(&self) -> &Contents {
        &self.shared.context.contents
    }

    /// Cancelled when the daemon is to end.
    pub(super) fn stopping(&self) -> CancellationToken {
        self.shared.context.stop.clone()
    }

    /// Ends the tasks of all sessions. What is under way goes on when the next daemon opens them.
    pub async fn close(&self) {
        self.shared.context.stop.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Makes a session, which begins to work on its input.
    ///
    /// # Errors
    /// [`SessionError::Invalid`], [`SessionError::UnknownAgent`], [`SessionError::Runtime`], [`SessionError::Conflict`],
    /// [`SessionError::Store`].
    pub async fn create(&self, wish: NewSession) -> Result<Created, SessionError> {
        check_wish(&wish)?;
        let agent = self.agent(&wish.agent).await?;
        self.shared.context.brains.cages.check(agent.spec.runtime).await.map_err(SessionError::Runtime)?;
        let digest = wish_digest(&wish);
        let id = SessionId::random();
        let claim = |name: &str, key: &Option<String>| {
            let (scope, digest, value) = (claim_scope(name, &wish), digest.clone(), id.to_string());
            key.clone().map(|key| Claim { scope, key, digest, value })
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
            labels: wish.labels,
            created_at_ms: super::millis(SystemTime::now()),
        };
        let row = self.row(&id, &profile, wish.input, claims.into_iter().flatten().collect()).await?;
        let row = Row { destinations: wish.destinations, ..row };
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
            let rules = Rules { session: id, limits: profile.limits };
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
            destinations: Vec::new(),
        })
    }

    /// Gives a session a message: it wakes, and if a turn is under way it is steered. Answers once the message is durable.
    /// The same key with the same message is the same message.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Invalid`], [`SessionError::Archived`], [`SessionError::Conflict`],
    /// [`SessionError::Busy`], [`SessionError::Store`].
    pub async fn send(&self, id: &SessionId, message: UserMessage, key: Option<String>) -> Result<Sent, SessionError> {
        check_message("text", &message)?;
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
        if !self.lock().contains_key(id) {
            self.stored(id).await?;
        }
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
    tracing::error!(error = %chain(&error), "a session cannot be loaded");
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
