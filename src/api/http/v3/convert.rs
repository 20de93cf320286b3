//! Between the JSON of `/v3` and the domain. Pure.

use serde::{Deserialize, Serialize};

use crate::api::http::problem::Problem;
use crate::ids::TurnId;
use crate::session::{EventQuery, Level};

mod agents;
mod credentials;
mod sessions;
mod webhooks;

pub use crate::webhook::envelope::{EventView, event};
pub use agents::{AgentView, CreateAgent, UpdateAgent, agent, agent_name};
pub use credentials::{CreateCredential, CredentialView, credential};
pub use sessions::{CreateSession, SendMessage, SessionView, TurnView, session, turn};
pub use webhooks::{DeliveryView, DestinationView, delivery, destination};

/// Items of a page, if not said otherwise, and at most.
const PAGE: usize = 50;
const MAX_PAGE: usize = 1000;

/// How many items of a page are wanted.
///
/// # Errors
/// It is none, or too many.
pub fn limit(limit: Option<usize>) -> Result<usize, Problem> {
    match limit.unwrap_or(PAGE) {
        limit if (1..=MAX_PAGE).contains(&limit) => Ok(limit),
        _ => Err(Problem::field("limit", format!("is 1 to {MAX_PAGE}"))),
    }
}

/// A place in a list, as it was given out with a page before.
///
/// # Errors
/// It was not.
pub fn cursor<T: std::str::FromStr>(field: &str, cursor: Option<&str>) -> Result<Option<T>, Problem> {
    match cursor {
        None | Some("") => Ok(None),
        Some(text) => text.parse().map(Some).map_err(|_| Problem::field(field, "is no cursor of this list")),
    }
}

/// A page of a list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Page<T> {
    /// What is on it.
    pub data: Vec<T>,
    /// Where the next one begins, if there is one.
    pub next_cursor: Option<String>,
}

fn lacking(field: &str, is_wanted: bool) -> Result<(), Problem> {
    if is_wanted { Err(Problem { param: Some(field.to_owned()), ..Problem::lacking(field) }) } else { Ok(()) }
}

/// Which events are wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct EventsQuery {
    after: Option<u64>,
    cursor: Option<u64>,
    level: Option<Level>,
    #[serde(rename = "type")]
    kind: Option<String>,
    turn_id: Option<String>,
    /// How many.
    pub limit: Option<usize>,
    /// "sse", or a page.
    pub stream: Option<String>,
}

impl EventsQuery {
    /// The same in the domain's words; `last` is what a browser that reconnects has seen.
    ///
    /// # Errors
    /// The first bad field.
    pub fn to_query(&self, last: Option<u64>) -> Result<EventQuery, Problem> {
        Ok(EventQuery {
            after: last.or(self.after).or(self.cursor).unwrap_or(0),
            level: self.level.unwrap_or(Level::Internal),
            kind: self.kind.clone(),
            turn: cursor::<TurnId>("turn_id", self.turn_id.as_deref())?,
        })
    }
}
