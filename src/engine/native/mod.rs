//! To come.

pub mod jail;
