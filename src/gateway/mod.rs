//! The model gateway: the only door of a brain's sandbox.
//!
//! A brain asks its model over the loopback of its own sandbox. The guest hands the listener out, so that no byte passes
//! through it and there is no network inside. What is asked for must be the model; it gets the agent's credential here,
//! goes on to the provider, and the answer comes back as it is, while its tokens are counted. So a brain never holds a
//! credential that is worth anything, and cannot spend more than its session may.
//!
//! ```text
//!  brain ── 127.0.0.1:PORT ── listener, handed out ──► Server ── + credential ──► provider
//!    ▲                                                   │ counts tokens
//!    └───────────────── the answer, as it comes ─────────┴──► Gateway::spent ──► session
//! ```
//!
//! | file | owns |
//! |---|---|
//! | `provider` | what of a request and an answer passes (pure) |
//! | `usage` | tokens, and reading them off an answer (pure) |
//! | `models` | where the providers are, and asking them |
//! | `refusal` | what a brain hears instead of an answer |
//! | `server` | the connections of one brain |

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::credential::Credentials;
use crate::ids::{CredentialId, SessionId};
use crate::network::Listener;

mod models;
mod provider;
mod refusal;
mod server;
mod usage;

pub use models::{AskError, Models, Question, Settings};
pub use provider::Provider;
pub use server::Server;
pub use usage::Usage;

/// The port of a brain's loopback, beside that of the proxy.
pub const PORT: u16 = 7423;

/// What a brain may have of a model.
#[derive(Debug, Clone)]
pub struct Grant {
    /// For which session.
    pub session: SessionId,
    /// From whom.
    pub provider: Provider,
    /// Where the credential is; looked up for each request, as it may be replaced.
    pub credentials: Credentials,
    /// Which one the agent names; `None`: its provider's default.
    pub credential: Option<CredentialId>,
    /// How many tokens are left; `None`: as many as it likes.
    pub tokens: Option<u64>,
}

/// The door of one brain; closed when this is dropped.
#[derive(Debug)]
pub struct Gateway {
    tally: watch::Receiver<Usage>,
    /// What of the tally was answered.
    told: Usage,
    _open: DropGuard,
}

impl Gateway {
    /// A door at this listener. Whoever opens it runs the server, which ends when the door is closed.
    #[must_use]
    pub fn open(listener: Listener, models: Arc<Models>, grant: Grant) -> (Self, Server) {
        let (sender, tally) = watch::channel(Usage::default());
        let closed = CancellationToken::new();
        let server = Server::new(listener, models, grant, sender, closed.clone());
        (Self { tally, told: Usage::default(), _open: closed.drop_guard() }, server)
    }

    /// Tokens that were used since this was answered last, as soon as there are any. Cancel-safe: nothing is taken off the
    /// tally before it is answered.
    pub async fn spent(&mut self) -> Usage {
        loop {
            let total = *self.tally.borrow_and_update();
            let more = total.minus(self.told);
            if more != Usage::default() {
                self.told = total;
                return more;
            }
            if self.tally.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

#[cfg(test)]
mod tests;
