//! Between the protobufs and the domain. Pure: everything that comes in is checked and bounded here, and nowhere else.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use super::proto;
use super::proto::ErrorReason;
use super::status::Fault;
use crate::engine::Limits;
use crate::guest::client::ExitStatus;
use crate::guest::wire::PtySize;
use crate::hands::files::{Checksum, FileInfo, FileKind, ListOptions, ReadRange, WriteOptions};
use crate::hands::output::Stream;
use crate::hands::{BackgroundPolicy, Command, Deadline, Event, Exited, Input, Program, Reason, Run, Started, Stdio};
use crate::ids::{RunId, SandboxId};
use crate::sandbox::state::{FailureKind, Phase, Tier};
use crate::sandbox::{IdleTimeout, Sandbox, Snapshot, Wish};

/// Most entries of an environment.
const MAX_ENV: usize = 1024;
/// Most bytes of a sandbox's environment.
const MAX_ENV_BYTES: usize = 128 << 10;
/// Most bytes of a command with its environment.
const MAX_COMMAND_BYTES: usize = 1 << 20;
/// Most labels of a sandbox.
const MAX_LABELS: usize = 64;
/// Most bytes of a label's key.
const MAX_LABEL_KEY: usize = 128;
/// Most bytes of a label's value.
const MAX_LABEL_VALUE: usize = 1024;
/// Most bytes of an idempotency key.
const MAX_KEY: usize = 128;
/// Most bytes of a user.
const MAX_USER: usize = 256;
/// Most bytes of an image reference.
const MAX_IMAGE: usize = 4096;
/// PATH_MAX, with its NUL.
const MAX_PATH: usize = 4095;
/// Least memory of a sandbox: less does not hold a shell and its children.
const MIN_MEMORY: u64 = 16 << 20;
/// Least processor time of a sandbox: the kernel's least quota is 1 ms in 100.
const MIN_CPUS: f64 = 0.01;
/// Most CPUs that can be asked for; above any machine.
const MAX_CPUS: f64 = 65_536.0;
/// Least processes of a sandbox: the guest, a shell, and a pipeline.
const MIN_PIDS: u64 = 8;
/// Least bytes of disk of a sandbox.
const MIN_DISK: u64 = 1 << 20;
/// Longest idle timeout.
const MAX_IDLE: Duration = Duration::from_secs(30 * 24 * 3600);
/// Longest grace before SIGKILL.
const MAX_GRACE: Duration = Duration::from_secs(3600);
/// Most bytes of input, or of a file, in one message.
pub const MAX_CHUNK: usize = 1 << 20;
/// Most levels of a listing.
const MAX_DEPTH: u32 = 64;
/// Entries of a page of a listing, if not said otherwise, and at most.
const LS_PAGE: (u32, u32) = (1_000, 10_000);
/// Sandboxes of a page, if not said otherwise, and at most.
const LIST_PAGE: (u32, u32) = (100, 1_000);

/// Bounds of deadlines, as configured.
#[derive(Debug, Clone, Copy)]
pub struct Deadlines {
    /// If not said otherwise.
    pub default: Duration,
    /// At most.
    pub max: Duration,
}

// ---- ids

/// A sandbox's id.
///
/// # Errors
/// An unknown id is one that no sandbox has, whatever it looks like; an empty one is a missing field.
pub fn sandbox_id(text: &str) -> Result<SandboxId, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("sandbox_id", "is missing"));
    }
    text.parse().map_err(|_| {
        Fault::new(tonic::Code::NotFound, ErrorReason::SandboxNotFound, format!("no sandbox {}", quoted(text)))
    })
}

/// A run's id.
///
/// # Errors
/// As [`sandbox_id`].
pub fn run_id(text: &str) -> Result<RunId, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("run_id", "is missing"));
    }
    text.parse()
        .map_err(|_| Fault::new(tonic::Code::NotFound, ErrorReason::RunNotFound, format!("no run {}", quoted(text))))
}

/// What a caller sent, short enough for a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    format!("{short:?}")
}

fn key(text: String) -> Result<Option<String>, Fault> {
    bounded("idempotency_key", &text, MAX_KEY)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn bounded(field: &'static str, text: &str, limit: usize) -> Result<(), Fault> {
    if text.len() > limit {
        return Err(Fault::argument(field, format!("has {} bytes, at most {limit} are allowed", text.len())));
    }
    if text.contains('\0') {
        return Err(Fault::argument(field, "holds a NUL"));
    }
    Ok(())
}

fn checked_user(text: String) -> Result<Option<String>, Fault> {
    bounded("user", &text, MAX_USER)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn check_env(env: &BTreeMap<String, String>, limit: usize) -> Result<usize, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::EnvInvalid, "env", message);
    if env.len() > MAX_ENV {
        return Err(invalid(format!("has {} entries, at most {MAX_ENV} are allowed", env.len())));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(format!("key {} is empty or holds = or NUL", quoted(key))));
        }
        if value.contains('\0') {
            return Err(invalid(format!("the value of {} holds NUL", quoted(key))));
        }
    }
    let bytes = env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if bytes > limit {
        return Err(invalid(format!("has {bytes} bytes, at most {limit} are allowed")));
    }
    Ok(bytes)
}

fn absolute(field: &'static str, path: &str) -> Result<(), Fault> {
    bounded(field, path, MAX_PATH)?;
    if path.starts_with('/') { Ok(()) } else { Err(Fault::argument(field, "is not an absolute path")) }
}

// ---- sandboxes

/// What a caller wants, and the idempotency key.
///
/// # Errors
/// The first bad field.
pub fn wish(request: proto::CreateSandboxRequest) -> Result<(Wish, Option<String>), Fault> {
    bounded("image", &request.image, MAX_IMAGE)?;
    let image = match request.image.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|error| Fault::argument("image", format!("{error}")))?),
    };
    check_env(&request.env, MAX_ENV_BYTES)?;
    check_labels(&request.labels)?;
    let workspace = Some(request.workspace).filter(|path| !path.is_empty());
    workspace.as_deref().map_or(Ok(()), |path| absolute("workspace", path))?;
    check_network(request.network)?;
    let wish = Wish {
        image,
        env: request.env,
        labels: request.labels,
        limits: limits(&request.limits.unwrap_or_default())?,
        user: checked_user(request.user)?,
        workspace,
        idle: request.idle_timeout.map(idle_timeout).transpose()?,
    };
    Ok((wish, key(request.idempotency_key)?))
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Fault> {
    if labels.len() > MAX_LABELS {
        return Err(Fault::argument(
            "labels",
            format!("has {} entries, at most {MAX_LABELS} are allowed", labels.len()),
        ));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE {
            let message = format!("keys have 1 to {MAX_LABEL_KEY} bytes and values up to {MAX_LABEL_VALUE}");
            return Err(Fault::argument("labels", message));
        }
    }
    Ok(())
}

fn check_network(network: Option<proto::Network>) -> Result<(), Fault> {
    use proto::network::Mode;
    match network.map_or(Ok(Mode::Unspecified), |network| Mode::try_from(network.mode)) {
        Ok(Mode::Unspecified | Mode::None) => Ok(()),
        Err(_) => Err(Fault::argument("network.mode", "is not a mode of this version")),
    }
}

fn idle_timeout(timeout: prost_types::Duration) -> Result<IdleTimeout, Fault> {
    match Duration::try_from(timeout) {
        Ok(Duration::ZERO) => Ok(IdleTimeout::Never),
        Ok(timeout) if timeout <= MAX_IDLE => Ok(IdleTimeout::After(timeout)),
        Ok(_) | Err(_) => Err(Fault::argument("idle_timeout", format!("is 0 to {} s", MAX_IDLE.as_secs()))),
    }
}

/// Limits; those that are 0 are left out.
///
/// # Errors
/// The first that is too low.
pub fn limits(limits: &proto::Limits) -> Result<Limits, Fault> {
    let at_least = |field: &'static str, value: u64, least: u64| match value {
        0 => Ok(None),
        value if value < least => Err(Fault::argument(field, format!("is {value}, at least {least} is needed"))),
        value => Ok(Some(value)),
    };
    let cpus = match limits.cpus {
        0.0 => None,
        cpus if (MIN_CPUS..=MAX_CPUS).contains(&cpus) => Some(cpus),
        cpus => return Err(Fault::argument("limits.cpus", format!("is {cpus}, at least {MIN_CPUS} is needed"))),
    };
    Ok(Limits {
        memory: at_least("limits.memory_bytes", limits.memory_bytes, MIN_MEMORY)?,
        cpus,
        pids: at_least("limits.pids", limits.pids, MIN_PIDS)?,
        disk: at_least("limits.disk_bytes", limits.disk_bytes, MIN_DISK)?,
    })
}

/// A page of sandboxes: after which, and how many.
///
/// # Errors
/// The first bad field.
pub fn sandbox_page(request: &proto::ListSandboxesRequest) -> Result<(Option<SandboxId>, usize), Fault> {
    let after = match request.page_token.as_str() {
        "" => None,
        token => Some(token.parse().map_err(|_| Fault::argument("page_token", "is no page token"))?),
    };
    Ok((after, page_size(request.page_size, LIST_PAGE)? as usize))
}

fn page_size(asked: u32, (default, most): (u32, u32)) -> Result<u32, Fault> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        asked => Err(Fault::argument("page_size", format!("is {asked}, at most {most} is allowed"))),
    }
}

/// A sandbox as it stands.
#[must_use]
pub fn sandbox(sandbox: &Sandbox, snapshot: &Snapshot) -> proto::Sandbox {
    let profile = sandbox.profile();
    let running = snapshot.hands.as_ref().map_or(0, |hands| hands.running());
    proto::Sandbox {
        id: profile.id.to_string(),
        phase: phase(&snapshot.phase).into(),
        generation: snapshot.generation,
        image: profile.image.to_string(),
        env: profile.env.clone(),
        labels: profile.labels.clone(),
        limits: Some(proto::Limits {
            memory_bytes: snapshot.limits.memory.unwrap_or(0),
            cpus: snapshot.limits.cpus.unwrap_or(0.0),
            pids: snapshot.limits.pids.unwrap_or(0),
            disk_bytes: snapshot.limits.disk.unwrap_or(0),
        }),
        user: profile.user.clone().unwrap_or_default(),
        workspace: profile.workspace.clone(),
        network: Some(proto::Network { mode: proto::network::Mode::None.into() }),
        created_at: Some(profile.created_at.into()),
        engine: profile.engine.to_owned(),
        failure: snapshot.phase.failure().map(|failure| proto::Failure {
            reason: failure_reason(failure.kind).as_str_name().to_owned(),
            message: failure.message.to_string(),
        }),
        running: u32::try_from(running).unwrap_or(u32::MAX),
        tier: match snapshot.phase {
            Phase::Hibernated(Tier::Frozen) | Phase::Waking(Tier::Frozen) => proto::Tier::Frozen.into(),
            _ => proto::Tier::Unspecified.into(),
        },
        idle_timeout: match profile.idle {
            IdleTimeout::After(timeout) => prost_types::Duration::try_from(timeout).ok(),
            IdleTimeout::Never => None,
        },
    }
}

fn phase(phase: &Phase) -> proto::Phase {
    match phase {
        Phase::Creating => proto::Phase::Creating,
        Phase::Running => proto::Phase::Running,
        Phase::Hibernating => proto::Phase::Hibernating,
        Phase::Hibernated(_) => proto::Phase::Hibernated,
        Phase::Waking(_) => proto::Phase::Waking,
        Phase::Crashed(_) => proto::Phase::Crashed,
        Phase::Failed(_) => proto::Phase::Failed,
        Phase::Destroying => proto::Phase::Destroying,
        Phase::Destroyed => proto::Phase::Destroyed,
    }
}

fn failure_reason(kind: FailureKind) -> ErrorReason {
    match kind {
        FailureKind::Create => ErrorReason::SandboxCreateFailed,
        FailureKind::Lost => ErrorReason::SandboxLost,
        FailureKind::Remove => ErrorReason::InternalFault,
    }
}

// ---- runs

/// What is to be run where, and the idempotency key.
///
/// # Errors
/// The first bad field.
pub fn command(
    request: proto::BashRequest,
    deadlines: Deadlines,
) -> Result<(SandboxId, Command, Option<String>), Fault> {
    let sandbox = sandbox_id(&request.sandbox_id)?;
    let env_bytes = check_env(&request.env, MAX_COMMAND_BYTES)?;
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

fn program(line: Option<String>, argv: Vec<String>) -> Result<Program, Fault> {
    match (line, argv.is_empty()) {
        (Some(line), true) if line.contains('\0') => Err(Fault::argument("command", "holds a NUL")),
        (Some(line), true) => Ok(Program::Shell(line)),
        (None, true) => Err(Fault::argument("argv", "is empty, and there is no command")),
        (Some(_), false) => Err(Fault::argument("argv", "is set, and so is command; only one may be")),
        (None, false) if argv.iter().any(|word| word.contains('\0')) => Err(Fault::argument("argv", "holds a NUL")),
        (None, false) => Ok(Program::Argv(argv)),
    }
}

fn deadline(timeout: Option<prost_types::Duration>, deadlines: Deadlines) -> Result<Deadline, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::RunDeadlineInvalid, "timeout", message);
    let Some(timeout) = timeout else { return Ok(Deadline::After(deadlines.default)) };
    let timeout = Duration::try_from(timeout).map_err(|_| invalid("is negative or no duration".to_owned()))?;
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
    let grace = Duration::try_from(grace).ok().filter(|grace| *grace <= MAX_GRACE);
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
    })
}

// ---- files

/// A path that is not empty.
///
/// # Errors
/// It is empty, too long or holds NUL.
pub fn path(field: &'static str, path: String) -> Result<String, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::PathInvalid, field, message);
    match path.as_str() {
        "" => Err(Fault::argument(field, "is missing")),
        path if path.len() > MAX_PATH => Err(invalid(format!("has more than {MAX_PATH} bytes"))),
        path if path.contains('\0') => Err(invalid("holds a NUL".to_owned())),
        _ => Ok(path),
    }
}

/// What of a file is to be read.
///
/// # Errors
/// Both bytes and lines are asked for.
pub fn read_range(request: &proto::ReadRequest) -> Result<ReadRange, Fault> {
    let some = |limit: u64| Some(limit).filter(|limit| *limit > 0);
    let by_lines = request.line_offset.is_some() || request.line_limit.is_some();
    if by_lines && (request.offset > 0 || request.limit > 0) {
        return Err(Fault::argument("line_offset", "cannot be set together with offset or limit"));
    }
    Ok(if by_lines {
        ReadRange::Lines { skip: request.line_offset.unwrap_or(0), limit: request.line_limit.and_then(some) }
    } else {
        ReadRange::Bytes { offset: request.offset, limit: some(request.limit) }
    })
}

/// What is to be written where.
///
/// # Errors
/// The first bad field.
pub fn write_options(header: proto::WriteHeader) -> Result<(SandboxId, WriteOptions), Fault> {
    let sandbox = sandbox_id(&header.sandbox_id)?;
    let expected_sha256 = match header.expected_sha256.as_str() {
        "" => None,
        text => Some(
            text.parse::<Checksum>().map_err(|_| Fault::argument("expected_sha256", "is not 64 hexadecimal digits"))?,
        ),
    };
    let options = WriteOptions {
        path: path("path", header.path)?,
        mode: header.mode.map(mode).transpose()?,
        create_parents: header.create_parents,
        append: header.append,
        expected_sha256,
    };
    Ok((sandbox, options))
}

/// Permission bits.
///
/// # Errors
/// There are others.
pub fn mode(mode: u32) -> Result<u32, Fault> {
    if mode <= 0o7777 {
        Ok(mode)
    } else {
        Err(Fault::argument("mode", format!("is {mode:o}, permission bits are 0 to 7777")))
    }
}

/// What is to be listed.
///
/// # Errors
/// The first bad field.
pub fn list_options(request: proto::LsRequest) -> Result<(SandboxId, ListOptions), Fault> {
    let sandbox = sandbox_id(&request.sandbox_id)?;
    let depth = request.depth.unwrap_or(1);
    if depth > MAX_DEPTH {
        return Err(Fault::argument("depth", format!("is {depth}, at most {MAX_DEPTH} is allowed")));
    }
    let path = if request.path.is_empty() { String::new() } else { path("path", request.path)? };
    let limit = page_size(request.page_size, LS_PAGE)?;
    Ok((sandbox, ListOptions { path, depth, hidden: request.hidden, limit, page_token: request.page_token }))
}

/// How a file stands.
#[must_use]
pub fn file_info(info: &FileInfo) -> proto::FileInfo {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let name = info.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
    proto::FileInfo {
        name: text(name),
        path: text(&info.path),
        r#type: match info.kind {
            FileKind::File => proto::FileType::File,
            FileKind::Directory => proto::FileType::Directory,
            FileKind::Symlink => proto::FileType::Symlink,
            FileKind::Fifo => proto::FileType::Fifo,
            FileKind::Socket => proto::FileType::Socket,
            FileKind::CharDevice => proto::FileType::CharDevice,
            FileKind::BlockDevice => proto::FileType::BlockDevice,
            FileKind::Unknown => proto::FileType::Unspecified,
        }
        .into(),
        size: info.size,
        mode: info.mode,
        mtime: Some(prost_types::Timestamp { seconds: info.mtime, nanos: info.mtime_nanos.cast_signed() }),
        target: text(&info.target),
        uid: info.uid,
        gid: info.gid,
    }
}
