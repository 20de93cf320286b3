//! Sending: one request, to nowhere that was not allowed.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url, redirect};

use super::envelope::signature;
use super::plan::is_public;
use super::{Reach, WebhookError};
use crate::telemetry::chain;

/// How long a destination may take to answer. What takes longer ought to be done behind the answer.
const DEADLINE: Duration = Duration::from_secs(15);
/// Longest URL.
const MAX_URL: usize = 2048;

/// Something to be sent.
#[derive(Debug)]
pub struct Letter<'a> {
    /// Where to.
    pub url: &'a str,
    /// What it is known by when it comes twice.
    pub id: &'a str,
    /// The delivery, in our records.
    pub delivery: &'a str,
    /// The session it is about.
    pub session: &'a str,
    /// What is sent.
    pub body: String,
    /// What it is signed with.
    pub secret: Option<&'a [u8]>,
}

/// How it went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The status that was answered.
    pub status: Option<u16>,
    /// What went wrong; `None`: it was taken.
    pub error: Option<String>,
}

/// Sends.
#[derive(Debug)]
pub struct Postman {
    reach: Reach,
    /// Made when it is first needed: a host without certificates has no webhooks, and all the rest.
    client: OnceLock<Result<Client, String>>,
}

impl Postman {
    /// One that goes as far as this.
    #[must_use]
    pub fn new(reach: Reach) -> Self {
        Self { reach, client: OnceLock::new() }
    }

    /// Refuses a URL that nothing may be sent to. What its name stands for is looked at with each request.
    ///
    /// # Errors
    /// [`WebhookError::Invalid`].
    pub fn check(&self, text: &str) -> Result<Url, WebhookError> {
        let invalid = |message: &str| WebhookError::Invalid { field: "url", message: message.to_owned() };
        let url = Url::parse(text).ok().filter(|_| text.len() <= MAX_URL).ok_or_else(|| invalid("is no URL"))?;
        let is_scheme = url.scheme() == "https" || (self.reach == Reach::Anywhere && url.scheme() == "http");
        if !is_scheme {
            return Err(invalid("begins with https://"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(invalid("holds no user and no password"));
        }
        let host = url.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']');
        match host.parse::<IpAddr>() {
            Ok(address) if self.reach == Reach::Public && !is_public(address) => {
                Err(invalid("is a private address, which the configuration does not allow"))
            }
            _ => Ok(url),
        }
    }

    /// Sends a letter. Redirects are not followed: they count as failures.
    pub async fn send(&self, letter: Letter<'_>) -> Outcome {
        let failed = |error: String| Outcome { status: None, error: Some(error) };
        let url = match self.check(letter.url) {
            Ok(url) => url,
            Err(error) => return failed(error.to_string()),
        };
        let client = match self.client.get_or_init(|| client(self.reach)) {
            Ok(client) => client,
            Err(error) => return failed(error.clone()),
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut request = client
            .post(url)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", letter.id)
            .header("webhook-timestamp", now.to_string())
            .header("x-oc-delivery-id", letter.delivery)
            .header("x-oc-session-id", letter.session);
        if let Some(secret) = letter.secret {
            request = request.header("webhook-signature", signature(secret, letter.id, now, &letter.body));
        }
        match request.body(letter.body).send().await {
            Ok(response) if response.status().is_success() => {
                Outcome { status: Some(response.status().as_u16()), error: None }
            }
            Ok(response) => {
                let status = response.status();
                Outcome { status: Some(status.as_u16()), error: Some(format!("answered {status}")) }
            }
            Err(error) => failed(chain(&error.without_url()).to_string()),
        }
    }
}

fn client(reach: Reach) -> Result<Client, String> {
    // Fails if somebody else was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .timeout(DEADLINE)
        .user_agent(concat!("handsd/", env!("CARGO_PKG_VERSION")))
        .dns_resolver(Arc::new(Resolver { reach }));
    client.build().map_err(|error| chain(&error).to_string())
}

/// Finds what a name stands for, and leaves out what is not allowed: so a name cannot lead to where an address may not.
struct Resolver {
    reach: Reach,
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let reach = self.reach;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let is_allowed = |address: &SocketAddr| reach == Reach::Anywhere || is_public(address.ip());
            let allowed: Vec<SocketAddr> = found.filter(is_allowed).collect();
            if allowed.is_empty() {
                return Err(Box::<dyn Error + Send + Sync>::from("the name stands for private addresses only"));
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_open_internet_and_only_with_tls_unless_allowed() {
        let postman = Postman::new(Reach::Public);
        for url in [
            "http://example.com",
            "https://127.0.0.1/x",
            "https://[::1]/",
            "https://0x7f.1/",
            "https://169.254.169.254/latest",
            "https://user:word@example.com",
            "ftp://example.com",
            "nonsense",
        ] {
            assert!(matches!(postman.check(url), Err(WebhookError::Invalid { field: "url", .. })), "{url}");
        }
        assert!(postman.check("https://example.com/hook?x=1").is_ok());
        assert!(Postman::new(Reach::Anywhere).check("http://127.0.0.1:1/").is_ok());
    }

    #[tokio::test]
    async fn a_name_that_leads_to_a_private_address_is_not_followed() {
        let letter = Letter {
            url: "https://localhost:1/",
            id: "evt",
            delivery: "dlv",
            session: "ses",
            body: String::new(),
            secret: None,
        };
        let outcome = Postman::new(Reach::Public).send(letter).await;
        assert!(outcome.error.as_ref().is_some_and(|error| error.contains("private")), "{outcome:?}");
    }
}
