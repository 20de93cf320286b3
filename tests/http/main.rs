//! The HTTP surface over the wire.
//!
//! | file | holds |
//! |---|---|
//! | `access` | who may come in, and what errors look like |
//! | `credentials` | keys of model providers |
//! | `exec` | commands over WebSockets, as far as the client of the sandbox API does not go |
//! | `protocols` | TLS, HTTP/2, compression, headers for browsers |
//! | `replies` | what every route answers, held to the OpenAPI document |
//! | `sandboxes` | sandboxes as an event stream, and their timeouts |
//! | `sse` | event streams and pages of sessions, and what is stored with one |
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod credentials;
mod exec;
mod protocols;
mod replies;
mod sandboxes;
mod sse;
