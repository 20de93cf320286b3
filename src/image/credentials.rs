//! Who we are to a registry, from Docker's own `config.json`.
//!
//! Only what stands in the file itself: a credential helper is another program, which the daemon does not run.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

/// Most bytes of the file; it has an entry for each registry.
const MAX_BYTES: u64 = 1 << 20;

/// Who we are to one registry.
#[derive(PartialEq, Eq)]
pub struct Credentials {
    /// The registry, as the file names it.
    pub server: String,
    /// Who.
    pub user: String,
    /// How that is proved.
    pub proof: Proof,
}

/// How it is proved who we are.
#[derive(PartialEq, Eq)]
pub enum Proof {
    /// A password, or a token that stands for one.
    Password(String),
    /// A token for which the registry's own service gives others.
    IdentityToken(String),
}

#[derive(Debug, Default, Deserialize)]
struct Document {
    #[serde(default)]
    auths: HashMap<String, Entry>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    identitytoken: Option<String>,
}

impl Credentials {
    /// Those for a registry, by the host that is really asked, in a `config.json`; `None` if it has none, or cannot be read.
    /// It is read anew each time, as `docker login` changes it.
    #[must_use]
    pub fn of_file(path: &Path, registry: &str) -> Option<Self> {
        let mut text = Vec::new();
        File::open(path).ok()?.take(MAX_BYTES).read_to_end(&mut text).ok()?;
        find(&text, registry)
    }
}

fn find(text: &[u8], registry: &str) -> Option<Credentials> {
    let Document { auths } = serde_json::from_slice(text).ok()?;
    let (key, entry) = auths.into_iter().find(|(key, _)| host(key) == registry)?;
    let decoded = String::from_utf8(STANDARD.decode(entry.auth.trim_end()).ok()?).ok()?;
    let (user, password) = decoded.split_once(':')?;
    let proof = match entry.identitytoken.filter(|token| !token.is_empty()) {
        Some(token) => Proof::IdentityToken(token),
        None => Proof::Password(password.trim_end_matches('\0').to_owned()),
    };
    Some(Credentials { server: key, user: user.to_owned(), proof })
}

/// Keys are hosts, or URLs of them.
fn host(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"{
        "auths": {
            "https://index.example/v1/": {"auth": "YWRhOnNlY3JldA=="},
            "registry.local:5000": {"auth": "Ym9iOnA6dw=="},
            "https://token.example/v2/": {"auth": "PHRva2VuPjo=", "identitytoken": "t0k3n"},
            "helped.example": {}
        },
        "credsStore": "pass"
    }"#;

    fn password(user: &str, password: &str) -> Option<(String, Proof)> {
        Some((user.to_owned(), Proof::Password(password.to_owned())))
    }

    fn found(registry: &str) -> Option<(String, Proof)> {
        find(FILE.as_bytes(), registry).map(|found| (found.user, found.proof))
    }

    #[test]
    fn a_registry_has_its_own_credentials() {
        assert!(found("registry.local:5000") == password("bob", "p:w"));
        assert!(found("index.example") == password("ada", "secret"));
        assert!(found("registry.local").is_none());
        assert!(found("helped.example").is_none());
    }

    #[test]
    fn a_token_stands_instead_of_a_password() {
        let (_, proof) = found("token.example").unwrap();
        assert!(proof == Proof::IdentityToken("t0k3n".to_owned()));
    }

    #[test]
    fn what_is_no_such_file_has_no_credentials() {
        assert!(find(b"{", "index.example").is_none());
        assert!(find(b"{\"auths\": []}", "index.example").is_none());
    }
}
