//! What a sandbox keeps running. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::time;
use crate::api::proto;
use crate::sandbox::runtime::Restart;
use crate::sandbox::runtime::state::{State, Supervised};

/// A process that is to be kept running. Spans are seconds.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runtime {
    /// A line for the shell; either this or `argv`.
    command: String,
    argv: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: String,
    user: String,
    restart: Option<Restart>,
    health: Option<Health>,
    stop_grace: Option<f64>,
}

/// How it is seen to hang: by a command or by its silence.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Health {
    command: Option<String>,
    heartbeat: Option<f64>,
    interval: Option<f64>,
    timeout: Option<f64>,
    start_period: Option<f64>,
}

impl Runtime {
    /// The message that asks for the same.
    #[must_use]
    pub fn into_message(self) -> proto::Runtime {
        use proto::runtime::Restart as Word;
        proto::Runtime {
            command: self.command,
            argv: self.argv,
            env: self.envs,
            cwd: self.cwd,
            user: self.user,
            restart: match self.restart {
                None => Word::Unspecified,
                Some(Restart::Never) => Word::Never,
                Some(Restart::OnFailure) => Word::OnFailure,
                Some(Restart::Always) => Word::Always,
            }
            .into(),
            health: self.health.map(Health::into_message),
            stop_grace: self.stop_grace.map(span),
        }
    }
}

impl Health {
    fn into_message(self) -> proto::Health {
        use proto::health::Check;
        let heartbeat = || self.heartbeat.map(span).map(Check::Heartbeat);
        proto::Health {
            check: self.command.map(Check::Command).or_else(heartbeat),
            interval: self.interval.map(span),
            timeout: self.timeout.map(span),
            start_period: self.start_period.map(span),
        }
    }
}

/// Seconds as a span. What is none becomes a negative one, which is refused by its field.
fn span(seconds: f64) -> prost_types::Duration {
    let span = std::time::Duration::try_from_secs_f64(seconds).ok();
    let span = span.and_then(|span| prost_types::Duration::try_from(span).ok());
    span.unwrap_or(prost_types::Duration { seconds: -1, nanos: 0 })
}

/// How it stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RuntimeView {
    state: RuntimeState,
    /// The run that it is, or was last.
    #[serde(rename = "sessionID", skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    starts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_start: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum RuntimeState {
    Starting,
    Running,
    Exited,
    Failed,
}

/// How it stands.
#[must_use]
pub fn view(supervised: &Supervised) -> RuntimeView {
    let (state, next_start) = match supervised.state {
        State::Due { at } => (RuntimeState::Starting, Some(time(at))),
        State::Running { .. } => (RuntimeState::Running, None),
        State::Exited => (RuntimeState::Exited, None),
        State::Failed { .. } => (RuntimeState::Failed, None),
    };
    let run = supervised.run.as_ref().map(ToString::to_string);
    RuntimeView { state, run, starts: supervised.starts, next_start }
}
