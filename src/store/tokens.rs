//! Client tokens that were revoked, until they would not be good any more anyway.

use rusqlite::Connection;

use super::{Store, StoreError, id};
use crate::ids::TokenId;

impl Store {
    /// Notes that a token was revoked, which would have been good until `expires`, and forgets those that expired before
    /// `now`; both in seconds since 1970.
    ///
    /// # Errors
    /// Those of every write.
    pub async fn revoke_token(&self, token: &TokenId, expires: u64, now: u64) -> Result<(), StoreError> {
        let token = token.clone();
        self.write(move |connection| {
            connection.prepare_cached("DELETE FROM revoked_tokens WHERE expires < ?1")?.execute([now.cast_signed()])?;
            let sql = "INSERT OR REPLACE INTO revoked_tokens (id, expires) VALUES (?1, ?2)";
            connection.prepare_cached(sql)?.execute((token.as_str(), expires.cast_signed())).map(drop)
        })
        .await
    }

    /// The tokens that were revoked, and until when they would have been good, in seconds since 1970.
    ///
    /// # Errors
    /// Those of every read.
    pub async fn revoked_tokens(&self) -> Result<Vec<(TokenId, u64)>, StoreError> {
        self.read(revoked).await
    }
}

fn revoked(connection: &Connection) -> rusqlite::Result<Vec<(TokenId, u64)>> {
    let mut statement = connection.prepare_cached("SELECT id, expires FROM revoked_tokens")?;
    let tokens = statement.query_map([], |row| Ok((id(row, 0)?, row.get::<_, i64>(1)?.cast_unsigned())))?;
    tokens.collect()
}
