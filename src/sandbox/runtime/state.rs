//! How a runtime stands, and what follows from its end. Pure.
//!
//! ```text
//!  Due ── its time has come ─► Running ── it ends ─► Exited       (it is not to be started again)
//!   ▲                           │  │ └───────────► Failed       (it has ended too often: another try has to be asked for)
//!   ├──── it ends: back off ────┘  │
//!   └── its sandbox was stopped ───┘
//! ```

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Restart;
use crate::guest::client::ExitStatus;
use crate::hands::{self, Exited};
use crate::ids::RunId;
use crate::sandbox::policy::{Decision, History, Policy};

/// How a runtime stands. It is stored with its sandbox, so that the next daemon goes on from there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Supervised {
    /// How often it was started.
    pub starts: u64,
    /// Where it stands.
    pub state: State,
    /// The run that it is or was last, once that has begun.
    pub run: Option<RunId>,
    /// How it ended last.
    pub last: Option<Ending>,
}

/// Where a runtime stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It is to be started.
    Due {
        /// When.
        at: SystemTime,
    },
    /// It was started and has not been seen to end. It may stand still, with its sandbox.
    Running {
        /// When it was.
        since: SystemTime,
    },
    /// It has ended, and is not to be started again.
    Exited,
    /// It has ended too often in too short a time.
    Failed {
        /// How often.
        crashes: usize,
    },
}

/// How a runtime ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// Why.
    pub reason: EndReason,
    /// Its exit code or signal, as far as there is one.
    pub status: Option<ExitStatus>,
    /// For people; empty if the reason says it all.
    pub message: String,
    /// When that was seen.
    pub at: SystemTime,
}

/// Why a runtime ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EndReason {
    /// It exited.
    Exited,
    /// By a signal that was not ours.
    Signaled,
    /// By the kernel, for want of memory.
    OomKilled,
    /// It hung, and was ended.
    Hung,
    /// A caller ended its run.
    Canceled,
    /// With its sandbox.
    SandboxLost,
    /// It could not be started.
    NotStarted,
}

impl Ending {
    /// The end of its run.
    #[must_use]
    pub fn of_run(exited: &Exited, at: SystemTime) -> Self {
        let reason = match exited.reason {
            hands::Reason::Exited => EndReason::Exited,
            hands::Reason::Signaled => EndReason::Signaled,
            hands::Reason::OomKilled => EndReason::OomKilled,
            hands::Reason::TimedOut | hands::Reason::Canceled => EndReason::Canceled,
            hands::Reason::SandboxLost => EndReason::SandboxLost,
        };
        Self { reason, status: exited.status, message: String::new(), at }
    }

    /// One without a status.
    #[must_use]
    pub fn without_status(reason: EndReason, message: String, at: SystemTime) -> Self {
        Self { reason, status: None, message, at }
    }

    /// It is anything but an exit with code 0.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        (self.reason, self.status) != (EndReason::Exited, Some(ExitStatus::Code(0)))
    }
}

impl Supervised {
    /// One that is to be started at once.
    #[must_use]
    pub fn new(now: SystemTime) -> Self {
        Self { starts: 0, state: State::Due { at: now }, run: None, last: None }
    }

    /// It is about to be started.
    pub fn start(&mut self, now: SystemTime) {
        self.starts += 1;
        self.state = State::Running { since: now };
        self.run = None;
    }

    /// It has ended. One that was not running has not.
    pub fn end(&mut self, ending: Ending, restart: Restart, policy: &Policy, crashes: &mut History, now: SystemTime) {
        let State::Running { since } = self.state else { return };
        let is_again = match restart {
            Restart::Never => false,
            Restart::OnFailure => ending.is_failure(),
            Restart::Always => true,
        };
        self.last = Some(ending);
        self.state = if is_again {
            match crashes.crashed(policy, since, now) {
                Decision::RestartAfter(wait) => State::Due { at: now + wait },
                Decision::GiveUp { crashes } => State::Failed { crashes },
            }
        } else {
            State::Exited
        };
    }

    /// It is to be started at this time, for no fault of its own.
    pub fn postpone(&mut self, at: SystemTime) {
        self.state = State::Due { at };
    }

    /// It was given up.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed { .. })
    }

    /// It was started and has not been seen to end.
    #[must_use]
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const POLICY: Policy = Policy {
        first: SECOND,
        longest: Duration::from_secs(8),
        budget: 3,
        window: Duration::from_secs(100),
        stable: Duration::from_secs(30),
    };

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn exit(code: i32, now: SystemTime) -> Ending {
        let status = Some(ExitStatus::Code(code));
        Ending { reason: EndReason::Exited, status, message: String::new(), at: now }
    }

    fn after(restart: Restart, ending: Ending) -> State {
        let (mut it, mut crashes) = (Supervised::new(at(0)), History::default());
        it.start(at(0));
        it.end(ending, restart, &POLICY, &mut crashes, at(1));
        it.state
    }

    #[test]
    fn what_ends_as_it_should_is_started_again_only_if_it_is_always_to_be() {
        let again = State::Due { at: at(2) };
        assert_eq!(after(Restart::OnFailure, exit(0, at(1))), State::Exited);
        assert_eq!(after(Restart::OnFailure, exit(1, at(1))), again);
        assert_eq!(after(Restart::Always, exit(0, at(1))), again);
        assert_eq!(after(Restart::Never, exit(1, at(1))), State::Exited);
        let hung = Ending::without_status(EndReason::Hung, String::new(), at(1));
        assert_eq!(after(Restart::OnFailure, hung), again);
    }

    #[test]
    fn it_is_given_up_when_it_has_ended_too_often_and_stays_so() {
        let (mut it, mut crashes) = (Supervised::new(at(0)), History::default());
        for second in 0..3 {
            it.start(at(second));
            it.end(exit(1, at(second)), Restart::OnFailure, &POLICY, &mut crashes, at(second));
        }
        assert_eq!((it.state, it.starts), (State::Failed { crashes: 3 }, 3));
        let before = it.clone();
        it.end(exit(0, at(9)), Restart::Always, &POLICY, &mut crashes, at(9));
        assert_eq!(it, before);
    }

    #[test]
    fn its_format_is_that_of_earlier_daemons() {
        let golden = concat!(
            r#"{"starts":2,"state":{"due":{"at":{"secs_since_epoch":5,"nanos_since_epoch":0}}},"run":"run_0123456789abcdefghij","#,
            r#""last":{"reason":"hung","status":{"signal":15},"message":"why","at":{"secs_since_epoch":4,"nanos_since_epoch":0}}}"#,
        );
        let it: Supervised = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&it).unwrap(), golden);
    }

    proptest! {
        #[test]
        fn it_is_never_started_more_often_than_it_may_be_in_a_window(lives in prop::collection::vec(0_u64..20, 0..40)) {
            let (mut it, mut crashes, mut now) = (Supervised::new(at(0)), History::default(), 0);
            let mut ends: Vec<u64> = Vec::new();
            for life in lives {
                let State::Due { at: due } = it.state else { break };
                now = due.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs().max(now);
                it.start(at(now));
                now += life;
                ends.push(now);
                it.end(exit(1, at(now)), Restart::Always, &POLICY, &mut crashes, at(now));
                let recent = ends.iter().filter(|end| now - **end < 100).count();
                prop_assert!(recent <= POLICY.budget);
                prop_assert_eq!(it.has_failed(), recent == POLICY.budget);
            }
        }
    }
}
