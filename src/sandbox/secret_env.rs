//! Environment that nobody is to read but what runs in the sandbox: sealed where it is kept, and never told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use zeroize::Zeroizing;

use crate::seal::Secret;

/// Names, and values that are not shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretEnv(BTreeMap<String, String>);

impl SecretEnv {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What may be told of it.
    #[must_use]
    pub fn names(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    /// The whole of it. Whoever asks for it keeps it out of logs and answers.
    #[must_use]
    pub fn expose(self) -> BTreeMap<String, String> {
        self.0
    }

    /// Bytes by which one is told from another. They hold the values: whoever keeps them digests them first.
    ///
    /// # Panics
    /// Never: it is a map with text for keys.
    #[must_use]
    pub fn bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(serde_json::to_vec(&self.0).expect("all keys are text"))
    }

    /// To be sealed.
    #[must_use]
    pub fn to_secret(&self) -> Secret {
        self.bytes().to_vec().into()
    }

    /// What [`SecretEnv::to_secret`] gave; `None` if this program cannot read it.
    #[must_use]
    pub fn of_secret(secret: &Secret) -> Option<Self> {
        serde_json::from_slice(secret.expose()).ok().map(Self)
    }
}

impl From<BTreeMap<String, String>> for SecretEnv {
    fn from(env: BTreeMap<String, String>) -> Self {
        Self(env)
    }
}

impl fmt::Debug for SecretEnv {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_as_it_was_sealed_and_shows_names_only() {
        let env = SecretEnv(BTreeMap::from([("TOKEN".to_owned(), "hush=1".to_owned())]));
        assert_eq!(SecretEnv::of_secret(&env.to_secret()), Some(env.clone()));
        assert_eq!(format!("{env:?}"), r#"{"TOKEN"}"#);
    }
}
