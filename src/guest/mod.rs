//! The guest: our small static program, PID 1 of every sandbox.
//!
//! [`wire`] is what it speaks, [`agent`] is the program, [`client`] is the daemon's side,
//! and [`readiness`] what it waits with.

pub mod agent;
#[cfg(feature = "daemon")]
pub mod binary;
#[cfg(feature = "daemon")]
pub mod client;
#[cfg(feature = "daemon")]
pub mod readiness;
#[cfg(feature = "daemon")]
pub mod socket;
pub mod terminal;
pub mod wire;
