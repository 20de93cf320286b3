//! Keys of model providers.

use crate::api::proto;
use crate::credential::{Credential, NewCredential};
use crate::session::KeyChoice;

/// A credential that is wanted.
#[must_use]
pub fn new_credential(request: proto::CreateCredentialRequest) -> NewCredential {
    let proto::CreateCredentialRequest { provider, name, key, is_default } = request;
    NewCredential { provider, name: Some(name).filter(|name| !name.is_empty()), key: key.into(), is_default }
}

/// Which key is meant by a credential's id or name, where nothing means the provider's default.
#[must_use]
pub fn key_choice(text: String) -> KeyChoice {
    if text.is_empty() { KeyChoice::Default } else { KeyChoice::Known(text) }
}

/// A credential.
#[must_use]
pub fn credential(credential: Credential) -> proto::Credential {
    let Credential { id, name, provider, is_default, hint, created_at, updated_at } = credential;
    proto::Credential {
        id: id.to_string(),
        name: name.unwrap_or_default(),
        provider,
        is_default,
        last4: hint.unwrap_or_default(),
        created_at: Some(created_at.into()),
        updated_at: Some(updated_at.into()),
    }
}
