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
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::input::Writer;
use super::journal::{Begun, Ended, Step};
use super::launch::{Launched, launch};
use super::outcome::{Cause, Reason, reason};
use super::output::{Pumped, Sources, SpoolError, SpoolWriter, pump};
use super::reach::Reach;
use super::run::{Publisher, Run, Started, State};
use super::{BackgroundPolicy, Exited, Killed, RunError, Shared};
use crate::guest::client::ExitStatus;
use crate::metrics::{RunEnd, metrics};

/// How long the pipes of a run whose leader has ended are still waited for, if a child holds them. What the leader itself
/// wrote is in them by then.
const DRAIN_GRACE: Duration = Duration::from_millis(50);

/// How long the exit of a leader may take to be told after everything of the run was killed.
const STATUS_DEADLINE: Duration = Duration::from_secs(5);

/// The task that owns a run.
pub struct Task {
    pub(super) shared: Arc<Shared>,
    pub(super) run: Run,
    publisher: Publisher,
    key: Option<String>,
}

/// A run under way.
pub struct Live {
    /// How it began.
    pub started: Started,
    /// The same, by the clock that never jumps.
    pub began: Instant,
    /// When it will be ended.
    pub deadline: Option<Instant>,
    /// We had set out to end it.
    pub cause: Option<Cause>,
    /// Its processes.
    pub reach: Reach,
    /// How its leader ends.
    pub exit: oneshot::Receiver<ExitStatus>,
    /// The sandbox's count of kills for want of memory when it began.
    pub oom_kills_before: u64,
    /// Where its output goes.
    pub writer: SpoolWriter,
    /// Where its output comes from.
    pub sources: Sources,
    /// Its stdin or terminal.
    pub stdin: Option<Writer>,
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

    /// The run's whole life. `started` hears when it has begun, or why it could not. The lease is held until its end.
    pub async fn live(mut self, started: oneshot::Sender<Result<(), RunError>>, lease: Option<impl Send>) {
        match self.start(lease.is_some()).await {
            Ok(live) => {
                self.publish_running(&live);
                // A caller that has left does not stop the run.
                let _ = started.send(Ok(()));
                self.drive(live, lease).await;
                let retention = self.shared.settings.retention;
                self.retain(retention).await;
            }
            Err(error) => {
                self.forget().await;
                let _ = started.send(Err(error));
            }
        }
    }

    /// Others see that it runs.
    pub(super) fn publish_running(&self, live: &Live) {
        self.publisher.state.send_replace(State::Running(live.started.clone()));
    }

    /// Where its spool is.
    pub(super) fn directory(&self) -> PathBuf {
        self.shared.directory.join(self.run.id().as_str())
    }

    async fn start(&self, is_activity: bool) -> Result<Live, RunError> {
        let command = self.run.command();
        let (writer, spool) = SpoolWriter::create(&self.directory(), self.shared.settings.output_cap);
        let (oom_kills_before, at) = (self.oom_kills(), SystemTime::now());
        self.shared.journal.add(&Step::Begun(Begun {
            run: self.run.id().clone(),
            key: self.key.clone(),
            command: command.clone(),
            at,
            oom_kills: oom_kills_before,
            is_activity,
            guest: self.shared.settings.guest.clone(),
        }));
        let Launched { spawned, reach, sources, stdin } = launch(&self.shared, self.run.id(), command).await?;
        let began = Instant::now();
        let after = command.deadline.after();
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
        let exit = spawned.exit;
        Ok(Live { started, began, deadline, cause: None, reach, exit, oom_kills_before, writer, sources, stdin })
    }

    /// From its start to its end.
    pub(super) async fn drive(&mut self, live: Live, lease: Option<impl Send>) {
        let Live { started, began, deadline, cause, reach, exit, oom_kills_before, writer, sources, stdin } = live;
        let stop = CancellationToken::new();
        let output = pump(writer, sources, &stop);
        let life = async {
            let mut end = match cause {
                Some(cause) => self.end(cause, self.shared.settings.kill_grace, exit, &reach).await,
                None => self.wait_for_end(exit, deadline, &reach).await,
            };
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
        self.publish_ended(started, exited, lease);
        self.shared.leave(self.run.id().clone(), reach, sources);
    }

    /// Others see that it has ended, as the journal already says.
    pub(super) fn restore_ended(&mut self, started: Started, exited: Exited) {
        self.publisher.cancels.close();
        self.publisher.state.send_replace(State::Ended(started, exited));
    }

    /// Others see that it has ended.
    pub(super) fn publish_ended(&mut self, started: Started, exited: Exited, lease: Option<impl Send>) {
        self.count(&exited);
        let end = Ended { pid: started.pid, exited: exited.clone(), at: SystemTime::now() };
        self.shared.journal.add(&Step::Ended { run: self.run.id().clone(), end });
        // Before anybody can know of the end, so that whoever does finds the sandbox unused.
        drop(lease);
        self.restore_ended(started, exited);
    }

    fn count(&self, exited: &Exited) {
        let deadline = self.run.command().deadline.after().filter(|_| exited.reason == Reason::TimedOut);
        metrics().run_ended(&RunEnd {
            reason: exited.reason.name(),
            elapsed: exited.elapsed,
            late: deadline.map(|deadline| exited.elapsed.saturating_sub(deadline)),
            output_bytes: exited.output_bytes,
            killed: exited.killed.len(),
        });
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
        self.end(cause, grace, exit, reach).await
    }

    /// Ends all of it.
    async fn end(&self, cause: Cause, grace: Duration, exit: oneshot::Receiver<ExitStatus>, reach: &Reach) -> End {
        self.shared.journal.add(&Step::Ending { run: self.run.id().clone(), cause });
        let killed = reach.end(grace).await;
        let status = timeout(STATUS_DEADLINE, exit).await.ok().and_then(Result::ok);
        End { status, cause: Some(cause), killed, at: Instant::now() }
    }

    /// Keeps the run until its retention is over, or so many others have ended after it that it has to go; then forgets
    /// it, unless the hands close before.
    pub(super) async fn retain(self, retention: Duration) {
        self.shared.registry.evict();
        tokio::select! {
            () = sleep(retention) => self.forget().await,
            () = self.publisher.evicted.cancelled() => self.forget().await,
            () = self.shared.closing.cancelled() => {}
        }
    }

    async fn forget(&self) {
        self.shared.registry.remove(self.run.id(), self.key.as_deref());
        self.shared.journal.add(&Step::Removed { run: self.run.id().clone() });
        remove_spools(self.directory()).await;
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
