//! What a sandbox keeps running: a process of its owner's choice, supervised.
//!
//! [`Runtime`] is what was asked for, [`state::Supervised`] how it stands, `watch` what waits for its end and ends it when it
//! hangs. The sandbox's driver starts it, again after each end that asks for it, until it has ended too often.
//!
//! It is a run like any other, attached to and ended by its id, but it is no use of the sandbox: it sleeps with it. What is
//! frozen goes on after the wake; what was ended with the sandbox is started again then, which counts as no crash.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::hands::{BackgroundPolicy, Command, Deadline, Program, Run, Stdio};

pub mod state;
mod watch;

pub(super) use watch::watch;

/// How the keys of runs begin that are runtimes. No caller's key holds a NUL.
const KEY: &str = "\0runtime/";

/// The same of the commands that look after them.
const CHECK_KEY: &str = "\0check/";

/// What is to be kept running.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runtime {
    /// What.
    pub program: Program,
    /// Where; absolute, or relative to the workspace. Empty: the workspace.
    pub cwd: String,
    /// Over the sandbox's environment.
    pub env: BTreeMap<String, String>,
    /// Who as; `None`: the sandbox's user.
    pub user: Option<String>,
    /// After which ends it is started again.
    pub restart: Restart,
    /// How it is seen to hang, if at all.
    pub health: Option<Health>,
    /// Between SIGTERM and SIGKILL, when it is ended.
    pub stop_grace: Duration,
}

/// After which ends a runtime is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Restart {
    /// None.
    Never,
    /// All but an exit with code 0.
    OnFailure,
    /// All.
    Always,
}

/// How a runtime is seen to hang.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Health {
    /// A command for the sandbox's shell says so, by another code than 0 or by taking too long, several times in a row.
    Command {
        /// The command.
        command: String,
        /// Between two of them.
        interval: Duration,
        /// How long it may take.
        timeout: Duration,
        /// How long after its start the runtime is left alone.
        start_period: Duration,
    },
    /// It has written nothing for too long.
    Heartbeat {
        /// How long.
        within: Duration,
        /// How long after its start the runtime is left alone.
        start_period: Duration,
    },
}

impl Runtime {
    /// Its run.
    pub(super) fn command(&self) -> Command {
        Command {
            program: self.program.clone(),
            cwd: self.cwd.clone(),
            env: self.env.clone(),
            user: self.user.clone(),
            deadline: Deadline::Never,
            stdio: Stdio::Output,
            // What it leaves would be in the way of the next.
            background: BackgroundPolicy::Kill,
        }
    }
}

/// The key of a runtime's run, the how manieth start it is.
pub(super) fn key(start: u64) -> String {
    format!("{KEY}{start}")
}

/// A run is, or was, the runtime of its sandbox.
#[must_use]
pub fn is_runtime(run: &Run) -> bool {
    run.key().is_some_and(|key| key.starts_with(KEY))
}

/// A run looks after one. Nobody asked for it.
#[must_use]
pub fn is_check(run: &Run) -> bool {
    run.key().is_some_and(|key| key.starts_with(CHECK_KEY))
}
