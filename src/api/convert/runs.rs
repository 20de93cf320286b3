//! Commands, input, events and exits.

use std::time::{Duration, SystemTime};

use super::{MAX_PATH, MAX_USER, bounded, check_env, checked_user, key, sandbox_id, span};
use crate::api::proto::{self, ErrorReason};
use crate::api::status::Fault;
use crate::guest::client::ExitStatus;
use crate::guest::wire::PtySize;
use crate::hands::output::Stream;
use crate::hands::{BackgroundPolicy, Command, Deadline, Event, Exited, Input, Program, Reason, Run, Started, Stdio};
use crate::ids::SandboxId;
use crate::sandbox::runtime::is_runtime;

/// Most bytes of a command with its environment.
const MAX_COMMAND_BYTES: usize = 1 << 20;
/// Longest grace before SIGKILL.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// Most bytes of input, or of a file, in one message.
pub const MAX_CHUNK: usize = 1 << 20;

/// Bounds of deadlines, as configured.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// If not said otherwise.
    pub default: Duration,
    /// At most.
    pub max: Duration,
}

/// What is to be run where, and the idempotency key.
///
/// # Errors
/// The first bad field.
pub fn command(
    request: proto::BashRequest,
    deadlines: Deadlines,
) -> Result<(SandboxId, Command, Option<String>), Fault> {
    let sandbox = sandbox_id(&request.sandbox_id)?;
    let env_bytes = check_env("env", &request.env, MAX_COMMAND_BYTES)?;
    let program = program(request.command, request.argv)?;
    let (field, words): (_, usize) = match &program {
        Program::Shell(line) => ("command", line.len()),
        Program::Argv(argv) => ("argv", argv.iter().map(|word| word.len() + 1).sum()),
    };
    if words + env_bytes > MAX_COMMAND_BYTES {
        let message = format!("has {} bytes with env, at most {MAX_COMMAND_BYTES} are allowed", words + env_bytes);
        return Err(Fault::argument_for(ErrorReason::ArgumentsTooLong, field, message));
    }
    bounded("cwd", &request.cwd, MAX_PATH)?;
    let command = Command {
        program,
        cwd: request.cwd,
        env: request.env,
        user: checked_user(request.user)?,
        deadline: deadline(request.timeout, deadlines)?,
        stdio: stdio(request.stdin, request.pty)?,
        background: background(request.background_policy)?,
    };
    Ok((sandbox, command, key(request.idempotency_key)?))
}

pub(super) fn program(line: Option<String>, argv: Vec<String>) -> Result<Program, Fault> {
    match (line, argv.is_empty()) {
        (Some(line), true) if line.contains('\0') => Err(Fault::argument("command", "holds a NUL")),
        (Some(line), true) => Ok(Program::Shell(line)),
        (None, true) => Err(Fault::argument("argv", "is empty, and there is no command")),
        (Some(_), false) => Err(Fault::argument("argv", "is set, and so is command; only one may be")),
        (None, false) if argv[0].is_empty() => {
            Err(Fault::argument("argv", "begins with no program: its first is empty"))
        }
        (None, false) if argv.iter().any(|word| word.contains('\0')) => Err(Fault::argument("argv", "holds a NUL")),
        (None, false) => Ok(Program::Argv(argv)),
    }
}

fn deadline(timeout: Option<prost_types::Duration>, deadlines: Deadlines) -> Result<Deadline, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::RunDeadlineInvalid, "timeout", message);
    let Some(timeout) = timeout else { return Ok(Deadline::After(deadlines.default)) };
    let timeout = span(timeout).ok_or_else(|| invalid("is negative or no duration".to_owned()))?;
    match timeout {
        Duration::ZERO => Ok(Deadline::Never),
        timeout if timeout > deadlines.max => {
            Err(invalid(format!("is {} s, at most {} s are allowed", timeout.as_secs(), deadlines.max.as_secs())))
        }
        timeout => Ok(Deadline::After(timeout)),
    }
}

fn stdio(stdin: bool, pty: Option<proto::Pty>) -> Result<Stdio, Fault> {
    match pty {
        None if stdin => Ok(Stdio::Pipes),
        None => Ok(Stdio::Output),
        Some(pty) => {
            bounded("pty.term", &pty.term, MAX_USER)?;
            let or = |value: u32, default: u32| if value == 0 { default } else { value };
            let size = pty_size(or(pty.rows, 24), or(pty.cols, 80), "pty")?;
            let term = if pty.term.is_empty() { "xterm-256color".to_owned() } else { pty.term };
            Ok(Stdio::Terminal { size, term })
        }
    }
}

fn pty_size(rows: u32, cols: u32, field: &'static str) -> Result<PtySize, Fault> {
    let range = 1..=u32::from(u16::MAX);
    if range.contains(&rows) && range.contains(&cols) {
        Ok(PtySize { rows, cols })
    } else {
        Err(Fault::argument(field, format!("rows and cols are 1 to {}", u16::MAX)))
    }
}

fn background(policy: i32) -> Result<BackgroundPolicy, Fault> {
    match proto::BackgroundPolicy::try_from(policy) {
        Ok(proto::BackgroundPolicy::Unspecified | proto::BackgroundPolicy::Keep) => Ok(BackgroundPolicy::Keep),
        Ok(proto::BackgroundPolicy::Kill) => Ok(BackgroundPolicy::Kill),
        Err(_) => Err(Fault::argument("background_policy", "is not a policy of this version")),
    }
}

/// What an input message asks for.
#[derive(Debug)]
pub enum InputAction {
    /// For stdin or the terminal.
    Write(Input),
    /// For the process group.
    Signal(i32),
}

/// One message of Input; `None` if it only names the run.
///
/// # Errors
/// The bad field.
pub fn input(input: Option<proto::input_request::Input>) -> Result<Option<InputAction>, Fault> {
    use proto::input_request::Input as Message;
    Ok(Some(match input {
        None => return Ok(None),
        Some(Message::Data(data)) => {
            check_chunk(data.len())?;
            InputAction::Write(Input::Data(data))
        }
        Some(Message::Eof(_)) => InputAction::Write(Input::Eof),
        Some(Message::Resize(size)) => InputAction::Write(Input::Resize(pty_size(size.rows, size.cols, "resize")?)),
        Some(Message::Signal(number)) => InputAction::Signal(signal(number)?),
    }))
}

/// A signal by its number.
///
/// # Errors
/// It is none.
pub fn signal(number: u32) -> Result<i32, Fault> {
    let signal = i32::try_from(number).ok().filter(|number| (1..=64).contains(number));
    signal.ok_or_else(|| Fault::argument("signal", format!("is {number}, signals are 1 to 64")))
}

/// The time between SIGTERM and SIGKILL.
///
/// # Errors
/// It is negative or too long.
pub fn grace(grace: Option<prost_types::Duration>, default: Duration) -> Result<Duration, Fault> {
    let Some(grace) = grace else { return Ok(default) };
    let grace = span(grace).filter(|grace| *grace <= MAX_GRACE);
    grace.ok_or_else(|| Fault::argument("grace", format!("is 0 to {} s", MAX_GRACE.as_secs())))
}

/// The length of a chunk that a client sends.
///
/// # Errors
/// It is too long.
pub fn check_chunk(length: usize) -> Result<(), Fault> {
    if length <= MAX_CHUNK {
        Ok(())
    } else {
        Err(Fault::argument("data", format!("has {length} bytes, at most {MAX_CHUNK} are allowed in a message")))
    }
}

/// An event of a run.
#[must_use]
pub fn event(event: Event) -> proto::RunEvent {
    use proto::run_event::Event as Message;
    let event = match event {
        Event::Started(started) => Message::Started(proto::Started {
            run_id: started.id.to_string(),
            pid: started.pid,
            deadline: started.deadline.map(SystemTime::into),
        }),
        Event::Output { stream, cursor, data } => {
            Message::Output(proto::Output { stream: output_stream(stream).into(), cursor, data })
        }
        Event::Gap { from, to } => Message::Gap(proto::Gap { from, to }),
        Event::Exited(exited) => Message::Exited(self::exited(exited)),
    };
    proto::RunEvent { event: Some(event) }
}

fn output_stream(stream: Stream) -> proto::OutputStream {
    match stream {
        Stream::Stdout => proto::OutputStream::Stdout,
        Stream::Stderr => proto::OutputStream::Stderr,
    }
}

/// How a run ended.
#[must_use]
pub fn exited(exited: Exited) -> proto::Exited {
    use proto::exited::{Reason as Word, Status};
    proto::Exited {
        status: exited.status.map(|status| match status {
            ExitStatus::Code(code) => Status::Code(code),
            ExitStatus::Signal(signal) => Status::Signal(signal),
        }),
        reason: match exited.reason {
            Reason::Exited => Word::Exited,
            Reason::Signaled => Word::Signaled,
            Reason::TimedOut => Word::TimedOut,
            Reason::Canceled => Word::Canceled,
            Reason::OomKilled => Word::OomKilled,
            Reason::SandboxLost => Word::SandboxLost,
        }
        .into(),
        output_bytes: exited.output_bytes,
        killed: exited
            .killed
            .into_iter()
            .map(|killed| proto::KilledProcess { pid: killed.pid, name: killed.name })
            .collect(),
        degraded: exited.degraded,
        elapsed: prost_types::Duration::try_from(exited.elapsed).ok(),
    }
}

/// A run as it stands; `None` before it has started.
#[must_use]
pub fn run(sandbox: &SandboxId, run: &Run) -> Option<proto::Run> {
    let Started { id, pid, at, deadline, spool, .. } = run.started()?;
    let (command, argv) = match &run.command().program {
        Program::Shell(line) => (Some(line.clone()), Vec::new()),
        Program::Argv(argv) => (None, argv.clone()),
    };
    Some(proto::Run {
        run_id: id.to_string(),
        sandbox_id: sandbox.to_string(),
        command,
        argv,
        pid,
        started_at: Some(at.into()),
        deadline: deadline.map(SystemTime::into),
        output_bytes: spool.len(),
        exited: run.exited().map(exited),
        pty: matches!(run.command().stdio, Stdio::Terminal { .. }),
        runtime: is_runtime(run),
    })
}
