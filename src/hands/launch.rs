//! Pipes, cgroup and leader of a run. If one cannot be had, nothing is left of the others.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use super::input::{Sender, Sink, Writer};
use super::output::Sources;
use super::reach::Reach;
use super::{Command, Program, RunError, Shared, Stdio};
use crate::guest::client::{GuestError, SpawnedRun};
use crate::guest::pipe;
use crate::guest::wire::{Spawn, Step};
use crate::ids::RunId;

/// A run whose leader runs.
pub struct Launched {
    /// Its leader.
    pub spawned: SpawnedRun,
    /// Its processes.
    pub reach: Reach,
    /// Its output.
    pub sources: Sources,
    /// Its stdin, and the handle on it.
    pub stdin: Option<(Writer, Sender)>,
}

/// Starts the leader.
pub async fn launch(shared: &Shared, id: &RunId, command: &Command) -> Result<Launched, RunError> {
    let reach = match shared.cgroup.as_ref().filter(|sandbox| sandbox.takes_runs()) {
        Some(sandbox) => Reach::Cgroup(sandbox.create_run(id).map_err(host("make the run's cgroup"))?),
        None => Reach::Keeper(shared.guest.clone(), id.clone()),
    };
    match spawn(shared, id, command, &reach).await {
        Ok((spawned, sources, stdin)) => Ok(Launched { spawned, reach, sources, stdin }),
        Err(error) => {
            if let Err(error) = reach.remove() {
                tracing::debug!(run.id = %id, %error, "the cgroup of a run that did not start could not be removed");
            }
            Err(error)
        }
    }
}

type Spawned = (SpawnedRun, Sources, Option<(Writer, Sender)>);

async fn spawn(shared: &Shared, id: &RunId, command: &Command, reach: &Reach) -> Result<Spawned, RunError> {
    let mut request = request(shared, id, command);
    let (ours, mut fds) = Pipes::of(&command.stdio).map_err(host("make the run's pipes"))?;
    if let Reach::Cgroup(cgroup) = reach {
        request.cgroup = true;
        fds.push(cgroup.open().map_err(host("open the run's cgroup"))?);
    }
    let mut spawned = shared.guest.spawn(request, fds).await.map_err(|error| explain(shared, command, error))?;
    match attach(shared, id, ours, spawned.terminal.take()) {
        Ok((sources, stdin)) => Ok((spawned, sources, stdin)),
        Err(error) => {
            reach.end(Duration::ZERO).await;
            if let Err(error) = shared.guest.release(id).await {
                tracing::debug!(run.id = %id, %error, "a run that could not be attached was not released");
            }
            Err(error)
        }
    }
}

fn attach(
    shared: &Shared,
    id: &RunId,
    ours: Pipes,
    terminal: Option<OwnedFd>,
) -> Result<(Sources, Option<(Writer, Sender)>), RunError> {
    let (sources, sink) = ours.attach(terminal).map_err(host("attach the run's output"))?;
    let stdin = sink.map(|sink| Writer::new(sink, shared.guest.clone(), id.clone())).transpose();
    Ok((sources, stdin.map_err(host("attach the run's input"))?))
}

fn request(shared: &Shared, id: &RunId, command: &Command) -> Spawn {
    let (argv, shell) = match &command.program {
        Program::Argv(argv) => (argv.iter().map(|argument| argument.clone().into_bytes()).collect(), None),
        Program::Shell(line) => (Vec::new(), Some(line.clone().into_bytes())),
    };
    Spawn {
        run: id.to_string(),
        argv,
        shell,
        env: command.environment(&shared.settings),
        cwd: command.directory(&shared.settings).into_bytes(),
        user: command.user(&shared.settings),
        stdin: matches!(command.stdio, Stdio::Pipes),
        pty: match &command.stdio {
            Stdio::Terminal { size, .. } => Some(*size),
            Stdio::Output | Stdio::Pipes => None,
        },
        cgroup: false,
        channels: None,
    }
}

/// The daemon's ends. A terminal is made by the guest and comes back with its answer.
struct Pipes {
    output: Option<(OwnedFd, OwnedFd)>,
    stdin: Option<OwnedFd>,
}

impl Pipes {
    /// Our ends; and for the guest, in the order of [`Spawn`], the run's ends and duplicates of ours.
    fn of(stdio: &Stdio) -> io::Result<(Self, Vec<OwnedFd>)> {
        if let Stdio::Terminal { .. } = stdio {
            return Ok((Self { output: None, stdin: None }, Vec::new()));
        }
        let (mut theirs, mut duplicates) = (Vec::with_capacity(7), Vec::with_capacity(3));
        let mut ours = None;
        if let Stdio::Pipes = stdio {
            let (read, write) = pipe::of_run()?;
            theirs.push(read);
            duplicates.push(write.try_clone()?);
            ours = Some(write);
        }
        let (stdout, stdout_write) = pipe::of_run()?;
        let (stderr, stderr_write) = pipe::of_run()?;
        theirs.extend([stdout_write, stderr_write]);
        duplicates.extend([stdout.try_clone()?, stderr.try_clone()?]);
        theirs.append(&mut duplicates);
        Ok((Self { output: Some((stdout, stderr)), stdin: ours }, theirs))
    }

    fn attach(self, terminal: Option<OwnedFd>) -> io::Result<(Sources, Option<Sink>)> {
        match (self.output, terminal) {
            (Some((stdout, stderr)), _) => Ok((Sources::pipes(stdout, stderr)?, self.stdin.map(Sink::Pipe))),
            (None, Some(master)) => {
                let copy = master.try_clone()?;
                Ok((Sources::terminal(master)?, Some(Sink::Terminal(copy))))
            }
            (None, None) => Err(io::Error::other("the guest sent no terminal")),
        }
    }
}

fn host(step: &'static str) -> impl FnOnce(io::Error) -> RunError {
    move |source| RunError::Host { step, source }
}

/// What the guest's refusal is about, in the caller's words.
fn explain(shared: &Shared, command: &Command, error: GuestError) -> RunError {
    let GuestError::Refused { step, errno } = error else { return RunError::Lost(error) };
    let program = match &command.program {
        Program::Argv(argv) => argv.first().cloned().unwrap_or_default(),
        Program::Shell(_) => "the sandbox's shell".to_owned(),
    };
    let subject = match step {
        Step::User | Step::Credentials => command.user(&shared.settings),
        Step::Cwd => command.directory(&shared.settings),
        Step::Exec | Step::Interpreter => program,
        Step::Unspecified | Step::Request | Step::Pty | Step::Fork | Step::Gone | Step::Socket => {
            format!("start {program}")
        }
    };
    RunError::Refused { step, errno, subject }
}
