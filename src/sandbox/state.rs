//! The phases of a sandbox. Pure.
//!
//! ```text
//!  Creating ─► Running ─► Crashed
//!     │           │          │
//!     ▼           ▼          ▼
//!   Failed ───► Destroying ─────► Destroyed
//!     ▲           │
//!     └───────────┘ (could not be removed; Destroy tries again)
//! ```
//!
//! `Destroyed` is terminal. A sandbox that could not be made is removed by its own driver: nobody has its id.

use std::sync::Arc;

/// Where a sandbox stands. Only what was observed is recorded.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Being made.
    Creating,
    /// Its guest has answered.
    Running,
    /// Its first process has ended without having been told to.
    Crashed(Failure),
    /// It could not be made, or not be removed.
    Failed(Failure),
    /// Being removed.
    Destroying,
    /// Gone.
    Destroyed,
}

/// Why a sandbox is not running.
#[derive(Debug, Clone)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// The error, with its causes, for people.
    pub message: Arc<str>,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The engine could not make it.
    Create,
    /// Its first process ended.
    Lost,
    /// The engine could not remove it.
    Remove,
}

/// What was observed.
#[derive(Debug, Clone)]
pub enum Observation {
    /// The guest has answered.
    GuestReady,
    /// The engine could not make it.
    CreateFailed(Arc<str>),
    /// The first process has ended, or the guest cannot be reached any more.
    GuestGone(Arc<str>),
    /// Somebody asked for its removal.
    DestroyRequested,
    /// The engine has removed it.
    Removed,
    /// The engine could not.
    RemoveFailed(Arc<str>),
}

impl Phase {
    /// The phase after an observation; `None` if it changes nothing.
    #[must_use]
    pub fn after(&self, observation: Observation) -> Option<Self> {
        let failure = |kind, message| Failure { kind, message };
        match (self, observation) {
            (Self::Creating, Observation::GuestReady) => Some(Self::Running),
            (Self::Creating, Observation::CreateFailed(message)) => {
                Some(Self::Failed(failure(FailureKind::Create, message)))
            }
            (Self::Running, Observation::GuestGone(message)) => {
                Some(Self::Crashed(failure(FailureKind::Lost, message)))
            }
            (Self::Creating | Self::Running | Self::Crashed(_) | Self::Failed(_), Observation::DestroyRequested) => {
                Some(Self::Destroying)
            }
            (Self::Destroying, Observation::Removed) => Some(Self::Destroyed),
            (Self::Destroying, Observation::RemoveFailed(message)) => {
                Some(Self::Failed(failure(FailureKind::Remove, message)))
            }
            (
                Self::Creating
                | Self::Running
                | Self::Crashed(_)
                | Self::Failed(_)
                | Self::Destroying
                | Self::Destroyed,
                _,
            ) => None,
        }
    }

    /// Nothing follows.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Destroyed)
    }

    /// The failure, if this is one.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Crashed(failure) | Self::Failed(failure) => Some(failure),
            Self::Creating | Self::Running | Self::Destroying | Self::Destroyed => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn observation() -> impl Strategy<Value = Observation> {
        let message: Arc<str> = "why".into();
        prop_oneof![
            Just(Observation::GuestReady),
            Just(Observation::CreateFailed(Arc::clone(&message))),
            Just(Observation::GuestGone(Arc::clone(&message))),
            Just(Observation::DestroyRequested),
            Just(Observation::Removed),
            Just(Observation::RemoveFailed(message)),
        ]
    }

    proptest! {
        #[test]
        fn from_anywhere_a_request_and_a_removal_lead_to_the_end(steps in prop::collection::vec(observation(), 0..20)) {
            let mut phase = Phase::Creating;
            for step in steps {
                phase = phase.after(step).unwrap_or(phase);
            }
            for step in [Observation::DestroyRequested, Observation::Removed] {
                phase = phase.after(step).unwrap_or(phase);
            }
            prop_assert!(phase.is_final());
        }

        #[test]
        fn nothing_is_removed_that_was_not_asked_to_be(steps in prop::collection::vec(observation(), 0..20)) {
            let mut phase = Phase::Creating;
            let mut asked = false;
            for step in steps {
                asked |= matches!(step, Observation::DestroyRequested);
                phase = phase.after(step).unwrap_or(phase);
                prop_assert!(asked || !matches!(phase, Phase::Destroying | Phase::Destroyed));
            }
        }

        #[test]
        fn the_end_is_the_end(step in observation()) {
            prop_assert!(Phase::Destroyed.after(step).is_none());
        }
    }

    #[test]
    fn a_sandbox_runs_only_when_its_guest_has_answered() {
        assert!(matches!(Phase::Creating.after(Observation::GuestReady), Some(Phase::Running)));
        let gone = || Observation::GuestGone("exit".into());
        let crashed = Phase::Running.after(gone()).unwrap();
        assert!(matches!(&crashed, Phase::Crashed(failure) if failure.kind == FailureKind::Lost));
        assert!(crashed.after(Observation::GuestReady).is_none());
        assert!(Phase::Destroying.after(gone()).is_none());
    }
}
