//! Who we are to a registry, from Docker's own `config.json`. Pure.
//!
//! Only what stands in the file itself: a credential helper is another program, which the daemon does not run.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::auth::DockerCredentials;
use serde::Deserialize;
use std::collections::HashMap;

#[derive(Debug, Default, Deserialize)]
struct File {
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

/// The credentials for a registry, by the host that is really asked, in the text of a `config.json`; `None` if it has none.
pub fn find(text: &[u8], registry: &str) -> Option<DockerCredentials> {
    let File { auths } = serde_json::from_slice(text).ok()?;
    let (key, entry) = auths.into_iter().find(|(key, _)| host(key) == registry)?;
    let decoded = String::from_utf8(STANDARD.decode(entry.auth.trim_end()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':')?;
    let identitytoken = entry.identitytoken.filter(|token| !token.is_empty());
    Some(DockerCredentials {
        username: Some(username.to_owned()),
        password: Some(password.trim_end_matches('\0').to_owned()).filter(|_| identitytoken.is_none()),
        identitytoken,
        serveraddress: Some(key),
        ..DockerCredentials::default()
    })
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

    fn user(registry: &str) -> Option<(Option<String>, Option<String>)> {
        find(FILE.as_bytes(), registry).map(|found| (found.username, found.password))
    }

    #[test]
    fn a_registry_has_its_own_credentials() {
        let pair = |user: &str, password: &str| Some((Some(user.to_owned()), Some(password.to_owned())));
        assert_eq!(user("registry.local:5000"), pair("bob", "p:w"));
        assert_eq!(user("index.example"), pair("ada", "secret"));
        assert_eq!(user("registry.local"), None);
        assert_eq!(user("helped.example"), None);
    }

    #[test]
    fn a_token_stands_instead_of_a_password() {
        let found = find(FILE.as_bytes(), "token.example").unwrap();
        assert_eq!((found.password, found.identitytoken.as_deref()), (None, Some("t0k3n")));
    }

    #[test]
    fn what_is_no_such_file_has_no_credentials() {
        assert!(find(b"{", "index.example").is_none());
        assert!(find(b"{\"auths\": []}", "index.example").is_none());
    }
}
