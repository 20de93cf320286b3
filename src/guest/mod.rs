//! The guest: our small static program, PID 1 of every sandbox.
//!
//! [`wire`] is what it speaks, [`agent`] is the program, [`client`] is the daemon's side,
//! and [`readiness`] what it waits with. Where no unix socket leads into a sandbox, a [`trunk`] does, with a [`relay`] at
//! its other end. [`script`] is what else the program can be: a brain without a model.

pub mod agent;
#[cfg(feature = "daemon")]
pub mod binary;
#[cfg(feature = "daemon")]
pub mod client;
pub mod pipe;
#[cfg(feature = "daemon")]
pub mod readiness;
pub mod relay;
pub mod script;
pub mod socket;
pub mod terminal;
pub mod trunk;
pub mod wire;
