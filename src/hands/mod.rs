//! The hands of a sandbox.

pub mod files;
pub mod output;
