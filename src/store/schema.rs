//! The tables, as the steps that make them.
//!
//! `PRAGMA user_version` says how many steps a database has behind it. A step that was released is never edited: what
//! changes is a new step at the end.

use rusqlite::{Connection, TransactionBehavior};

use super::StoreError;

/// From one version to the next.
#[derive(Debug)]
pub(super) struct Step {
    /// What it brings, for the log.
    name: &'static str,
    sql: &'static str,
}

/// All of them, oldest first.
pub(super) const STEPS: &[Step] = &[
    Step {
        name: "sandboxes",
        // `number` is the order in which they were made; putting one again keeps it.
        sql: "
            CREATE TABLE sandboxes (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL
            ) STRICT;
        ",
    },
    Step {
        name: "events of the node",
        // AUTOINCREMENT, so that seq goes on where it was even when all events were trimmed.
        sql: "
            CREATE TABLE events (
                seq INTEGER PRIMARY KEY AUTOINCREMENT,
                at_ns INTEGER NOT NULL,
                sandbox TEXT,
                kind TEXT NOT NULL,
                body TEXT NOT NULL
            ) STRICT;
        ",
    },
    Step {
        name: "agents and sessions",
        // A log is clustered by its session, so that a page of it is one range. `head` is the seq of its newest entry.
        // `keys` holds what a caller may say twice: to create a session, or to send one a message.
        sql: "
            CREATE TABLE agents (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                name TEXT NOT NULL UNIQUE,
                record TEXT NOT NULL
            ) STRICT;
            CREATE TABLE sessions (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                agent TEXT NOT NULL,
                status TEXT NOT NULL,
                key TEXT,
                head INTEGER NOT NULL,
                profile TEXT NOT NULL,
                state TEXT NOT NULL
            ) STRICT;
            CREATE INDEX sessions_by_status ON sessions (status);
            CREATE INDEX sessions_by_agent ON sessions (agent);
            CREATE TABLE session_keys (
                scope TEXT NOT NULL,
                key TEXT NOT NULL,
                digest TEXT NOT NULL,
                value TEXT NOT NULL,
                PRIMARY KEY (scope, key)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE session_log (
                session INTEGER NOT NULL,
                seq INTEGER NOT NULL,
                id TEXT NOT NULL,
                at_ms INTEGER NOT NULL,
                level INTEGER NOT NULL,
                type TEXT NOT NULL,
                turn TEXT,
                body TEXT NOT NULL,
                PRIMARY KEY (session, seq)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE session_turns (
                session INTEGER NOT NULL,
                number INTEGER NOT NULL,
                id TEXT NOT NULL,
                record TEXT NOT NULL,
                PRIMARY KEY (session, number)
            ) STRICT, WITHOUT ROWID;
            CREATE TABLE session_calls (
                session INTEGER NOT NULL,
                id TEXT NOT NULL,
                record TEXT NOT NULL,
                PRIMARY KEY (session, id)
            ) STRICT, WITHOUT ROWID;
        ",
    },
    Step {
        name: "client tokens that were revoked",
        sql: "
            CREATE TABLE revoked_tokens (
                id TEXT PRIMARY KEY,
                expires INTEGER NOT NULL
            ) STRICT, WITHOUT ROWID;
        ",
    },
    Step {
        name: "webhooks",
        // A delivery is of one event to one destination; its number is the order in which they began.
        sql: "
            CREATE TABLE destinations (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                session TEXT NOT NULL,
                record TEXT NOT NULL,
                cursor INTEGER NOT NULL
            ) STRICT;
            CREATE INDEX destinations_by_session ON destinations (session);
            CREATE TABLE deliveries (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                destination TEXT NOT NULL REFERENCES destinations (id) ON DELETE CASCADE,
                session TEXT NOT NULL,
                seq INTEGER NOT NULL,
                record TEXT NOT NULL,
                UNIQUE (destination, seq)
            ) STRICT;
            CREATE INDEX deliveries_by_session ON deliveries (session, number);
        ",
    },
    Step {
        name: "credentials",
        // `sealed` is a key that only the node's own key opens. A provider has one default at most.
        sql: "
            CREATE TABLE credentials (
                number INTEGER PRIMARY KEY,
                id TEXT NOT NULL UNIQUE,
                name TEXT UNIQUE,
                provider TEXT NOT NULL,
                is_default INTEGER NOT NULL,
                hint TEXT,
                created_ms INTEGER NOT NULL,
                updated_ms INTEGER NOT NULL,
                sealed BLOB NOT NULL
            ) STRICT;
            CREATE UNIQUE INDEX default_credentials ON credentials (provider) WHERE is_default;
        ",
    },
];

/// Takes the steps that the database lacks, all of them or none.
///
/// # Errors
/// [`StoreError::TooNew`] if it has more behind it than there are, and whatever SQLite says.
pub(super) fn migrate(connection: &mut Connection, steps: &[Step]) -> Result<(), StoreError> {
    const ACTION: &str = "bringing the store to this version";
    let failed = |error| StoreError::sqlite(ACTION, error);
    // At once for writing, so that two programs that start together do not both migrate.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(failed)?;
    let found: i64 = transaction.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(failed)?;
    let known = i64::try_from(steps.len()).expect("there are few steps");
    let missing = usize::try_from(found).ok().and_then(|done| steps.get(done..));
    let missing = missing.ok_or(StoreError::TooNew { found, known })?;
    for step in missing {
        tracing::debug!(step = step.name, "migrating the store");
        transaction.execute_batch(step.sql).map_err(failed)?;
    }
    if !missing.is_empty() {
        transaction.pragma_update(None, "user_version", known).map_err(failed)?;
    }
    transaction.commit().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(connection: &Connection) -> Vec<String> {
        let sql = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY name";
        let mut statement = connection.prepare(sql).unwrap();
        statement.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect()
    }

    #[test]
    fn a_database_of_every_older_version_becomes_one_of_this_version_and_keeps_its_rows() {
        let mut fresh = Connection::open_in_memory().unwrap();
        migrate(&mut fresh, STEPS).unwrap();
        for version in 1..=STEPS.len() {
            let mut old = Connection::open_in_memory().unwrap();
            migrate(&mut old, &STEPS[..version]).unwrap();
            old.execute("INSERT INTO sandboxes (id, record) VALUES ('sb_old', 'kept')", []).unwrap();
            migrate(&mut old, STEPS).unwrap();
            assert_eq!(objects(&old), objects(&fresh), "from version {version}");
            let found: i64 = old.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
            assert_eq!(found, i64::try_from(STEPS.len()).unwrap());
            let record: String = old.query_row("SELECT record FROM sandboxes", [], |row| row.get(0)).unwrap();
            assert_eq!(record, "kept");
        }
    }

    #[test]
    fn a_database_of_a_newer_or_an_impossible_version_is_refused_and_untouched() {
        for version in [STEPS.len() as i64 + 1, i64::from(i32::MAX), -1] {
            let mut connection = Connection::open_in_memory().unwrap();
            connection.pragma_update(None, "user_version", version).unwrap();
            let refused = migrate(&mut connection, STEPS);
            assert!(matches!(refused, Err(StoreError::TooNew { found, .. }) if found == version), "{refused:?}");
            assert_eq!(objects(&connection), Vec::<String>::new());
        }
    }

    #[test]
    fn a_step_that_fails_takes_back_those_before_it() {
        let mut connection = Connection::open_in_memory().unwrap();
        let broken = Step { name: "broken", sql: "CREATE TABLE half (x); CREATE TABLE sandboxes (y);" };
        let [first, ..] = STEPS else { panic!("there are steps") };
        let steps = [Step { name: first.name, sql: first.sql }, broken];
        assert!(matches!(migrate(&mut connection, &steps), Err(StoreError::Failed { .. })));
        assert_eq!(objects(&connection), Vec::<String>::new());
        migrate(&mut connection, STEPS).unwrap();
    }
}
