//! The hands of a sandbox.

pub mod output;
