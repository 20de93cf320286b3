//! What becomes of a sandbox that an earlier daemon kept. Pure: the record says what was intended or seen, the engine what
//! there is now.

use std::sync::Arc;

use super::state::{Failure, FailureKind, Phase, Tier};

/// What the engine found of a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// Its processes run.
    Awake,
    /// They stand still.
    Frozen,
    /// Its files.
    Files,
    /// Nothing.
    Nothing,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// It stands thus: take it over.
    Adopt(Phase),
    /// Nobody has its id, or somebody asked for its end: remove what there is.
    Remove,
}

/// Decides. `same_boot`: the node has not been started anew since the record was written.
#[must_use]
pub fn plan(recorded: &Phase, remains: Remains, same_boot: bool) -> Plan {
    match (recorded, remains) {
        // Its maker has not heard of it, and a second try with the same key makes another.
        (Phase::Creating | Phase::Destroying | Phase::Destroyed, _) => Plan::Remove,
        (Phase::Failed(failure), _) if failure.kind != FailureKind::Missing => Plan::Adopt(recorded.clone()),
        (_, Remains::Nothing) => Plan::Adopt(Phase::Failed(Failure::missing())),
        // What has crashed or was stopped has no processes. If there are some all the same, they are its own: a wake was
        // under way.
        (_, Remains::Awake) => Plan::Adopt(Phase::Running),
        (_, Remains::Frozen) => Plan::Adopt(Phase::Hibernated(Tier::Frozen)),
        (Phase::Crashed(_), Remains::Files) => Plan::Adopt(recorded.clone()),
        // Put there on purpose; or a wake or a sinking that was cut off.
        (Phase::Hibernated(Tier::Stopped) | Phase::Waking(Tier::Stopped) | Phase::Hibernating, Remains::Files) => {
            Plan::Adopt(Phase::Hibernated(Tier::Stopped))
        }
        (_, Remains::Files) if !same_boot => Plan::Adopt(Phase::Hibernated(Tier::Stopped)),
        (_, Remains::Files) => Plan::Adopt(Phase::Crashed(lost())),
    }
}

fn lost() -> Failure {
    Failure { kind: FailureKind::Lost, message: Arc::from("its first process ended while no daemon ran") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn phase() -> impl Strategy<Value = Phase> {
        let tier = prop_oneof![Just(Tier::Frozen), Just(Tier::Stopped)];
        prop_oneof![
            Just(Phase::Creating),
            Just(Phase::Running),
            Just(Phase::Hibernating),
            tier.clone().prop_map(Phase::Hibernated),
            tier.prop_map(Phase::Waking),
            Just(Phase::Crashed(lost())),
            Just(Phase::Failed(Failure { kind: FailureKind::Remove, message: "busy".into() })),
            Just(Phase::Destroying),
        ]
    }

    fn remains() -> impl Strategy<Value = Remains> {
        prop_oneof![Just(Remains::Awake), Just(Remains::Frozen), Just(Remains::Files), Just(Remains::Nothing)]
    }

    proptest! {
        #[test]
        fn only_what_was_never_handed_out_or_was_to_go_is_removed(
            recorded in phase(), remains in remains(), same_boot: bool,
        ) {
            let removed = plan(&recorded, remains, same_boot) == Plan::Remove;
            prop_assert_eq!(removed, matches!(recorded, Phase::Creating | Phase::Destroying));
        }

        #[test]
        fn what_is_adopted_is_as_it_was_found(recorded in phase(), remains in remains(), same_boot: bool) {
            let Plan::Adopt(phase) = plan(&recorded, remains, same_boot) else { return Ok(()) };
            prop_assert!(!phase.is_intent());
            if !matches!(phase, Phase::Failed(_)) {
                prop_assert_eq!(phase.has_guest(), matches!(remains, Remains::Awake | Remains::Frozen));
            }
        }

        #[test]
        fn a_plan_that_was_carried_out_stands(recorded in phase(), remains in remains(), same_boot: bool) {
            let Plan::Adopt(phase) = plan(&recorded, remains, same_boot) else { return Ok(()) };
            prop_assert_eq!(plan(&phase, remains, true), Plan::Adopt(phase));
        }
    }

    #[test]
    fn a_death_is_told_from_a_reboot() {
        let crashed = plan(&Phase::Running, Remains::Files, true);
        assert!(matches!(crashed, Plan::Adopt(Phase::Crashed(failure)) if failure.kind == FailureKind::Lost));
        let rebooted = plan(&Phase::Running, Remains::Files, false);
        assert_eq!(rebooted, Plan::Adopt(Phase::Hibernated(Tier::Stopped)));
    }

    #[test]
    fn a_step_that_was_cut_off_is_where_it_had_come_to() {
        for (recorded, remains, phase) in [
            (Phase::Hibernating, Remains::Awake, Phase::Running),
            (Phase::Hibernating, Remains::Frozen, Phase::Hibernated(Tier::Frozen)),
            (Phase::Hibernating, Remains::Files, Phase::Hibernated(Tier::Stopped)),
            (Phase::Waking(Tier::Frozen), Remains::Frozen, Phase::Hibernated(Tier::Frozen)),
            (Phase::Waking(Tier::Frozen), Remains::Awake, Phase::Running),
            (Phase::Waking(Tier::Stopped), Remains::Files, Phase::Hibernated(Tier::Stopped)),
            (Phase::Waking(Tier::Stopped), Remains::Awake, Phase::Running),
        ] {
            assert_eq!(plan(&recorded, remains, true), Plan::Adopt(phase), "{recorded:?} {remains:?}");
        }
    }
}
