//! Why a run could not be started, found or driven.

use std::io;

use super::output::SpoolError;
use crate::guest::client::GuestError;
use crate::guest::wire::Step;
use crate::ids::RunId;

/// Why a run could not be started, found or driven.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No run has this id, or none that is running where that is needed.
    #[error("no run {0}")]
    NotFound(RunId),
    /// The idempotency key was used with another command.
    #[error("idempotency_key was used with another request")]
    Conflict,
    /// There are as many runs as there may be.
    #[error("the sandbox has {limit} runs under way, which is the most it may have")]
    TooMany {
        /// How many.
        limit: usize,
    },
    /// It could not be started: the caller's doing, or the sandbox's.
    #[error("{subject}: {errno}")]
    Refused {
        /// Where.
        step: Step,
        /// The kernel's word.
        errno: nix::errno::Errno,
        /// What it is about.
        subject: String,
    },
    /// Input for a stdin that is not there, or closed.
    #[error("stdin of run {0} is closed")]
    StdinClosed(RunId),
    /// A resize of a run without a terminal.
    #[error("run {0} has no terminal")]
    NoTerminal(RunId),
    /// A cursor beyond what was written.
    #[error("cursor {cursor} is beyond the {len} bytes that were written")]
    CursorBeyond {
        /// Asked for.
        cursor: u64,
        /// There are.
        len: u64,
    },
    /// The guest is gone or silent.
    #[error("the sandbox is lost")]
    Lost(#[source] GuestError),
    /// The output cannot be kept or read.
    #[error("the output of the run")]
    Output(#[source] SpoolError),
    /// A step failed on the host.
    #[error("{step}")]
    Host {
        /// What was being done.
        step: &'static str,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}
