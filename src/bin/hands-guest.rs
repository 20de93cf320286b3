//! PID 1 of a sandbox; see `handsd::guest::agent`.

fn main() {}
