//! The network of sandboxes: in by forwarding, and out by policy.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod cli;
mod forward;
mod hostile;
mod inside;
mod ipv6;
mod lab;
mod nat;
mod ports;
mod preview;
mod proxy;
mod secrets;
mod usage;
mod vanish;
