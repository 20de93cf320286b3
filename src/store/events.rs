//! The events of the node: a log with a gapless `seq`, of which the oldest part may be trimmed.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Store, StoreError, bounded, id};
use crate::ids::SandboxId;

/// A page ends early when the texts in it have this many bytes, so that a reader's memory is bounded whatever `limit` is.
const PAGE_BYTES: usize = 4 << 20;

/// One entry of the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEvent {
    /// Its place in the log, from 1.
    pub seq: u64,
    /// When it happened, as the one who appended it said.
    pub at: SystemTime,
    /// Of which sandbox it tells; `None` if of the node.
    pub sandbox: Option<SandboxId>,
    /// What kind of event it is, in the words of the floor above.
    pub kind: String,
    /// What it tells, in the words of the floor above.
    pub body: String,
}

/// An entry to be appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEvent {
    /// When it happens; a time before 1970 counts as 1970.
    pub at: SystemTime,
    /// What kind of event it is, in the words of the floor above.
    pub kind: String,
    /// What it tells, in the words of the floor above.
    pub body: String,
}

impl NewEvent {
    /// Refuses texts that are too long.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        bounded("kind", &self.kind)?;
        bounded("body", &self.body)
    }
}

/// What was found behind a cursor.
#[derive(Debug, PartialEq, Eq)]
enum Page {
    Events(Vec<StoredEvent>),
    Expired { oldest: u64 },
    Ahead { newest: u64 },
}

impl Store {
    /// Appends an event that is of no sandbox, and gives its `seq`.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn append_event(&self, event: NewEvent) -> Result<u64, StoreError> {
        event.check()?;
        self.write(move |connection| append(connection, None, &event)).await
    }

    /// The events behind the cursor `after` (the `seq` of the last one known, 0 for none), in order: at most `limit`, and
    /// fewer where they are large. For a `limit` above 0, an empty page means that there are none yet.
    ///
    /// # Errors
    /// [`StoreError::Expired`] if some of them were trimmed, [`StoreError::Ahead`] if `after` is beyond the newest, and
    /// those of every read.
    pub async fn events(&self, after: u64, limit: usize) -> Result<Vec<StoredEvent>, StoreError> {
        match self.read(move |connection| page(connection, after, limit)).await? {
            Page::Events(events) => Ok(events),
            Page::Expired { oldest } => Err(StoreError::Expired { oldest }),
            Page::Ahead { newest } => Err(StoreError::Ahead { newest }),
        }
    }

    /// Forgets all but the newest `keep` events. All in one transaction: called often, it forgets little each time.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn trim_events(&self, keep: usize) -> Result<(), StoreError> {
        self.write(move |connection| trim(connection, keep)).await
    }
}

/// The `seq` of the newest event that there ever was, 0 before the first.
pub(super) fn newest(connection: &Connection) -> rusqlite::Result<u64> {
    let mut statement = connection.prepare_cached("SELECT seq FROM sqlite_sequence WHERE name = 'events'")?;
    Ok(statement.query_row([], |row| seq(row, 0)).optional()?.unwrap_or(0))
}

/// Appends an event and gives its `seq`.
pub(super) fn append(connection: &Connection, sandbox: Option<&SandboxId>, event: &NewEvent) -> rusqlite::Result<u64> {
    let since = event.at.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let at = i64::try_from(since).unwrap_or(i64::MAX);
    let sql = "INSERT INTO events (at_ns, sandbox, kind, body) VALUES (?1, ?2, ?3, ?4)";
    let row = (at, sandbox.map(SandboxId::as_str), &event.kind, &event.body);
    connection.prepare_cached(sql)?.insert(row).map(i64::cast_unsigned)
}

fn page(connection: &Connection, after: u64, limit: usize) -> rusqlite::Result<Page> {
    let newest = newest(connection)?;
    if after > newest {
        return Ok(Page::Ahead { newest });
    }
    let mut oldest = connection.prepare_cached("SELECT min(seq) FROM events")?;
    let oldest: Option<i64> = oldest.query_row([], |row| row.get(0))?;
    let oldest = oldest.map_or(newest + 1, i64::cast_unsigned);
    if after + 1 < oldest {
        return Ok(Page::Expired { oldest });
    }
    let sql = "SELECT seq, at_ns, sandbox, kind, body FROM events WHERE seq > ?1 ORDER BY seq LIMIT ?2";
    let mut statement = connection.prepare_cached(sql)?;
    let mut rows = statement.query((after.cast_signed(), i64::try_from(limit).unwrap_or(i64::MAX)))?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while bytes < PAGE_BYTES
        && let Some(row) = rows.next()?
    {
        let event = event(row)?;
        bytes += event.kind.len() + event.body.len();
        events.push(event);
    }
    Ok(Page::Events(events))
}

fn trim(connection: &Connection, keep: usize) -> rusqlite::Result<()> {
    let last = newest(connection)?.saturating_sub(keep as u64);
    connection.prepare_cached("DELETE FROM events WHERE seq <= ?1")?.execute([last.cast_signed()]).map(drop)
}

fn event(row: &Row<'_>) -> rusqlite::Result<StoredEvent> {
    let at = row.get::<_, i64>(1)?;
    let at = u64::try_from(at).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(1, at))?;
    let sandbox = if row.get_ref(2)?.as_str_or_null()?.is_some() { Some(id(row, 2)?) } else { None };
    let at = UNIX_EPOCH + Duration::from_nanos(at);
    Ok(StoredEvent { seq: seq(row, 0)?, at, sandbox, kind: row.get(3)?, body: row.get(4)? })
}

/// A `seq` in a column. SQLite's are signed.
fn seq(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    let seq: i64 = row.get(column)?;
    u64::try_from(seq).map_err(|_| rusqlite::Error::IntegralValueOutOfRange(column, seq))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::schema;
    use super::*;

    #[derive(Debug, Clone)]
    enum Step {
        Append(u16),
        Trim(usize),
        Read(u64, usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => any::<u16>().prop_map(Step::Append),
            1 => (0..12_usize).prop_map(Step::Trim),
            4 => (0..40_u64, 0..12_usize).prop_map(|(after, limit)| Step::Read(after, limit)),
            1 => (any::<u64>(), any::<usize>()).prop_map(|(after, limit)| Step::Read(after, limit)),
        ]
    }

    /// The log as a vector: all events that there ever were, and how many of them are forgotten.
    #[derive(Default)]
    struct Model {
        all: Vec<StoredEvent>,
        forgotten: usize,
    }

    impl Model {
        fn append(&mut self, number: u16) -> u64 {
            let seq = self.all.len() as u64 + 1;
            let at = UNIX_EPOCH + Duration::from_millis(number.into());
            self.all.push(StoredEvent { seq, at, sandbox: None, kind: "test".to_owned(), body: number.to_string() });
            seq
        }

        fn page(&self, after: u64, limit: usize) -> Page {
            match usize::try_from(after) {
                Ok(after) if after < self.forgotten => Page::Expired { oldest: self.forgotten as u64 + 1 },
                Ok(after) if after <= self.all.len() => {
                    Page::Events(self.all[after..].iter().take(limit).cloned().collect())
                }
                _ => Page::Ahead { newest: self.all.len() as u64 },
            }
        }
    }

    proptest! {
        #[test]
        fn the_log_is_a_vector_that_forgets_its_oldest(steps in prop::collection::vec(step(), 0..80)) {
            let mut connection = Connection::open_in_memory().unwrap();
            schema::migrate(&mut connection, schema::STEPS).unwrap();
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Append(number) => {
                        let at = UNIX_EPOCH + Duration::from_millis(number.into());
                        let event = NewEvent { at, kind: "test".to_owned(), body: number.to_string() };
                        let seq = append(&connection, None, &event).unwrap();
                        prop_assert_eq!(seq, model.append(number));
                    }
                    Step::Trim(keep) => {
                        trim(&connection, keep).unwrap();
                        model.forgotten = model.forgotten.max(model.all.len().saturating_sub(keep));
                    }
                    Step::Read(after, limit) => {
                        prop_assert_eq!(page(&connection, after, limit).unwrap(), model.page(after, limit));
                    }
                }
                prop_assert_eq!(newest(&connection).unwrap(), model.all.len() as u64);
            }
        }
    }
}
