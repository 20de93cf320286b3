//! Keys of model providers, sealed: what of them may be told, and the sealed bytes, which only their reader asks for.

use rusqlite::{Connection, OptionalExtension, Row};

use super::{Store, StoreError, id};
use crate::ids::CredentialId;

/// What may be told of a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCredential {
    /// Its id.
    pub id: CredentialId,
    /// Its name, which no other has.
    pub name: Option<String>,
    /// Whose key it is.
    pub provider: String,
    /// It is used where none is named.
    pub is_default: bool,
    /// The end of the key, by which people know it.
    pub hint: Option<String>,
    /// When it was made, in milliseconds since 1970.
    pub created_ms: u64,
    /// When its key was replaced last, in milliseconds since 1970.
    pub updated_ms: u64,
}

const COLUMNS: &str = "id, name, provider, is_default, hint, created_ms, updated_ms";

impl Store {
    /// Stores a new credential, unless its name is taken: then gives the one that has it, and changes nothing. A default
    /// takes the place of the one before.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn add_credential(
        &self,
        credential: StoredCredential,
        sealed: Vec<u8>,
    ) -> Result<Option<StoredCredential>, StoreError> {
        self.write(move |connection| {
            if let Some(name) = &credential.name
                && let Some(existing) = find(connection, name)?
            {
                return Ok(Some(existing));
            }
            if credential.is_default {
                clear_default(connection, &credential.provider)?;
            }
            let sql = format!("INSERT INTO credentials ({COLUMNS}, sealed) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)");
            let StoredCredential { id, name, provider, is_default, hint, created_ms, updated_ms } = &credential;
            let (created, updated) = (created_ms.cast_signed(), updated_ms.cast_signed());
            let row = (id.as_str(), name, provider, is_default, hint, created, updated, sealed);
            connection.prepare_cached(&sql)?.execute(row)?;
            Ok(None)
        })
        .await
    }

    /// Replaces the key of a credential. Answers whether it was there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn replace_credential(
        &self,
        credential: &CredentialId,
        hint: Option<String>,
        sealed: Vec<u8>,
        updated_ms: u64,
    ) -> Result<bool, StoreError> {
        let credential = credential.clone();
        self.write(move |connection| {
            let sql = "UPDATE credentials SET hint = ?2, sealed = ?3, updated_ms = ?4 WHERE id = ?1";
            let row = (credential.as_str(), hint, sealed, updated_ms.cast_signed());
            Ok(connection.prepare_cached(sql)?.execute(row)? > 0)
        })
        .await
    }

    /// Makes a credential the default of its provider. Answers whether it was there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn set_default_credential(&self, credential: &CredentialId) -> Result<bool, StoreError> {
        let credential = credential.clone();
        self.write(move |connection| {
            let Some(found) = find(connection, credential.as_str())? else { return Ok(false) };
            clear_default(connection, &found.provider)?;
            let sql = "UPDATE credentials SET is_default = TRUE WHERE id = ?1";
            Ok(connection.prepare_cached(sql)?.execute([credential.as_str()])? > 0)
        })
        .await
    }

    /// Removes a credential. Answers whether it was there.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn remove_credential(&self, credential: &CredentialId) -> Result<bool, StoreError> {
        let credential = credential.clone();
        self.write(move |connection| {
            let sql = "DELETE FROM credentials WHERE id = ?1";
            Ok(connection.prepare_cached(sql)?.execute([credential.as_str()])? > 0)
        })
        .await
    }

    /// All credentials, newest first. There are few.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn credentials(&self) -> Result<Vec<StoredCredential>, StoreError> {
        self.read(|connection| {
            let sql = format!("SELECT {COLUMNS} FROM credentials ORDER BY number DESC");
            connection.prepare_cached(&sql)?.query_map([], stored)?.collect()
        })
        .await
    }

    /// The credential with this id or name.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn credential(&self, text: String) -> Result<Option<StoredCredential>, StoreError> {
        self.read(move |connection| find(connection, &text)).await
    }

    /// The default of a provider.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn default_credential(&self, provider: String) -> Result<Option<StoredCredential>, StoreError> {
        self.read(move |connection| {
            let sql = format!("SELECT {COLUMNS} FROM credentials WHERE provider = ?1 AND is_default");
            connection.prepare_cached(&sql)?.query_row([provider], stored).optional()
        })
        .await
    }

    /// The sealed key of a credential.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn sealed_credential(&self, credential: &CredentialId) -> Result<Option<Vec<u8>>, StoreError> {
        let credential = credential.clone();
        self.read(move |connection| {
            let sql = "SELECT sealed FROM credentials WHERE id = ?1";
            connection.prepare_cached(sql)?.query_row([credential.as_str()], |row| row.get(0)).optional()
        })
        .await
    }
}

fn find(connection: &Connection, text: &str) -> rusqlite::Result<Option<StoredCredential>> {
    let sql = format!("SELECT {COLUMNS} FROM credentials WHERE id = ?1 OR name = ?1");
    connection.prepare_cached(&sql)?.query_row([text], stored).optional()
}

fn clear_default(connection: &Connection, provider: &str) -> rusqlite::Result<()> {
    let sql = "UPDATE credentials SET is_default = FALSE WHERE provider = ?1 AND is_default";
    connection.prepare_cached(sql)?.execute([provider]).map(drop)
}

fn stored(row: &Row<'_>) -> rusqlite::Result<StoredCredential> {
    Ok(StoredCredential {
        id: id(row, 0)?,
        name: row.get(1)?,
        provider: row.get(2)?,
        is_default: row.get(3)?,
        hint: row.get(4)?,
        created_ms: row.get::<_, i64>(5)?.cast_unsigned(),
        updated_ms: row.get::<_, i64>(6)?.cast_unsigned(),
    })
}
