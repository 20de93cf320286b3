//! Why the guest did not do it.

use std::io;
use std::time::Duration;

use crate::guest::wire::Step;

/// How long the guest may take to answer. It answers in well under a millisecond; a sandbox that thrashes at its memory
/// limit is slower.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// Why the guest did not do it.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The sandbox, its guest or the connection is gone.
    #[error("the connection to the guest is lost")]
    Lost,
    /// The guest is there and does not answer.
    #[error("the guest did not answer within {} s", ANSWER_DEADLINE.as_secs())]
    Silent,
    /// The guest refused.
    #[error("the guest refused at step {step:?}: {errno}")]
    Refused {
        /// Where.
        step: Step,
        /// The kernel's word.
        errno: nix::errno::Errno,
    },
    /// No connection could be made.
    #[error("connect to the guest")]
    Connect(#[source] io::Error),
}
