//! Where a daemon under test dies, as if it were killed, between two steps of what it does to a sandbox.
//!
//! A build with debug assertions dies at the point that [`VARIABLE`] names; a release has none of this. The points are
//! listed here and nowhere else, so that the test that walks them forgets none: one that is not passed on its way fails it,
//! and so does one that is passed and not listed.

use nix::sys::signal::{Signal, raise};

/// Names the point in the environment of the daemon.
pub const VARIABLE: &str = "HANDSD_CRASH_AT";

/// Points that a daemon passes with every engine. The first word is the transition, the second what was just done.
pub const POINTS: [&str; 22] = [
    "create.intended",
    "create.made",
    "create.connected",
    "create.stored",
    "freeze.intended",
    "freeze.done",
    "freeze.observed",
    "thaw.intended",
    "thaw.done",
    "stop.intended",
    "stop.done",
    "stop.observed",
    "start.intended",
    "start.made",
    "start.connected",
    "crash.seen",
    "destroy.intended",
    "destroy.removed",
    "destroy.cleared",
    "runtime.intended",
    "runtime.started",
    "runtime.ended",
];

/// Points inside what the native engine does in one step.
pub const NATIVE_POINTS: [&str; 7] =
    ["make.layers", "make.cgroups", "make.born", "end.killed", "end.detached", "remove.killed", "remove.detached"];

/// Dies here, if this is the point.
pub fn point(name: &'static str) {
    if !cfg!(debug_assertions) {
        return;
    }
    assert!(POINTS.contains(&name) || NATIVE_POINTS.contains(&name), "{name} is not listed");
    if std::env::var_os(VARIABLE).is_some_and(|at| at == name) {
        // Not an exit, which would run what is registered for it and flush what a kill does not.
        let _ = raise(Signal::SIGKILL);
    }
}
