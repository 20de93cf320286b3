//! A run's life: the task that owns it.
//!
//! ```text
//! launch ─► started ─► leader ends ────────────────► drain ─► exited ─► retained ─► removed
//!    │         └─ deadline / cancel ─► ladder ─┘   (bounded)
//!    └─► failed: nothing is left
//! ```
//!
//! Output is pumped from the start, whoever listens. The run ends when its leader has ended and what it wrote is in the
//! spool; a child that still holds the pipes is waited for shortly. From then on what it writes is dropped, so that it
//! neither blocks nor dies of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::input::Writer;
use super::launch::{Launched, launch};
use super::outcome::{Cause, reason};
use super::output::{Pumped, Sources, SpoolError, SpoolWriter, pump};
use super::reach::Reach;
use super::run::{Publisher, Run, Started, State};
use super::{BackgroundPolicy, Deadline, Exited, Killed, RunError, Shared};
use crate::guest::client::ExitStatus;

/// How long the pipes of a run whose leader has ended are still waited for, if a child holds them. What the leader itself
/// wrote is in them by then.
const DRAIN_GRACE: Duration = Duration::from_millis(50);

/// How long the exit of a leader may take to be told after everything of the run was killed.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The task that owns a run.
pub struct Task {
    shared: Arc<Shared>,
    run: Run,
    publisher: Publisher,
    key: Option<String>,
}

/// A run under way.
struct Live {
    started: Started,
    began: Instant,
    deadline: Option<Instant>,
    reach: Reach,
    exit: oneshot::Receiver<ExitStatus>,
    oom_kills_before: u64,
    writer: SpoolWriter,
    sources: Sources,
    stdin: Option<Writer>,
}

/// How the leader ended, and what we did to that end.
struct End {
    status: Option<ExitStatus>,
    cause: Option<Cause>,
    killed: Vec<Killed>,
    at: Instant,
}

impl Task {
    /// A task for a run that was claimed with this key.
    pub fn new(shared: Arc<Shared>, run: Run, publisher: Publisher, key: Option<String>) -> Self {
        Self { shared, run, publisher, key }
    }

    /// The run's whole life. `started` hears when it has begun, or why it could not.
    pub async fn live(mut self, started: oneshot::Sender<Result<(), RunError>>, lease: impl Send) {
        let directory = self.shared.directory.join(self.run.id().as_str());
        match self.start(&directory).await {
            Ok(live) => {
                self.publisher.state.send_replace(State::Running(live.started.clone()));
                // A caller that has left does not stop the run.
                let _ = started.send(Ok(()));
                self.drive(live, lease).await;
                self.retain().await;
                self.shared.registry.remove(self.run.id(), self.key.as_deref());
            }
            Err(error) => {
                self.shared.registry.remove(self.run.id(), self.key.as_deref());
                let _ = started.send(Err(error));
            }
        }
        remove_spools(directory).await;
    }

    async fn start(&self, directory: &Path) -> Result<Live, RunError> {
        let command = self.run.command();
        let (writer, spool) = SpoolWriter::create(directory, self.shared.settings.output_cap);
        let oom_kills_before = self.oom_kills();
        let Launched { spawned, reach, sources, stdin } = launch(&self.shared, self.run.id(), command).await?;
        let (began, at) = (Instant::now(), SystemTime::now());
        let after = match command.deadline {
            Deadline::After(after) => Some(after),
            Deadline::Never => None,
        };
        let (stdin, input) = stdin.unzip();
        let started = Started {
            id: self.run.id().clone(),
            pid: spawned.pid,
            at,
            deadline: after.map(|after| at + after),
            spool,
            input,
        };
        let deadline = after.map(|after| began + after);
        Ok(Live { started, began, deadline, reach, exit: spawned.exit, oom_kills_before, writer, sources, stdin })
    }

    /// From its start to its end.
    async fn drive(&mut self, live: Live, lease: impl Send) {
        let Live { started, began, deadline, reach, exit, oom_kills_before, writer, sources, stdin } = live;
        let stop = CancellationToken::new();
        let output = pump(writer, sources, &stop);
        let life = async {
            let mut end = self.wait_for_end(exit, deadline, &reach).await;
            if self.run.command().background == BackgroundPolicy::Kill && !reach.is_empty().await {
                end.killed.extend(reach.end(self.shared.settings.kill_grace).await);
            }
            end
        };
        let input = async {
            if let Some(stdin) = stdin {
                stdin.serve().await;
            }
        };
        let (end, pumped) = pump_beside(life, output, input, &stop).await;
        let sources = match pumped {
            Ok(Pumped { writer, sources }) => {
                writer.close();
                sources
            }
            // The runtime is shutting down.
            Err(_) => return,
        };
        let oom_kills = self.oom_kills().saturating_sub(oom_kills_before);
        let exited = Exited {
            status: end.status,
            reason: reason(end.status, end.cause, oom_kills),
            output_bytes: started.spool.len(),
            killed: end.killed,
            degraded: reach.is_degraded(),
            elapsed: end.at.duration_since(began),
        };
        self.publisher.cancels.close();
        // Before anybody can know of the end, so that whoever does finds the sandbox unused.
        drop(lease);
        self.publisher.state.send_replace(State::Ended(started, exited));
        self.leave(reach, sources);
    }

    /// Waits for the leader, the deadline or a caller, and ends the run if it is one of the latter two.
    async fn wait_for_end(
        &mut self,
        mut exit: oneshot::Receiver<ExitStatus>,
        deadline: Option<Instant>,
        reach: &Reach,
    ) -> End {
        enum Event {
            Exit(Option<ExitStatus>),
            Deadline,
            Cancel(Duration),
        }
        let timer = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        // All are cancel-safe: a value that was not received stays where it is, and a timer is a point in time.
        let event = tokio::select! {
            biased;
            status = &mut exit => Event::Exit(status.ok()),
            Some(grace) = self.publisher.cancels.recv() => Event::Cancel(grace),
            () = timer => Event::Deadline,
        };
        let (cause, grace) = match event {
            Event::Exit(status) => return End { status, cause: None, killed: Vec::new(), at: Instant::now() },
            Event::Deadline => (Cause::Deadline, self.shared.settings.kill_grace),
            Event::Cancel(grace) => (Cause::Cancel, grace),
        };
        let killed = reach.end(grace).await;
        let status = timeout(STATUS_DEADLINE, exit).await.ok().and_then(Result::ok);
        End { status, cause: Some(cause), killed, at: Instant::now() }
    }

    /// Looks after what the run left: its children's output is dropped, and its cgroup is removed when they have ended. The
    /// guest keeps the pipes until nobody writes to them, so that its children outlive the daemon too.
    fn leave(&self, reach: Reach, sources: Sources) {
        let closing = self.shared.closing.clone();
        let (guest, run) = (self.shared.guest.clone(), self.run.id().clone());
        self.shared.tasks.spawn(async move {
            let rest = async {
                let drained = async {
                    sources.discard().await;
                    if let Err(error) = guest.release(&run).await {
                        tracing::debug!(run.id = %run, %error, "the run was not released");
                    }
                };
                tokio::join!(drained, reach.wait_empty());
            };
            // The sandbox's own removal takes the cgroup with it.
            if closing.run_until_cancelled(rest).await.is_some()
                && let Err(error) = reach.remove()
            {
                tracing::debug!(%error, "the cgroup of a run could not be removed");
            }
        });
    }

    /// Keeps the run until its retention is over, or so many others have ended after it that it has to go.
    async fn retain(&self) {
        self.shared.registry.evict();
        tokio::select! {
            () = sleep(self.shared.settings.retention) => {}
            () = self.publisher.evicted.cancelled() => {}
            () = self.shared.closing.cancelled() => {}
        }
    }

    fn oom_kills(&self) -> u64 {
        self.shared.cgroup.as_ref().map_or(0, crate::engine::cgroup::Sandbox::oom_kills)
    }
}

/// Drives a run's life with its output and input beside it. When the life is over, output gets a short grace.
async fn pump_beside(
    life: impl Future<Output = End>,
    output: impl Future<Output = Result<Pumped, SpoolError>>,
    input: impl Future<Output = ()>,
    stop: &CancellationToken,
) -> (End, Result<Pumped, SpoolError>) {
    let mut output = std::pin::pin!(output);
    let mut life = std::pin::pin!(life);
    let mut input = std::pin::pin!(input);
    let (mut pumped, mut input_over) = (None, false);
    let end = loop {
        tokio::select! {
            biased;
            end = &mut life => break end,
            result = &mut output, if pumped.is_none() => pumped = Some(result),
            () = &mut input, if !input_over => input_over = true,
        }
    };
    let pumped = match pumped {
        Some(pumped) => pumped,
        None => match timeout(DRAIN_GRACE, &mut output).await {
            Ok(pumped) => pumped,
            Err(_) => {
                stop.cancel();
                output.await
            }
        },
    };
    (end, pumped)
}

/// Removes the directory of a run's output, or of all runs'.
pub async fn remove_spools(directory: PathBuf) {
    let doomed = directory.clone();
    let removed = tokio::task::spawn_blocking(move || fs::remove_dir_all(doomed)).await;
    match removed {
        Ok(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(directory = %directory.display(), %error, "the output of runs could not be removed");
        }
        _ => {}
    }
}
