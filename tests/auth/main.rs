//! Who may call, through what, and how it is written down. Real TLS, real processes of other users.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod audit;
mod limits;
mod node;
mod refusals;
mod reload;
mod scopes;
mod tls;
