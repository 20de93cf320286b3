//! Sessions: what was asked for, how each stands, its turns and the calls of the turn that is under way.
//!
//! One task writes a session, and it writes by [`Change`]s: entries of the log and what follows from them, whole or not
//! at all. `head`, the `seq` of the newest entry, is checked with each change; so if two ever wrote, the second would be
//! refused ([`StoreError::Overtaken`]) instead of making a log with a gap or a fork.

use std::collections::BTreeMap;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, Row};

use super::log::{self, LogEntry};
use super::{Store, StoreError, bounded, id, webhooks};
use crate::ids::{DestinationId, SessionId, TurnId};

/// A session as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSession {
    /// Its place among all; grows with the time of their making.
    pub number: u64,
    /// Its id.
    pub id: SessionId,
    /// The `seq` of its newest entry.
    pub head: u64,
    /// What was asked for; does not change.
    pub profile: String,
    /// How it stands.
    pub state: String,
}

/// A session to be stored.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id.
    pub id: SessionId,
    /// The id of its agent.
    pub agent: String,
    /// Its status, to find it by.
    pub status: &'static str,
    /// The caller's name for it, to find it by.
    pub key: Option<String>,
    /// What was asked for.
    pub profile: String,
    /// How it stands.
    pub state: String,
    /// The beginning of its log.
    pub entries: Vec<LogEntry>,
    /// What the caller may say again; the value is the session's id.
    pub claims: Vec<Claim>,
    /// Where its events are sent from the first on: ids and records.
    pub destinations: Vec<(DestinationId, String)>,
}

/// What a caller may say twice: the same key with the same request means the same thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Where the key is unique.
    pub scope: String,
    /// The caller's.
    pub key: String,
    /// Of the request.
    pub digest: String,
    /// What was answered.
    pub value: String,
}

/// What became of a session to be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It is stored, with this number.
    New(u64),
    /// The same request was made before: what was answered then.
    Existing(String),
    /// Another request was made with this key.
    Conflict,
}

/// A change of a session.
#[derive(Debug, Clone, Default)]
pub struct Change {
    /// The newest entry before it.
    pub head: u64,
    /// New entries, from `head + 1` on.
    pub entries: Vec<LogEntry>,
    /// Status and state, if they are others now.
    pub state: Option<(&'static str, String)>,
    /// Turns that began or went on: their number, id and record.
    pub turns: Vec<(u64, TurnId, String)>,
    /// Forget all calls first.
    pub forget_calls: bool,
    /// Calls that began or ended: their id and record.
    pub calls: Vec<(String, String)>,
    /// What the caller may say again.
    pub claims: Vec<Claim>,
}

/// Which sessions are looked for.
#[derive(Debug, Clone, Default)]
pub struct SessionQuery {
    /// With this status.
    pub status: Option<String>,
    /// Of this agent.
    pub agent: Option<String>,
    /// With this key.
    pub key: Option<String>,
    /// Whose profile has all of these, as strings in its object `labels`.
    pub labels: BTreeMap<String, String>,
    /// Made before this one.
    pub before: Option<SessionId>,
}

impl Change {
    /// The newest entry after it.
    #[must_use]
    pub fn next_head(&self) -> u64 {
        self.head + self.entries.len() as u64
    }
}

impl Store {
    /// Stores a new session, or finds what was answered to the same request.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn add_session(&self, session: NewSession) -> Result<Added, StoreError> {
        bounded("profile", &session.profile)?;
        bounded("state", &session.state)?;
        session.destinations.iter().try_for_each(|(_, record)| bounded("record", record))?;
        self.write(move |connection| add(connection, &session)).await
    }

    /// Changes a session, and tells those who follow its log. The caller is the one task that writes it.
    ///
    /// # Errors
    /// [`StoreError::Overtaken`], [`StoreError::TooLarge`], and those of every write.
    pub async fn change_session(&self, number: u64, change: Change) -> Result<(), StoreError> {
        if let Some((_, state)) = &change.state {
            bounded("state", state)?;
        }
        for entry in &change.entries {
            bounded("body", &entry.body)?;
        }
        let change = Arc::new(change);
        let changed = self.write({
            let change = Arc::clone(&change);
            move |connection| make(connection, number, &change)
        });
        if !changed.await? {
            return Err(StoreError::Overtaken);
        }
        self.shared.tails.publish(number, change.next_head(), &change.entries);
        Ok(())
    }

    /// What was answered to a key in a scope: its digest and value.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn claimed(&self, scope: String, key: String) -> Result<Option<Claim>, StoreError> {
        self.read(move |connection| find_claim(connection, &scope, &key)).await
    }

    /// A session.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn session(&self, session: &SessionId) -> Result<Option<StoredSession>, StoreError> {
        let session = session.clone();
        self.read(move |connection| {
            let sql = "SELECT number, id, head, profile, state FROM sessions WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([session.as_str()], stored).optional()
        })
        .await
    }

    /// At most `limit` sessions that a query finds, newest first.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn sessions(&self, query: SessionQuery, limit: usize) -> Result<Vec<StoredSession>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT number, id, head, profile, state FROM sessions
                       WHERE (?1 IS NULL OR status = ?1) AND (?2 IS NULL OR agent = ?2) AND (?3 IS NULL OR key = ?3)
                         AND (?4 IS NULL OR number < (SELECT number FROM sessions WHERE id = ?4))
                         AND (?5 IS NULL OR NOT EXISTS (
                           SELECT 1 FROM json_each(?5) AS wanted WHERE NOT EXISTS (
                             SELECT 1 FROM json_each(sessions.profile, '$.labels') AS own
                             WHERE own.key = wanted.key AND own.value = wanted.value)))
                       ORDER BY number DESC LIMIT ?6";
            let mut statement = connection.prepare_cached(sql)?;
            let before = query.before.as_ref().map(SessionId::as_str);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            let labels = Some(&query.labels).filter(|labels| !labels.is_empty());
            let labels = labels.map(|labels| serde_json::to_string(labels).expect("a map of text is JSON"));
            statement.query_map((query.status, query.agent, query.key, before, labels, limit), stored)?.collect()
        })
        .await
    }

    /// The turns of a session, newest first: at most `limit` records of those before a number.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn turns(&self, session: u64, before: Option<u64>, limit: usize) -> Result<Vec<String>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT record FROM session_turns WHERE session = ?1 AND number < ?2
                       ORDER BY number DESC LIMIT ?3";
            let mut statement = connection.prepare_cached(sql)?;
            let before = before.map_or(i64::MAX, u64::cast_signed);
            let limit = i64::try_from(limit).unwrap_or(i64::MAX);
            statement.query_map((session.cast_signed(), before, limit), |row| row.get(0))?.collect()
        })
        .await
    }

    /// The calls that a session remembers: id and record.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn calls(&self, session: u64) -> Result<Vec<(String, String)>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT id, record FROM session_calls WHERE session = ?1";
            let mut statement = connection.prepare_cached(sql)?;
            statement.query_map([session.cast_signed()], |row| Ok((row.get(0)?, row.get(1)?)))?.collect()
        })
        .await
    }

    /// The record of one call.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn call(&self, session: u64, call: String) -> Result<Option<String>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT record FROM session_calls WHERE session = ?1 AND id = ?2";
            connection.prepare_cached(sql)?.query_row((session.cast_signed(), call), |row| row.get(0)).optional()
        })
        .await
    }
}

fn add(connection: &Connection, session: &NewSession) -> rusqlite::Result<Added> {
    for claim in &session.claims {
        match find_claim(connection, &claim.scope, &claim.key)? {
            Some(found) if found.digest == claim.digest => return Ok(Added::Existing(found.value)),
            Some(_) => return Ok(Added::Conflict),
            None => {}
        }
    }
    let sql = "INSERT INTO sessions (id, agent, status, key, head, profile, state) VALUES (?1, ?2, ?3, ?4, 0, ?5, ?6)";
    let row = (session.id.as_str(), &session.agent, session.status, &session.key, &session.profile, &session.state);
    let number = connection.prepare_cached(sql)?.insert(row)?.cast_unsigned();
    let claims = session.claims.clone();
    for (id, record) in &session.destinations {
        webhooks::add(connection, id, &session.id, record)?;
    }
    make(connection, number, &Change { entries: session.entries.clone(), claims, ..Change::default() })?;
    Ok(Added::New(number))
}

/// Makes a change; `false`, and nothing changed, if the session's head is another.
fn make(connection: &Connection, number: u64, change: &Change) -> rusqlite::Result<bool> {
    let (session, before, after) = (number.cast_signed(), change.head.cast_signed(), change.next_head().cast_signed());
    let changed = match &change.state {
        Some((status, state)) => {
            let sql = "UPDATE sessions SET head = ?3, status = ?4, state = ?5 WHERE number = ?1 AND head = ?2";
            connection.prepare_cached(sql)?.execute((session, before, after, status, state))?
        }
        None => {
            let sql = "UPDATE sessions SET head = ?3 WHERE number = ?1 AND head = ?2";
            connection.prepare_cached(sql)?.execute((session, before, after))?
        }
    };
    if changed == 0 {
        return Ok(false);
    }
    for (entry, seq) in change.entries.iter().zip(change.head + 1..) {
        log::append(connection, number, seq, entry)?;
    }
    for (number, id, record) in &change.turns {
        let sql = "INSERT INTO session_turns (session, number, id, record) VALUES (?1, ?2, ?3, ?4)
                   ON CONFLICT (session, number) DO UPDATE SET record = excluded.record";
        connection.prepare_cached(sql)?.execute((session, number.cast_signed(), id.as_str(), record))?;
    }
    if change.forget_calls {
        connection.prepare_cached("DELETE FROM session_calls WHERE session = ?1")?.execute([session])?;
    }
    for (id, record) in &change.calls {
        let sql = "INSERT INTO session_calls (session, id, record) VALUES (?1, ?2, ?3)
                   ON CONFLICT (session, id) DO UPDATE SET record = excluded.record";
        connection.prepare_cached(sql)?.execute((session, id, record))?;
    }
    for Claim { scope, key, digest, value } in &change.claims {
        let sql = "INSERT OR IGNORE INTO session_keys (scope, key, digest, value) VALUES (?1, ?2, ?3, ?4)";
        connection.prepare_cached(sql)?.execute((scope, key, digest, value))?;
    }
    Ok(true)
}

fn find_claim(connection: &Connection, scope: &str, key: &str) -> rusqlite::Result<Option<Claim>> {
    let sql = "SELECT digest, value FROM session_keys WHERE scope = ?1 AND key = ?2";
    let claim = |row: &Row<'_>| {
        Ok(Claim { scope: scope.to_owned(), key: key.to_owned(), digest: row.get(0)?, value: row.get(1)? })
    };
    connection.prepare_cached(sql)?.query_row((scope, key), claim).optional()
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredSession> {
    Ok(StoredSession {
        number: row.get::<_, i64>(0)?.cast_unsigned(),
        id: id(row, 1)?,
        head: row.get::<_, i64>(2)?.cast_unsigned(),
        profile: row.get(3)?,
        state: row.get(4)?,
    })
}
