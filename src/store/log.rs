//! The logs of sessions: entries with a gapless `seq` each, and who waits for more of them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, Row, params_from_iter};
use tokio::sync::watch;

use super::{Store, StoreError, id};
use crate::ids::{EventId, TurnId};

/// A page ends early when the texts in it have this many bytes, so that a reader's memory is bounded whatever `limit` is.
const PAGE_BYTES: usize = 4 << 20;

/// What is kept in memory of the end of a log that is followed: more than a turn brings while a follower is busy.
const TAIL: usize = 128;
/// And in bytes, which bounds what long bodies take.
const TAIL_BYTES: usize = 256 << 10;

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

/// Who follows which log, and the end of each. A leaf, locked for a few instructions.
#[derive(Debug, Default)]
pub(super) struct Tails {
    watched: Mutex<HashMap<u64, watch::Sender<Tail>>>,
}

/// The end of a log that somebody follows: so a thousand followers do not read what was just written a thousand times.
#[derive(Debug, Clone, Default)]
struct Tail {
    /// The newest `seq`; 0 before the first append that was followed.
    head: u64,
    /// What comes last, without gaps up to `head`.
    entries: VecDeque<Arc<LogEntry>>,
    /// Bytes of the texts in them.
    bytes: usize,
}

impl Tails {
    /// Tells those who follow a log what was appended to it.
    pub(super) fn publish(&self, session: u64, head: u64, entries: &[LogEntry]) {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(sender) = watched.get(&session) else { return };
        if sender.receiver_count() == 0 {
            watched.remove(&session);
        } else if !entries.is_empty() {
            sender.send_modify(|tail| tail.push(head, entries));
        }
    }

    fn follow(&self, session: u64) -> Growth {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        Growth(watched.entry(session).or_default().subscribe())
    }
}

impl Tail {
    fn push(&mut self, head: u64, entries: &[LogEntry]) {
        self.head = head;
        self.bytes += entries.iter().map(|entry| entry.body.len()).sum::<usize>();
        self.entries.extend(entries.iter().cloned().map(Arc::new));
        while self.entries.len() > TAIL || self.bytes > TAIL_BYTES {
            let Some(first) = self.entries.pop_front() else { return };
            self.bytes -= first.body.len();
        }
    }

    /// The entries behind a `seq`; `None` if some of them are only in the store.
    fn behind(&self, after: u64) -> Option<impl Iterator<Item = &Arc<LogEntry>>> {
        let held = self.entries.len() as u64;
        let has_all = self.head > 0 && after >= self.head - held;
        has_all.then(|| self.entries.iter().filter(move |entry| entry.id.seq() > after))
    }
}

/// Tells a follower of a log that it has grown.
#[derive(Debug, Clone)]
pub struct Growth(watch::Receiver<Tail>);

impl Growth {
    /// Waits until the log has grown since the last call of [`news`](Self::news). `None` when it never will again.
    pub async fn changed(&mut self) -> Option<()> {
        self.0.changed().await.ok()
    }

    /// What a query finds at the end of the log.
    pub fn news(&mut self, query: &LogQuery) -> News {
        let tail = self.0.borrow_and_update();
        let found = tail.behind(query.after);
        let entries = found.map(|found| found.filter(|entry| query.finds(entry)).cloned().collect());
        News { head: tail.head, entries }
    }
}

/// What a follower has not seen.
#[derive(Debug, Clone)]
pub struct News {
    /// The log goes at least up to here.
    pub head: u64,
    /// What the query finds up to there; `None` if the store has to be read for it.
    pub entries: Option<Vec<Arc<LogEntry>>>,
}

impl LogQuery {
    /// Whether it finds an entry, apart from where that is.
    fn finds(&self, entry: &LogEntry) -> bool {
        let is_kind = self.kind.as_deref().is_none_or(|kind| match kind.strip_suffix(".*") {
            Some(beginning) => entry.kind.strip_prefix(beginning).is_some_and(|rest| rest.starts_with('.')),
            None => entry.kind == kind,
        });
        is_kind && entry.level <= self.level && self.turn.as_ref().is_none_or(|turn| entry.turn.as_ref() == Some(turn))
    }
}

impl Store {
    /// Tells whenever a log has grown. A follower takes this first, then asks it for [`news`](Growth::news), and where it
    /// has not all of them reads a page with [`log`](Self::log), until there are none, and then waits for the next change:
    /// so none is missed.
    #[must_use]
    pub fn follow_log(&self, session: u64) -> Growth {
        self.shared.tails.follow(session)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;

    fn entries(session: &SessionId, seqs: std::ops::RangeInclusive<u64>, length: usize) -> Vec<LogEntry> {
        let entry = |seq| LogEntry {
            id: EventId::of(session, seq),
            at: UNIX_EPOCH,
            level: u8::from(seq % 2 == 0),
            kind: if seq % 2 == 0 { "tool.call" } else { "turn.started" }.to_owned(),
            turn: None,
            body: "x".repeat(length),
        };
        seqs.map(entry).collect()
    }

    fn seqs(news: &News) -> Option<Vec<u64>> {
        news.entries.as_ref().map(|entries| entries.iter().map(|entry| entry.id.seq()).collect())
    }

    #[test]
    fn a_follower_has_what_was_appended_and_is_sent_to_the_store_for_the_rest() {
        let (tails, session) = (Tails::default(), SessionId::random());
        let mut growth = tails.follow(7);
        let all = |after| LogQuery { after, level: 3, kind: None, turn: None };
        assert_eq!(seqs(&growth.news(&all(0))), None, "what was there before is not known");
        tails.publish(7, 5, &entries(&session, 4..=5, 1));
        assert_eq!(seqs(&growth.news(&all(2))), None);
        assert_eq!(seqs(&growth.news(&all(3))), Some(vec![4, 5]));
        assert_eq!(seqs(&growth.news(&all(4))), Some(vec![5]));
        assert_eq!(seqs(&growth.news(&all(5))), Some(vec![]));
        assert_eq!(seqs(&growth.news(&LogQuery { level: 0, ..all(3) })), Some(vec![5]));
        assert_eq!(seqs(&growth.news(&LogQuery { kind: Some("tool.*".to_owned()), ..all(3) })), Some(vec![4]));
        assert_eq!(seqs(&growth.news(&LogQuery { kind: Some("tool".to_owned()), ..all(3) })), Some(vec![]));
    }

    #[test]
    fn what_is_held_is_bounded_in_entries_and_in_bytes() {
        let (tails, session) = (Tails::default(), SessionId::random());
        let mut growth = tails.follow(7);
        let held = |growth: &mut Growth| (growth.0.borrow().entries.len(), growth.0.borrow().bytes);
        tails.publish(7, 1_000, &entries(&session, 1..=1_000, 1));
        assert_eq!(held(&mut growth), (TAIL, TAIL));
        tails.publish(7, 1_003, &entries(&session, 1_001..=1_003, TAIL_BYTES / 2));
        assert_eq!(held(&mut growth), (2, TAIL_BYTES));
        tails.publish(7, 1_004, &entries(&session, 1_004..=1_004, TAIL_BYTES + 1));
        assert_eq!(held(&mut growth), (0, 0));
        let news = growth.news(&LogQuery { after: 1_003, level: 3, kind: None, turn: None });
        assert_eq!((news.head, seqs(&news)), (1_004, None));
    }
}
