//! Agents: an id, a name that no two have, and the record that the floor above made of it.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Store, StoreError, bounded, id};
use crate::ids::AgentId;

/// An agent as it is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredAgent {
    /// Its id.
    pub id: AgentId,
    /// Its name.
    pub name: String,
    /// What the floor above made of it.
    pub record: String,
}

impl Store {
    /// Stores a new agent, unless its name is taken: then gives the one that has it, and changes nothing.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn add_agent(&self, agent: StoredAgent) -> Result<Option<StoredAgent>, StoreError> {
        bounded("record", &agent.record)?;
        self.write(move |connection| match by_name(connection, &agent.name)? {
            Some(existing) => Ok(Some(existing)),
            None => {
                let sql = "INSERT INTO agents (id, name, record) VALUES (?1, ?2, ?3)";
                connection.prepare_cached(sql)?.execute((agent.id.as_str(), &agent.name, &agent.record))?;
                Ok(None)
            }
        })
        .await
    }

    /// Replaces the record of an agent, if it is still the one that `before` says. Answers whether it was.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], and those of every write.
    pub async fn change_agent(&self, agent: &AgentId, before: String, after: String) -> Result<bool, StoreError> {
        bounded("record", &after)?;
        let agent = agent.clone();
        self.write(move |connection| {
            let sql = "UPDATE agents SET record = ?3 WHERE id = ?1 AND record = ?2";
            let changed = connection.prepare_cached(sql)?.execute((agent.as_str(), before, after))?;
            Ok(changed > 0)
        })
        .await
    }

    /// The agent with an id.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn agent(&self, agent: &AgentId) -> Result<Option<StoredAgent>, StoreError> {
        let agent = agent.clone();
        self.read(move |connection| {
            let sql = "SELECT id, name, record FROM agents WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([agent.as_str()], stored).optional()
        })
        .await
    }

    /// The agent with a name.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn agent_named(&self, name: String) -> Result<Option<StoredAgent>, StoreError> {
        self.read(move |connection| by_name(connection, &name)).await
    }

    /// At most `limit` agents, newest first, those that were made before one of them.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn agents(&self, before: Option<AgentId>, limit: usize) -> Result<Vec<StoredAgent>, StoreError> {
        self.read(move |connection| {
            let sql = "SELECT id, name, record FROM agents
                       WHERE ?1 IS NULL OR number < (SELECT number FROM agents WHERE id = ?1)
                       ORDER BY number DESC LIMIT ?2";
            let mut statement = connection.prepare_cached(sql)?;
            let before = before.as_ref().map(AgentId::as_str);
            statement.query_map((before, i64::try_from(limit).unwrap_or(i64::MAX)), stored)?.collect()
        })
        .await
    }
}

fn by_name(connection: &Connection, name: &str) -> rusqlite::Result<Option<StoredAgent>> {
    let sql = "SELECT id, name, record FROM agents WHERE name = ?1";
    connection.prepare_cached(sql)?.query_row([name], stored).optional()
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredAgent> {
    Ok(StoredAgent { id: id(row, 0)?, name: row.get(1)?, record: row.get(2)? })
}
