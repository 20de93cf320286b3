//! Events on their way into the store and out of it.

use std::sync::Arc;
use std::time::SystemTime;

use futures_util::Stream;
use futures_util::stream;
use serde_json::Value;

use super::SessionError;
use super::content::{Contents, INLINE, cut};
use super::event::{Envelope, Event, Level, NewEvent};
use crate::ids::{EventId, SessionId, TurnId};
use crate::store::{Growth, LogEntry, LogQuery, News, Store};

/// Events of a page that a follower reads at a time.
const FOLLOWER_PAGE: usize = 256;

/// Which events are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Behind this `seq`; 0 for all.
    pub after: u64,
    /// Up to this level.
    pub level: Level,
    /// Of this type, or with ".*" at its end all that begin with it.
    pub kind: Option<String>,
    /// Of this turn.
    pub turn: Option<TurnId>,
}

impl EventQuery {
    /// All of them behind a `seq`.
    #[must_use]
    pub fn after(after: u64) -> Self {
        Self { after, level: Level::Output, kind: None, turn: None }
    }

    pub(super) fn to_store(&self) -> LogQuery {
        LogQuery { after: self.after, level: self.level.number(), kind: self.kind.clone(), turn: self.turn.clone() }
    }
}

/// Entries for events that follow `head`. Long bodies are written to files first.
pub(super) async fn entries(
    contents: &Contents,
    session: &SessionId,
    head: u64,
    events: &[NewEvent],
    now: SystemTime,
) -> Result<Vec<LogEntry>, SessionError> {
    // To the millisecond, as it is stored: whoever has it from memory has the same.
    let now = super::time(super::millis(now));
    let mut entries = Vec::with_capacity(events.len());
    for (event, seq) in events.iter().zip(head + 1..) {
        let id = EventId::of(session, seq);
        let mut envelope = Envelope {
            actor: event.actor.clone(),
            body: event.body.clone(),
            refs: event.refs.clone(),
            content_bytes: None,
        };
        let content = event.body.to_string();
        if content.len() > INLINE {
            envelope.body = cut(&event.body);
            envelope.content_bytes = Some(content.len() as u64);
            contents.put(session, &id, content.into_bytes()).await.map_err(SessionError::Content)?;
        }
        let body = serde_json::to_string(&envelope).expect("values and texts are JSON");
        let (level, kind) = (event.level.number(), event.kind.to_owned());
        entries.push(LogEntry { id, at: now, level, kind, turn: event.turn.clone(), body });
    }
    Ok(entries)
}

/// The event of an entry.
pub(super) fn event(session: &SessionId, entry: LogEntry) -> Result<Event, SessionError> {
    let LogEntry { id, at, level, kind, turn, body } = entry;
    let damaged = |source| SessionError::Record { what: "event", id: id.to_string(), source };
    let Envelope { actor, body, refs, content_bytes } = serde_json::from_str(&body).map_err(damaged)?;
    Ok(Event {
        seq: id.seq(),
        id,
        at,
        session: session.clone(),
        actor,
        // A level that is unknown here was written by a newer daemon; it is for those who want everything.
        level: Level::numbered(level).unwrap_or(Level::Output),
        kind,
        turn,
        body,
        refs,
        content_bytes,
    })
}

/// The text of a message, whole.
pub(super) async fn text(
    store: &Store,
    contents: &Contents,
    session: &SessionId,
    number: u64,
    seq: u64,
) -> Result<String, SessionError> {
    let id = EventId::of(session, seq);
    let entry = store.log_entry(number, &id).await.map_err(SessionError::Store)?;
    let found = event(session, entry.ok_or(SessionError::UnknownEvent(id))?)?;
    let body = match found.content_bytes {
        None => found.body,
        Some(_) => {
            let content = contents.get(session, &found.id).await.map_err(SessionError::Content)?;
            let damaged = |source| SessionError::Record { what: "content of event", id: found.id.to_string(), source };
            serde_json::from_slice(&content).map_err(damaged)?
        }
    };
    Ok(body.get("text").and_then(Value::as_str).unwrap_or_default().to_owned())
}

/// The events that a query finds, and then those that come, for ever.
pub(super) fn follow(
    store: Store,
    session: SessionId,
    number: u64,
    query: EventQuery,
) -> impl Stream<Item = Result<Event, SessionError>> + Send + 'static {
    struct Follower {
        store: Store,
        session: SessionId,
        number: u64,
        query: EventQuery,
        page: std::vec::IntoIter<Arc<LogEntry>>,
        /// Taken before the first page, so that nothing comes between the two.
        growth: Growth,
    }
    let growth = store.follow_log(number);
    let follower = Follower { store, session, number, query, page: Vec::new().into_iter(), growth };
    stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        loop {
            if let Some(entry) = follower.page.next() {
                follower.query.after = entry.id.seq();
                let event = event(&follower.session, Arc::unwrap_or_clone(entry));
                return Some((event, Some(follower)));
            }
            let query = follower.query.to_store();
            let News { head, entries } = follower.growth.news(&query);
            let entries = match entries {
                Some(entries) => entries,
                None => match follower.store.log(follower.number, query, FOLLOWER_PAGE).await {
                    Ok(page) => page.into_iter().map(Arc::new).collect(),
                    Err(error) => return Some((Err(SessionError::Store(error)), None)),
                },
            };
            if entries.is_empty() {
                // What was not wanted is not looked at again.
                follower.query.after = follower.query.after.max(head);
                follower.growth.changed().await?;
            }
            follower.page = entries.into_iter();
        }
    })
}
