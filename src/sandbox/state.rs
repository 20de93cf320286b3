//! The phases of a sandbox. Pure.
//!
//! ```text
//!                ┌──── failed ◄──── Hibernating ◄─┐
//!                ▼                        │        │ idle, or asked to
//!  Creating ─► Running ───────────────────┼────────┘
//!     │          ▲  │                     ▼
//!     │          │  │               Hibernated{tier} ◄─ failed ─┐
//!     │          └──┼──────────────────── Waking ◄── message ───┘
//!     ▼             ▼ guest gone, from any of these four
//!   Failed       Crashed
//!     ▲ └───────────┴──► Destroying ─► Destroyed        (legal from every phase)
//!     └───────────────────────┘ could not be removed; Destroy tries again
//! ```
//!
//! A hibernation or a wake that fails goes back to where it began; neither ever destroys anything. `Destroyed` is terminal. A sandbox that could not be made is removed by its own driver: nobody has its id.

use std::sync::Arc;

/// Where a sandbox stands. Only what was observed is recorded.
#[derive(Debug, Clone)]
pub enum Phase {
    /// Being made.
    Creating,
    /// Its guest has answered.
    Running,
    /// Being put to sleep.
    Hibernating,
    /// Asleep.
    Hibernated(Tier),
    /// Being woken.
    Waking(Tier),
    /// Its first process has ended without having been told to.
    Crashed(Failure),
    /// It could not be made, or not be removed.
    Failed(Failure),
    /// Being removed.
    Destroying,
    /// Gone.
    Destroyed,
}

/// How deep a sandbox sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// Its processes stand still in memory, which is paged out where there is swap.
    Frozen,
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
    /// It is idle, or somebody asked for it to sleep.
    HibernateBegun,
    /// The engine says that it sleeps.
    Asleep(Tier),
    /// The engine could not put it to sleep.
    HibernateFailed,
    /// Somebody needs it.
    WakeBegun,
    /// The engine says that it is awake.
    Awake,
    /// The engine could not wake it.
    WakeFailed,
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
            (Self::Running, Observation::HibernateBegun) => Some(Self::Hibernating),
            (Self::Hibernating, Observation::Asleep(tier)) => Some(Self::Hibernated(tier)),
            (Self::Hibernating, Observation::HibernateFailed) | (Self::Waking(_), Observation::Awake) => {
                Some(Self::Running)
            }
            (Self::Hibernated(tier), Observation::WakeBegun) => Some(Self::Waking(*tier)),
            (Self::Waking(tier), Observation::WakeFailed) => Some(Self::Hibernated(*tier)),
            (phase, Observation::GuestGone(message)) if phase.has_guest() => {
                Some(Self::Crashed(failure(FailureKind::Lost, message)))
            }
            (Self::Destroying, Observation::Removed) => Some(Self::Destroyed),
            (Self::Destroying, Observation::RemoveFailed(message)) => {
                Some(Self::Failed(failure(FailureKind::Remove, message)))
            }
            (Self::Destroying | Self::Destroyed, Observation::DestroyRequested) => None,
            (_, Observation::DestroyRequested) => Some(Self::Destroying),
            // What is observed too late, or twice, changes nothing.
            (_, _) => None,
        }
    }

    /// Its guest is there, awake or asleep.
    #[must_use]
    pub fn has_guest(&self) -> bool {
        match self {
            Self::Running | Self::Hibernating | Self::Hibernated(_) | Self::Waking(_) => true,
            Self::Creating | Self::Crashed(_) | Self::Failed(_) | Self::Destroying | Self::Destroyed => false,
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
            Self::Creating
            | Self::Running
            | Self::Hibernating
            | Self::Hibernated(_)
            | Self::Waking(_)
            | Self::Destroying
            | Self::Destroyed => None,
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
            Just(Observation::HibernateBegun),
            Just(Observation::Asleep(Tier::Frozen)),
            Just(Observation::HibernateFailed),
            Just(Observation::WakeBegun),
            Just(Observation::Awake),
            Just(Observation::WakeFailed),
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
    fn sleep_that_fails_goes_back_to_where_it_began() {
        let hibernating = Phase::Running.after(Observation::HibernateBegun).unwrap();
        assert!(matches!(hibernating.after(Observation::HibernateFailed), Some(Phase::Running)));
        let asleep = hibernating.after(Observation::Asleep(Tier::Frozen)).unwrap();
        let waking = asleep.after(Observation::WakeBegun).unwrap();
        assert!(matches!(waking.after(Observation::WakeFailed), Some(Phase::Hibernated(Tier::Frozen))));
        assert!(matches!(waking.after(Observation::Awake), Some(Phase::Running)));
    }

    #[test]
    fn a_sandbox_that_dies_in_its_sleep_has_crashed() {
        let asleep = Phase::Hibernated(Tier::Frozen);
        assert!(matches!(asleep.after(Observation::GuestGone("killed".into())), Some(Phase::Crashed(_))));
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
