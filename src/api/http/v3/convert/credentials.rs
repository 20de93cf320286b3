//! Keys of model providers. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

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
#[must_use]
pub fn credential(credential: &Credential) -> Value {
    json!({
        "id": credential.id,
        "provider": credential.provider,
        "name": credential.name,
        "last4": credential.hint,
        "is_default": credential.is_default,
        "created_at": time(credential.created_at),
        "updated_at": time(credential.updated_at),
    })
}
