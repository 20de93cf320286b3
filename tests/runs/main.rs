//! Runs over gRPC, against the real daemon. The numbers in the comments are those of the behaviours that are promised.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

#[path = "../support/mod.rs"]
mod support;

mod basic;
mod deadline;
mod keys;
mod loss;
mod output;
mod refusals;
mod rootless;
mod stdin;
mod terminal;
