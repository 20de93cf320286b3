//! The providers of models, and what of a brain's requests reaches one.

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};

use crate::seal::Secret;

/// Who serves a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provider {
    /// By the Messages API.
    Anthropic,
    /// By the Responses API.
    OpenAi,
}

/// Headers of a request that reach the provider. All others stay here: credentials above all, and what belongs to one
/// connection only.
const ASKED: [&str; 6] = ["accept", "content-type", "user-agent", "anthropic-version", "anthropic-beta", "openai-beta"];

/// Headers of an answer that reach the brain.
const ANSWERED: [&str; 5] = ["content-type", "retry-after", "request-id", "x-request-id", "x-should-retry"];

impl Provider {
    /// All.
    pub const ALL: [Self; 2] = [Self::Anthropic, Self::OpenAi];

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Anthropic => "anthropic",
            Self::OpenAi => "openai",
        }
    }

    /// What a brain may post to: its model, and nothing else that the credential is good for.
    #[must_use]
    pub fn admits(self, path: &str) -> bool {
        match self {
            Self::Anthropic => matches!(path, "/v1/messages" | "/v1/messages/count_tokens"),
            Self::OpenAi => path == "/v1/responses",
        }
    }

    /// The header by which a request shows its credential.
    ///
    /// # Errors
    /// The credential is no value of a header.
    pub fn credential(self, secret: &Secret) -> Result<(HeaderName, HeaderValue), InvalidHeaderValue> {
        let (name, text) = match self {
            Self::Anthropic => (HeaderName::from_static("x-api-key"), secret.expose().to_vec()),
            Self::OpenAi => (HeaderName::from_static("authorization"), [b"Bearer ", secret.expose()].concat()),
        };
        let mut value = HeaderValue::from_bytes(&text)?;
        value.set_sensitive(true);
        Ok((name, value))
    }
}

/// The headers of a brain's request that go on.
#[must_use]
pub fn asked(headers: &HeaderMap) -> HeaderMap {
    only(&ASKED, headers)
}

/// The headers of an answer that go back.
#[must_use]
pub fn answered(headers: &HeaderMap) -> HeaderMap {
    only(&ANSWERED, headers)
}

fn only(names: &[&str], headers: &HeaderMap) -> HeaderMap {
    let wanted = headers.iter().filter(|(name, _)| names.contains(&name.as_str()));
    wanted.map(|(name, value)| (name.clone(), value.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_model_can_be_asked_for() {
        assert!(Provider::Anthropic.admits("/v1/messages") && Provider::OpenAi.admits("/v1/responses"));
        for path in
            ["/", "/v1/messages/", "/v1/files", "/v1/messages/batches", "/v1/responses", "/v1/messages/../files"]
        {
            assert!(!Provider::Anthropic.admits(path), "{path}");
        }
        for path in ["/v1/files", "/v1/responses/resp_1", "/v1/messages", "/v1/models"] {
            assert!(!Provider::OpenAi.admits(path), "{path}");
        }
    }

    #[test]
    fn a_credential_of_the_brain_stays_here_and_that_of_the_agent_does_not_show() {
        let names = ["x-api-key", "authorization", "cookie", "connection", "host", "content-length", "accept-encoding"];
        let value = HeaderValue::from_static("x");
        let mut headers: HeaderMap = names.iter().map(|name| (HeaderName::from_static(name), value.clone())).collect();
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        assert_eq!(asked(&headers).keys().collect::<Vec<_>>(), ["anthropic-version"]);

        let (name, value) = Provider::OpenAi.credential(&"sk-1".to_owned().into()).unwrap();
        assert_eq!((name.as_str(), value.as_bytes()), ("authorization", &b"Bearer sk-1"[..]));
        assert!(!format!("{value:?}").contains("sk-1"));
        assert!(Provider::Anthropic.credential(&"a\nb".to_owned().into()).is_err());
    }
}
