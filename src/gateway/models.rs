//! Where the providers are, and asking them.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, Response, redirect};
use tokio::time::{sleep, timeout};

use super::Provider;
use crate::telemetry::chain;

/// How long a connection to a provider may take to come about: a second is long.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);

/// Pauses before a question is asked again that nobody has taken: there was no connection, or the provider had no time. All
/// else that fails the brain tries again by itself, if it does, and knows best when.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

/// Statuses by which a provider says that it has no time now.
const BUSY: [u16; 3] = [429, 503, 529];

/// The longest pause that a provider may ask for here; for a longer one the brain is told.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where the providers are. A base URL is what comes before the path of a request; it has no slash at its end.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Of Anthropic, or what speaks as it does.
    pub anthropic: String,
    /// Of OpenAI, or what speaks as it does.
    pub openai: String,
    /// How long a provider may take to begin its answer.
    pub first_byte: Duration,
    /// How long it may say nothing in the middle of one.
    pub idle: Duration,
}

/// The providers of the node.
pub struct Models {
    settings: Settings,
    /// Made when it is first needed: a host without certificates has no models, and all the rest.
    client: OnceLock<Result<Client, String>>,
}

/// A request that may be sent.
pub struct Question {
    /// To whom.
    pub provider: Provider,
    /// The path, and what follows it.
    pub path: String,
    /// Headers that go with it, the credential among them.
    pub headers: HeaderMap,
    /// What is asked.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The node cannot make requests.
    #[error("the node cannot ask a model: {0}")]
    Client(String),
    /// The provider could not be reached, or hung up.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
    /// It did not begin to answer in time.
    #[error("the provider did not begin to answer within {} s", .0.as_secs())]
    Silent(Duration),
}

impl Models {
    /// These.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, client: OnceLock::new() }
    }

    /// How long a provider may say nothing in the middle of an answer.
    #[must_use]
    pub fn idle(&self) -> Duration {
        self.settings.idle
    }

    fn base_url(&self, provider: Provider) -> &str {
        match provider {
            Provider::Anthropic => &self.settings.anthropic,
            Provider::OpenAi => &self.settings.openai,
        }
    }

    /// Asks, and waits until the answer begins.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask(&self, question: Question) -> Result<Response, AskError> {
        let client = self.client.get_or_init(client).as_ref().map_err(|error| AskError::Client(error.clone()))?;
        let url = format!("{}{}", self.base_url(question.provider), question.path);
        let mut pauses = PAUSES.iter();
        loop {
            let request = client.post(&url).headers(question.headers.clone()).body(question.body.clone());
            let within = self.settings.first_byte;
            let answered = timeout(within, request.send()).await.map_err(|_| AskError::Silent(within))?;
            match answered {
                Ok(response) => match pauses.next().and_then(|pause| pause_before(&response, *pause)) {
                    Some(pause) => sleep(pause).await,
                    None => return Ok(response),
                },
                Err(error) if error.is_connect() => match pauses.next() {
                    Some(pause) => sleep(*pause).await,
                    None => return Err(unreachable(error)),
                },
                Err(error) => return Err(unreachable(error)),
            }
        }
    }
}

/// How long to wait before the question is asked again: as the answer says, else so long. `None`: the answer stands.
fn pause_before(response: &Response, pause: Duration) -> Option<Duration> {
    if !BUSY.contains(&response.status().as_u16()) {
        return None;
    }
    let wished = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    Some(wished.map_or(pause, Duration::from_secs)).filter(|pause| *pause <= LONGEST_PAUSE)
}

fn unreachable(error: reqwest::Error) -> AskError {
    AskError::Unreachable(chain(&error.without_url()).to_string())
}

impl fmt::Debug for Models {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.settings.fmt(formatter)
    }
}

fn client() -> Result<Client, String> {
    // Fails if somebody else was first, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::builder()
        .redirect(redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .tcp_nodelay(true);
    client.build().map_err(|error| chain(&error).to_string())
}
