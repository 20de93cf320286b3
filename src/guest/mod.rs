//! The guest: our small static program, PID 1 of every sandbox.
//!
//! [`wire`] is what it speaks, [`agent`] is the program, [`client`] is the daemon's side.

pub mod agent;
#[cfg(feature = "daemon")]
pub mod client;
pub mod wire;
