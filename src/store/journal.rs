//! The journal of lifecycle steps: what was intended and is not known to be done.
//!
//! A step is begun before its first effect and finished after its last. So whatever is open after a crash is what the
//! daemon must finish or undo; what is finished is forgotten.

use std::fmt;

use rusqlite::Connection;

use super::{Store, StoreError, bounded, id, sandboxes};
use crate::ids::SandboxId;

/// Names a step that was begun. No other step ever has the same one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JournalId(i64);

impl fmt::Display for JournalId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// A step that was begun and not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OpenStep {
    /// By which it is finished.
    pub id: JournalId,
    /// Whose step it is. The sandbox itself may not be stored yet.
    pub sandbox: SandboxId,
    /// What is done, in the words of the floor above.
    pub step: String,
    /// What is needed to finish or to undo it, in the words of the floor above.
    pub detail: String,
}

impl Store {
    /// Notes that a step is about to be taken. Once this has answered, a crash does not forget it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn begin(&self, sandbox: &SandboxId, step: &str, detail: &str) -> Result<JournalId, StoreError> {
        bounded("step", step)?;
        bounded("detail", detail)?;
        let (sandbox, step, detail) = (sandbox.clone(), step.to_owned(), detail.to_owned());
        self.write(move |connection| begin(connection, &sandbox, &step, &detail)).await
    }

    /// Notes that a step is done, or undone.
    ///
    /// # Errors
    /// [`StoreError::StepNotOpen`], and those of every write.
    pub async fn finish(&self, step: JournalId) -> Result<(), StoreError> {
        let was_open = self.write(move |connection| finish(connection, step)).await?;
        if was_open { Ok(()) } else { Err(StoreError::StepNotOpen(step)) }
    }

    /// Notes that a step of a sandbox is done and stores what the sandbox is now, in one transaction.
    ///
    /// A step that ends by removing its sandbox is finished by [`remove_sandbox`](Self::remove_sandbox).
    ///
    /// # Errors
    /// [`StoreError::StepNotOpen`] if this is no open step of the sandbox: so a step that ends late does not bring back
    /// a sandbox that was removed. [`StoreError::TooLarge`], and those of every write.
    pub async fn finish_with(&self, step: JournalId, sandbox: &SandboxId, record: &str) -> Result<(), StoreError> {
        bounded("record", record)?;
        let (sandbox, record) = (sandbox.clone(), record.to_owned());
        let was_open = self.write(move |connection| finish_with(connection, step, &sandbox, &record)).await?;
        if was_open { Ok(()) } else { Err(StoreError::StepNotOpen(step)) }
    }

    /// The steps that were begun and not finished, oldest first.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn open_steps(&self) -> Result<Vec<OpenStep>, StoreError> {
        self.read(open).await
    }
}

fn begin(connection: &Connection, sandbox: &SandboxId, step: &str, detail: &str) -> rusqlite::Result<JournalId> {
    let sql = "INSERT INTO journal (sandbox, step, detail) VALUES (?1, ?2, ?3)";
    connection.prepare_cached(sql)?.insert((sandbox.as_str(), step, detail)).map(JournalId)
}

/// Whether the step was open.
fn finish(connection: &Connection, step: JournalId) -> rusqlite::Result<bool> {
    let rows = connection.prepare_cached("DELETE FROM journal WHERE id = ?1")?.execute([step.0])?;
    Ok(rows > 0)
}

/// Whether the step was open and the sandbox's; otherwise it changes nothing.
fn finish_with(connection: &Connection, step: JournalId, sandbox: &SandboxId, record: &str) -> rusqlite::Result<bool> {
    let mut statement = connection.prepare_cached("DELETE FROM journal WHERE id = ?1 AND sandbox = ?2")?;
    let was_open = statement.execute((step.0, sandbox.as_str()))? > 0;
    if was_open {
        sandboxes::put(connection, sandbox, record)?;
    }
    Ok(was_open)
}

fn open(connection: &Connection) -> rusqlite::Result<Vec<OpenStep>> {
    let mut statement = connection.prepare_cached("SELECT id, sandbox, step, detail FROM journal ORDER BY id")?;
    let steps = statement.query_map([], |row| {
        Ok(OpenStep { id: JournalId(row.get(0)?), sandbox: id(row, 1)?, step: row.get(2)?, detail: row.get(3)? })
    })?;
    steps.collect()
}
