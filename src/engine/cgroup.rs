//! To come.

/// A sandbox's cgroup.
#[derive(Debug)]
pub struct Sandbox;
