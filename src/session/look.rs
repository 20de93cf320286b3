//! Looking at sessions: all of it comes from the store, and wakes nobody.

use std::collections::BTreeMap;

use futures_util::{Stream, StreamExt};

use super::event::Event;
use super::log::{self, EventQuery};
use super::record::{Session, view};
use super::state::Status;
use super::turn::Turn;
use super::{SessionError, Sessions};
use crate::ids::{AgentId, EventId, SessionId, TurnId};
use crate::store::{SessionQuery, StoredSession};

/// Which sessions are looked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// With this status.
    pub status: Option<Status>,
    /// Of this agent.
    pub agent: Option<AgentId>,
    /// With this key.
    pub key: Option<String>,
    /// With all of these labels.
    pub labels: BTreeMap<String, String>,
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
    /// A session.
    ///
    /// # Errors
    /// [`SessionError::NotFound`], [`SessionError::Store`].
    pub async fn get(&self, id: &SessionId) -> Result<Session, SessionError> {
        view(&self.stored(id).await?)
    }

    pub(super) async fn stored(&self, id: &SessionId) -> Result<StoredSession, SessionError> {
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
            labels: filter.labels,
            before,
        };
        let found = self.store().sessions(query, limit.saturating_add(1)).await.map_err(SessionError::Store)?;
        let has_more = found.len() > limit;
        let items = found.iter().take(limit).map(view).collect::<Result<_, _>>()?;
        Ok(Page { items, has_more })
    }

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
        let stop = self.stopping().cancelled_owned();
        Ok(log::follow(self.store().clone(), id.clone(), number, query).take_until(stop))
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
            Some(_) => self.contents().get(id, event).await.map_err(SessionError::Content),
            None => Ok(found.body.to_string().into_bytes()),
        }
    }
}
