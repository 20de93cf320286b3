//! The guest's binary, which the build puts here.

/// A static executable for this machine.
pub const GUEST: &[u8] = include_bytes!(env!("HANDS_GUEST"));
