//! Commands, terminals, and what became of them. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{lacking, seconds, time};
use crate::api::http::problem::Problem;
use crate::api::proto;
use crate::guest::client::ExitStatus;
use crate::hands::{Exited, Program, Reason, Run, Started, Stdio};
use crate::ids::SandboxId;

/// Deadline of a command whose caller waits for its result and names none, in seconds; the client's own default.
const RUN_TIMEOUT: u64 = 60;

/// What a shell answers for a command that a signal has ended: this and the signal's number.
const SIGNAL_CODE: i32 = 128;
/// What timeout(1) answers for a command that it has ended.
const TIMED_OUT_CODE: i32 = 124;
/// Nobody knows how the command has ended.
const LOST_CODE: i32 = -1;

/// A command that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Exec {
    cmd: String,
    args: Vec<String>,
    envs: BTreeMap<String, String>,
    cwd: String,
    /// Seconds; 0: none.
    timeout: Option<u64>,
    max_run_after_disconnect: u64,
}

impl Exec {
    /// A command that callers attach to: its stdin is open, and it has no deadline unless the caller names one.
    ///
    /// # Errors
    /// It shall end with its client, which this node lacks.
    pub fn into_attachable(self, sandbox: String) -> Result<proto::BashRequest, Problem> {
        if self.max_run_after_disconnect > 0 {
            return Err(lacking("maxRunAfterDisconnect"));
        }
        Ok(proto::BashRequest { stdin: true, ..self.into_message(sandbox, 0) })
    }

    /// A command whose result is waited for.
    #[must_use]
    pub fn into_awaited(self, sandbox: String) -> proto::BashRequest {
        self.into_message(sandbox, RUN_TIMEOUT)
    }

    fn into_message(self, sandbox_id: String, timeout: u64) -> proto::BashRequest {
        let program = Some(self.cmd).filter(|cmd| !cmd.is_empty());
        proto::BashRequest {
            sandbox_id,
            argv: program.into_iter().chain(self.args).collect(),
            env: self.envs,
            cwd: self.cwd,
            timeout: Some(seconds(self.timeout.unwrap_or(timeout))),
            ..Default::default()
        }
    }
}

/// A terminal that is wanted.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Terminal {
    cols: u32,
    rows: u32,
    shell: String,
    cwd: String,
    envs: BTreeMap<String, String>,
}

/// Starts the best shell that the image has.
const ANY_SHELL: &str = "command -v bash >/dev/null && exec bash -i; exec sh -i";

impl Terminal {
    /// The message that asks for the same.
    #[must_use]
    pub fn into_message(self, sandbox_id: String) -> proto::BashRequest {
        let (command, argv) = match self.shell {
            shell if shell.is_empty() => (Some(ANY_SHELL.to_owned()), Vec::new()),
            shell => (None, vec![shell]),
        };
        proto::BashRequest {
            sandbox_id,
            command,
            argv,
            env: self.envs,
            cwd: self.cwd,
            timeout: Some(seconds(0)),
            pty: Some(proto::Pty { rows: self.rows, cols: self.cols, ..Default::default() }),
            ..Default::default()
        }
    }
}

/// A run as it stands.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunView {
    #[serde(rename = "sessionID")]
    id: String,
    #[serde(rename = "sandboxID")]
    sandbox: String,
    command: String,
    args: Vec<String>,
    running: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    deadline: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<u64>,
    output_bytes: u64,
    pty: bool,
    attached_clients: usize,
}

/// A run as it stands; `None` before it has started.
#[must_use]
pub fn run(sandbox: &SandboxId, run: &Run, attached_clients: usize) -> Option<RunView> {
    let Started { id, at, deadline, spool, .. } = run.started()?;
    let (command, args) = match &run.command().program {
        Program::Shell(line) => (line.clone(), Vec::new()),
        Program::Argv(argv) => {
            argv.split_first().map(|(program, args)| (program.clone(), args.to_vec())).unwrap_or_default()
        }
    };
    let exited = run.exited();
    Some(RunView {
        id: id.to_string(),
        sandbox: sandbox.to_string(),
        command,
        args,
        running: exited.is_none(),
        exit_code: exited.as_ref().map(exit_code),
        reason: exited.as_ref().map(|exited| exited.reason.name().to_owned()),
        started_at: time(at),
        deadline: deadline.map(time),
        elapsed_ms: exited.map(|exited| u64::try_from(exited.elapsed.as_millis()).unwrap_or(u64::MAX)),
        output_bytes: spool.len(),
        pty: matches!(run.command().stdio, Stdio::Terminal { .. }),
        attached_clients,
    })
}

/// How a command ended, as one number.
#[must_use]
pub fn exit_code(exited: &Exited) -> i32 {
    match (exited.reason, exited.status) {
        (Reason::TimedOut, _) => TIMED_OUT_CODE,
        (_, Some(ExitStatus::Code(code))) => code,
        (_, Some(ExitStatus::Signal(signal))) => SIGNAL_CODE + signal,
        (_, None) => LOST_CODE,
    }
}

/// A command whose result is asked for later.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HandleView {
    exec_id: String,
    running: bool,
    started_at: Option<String>,
}

/// What to ask for the result of a run by.
#[must_use]
pub fn handle(run: &Run) -> HandleView {
    let started_at = run.started().map(|started| time(started.at));
    HandleView { exec_id: run.id().to_string(), running: true, started_at }
}

/// What a command has come to so far.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResultView {
    /// It has not ended.
    pub running: bool,
    /// How it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it wrote there.
    pub stdout: String,
    /// What it wrote there.
    pub stderr: String,
    /// There was more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truncated: Option<bool>,
    /// What went wrong with it that is not its own doing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// From its start to its end, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub command_ms: Option<u64>,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    #[test]
    fn a_command_that_shall_end_with_its_client_is_refused() {
        let exec: Exec = serde_json::from_value(json!({ "cmd": "ls", "maxRunAfterDisconnect": 5 })).unwrap();
        assert_eq!(exec.into_attachable("sb".to_owned()).unwrap_err().param.as_deref(), Some("maxRunAfterDisconnect"));
    }

    #[test]
    fn an_end_is_one_number_and_a_lost_one_is_never_0() {
        let exited = |reason, status| exit_code(&Exited { reason, status, elapsed: Duration::ZERO, ..Exited::lost() });
        assert_eq!(exited(Reason::Exited, Some(ExitStatus::Code(7))), 7);
        assert_eq!(exited(Reason::Signaled, Some(ExitStatus::Signal(9))), 137);
        assert_eq!(exited(Reason::TimedOut, Some(ExitStatus::Code(0))), 124);
        assert_eq!(exited(Reason::SandboxLost, None), -1);
    }
}
