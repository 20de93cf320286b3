//! The logs of sessions: entries with a gapless `seq` each, and who waits for more of them.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use tokio::sync::watch;

use super::{Store, StoreError, id};
use crate::ids::{EventId, TurnId};

/// A page ends early when the texts in it have this many bytes, so that a reader's memory is bounded whatever `limit` is.
const PAGE_BYTES: usize = 4 << 20;

/// An entry of a session's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its id, which tells its `seq`.
    pub id: EventId,
    /// When, to the millisecond.
    pub at: SystemTime,
    /// For whom: a reader asks for those up to a level.
    pub level: u8,
    /// What kind it is, in the words of the floor above.
    pub kind: String,
    /// In which turn.
    pub turn: Option<TurnId>,
    /// What it tells, in the words of the floor above.
    pub body: String,
}

/// Which entries of a log are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// Behind this `seq`.
    pub after: u64,
    /// Up to this level.
    pub level: u8,
    /// Of this kind: the whole of it, or with ".*" at the end its beginning.
    pub kind: Option<String>,
    /// Of this turn.
    pub turn: Option<TurnId>,
}

/// Who follows which log. A leaf, locked for a few instructions.
#[derive(Debug, Default)]
pub(super) struct Heads {
    watched: Mutex<HashMap<u64, watch::Sender<u64>>>,
}

impl Heads {
    /// Tells those who follow a log that it goes up to `head` now.
    pub(super) fn publish(&self, session: u64, head: u64) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(&session) {
            if sender.receiver_count() == 0 {
                watched.remove(&session);
            } else {
                sender.send_replace(head);
            }
        }
    }

    fn follow(&self, session: u64) -> watch::Receiver<u64> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        watched.entry(session).or_insert_with(|| watch::Sender::new(0)).subscribe()
    }
}

impl Store {
    /// Changes whenever a log has grown. A follower takes this first, then reads pages with [`log`](Self::log) until one
    /// is empty, and then waits for the next change: so none is missed.
    #[must_use]
    pub fn follow_log(&self, session: u64) -> watch::Receiver<u64> {
        self.shared.heads.follow(session)
    }

    /// The entries that a query finds, in order: at most `limit`, and fewer where they are large. For a `limit` above 0,
    /// an empty page means that there are none yet.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn log(&self, session: u64, query: LogQuery, limit: usize) -> Result<Vec<LogEntry>, StoreError> {
        self.read(move |connection| page(connection, session, &query, limit)).await
    }

    /// The entry with an id.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn log_entry(&self, session: u64, event: &EventId) -> Result<Option<LogEntry>, StoreError> {
        let event = event.clone();
        self.read(move |connection| {
            let sql = "SELECT id, at_ms, level, type, turn, body FROM session_log WHERE session = ?1 AND seq = ?2";
            let place = (session.cast_signed(), event.seq().cast_signed());
            let found = connection.prepare_cached(sql)?.query_row(place, entry).optional()?;
            Ok(found.filter(|found| found.id == event))
        })
        .await
    }
}

/// Appends an entry at its `seq`.
pub(super) fn append(connection: &Connection, session: u64, seq: u64, entry: &LogEntry) -> rusqlite::Result<()> {
    let since = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let sql = "INSERT INTO session_log (session, seq, id, at_ms, level, type, turn, body)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
    let row = (
        session.cast_signed(),
        seq.cast_signed(),
        entry.id.as_str(),
        i64::try_from(since).unwrap_or(i64::MAX),
        entry.level,
        &entry.kind,
        entry.turn.as_ref().map(TurnId::as_str),
        &entry.body,
    );
    connection.prepare_cached(sql)?.execute(row).map(drop)
}

fn page(connection: &Connection, session: u64, query: &LogQuery, limit: usize) -> rusqlite::Result<Vec<LogEntry>> {
    let mut sql = "SELECT id, at_ms, level, type, turn, body FROM session_log
                   WHERE session = ? AND seq > ? AND level <= ?"
        .to_owned();
    let mut values: Vec<Value> = vec![session.cast_signed().into(), query.after.cast_signed().into()];
    values.push(i64::from(query.level).into());
    match query.kind.as_deref().map(|kind| kind.strip_suffix(".*").ok_or(kind)) {
        // "/" follows "." in ASCII: so these are all that begin with "kind.".
        Some(Ok(beginning)) => {
            sql.push_str(" AND type >= ? AND type < ?");
            values.extend([format!("{beginning}.").into(), format!("{beginning}/").into()]);
        }
        Some(Err(whole)) => {
            sql.push_str(" AND type = ?");
            values.push(whole.to_owned().into());
        }
        None => {}
    }
    if let Some(turn) = &query.turn {
        sql.push_str(" AND turn = ?");
        values.push(turn.as_str().to_owned().into());
    }
    sql.push_str(" ORDER BY seq LIMIT ?");
    values.push(i64::try_from(limit).unwrap_or(i64::MAX).into());
    let mut statement = connection.prepare_cached(&sql)?;
    let mut rows = statement.query(params_from_iter(values))?;
    let (mut entries, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let entry = entry(row)?;
        bytes += entry.body.len();
        entries.push(entry);
    }
    Ok(entries)
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LogEntry> {
    let at = row.get::<_, i64>(1)?;
    let turn = if row.get_ref(4)?.as_str_or_null()?.is_some() { Some(id(row, 4)?) } else { None };
    Ok(LogEntry {
        id: id(row, 0)?,
        at: UNIX_EPOCH + Duration::from_millis(u64::try_from(at).unwrap_or_default()),
        level: row.get(2)?,
        kind: row.get(3)?,
        turn,
        body: row.get(5)?,
    })
}
