//! The phases of a sandbox. Pure.
//!
//! ```text
//!                ┌──── failed ◄──── Hibernating ◄─┬──────────────────┐
//!                ▼                        │       │ idle, or asked to │ deeper
//!  Creating ─► Running ───────────────────┼───────┘                  │
//!     │          ▲  │                     ▼                          │
//!     │          │  │      ┌──────► Hibernated{tier} ────────────────┘
//!     │          │  │      │ failed       │
//!     │          └──┼──────┴─────── Waking{tier} ◄── message
//!     ▼             ▼ guest gone            ▲
//!   Failed       Crashed ──── message ──────┘  (on its files, as from the tier `stopped`)
//!     ▲ └───────────┴──► Destroying ─► Destroyed        (legal from every phase)
//!     └───────────────────────┘ could not be removed; Destroy tries again
//! ```
//!
//! What has been made and is gone without anybody having asked for that, files and all, is `Failed` too, from every phase.
//!
//! Where the engine's own tools are used on a sandbox, one that runs is found frozen, and one that is frozen is found awake:
//! that is seen, and needs no step of the daemon's.
//!
//! A phase that ends in -ing says what is being done, and is stored before it is begun; the others say what was seen, and
//! are stored after. A hibernation or a wake that fails goes back to where it began; neither ever destroys anything.
//! `Destroyed` is terminal. A sandbox that could not be made is removed by its own driver: nobody has its id.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::engine::Change;

/// Where a sandbox stands. Only what was observed is recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// It could not be made, or not be removed, or it is gone unasked.
    Failed(Failure),
    /// Being removed.
    Destroying,
    /// Gone.
    Destroyed,
}

/// How deep a sandbox sleeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Its processes stand still in memory, which is paged out where there is swap.
    Frozen,
    /// Its processes are gone, its files are kept.
    Stopped,
}

/// Why a sandbox is not running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What kind.
    pub kind: FailureKind,
    /// The error, with its causes, for people.
    pub message: Arc<str>,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The engine could not make it.
    Create,
    /// Its first process ended.
    Lost,
    /// The engine could not remove it.
    Remove,
    /// Its files are gone, and nobody asked for that.
    Missing,
}

impl Failure {
    /// There is nothing of it any more.
    #[must_use]
    pub fn missing() -> Self {
        Self { kind: FailureKind::Missing, message: Arc::from("its files are gone") }
    }
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
    /// There is nothing of it any more.
    FilesGone,
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
            (Self::Running | Self::Hibernated(Tier::Frozen), Observation::HibernateBegun) => Some(Self::Hibernating),
            (Self::Hibernating, Observation::Asleep(tier)) => Some(Self::Hibernated(tier)),
            (Self::Running, Observation::Asleep(Tier::Frozen)) => Some(Self::Hibernated(Tier::Frozen)),
            (Self::Hibernating, Observation::HibernateFailed)
            | (Self::Waking(_) | Self::Hibernated(Tier::Frozen), Observation::Awake) => Some(Self::Running),
            (Self::Hibernated(tier), Observation::WakeBegun) => Some(Self::Waking(*tier)),
            (Self::Crashed(_), Observation::WakeBegun) => Some(Self::Waking(Tier::Stopped)),
            (Self::Waking(tier), Observation::WakeFailed) => Some(Self::Hibernated(*tier)),
            (phase, Observation::GuestGone(message)) if phase.has_guest() => {
                Some(Self::Crashed(failure(FailureKind::Lost, message)))
            }
            (phase, Observation::FilesGone) if phase.has_files() => Some(Self::Failed(Failure::missing())),
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
            Self::Running | Self::Hibernating | Self::Hibernated(Tier::Frozen) | Self::Waking(Tier::Frozen) => true,
            Self::Hibernated(Tier::Stopped)
            | Self::Waking(Tier::Stopped)
            | Self::Creating
            | Self::Crashed(_)
            | Self::Failed(_)
            | Self::Destroying
            | Self::Destroyed => false,
        }
    }

    /// It has been made, and nobody has asked for its end.
    #[must_use]
    pub fn has_files(&self) -> bool {
        match self {
            Self::Running | Self::Hibernating | Self::Hibernated(_) | Self::Waking(_) | Self::Crashed(_) => true,
            Self::Creating | Self::Failed(_) | Self::Destroying | Self::Destroyed => false,
        }
    }

    /// Whether a change is one that the daemon has neither made nor is making, and so a reason to look.
    #[must_use]
    pub fn is_surprised_by(&self, change: Change) -> bool {
        match change {
            Change::Ended => self.has_guest(),
            Change::Removed | Change::Unknown => self.has_files(),
            Change::Frozen => matches!(self, Self::Running),
            Change::Thawed => matches!(self, Self::Hibernated(Tier::Frozen)),
            Change::OutOfMemory => false,
        }
    }

    /// It says what is being done, not what was seen.
    #[must_use]
    pub fn is_intent(&self) -> bool {
        match self {
            Self::Creating | Self::Hibernating | Self::Waking(_) | Self::Destroying => true,
            Self::Running | Self::Hibernated(_) | Self::Crashed(_) | Self::Failed(_) | Self::Destroyed => false,
        }
    }

    /// Its name, as it is stored and logged.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Running => "running",
            Self::Hibernating => "hibernating",
            Self::Hibernated(_) => "hibernated",
            Self::Waking(_) => "waking",
            Self::Crashed(_) => "crashed",
            Self::Failed(_) => "failed",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
        }
    }

    /// How deep it sleeps, if it does.
    #[must_use]
    pub fn tier(&self) -> Option<Tier> {
        match self {
            Self::Hibernated(tier) | Self::Waking(tier) => Some(*tier),
            _ => None,
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
            Just(Observation::Asleep(Tier::Stopped)),
            Just(Observation::HibernateFailed),
            Just(Observation::WakeBegun),
            Just(Observation::Awake),
            Just(Observation::WakeFailed),
            Just(Observation::CreateFailed(Arc::clone(&message))),
            Just(Observation::GuestGone(Arc::clone(&message))),
            Just(Observation::FilesGone),
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
    fn what_crashed_is_woken_from_its_files_and_sleeps_on_if_that_fails() {
        let crashed = Phase::Running.after(Observation::GuestGone("killed".into())).unwrap();
        let waking = crashed.after(Observation::WakeBegun).unwrap();
        assert_eq!(waking, Phase::Waking(Tier::Stopped));
        assert_eq!(waking.after(Observation::WakeFailed), Some(Phase::Hibernated(Tier::Stopped)));
        assert_eq!(waking.after(Observation::Awake), Some(Phase::Running));
    }

    #[test]
    fn what_is_gone_with_its_files_has_failed_and_can_only_be_destroyed() {
        for phase in [Phase::Running, Phase::Hibernated(Tier::Stopped), Phase::Waking(Tier::Stopped)] {
            let failed = phase.after(Observation::FilesGone).unwrap();
            assert!(matches!(&failed, Phase::Failed(failure) if failure.kind == FailureKind::Missing), "{phase:?}");
            assert!(failed.after(Observation::WakeBegun).is_none());
            assert_eq!(failed.after(Observation::DestroyRequested), Some(Phase::Destroying));
        }
        // What is being made or removed has none yet, or none any more.
        assert!(
            !Phase::Creating.is_surprised_by(Change::Removed) && !Phase::Destroying.is_surprised_by(Change::Removed)
        );
        assert!(Phase::Hibernated(Tier::Stopped).is_surprised_by(Change::Removed));
    }

    #[test]
    fn a_frozen_sandbox_sinks_deeper() {
        let sinking = Phase::Hibernated(Tier::Frozen).after(Observation::HibernateBegun).unwrap();
        let stopped = sinking.after(Observation::Asleep(Tier::Stopped)).unwrap();
        assert_eq!(stopped, Phase::Hibernated(Tier::Stopped));
        assert!(stopped.after(Observation::HibernateBegun).is_none());
        assert!(stopped.after(Observation::GuestGone("nobody".into())).is_none());
    }

    #[test]
    fn what_somebody_else_froze_is_asleep_and_what_somebody_else_thawed_is_awake() {
        assert!(Phase::Running.is_surprised_by(Change::Frozen) && !Phase::Running.is_surprised_by(Change::Thawed));
        let asleep = Phase::Running.after(Observation::Asleep(Tier::Frozen)).unwrap();
        assert_eq!(asleep, Phase::Hibernated(Tier::Frozen));
        assert!(asleep.is_surprised_by(Change::Thawed) && !asleep.is_surprised_by(Change::Frozen));
        assert_eq!(asleep.after(Observation::Awake), Some(Phase::Running));
        // What is being done is no surprise.
        assert!(!Phase::Hibernating.is_surprised_by(Change::Frozen));
        assert!(!Phase::Waking(Tier::Frozen).is_surprised_by(Change::Thawed));
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
