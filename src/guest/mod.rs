//! The guest.
pub mod wire;
