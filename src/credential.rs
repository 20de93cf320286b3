//! Keys of model providers: what a brain's model is paid with.
//!
//! A key comes in once and is shown to nobody again. It is sealed before it reaches the store, is opened only where the
//! provider is spoken to, and never enters a sandbox. A key that is replaced is used from the next request on, by sessions
//! that are under way too.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::ids::CredentialId;
use crate::seal::{SealError, Sealer, Secret};
use crate::store::{Store, StoreError, StoredCredential};

/// Longest key, in bytes: there are providers whose keys are signed documents.
const MAX_KEY: usize = 8 << 10;
/// Longest name, in bytes.
const MAX_NAME: usize = 128;
/// Longest name of a provider, in bytes.
const MAX_PROVIDER: usize = 64;
/// Characters at the end of a key by which people know it, and how long it is at least that they give little of it away.
const HINT: (usize, usize) = (4, 16);
/// Words that stand for something else where a credential is named.
const RESERVED: [&str; 2] = ["managed", "default"];
/// What ids begin with, and so no name does.
const PREFIX: &str = "cred_";

/// A credential, without its key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    /// Its id.
    pub id: CredentialId,
    /// Its name, which no other has.
    pub name: Option<String>,
    /// Whose key it is, such as "anthropic".
    pub provider: String,
    /// It is used where none is named.
    pub is_default: bool,
    /// The end of the key, by which people know it.
    pub hint: Option<String>,
    /// When it was made.
    pub created_at: SystemTime,
    /// When its key was replaced last.
    pub updated_at: SystemTime,
}

/// A credential that is wanted.
#[derive(Debug, Clone)]
pub struct NewCredential {
    /// Whose key it is.
    pub provider: String,
    /// Its name, if it shall have one.
    pub name: Option<String>,
    /// The key.
    pub key: Secret,
    /// It is to be used where none is named, instead of the one before.
    pub is_default: bool,
}

/// Why something could not be done with a credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// An argument is none.
    #[error("{field}: {message}")]
    Invalid {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// No credential has this id or name.
    #[error("no credential {0:.64}")]
    NotFound(String),
    /// Another credential has the name.
    #[error("credential {0} has this name")]
    Exists(CredentialId),
    /// The store failed.
    #[error("the store of credentials")]
    Store(#[source] StoreError),
    /// A key cannot be sealed or opened.
    #[error("the key of a credential")]
    Seal(#[source] SealError),
}

/// The credentials of the node. A handle; clones share it.
#[derive(Debug, Clone)]
pub struct Credentials {
    store: Store,
    sealer: Arc<Sealer>,
}

impl Credentials {
    /// Those of a store, whose keys are sealed with this.
    #[must_use]
    pub fn new(store: Store, sealer: Arc<Sealer>) -> Self {
        Self { store, sealer }
    }

    /// Keeps a key.
    ///
    /// # Errors
    /// [`CredentialError::Invalid`], [`CredentialError::Exists`], [`CredentialError::Store`], [`CredentialError::Seal`].
    pub async fn create(&self, wish: NewCredential) -> Result<Credential, CredentialError> {
        check("provider", &wish.provider, MAX_PROVIDER)?;
        if let Some(name) = &wish.name {
            check("name", name, MAX_NAME)?;
            if RESERVED.contains(&name.as_str()) || name.starts_with(PREFIX) {
                return Err(invalid("name", "stands for something else"));
            }
        }
        let hint = check_key(&wish.key)?;
        let (id, now) = (CredentialId::random(), now_ms());
        let sealed = self.seal(&id, &wish.key)?;
        let stored = StoredCredential {
            id,
            name: wish.name,
            provider: wish.provider,
            is_default: wish.is_default,
            hint,
            created_ms: now,
            updated_ms: now,
        };
        match self.store.add_credential(stored.clone(), sealed).await.map_err(CredentialError::Store)? {
            None => Ok(stored.into()),
            Some(existing) => Err(CredentialError::Exists(existing.id)),
        }
    }

    /// All of them, newest first.
    ///
    /// # Errors
    /// [`CredentialError::Store`].
    pub async fn list(&self) -> Result<Vec<Credential>, CredentialError> {
        let found = self.store.credentials().await.map_err(CredentialError::Store)?;
        Ok(found.into_iter().map(Credential::from).collect())
    }

    /// The one with this id or name.
    ///
    /// # Errors
    /// [`CredentialError::NotFound`], [`CredentialError::Store`].
    pub async fn get(&self, text: &str) -> Result<Credential, CredentialError> {
        let found = self.store.credential(text.to_owned()).await.map_err(CredentialError::Store)?;
        found.map(Credential::from).ok_or_else(|| CredentialError::NotFound(text.to_owned()))
    }

    /// The one that is used for a provider where none is named, if there is one.
    ///
    /// # Errors
    /// [`CredentialError::Store`].
    pub async fn default_of(&self, provider: &str) -> Result<Option<Credential>, CredentialError> {
        let found = self.store.default_credential(provider.to_owned()).await.map_err(CredentialError::Store)?;
        Ok(found.map(Credential::from))
    }

    /// Replaces the key of a credential.
    ///
    /// # Errors
    /// [`CredentialError::Invalid`], [`CredentialError::NotFound`], [`CredentialError::Store`], [`CredentialError::Seal`].
    pub async fn replace(&self, id: &CredentialId, key: &Secret) -> Result<Credential, CredentialError> {
        let hint = check_key(key)?;
        let sealed = self.seal(id, key)?;
        let replaced = self.store.replace_credential(id, hint, sealed, now_ms()).await;
        known(id, replaced.map_err(CredentialError::Store)?)?;
        self.get(id.as_str()).await
    }

    /// Has a credential be used for its provider where none is named, instead of the one before.
    ///
    /// # Errors
    /// [`CredentialError::NotFound`], [`CredentialError::Store`].
    pub async fn set_default(&self, id: &CredentialId) -> Result<(), CredentialError> {
        known(id, self.store.set_default_credential(id).await.map_err(CredentialError::Store)?)
    }

    /// Forgets a key. Agents that use it find none from then on.
    ///
    /// # Errors
    /// [`CredentialError::NotFound`], [`CredentialError::Store`].
    pub async fn remove(&self, id: &CredentialId) -> Result<(), CredentialError> {
        known(id, self.store.remove_credential(id).await.map_err(CredentialError::Store)?)
    }

    /// The key itself, for whoever speaks to the provider.
    ///
    /// # Errors
    /// [`CredentialError::NotFound`], [`CredentialError::Store`], [`CredentialError::Seal`].
    pub async fn key(&self, id: &CredentialId) -> Result<Secret, CredentialError> {
        let sealed = self.store.sealed_credential(id).await.map_err(CredentialError::Store)?;
        let sealed = sealed.ok_or_else(|| CredentialError::NotFound(id.to_string()))?;
        self.sealer.open(&context(id), &sealed).map_err(CredentialError::Seal)
    }

    fn seal(&self, id: &CredentialId, key: &Secret) -> Result<Vec<u8>, CredentialError> {
        self.sealer.seal(&context(id), key).map_err(CredentialError::Seal)
    }
}

impl From<StoredCredential> for Credential {
    fn from(stored: StoredCredential) -> Self {
        let StoredCredential { id, name, provider, is_default, hint, created_ms, updated_ms } = stored;
        let time = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        Self { id, name, provider, is_default, hint, created_at: time(created_ms), updated_at: time(updated_ms) }
    }
}

/// What a key is sealed for.
fn context(id: &CredentialId) -> String {
    format!("credential/{id}/key")
}

fn known(id: &CredentialId, is_there: bool) -> Result<(), CredentialError> {
    if is_there { Ok(()) } else { Err(CredentialError::NotFound(id.to_string())) }
}

fn invalid(field: &'static str, message: impl Into<String>) -> CredentialError {
    CredentialError::Invalid { field, message: message.into() }
}

/// Refuses a name that is empty, too long, or holds what would not show.
fn check(field: &'static str, text: &str, most: usize) -> Result<(), CredentialError> {
    match text.len() {
        0 => Err(invalid(field, "is missing")),
        len if len > most => Err(invalid(field, format!("has {len} bytes, at most {most} are allowed"))),
        _ if text.chars().any(char::is_control) => Err(invalid(field, "holds a control character")),
        _ => Ok(()),
    }
}

/// Refuses what cannot be a key, which has to fit into a header; answers its end, by which people know it.
fn check_key(key: &Secret) -> Result<Option<String>, CredentialError> {
    let key = key.expose();
    match key.len() {
        0 => Err(invalid("key", "is missing")),
        len if len > MAX_KEY => Err(invalid("key", format!("has {len} bytes, at most {MAX_KEY} are allowed"))),
        _ if !key.iter().all(u8::is_ascii_graphic) => Err(invalid("key", "holds a space, or what is no ASCII")),
        len if len < HINT.1 => Ok(None),
        len => Ok(Some(key[len - HINT.0..].iter().copied().map(char::from).collect())),
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn open() -> (tempfile::TempDir, Credentials) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store.db")).unwrap();
        (directory, Credentials::new(store, Arc::new(Sealer::new(&[7; 32]))))
    }

    fn wish(name: Option<&str>, key: &str, is_default: bool) -> NewCredential {
        NewCredential {
            provider: "anthropic".to_owned(),
            name: name.map(str::to_owned),
            key: key.to_owned().into(),
            is_default,
        }
    }

    #[tokio::test]
    async fn a_key_is_found_by_id_and_by_name_and_is_in_the_store_only_sealed() {
        let (directory, credentials) = open().await;
        let key = "sk-ant-a-long-key-wxyz";
        let made = credentials.create(wish(Some("main"), key, false)).await.unwrap();
        assert_eq!(made.hint.as_deref(), Some("wxyz"));
        assert_eq!(credentials.get("main").await.unwrap(), made);
        assert_eq!(credentials.get(made.id.as_str()).await.unwrap(), made);
        assert_eq!(credentials.key(&made.id).await.unwrap().expose(), key.as_bytes());
        for file in std::fs::read_dir(directory.path()).unwrap() {
            let bytes = std::fs::read(file.unwrap().path()).unwrap();
            assert!(!bytes.windows(10).any(|window| window == &key.as_bytes()[..10]));
        }
    }

    #[tokio::test]
    async fn a_provider_has_one_default_and_the_last_one_said_wins() {
        let (_directory, credentials) = open().await;
        assert_eq!(credentials.default_of("anthropic").await.unwrap(), None);
        let first = credentials.create(wish(Some("first"), "k1", true)).await.unwrap();
        let second = credentials.create(wish(Some("second"), "k2", true)).await.unwrap();
        assert_eq!(credentials.default_of("anthropic").await.unwrap().unwrap().id, second.id);
        credentials.set_default(&first.id).await.unwrap();
        assert_eq!(credentials.default_of("anthropic").await.unwrap().unwrap().id, first.id);
        assert_eq!(credentials.list().await.unwrap().iter().filter(|it| it.is_default).count(), 1);
    }

    #[tokio::test]
    async fn a_replaced_key_is_the_new_one_and_a_removed_one_is_gone() {
        let (_directory, credentials) = open().await;
        let made = credentials.create(wish(None, "short", false)).await.unwrap();
        assert_eq!(made.hint, None);
        credentials.replace(&made.id, &"another-key-0123456789".to_owned().into()).await.unwrap();
        assert_eq!(credentials.key(&made.id).await.unwrap().expose(), b"another-key-0123456789");
        credentials.remove(&made.id).await.unwrap();
        assert!(matches!(credentials.key(&made.id).await, Err(CredentialError::NotFound(_))));
        assert!(matches!(credentials.remove(&made.id).await, Err(CredentialError::NotFound(_))));
    }

    #[tokio::test]
    async fn what_cannot_be_one_is_refused_by_its_field() {
        let (_directory, credentials) = open().await;
        credentials.create(wish(Some("taken"), "k", false)).await.unwrap();
        assert!(matches!(credentials.create(wish(Some("taken"), "k", false)).await, Err(CredentialError::Exists(_))));
        let wishes = [
            (wish(Some("managed"), "k", false), "name"),
            (wish(Some("cred_mine"), "k", false), "name"),
            (wish(Some(""), "k", false), "name"),
            (wish(None, "", false), "key"),
            (wish(None, "two words", false), "key"),
            (NewCredential { provider: String::new(), ..wish(None, "k", false) }, "provider"),
        ];
        for (wish, expected) in wishes {
            let refused = credentials.create(wish).await;
            assert!(
                matches!(refused, Err(CredentialError::Invalid { field, .. }) if field == expected),
                "{expected}: {refused:?}"
            );
        }
    }
}
