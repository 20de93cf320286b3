//! Client tokens: signed claims, good for one session and for a while, unless they are revoked.
//!
//! They are signed with a key made of the API key, so that a new API key ends all of them; nothing is stored of one but
//! that it was revoked, until it would not be good any more anyway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use serde_json::{Value, json};

use super::key::ApiKey;
use crate::ids::{SessionId, TokenId};
use crate::store::{Store, StoreError};

/// What tokens begin with, so that one that leaked is recognized.
const PREFIX: &str = "oct_";
/// Most bytes of a token; ours have about 200.
const LONGEST: usize = 1024;
/// What the key for signing is made for.
const PURPOSE: &[u8] = b"handsd client tokens 1";

/// What a token is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// To read the log.
    Read,
    /// To send messages.
    Steer,
    /// To use the session's hands.
    Tools,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 3] = [Self::Read, Self::Steer, Self::Tools];

    /// Those of a token for which nobody has said otherwise: a page that shows a session needs no more.
    pub const USUAL: [Self; 2] = [Self::Read, Self::Steer];

    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Steer => "steer",
            Self::Tools => "tools",
        }
    }

    /// The scope of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// What a token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    /// Its id, by which it is revoked.
    pub id: TokenId,
    /// Of which session.
    pub session: SessionId,
    /// For what.
    pub scopes: Vec<Scope>,
    /// Until when, in seconds since 1970.
    expires: u64,
}

impl Claims {
    /// Of a new token.
    #[must_use]
    pub fn new(session: SessionId, scopes: &[Scope], expires_at: SystemTime) -> Self {
        Self { id: TokenId::random(), session, scopes: scopes.to_vec(), expires: seconds(expires_at) }
    }

    /// Until when it is good.
    #[must_use]
    pub fn expires_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(self.expires)
    }

    fn to_text(&self) -> String {
        let scopes: Vec<_> = self.scopes.iter().map(|scope| scope.name()).collect();
        json!([self.id.as_str(), self.session.as_str(), scopes, self.expires]).to_string()
    }

    fn of_text(text: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(text).ok()?;
        let scopes = value[2].as_array()?.iter().filter_map(|scope| Scope::named(scope.as_str()?)).collect();
        Some(Self {
            id: value[0].as_str()?.parse().ok()?,
            session: value[1].as_str()?.parse().ok()?,
            scopes,
            expires: value[3].as_u64()?,
        })
    }
}

/// Signs tokens, and knows which were revoked.
#[derive(Debug)]
pub struct Tokens {
    key: hmac::Key,
    store: Store,
    /// Until when each would have been good, in seconds since 1970. A leaf, locked for a few instructions.
    revoked: Mutex<HashMap<TokenId, u64>>,
}

impl Tokens {
    /// Those of a node with this key.
    ///
    /// # Errors
    /// Those of reading the store.
    pub async fn open(key: &ApiKey, store: Store) -> Result<Self, StoreError> {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.expose().as_bytes()), PURPOSE);
        let revoked = store.revoked_tokens().await?.into_iter().collect();
        Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, tag.as_ref()), store, revoked: Mutex::new(revoked) })
    }

    /// The token that says this.
    #[must_use]
    pub fn sign(&self, claims: &Claims) -> String {
        let said = URL_SAFE_NO_PAD.encode(claims.to_text());
        let tag = hmac::sign(&self.key, said.as_bytes());
        format!("{PREFIX}{said}.{}", URL_SAFE_NO_PAD.encode(tag))
    }

    /// What a token says, if it is one of this node's and still good.
    #[must_use]
    pub fn verify(&self, token: &str, now: SystemTime) -> Option<Claims> {
        let (said, tag) = token.strip_prefix(PREFIX).filter(|rest| rest.len() <= LONGEST)?.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        // In constant time.
        hmac::verify(&self.key, said.as_bytes(), &tag).ok()?;
        let claims = Claims::of_text(&URL_SAFE_NO_PAD.decode(said).ok()?)?;
        let is_revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&claims.id);
        (seconds(now) < claims.expires && !is_revoked).then_some(claims)
    }

    /// Has a token be good no more, for good.
    ///
    /// # Errors
    /// Those of writing the store; it is still good then.
    pub async fn revoke(&self, token: TokenId, expires_at: SystemTime) -> Result<(), StoreError> {
        let now = seconds(SystemTime::now());
        self.store.revoke_token(&token, seconds(expires_at), now).await?;
        let mut revoked = self.revoked.lock().unwrap_or_else(PoisonError::into_inner);
        revoked.retain(|_, expires| *expires > now);
        revoked.insert(token, seconds(expires_at));
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn tokens(directory: &tempfile::TempDir, key: &str) -> Tokens {
        let store = Store::open(&directory.path().join("store")).unwrap();
        Tokens::open(&ApiKey::new(key).unwrap(), store).await.unwrap()
    }

    #[tokio::test]
    async fn a_token_is_good_until_it_expires_is_revoked_or_is_touched() {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let first = tokens(&directory, "0123456789abcdef").await;
        let claims = Claims::new(SessionId::random(), &[Scope::Read], now + Duration::from_secs(60));
        let token = first.sign(&claims);
        assert_eq!(first.verify(&token, now), Some(claims.clone()));
        assert_eq!(first.verify(&token, now + Duration::from_secs(61)), None);
        for place in 0..token.len() {
            let mut touched = token.clone().into_bytes();
            touched[place] = if touched[place] == b'A' { b'B' } else { b'A' };
            // The last letter holds bits that mean nothing; base64 that is not canonical is refused.
            assert_eq!(first.verify(std::str::from_utf8(&touched).unwrap(), now), None, "{place}");
        }
        for text in ["", "oct_", "oct_.", "oct_a.b", &"oct_".repeat(1000)] {
            assert_eq!(first.verify(text, now), None);
        }
        first.revoke(claims.id.clone(), claims.expires_at()).await.unwrap();
        assert_eq!(first.verify(&token, now), None);
        drop(first);
        // The next daemon knows it too; one with another key knows none of them.
        assert_eq!(tokens(&directory, "0123456789abcdef").await.verify(&token, now), None);
        let other = tempfile::tempdir().unwrap();
        assert_eq!(tokens(&other, "0123456789abcdeg").await.verify(&token, now), None);
    }
}
