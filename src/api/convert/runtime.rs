//! What sandboxes keep running.

use std::time::Duration;

use super::runs::program;
use super::{MAX_PATH, bounded, check_env, checked_user};
use crate::api::proto::{self, ErrorReason};
use crate::api::status::Fault;
use crate::guest::client::ExitStatus;
use crate::hands::Program;
use crate::sandbox::runtime::state::{EndReason, Ending, State, Supervised};
use crate::sandbox::runtime::{Health, Restart, Runtime};

/// Most bytes of a command with its environment: it is kept in the sandbox's record.
const MAX_BYTES: usize = 128 << 10;
/// Between SIGTERM and SIGKILL, if not said otherwise: Docker's.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// The longest: what wants the sandbox stopped waits for it.
const MAX_STOP_GRACE: Duration = Duration::from_secs(60);
/// Between two health commands, and how long each may take, if not said otherwise.
const INTERVAL: Duration = Duration::from_secs(30);
const TIMEOUT: Duration = Duration::from_secs(10);
/// More often would be more work than what is looked after.
const MIN_PERIOD: Duration = Duration::from_millis(100);
/// The longest of the other spans.
const MAX_PERIOD: Duration = Duration::from_secs(24 * 3600);

/// What is to be kept running.
///
/// # Errors
/// The first bad field.
pub(super) fn runtime(request: proto::Runtime) -> Result<Runtime, Fault> {
    checked(request).map_err(|fault| fault.within("runtime"))
}

fn checked(request: proto::Runtime) -> Result<Runtime, Fault> {
    let env_bytes = check_env("env", &request.env, MAX_BYTES)?;
    let program = program(Some(request.command).filter(|line| !line.is_empty()), request.argv)?;
    let (field, words): (_, usize) = match &program {
        Program::Shell(line) => ("command", line.len()),
        Program::Argv(argv) => ("argv", argv.iter().map(|word| word.len() + 1).sum()),
    };
    if words + env_bytes > MAX_BYTES {
        let message = format!("has {} bytes with env, at most {MAX_BYTES} are allowed", words + env_bytes);
        return Err(Fault::argument_for(ErrorReason::ArgumentsTooLong, field, message));
    }
    bounded("cwd", &request.cwd, MAX_PATH)?;
    Ok(Runtime {
        program,
        cwd: request.cwd,
        env: request.env,
        user: checked_user(request.user)?,
        restart: restart(request.restart)?,
        health: request.health.map(health).transpose()?,
        stop_grace: span("stop_grace", request.stop_grace, STOP_GRACE, Duration::ZERO, MAX_STOP_GRACE)?,
    })
}

fn restart(restart: i32) -> Result<Restart, Fault> {
    use proto::runtime::Restart as Word;
    match Word::try_from(restart) {
        Ok(Word::Unspecified | Word::OnFailure) => Ok(Restart::OnFailure),
        Ok(Word::Never) => Ok(Restart::Never),
        Ok(Word::Always) => Ok(Restart::Always),
        Err(_) => Err(Fault::argument("restart", "is not a value of this version")),
    }
}

fn health(health: proto::Health) -> Result<Health, Fault> {
    use proto::health::Check;
    let start_period = span("health.start_period", health.start_period, Duration::ZERO, Duration::ZERO, MAX_PERIOD)?;
    match health.check {
        Some(Check::Command(command)) => {
            bounded("health.command", &command, MAX_BYTES)?;
            Ok(Health::Command {
                command,
                interval: span("health.interval", health.interval, INTERVAL, MIN_PERIOD, MAX_PERIOD)?,
                timeout: span("health.timeout", health.timeout, TIMEOUT, MIN_PERIOD, MAX_PERIOD)?,
                start_period,
            })
        }
        Some(Check::Heartbeat(within)) => {
            let within = span("health.heartbeat", Some(within), MAX_PERIOD, MIN_PERIOD, MAX_PERIOD)?;
            Ok(Health::Heartbeat { within, start_period })
        }
        None => Err(Fault::argument("health", "has neither command nor heartbeat")),
    }
}

fn span(
    field: &'static str,
    span: Option<prost_types::Duration>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, Fault> {
    let Some(span) = span else { return Ok(default) };
    let span = super::span(span).filter(|span| (least..=most).contains(span));
    span.ok_or_else(|| Fault::argument(field, format!("is {least:?} to {most:?}")))
}

/// What is kept running, as it was asked for.
pub(super) fn runtime_message(runtime: &Runtime) -> proto::Runtime {
    use proto::runtime::Restart as Word;
    let (command, argv) = match &runtime.program {
        Program::Shell(line) => (line.clone(), Vec::new()),
        Program::Argv(argv) => (String::new(), argv.clone()),
    };
    proto::Runtime {
        command,
        argv,
        env: runtime.env.clone(),
        cwd: runtime.cwd.clone(),
        user: runtime.user.clone().unwrap_or_default(),
        restart: match runtime.restart {
            Restart::Never => Word::Never,
            Restart::OnFailure => Word::OnFailure,
            Restart::Always => Word::Always,
        }
        .into(),
        health: runtime.health.as_ref().map(health_message),
        stop_grace: prost_types::Duration::try_from(runtime.stop_grace).ok(),
    }
}

fn health_message(health: &Health) -> proto::Health {
    use proto::health::Check;
    let proto = |span: Duration| prost_types::Duration::try_from(span).ok();
    match health {
        Health::Command { command, interval, timeout, start_period } => proto::Health {
            check: Some(Check::Command(command.clone())),
            interval: proto(*interval),
            timeout: proto(*timeout),
            start_period: proto(*start_period),
        },
        Health::Heartbeat { within, start_period } => proto::Health {
            check: proto(*within).map(Check::Heartbeat),
            interval: None,
            timeout: None,
            start_period: proto(*start_period),
        },
    }
}

/// How it stands.
pub(super) fn runtime_status(supervised: &Supervised) -> proto::RuntimeStatus {
    use proto::runtime_status::State as Word;
    let (state, next_start, failure) = match supervised.state {
        State::Due { at } => (Word::Starting, Some(at.into()), None),
        State::Running { .. } => (Word::Running, None, None),
        State::Exited => (Word::Exited, None, None),
        State::Failed { crashes } => {
            let reason = ErrorReason::CrashLoop.as_str_name().to_owned();
            let message = format!("it ended {crashes} times in a short time");
            (Word::Failed, None, Some(proto::Failure { reason, message }))
        }
    };
    proto::RuntimeStatus {
        state: state.into(),
        run_id: supervised.run.as_ref().map(ToString::to_string).unwrap_or_default(),
        starts: supervised.starts,
        next_start,
        last_exit: supervised.last.as_ref().map(exit_message),
        failure,
    }
}

fn exit_message(ending: &Ending) -> proto::RuntimeExit {
    use proto::runtime_exit::{Reason as Word, Status};
    proto::RuntimeExit {
        reason: match ending.reason {
            EndReason::Exited => Word::Exited,
            EndReason::Signaled => Word::Signaled,
            EndReason::OomKilled => Word::OomKilled,
            EndReason::Hung => Word::Hung,
            EndReason::Canceled => Word::Canceled,
            EndReason::SandboxLost => Word::SandboxLost,
            EndReason::NotStarted => Word::NotStarted,
        }
        .into(),
        status: ending.status.map(|status| match status {
            ExitStatus::Code(code) => Status::Code(code),
            ExitStatus::Signal(signal) => Status::Signal(signal),
        }),
        message: ending.message.clone(),
        at: Some(ending.at.into()),
    }
}
