//! Keys of model providers. Pure.

use serde::{Deserialize, Serialize};

use crate::api::http::convert::time;
use crate::credential::{Credential, NewCredential};
use crate::seal::Secret;

/// Whose key it is if nobody says so, as the hosted service has it.
const PROVIDER: &str = "anthropic";

/// A credential that is wanted.
#[derive(Debug, Deserialize)]
pub struct CreateCredential {
    key: Secret,
    provider: Option<String>,
    name: Option<String>,
    #[serde(default)]
    is_default: bool,
}

impl From<CreateCredential> for NewCredential {
    fn from(CreateCredential { key, provider, name, is_default }: CreateCredential) -> Self {
        Self { provider: provider.unwrap_or_else(|| PROVIDER.to_owned()), name, key, is_default }
    }
}

/// A credential. Its key is told to nobody.
#[derive(Debug, Serialize, Deserialize)]
pub struct CredentialView {
    id: String,
    provider: String,
    name: Option<String>,
    last4: Option<String>,
    is_default: bool,
    created_at: String,
    updated_at: String,
}

/// A credential.
#[must_use]
pub fn credential(credential: &Credential) -> CredentialView {
    CredentialView {
        id: credential.id.to_string(),
        provider: credential.provider.clone(),
        name: credential.name.clone(),
        last4: credential.hint.clone(),
        is_default: credential.is_default,
        created_at: time(credential.created_at),
        updated_at: time(credential.updated_at),
    }
}
