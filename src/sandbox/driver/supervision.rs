//! Keeping the sandbox's runtime running. What follows from its end is decided in [`state`](crate::sandbox::runtime::state).

use std::time::{Duration, SystemTime};

use tokio::time::sleep;

use super::{Driver, LOOK_AGAIN, requested};
use crate::crash;
use crate::hands::Run;
use crate::metrics::{Restarted, metrics};
use crate::sandbox::SandboxError;
use crate::sandbox::record::RuntimeStep;
use crate::sandbox::runtime::state::{EndReason, Ending, State, Supervised};
use crate::sandbox::runtime::{Runtime, key, watch};
use crate::sandbox::state::{Phase, Tier};
use crate::telemetry::chain;

impl Driver {
    /// Brings the runtime to what has become of its sandbox: watches it where it runs, and tells where it cannot any more.
    pub(super) async fn attend(&mut self) {
        let Some(supervised) = self.record.supervised.as_ref().filter(|it| it.is_running()) else { return };
        match self.record.phase {
            Phase::Running if self.watch.is_empty() => {
                let Some(hands) = self.body.hands() else { return };
                match hands.run_keyed(&key(supervised.starts)) {
                    Some(run) if supervised.run.is_some() => self.watch_over(run),
                    // An earlier daemon had started it, and could not say so any more.
                    Some(run) => self.has_begun(run).await,
                    // An earlier daemon was about to start it.
                    None => self.postpone(Duration::ZERO),
                }
            }
            Phase::Running => {}
            Phase::Crashed(_) => {
                self.watch.shutdown().await;
                let why = "its sandbox has crashed".to_owned();
                self.runtime_ended(Ending::without_status(EndReason::SandboxLost, why, SystemTime::now())).await;
            }
            Phase::Hibernated(Tier::Stopped) => {
                self.watch.shutdown().await;
                self.postpone(Duration::ZERO);
                self.seen_of_runtime(RuntimeStep::Stopped).await;
            }
            // It stands still, and so does its health.
            _ => self.watch.shutdown().await,
        }
    }

    /// Waits until the runtime is to be started. Cancel-safe.
    pub(super) async fn runtime_due(supervised: Option<&Supervised>, phase: &Phase, longest: Duration) {
        match (supervised.map(|it| it.state), phase) {
            (Some(State::Due { at }), Phase::Running | Phase::Crashed(_)) => {
                // A clock that was set back does not put it off for ever.
                sleep(at.duration_since(SystemTime::now()).unwrap_or_default().min(longest)).await;
            }
            _ => std::future::pending().await,
        }
    }

    /// Starts the runtime, and its sandbox before if that has crashed.
    pub(super) async fn start_runtime(&mut self) {
        let Some(runtime) = self.record.profile.runtime.clone() else { return };
        if let Err(error) = self.try_start_runtime(&runtime).await {
            tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a runtime is started later");
            self.postpone(self.tools.defaults.restarts.longest.max(LOOK_AGAIN));
        }
    }

    async fn try_start_runtime(&mut self, runtime: &Runtime) -> Result<(), SandboxError> {
        if let Phase::Crashed(_) = self.record.phase {
            self.wake().await?;
        }
        let Some(hands) = self.body.hands() else { return Err(self.not_running()) };
        let mut record = self.record.clone();
        let Some(supervised) = &mut record.supervised else { return Ok(()) };
        supervised.start(SystemTime::now());
        let (key, is_restart) = (key(supervised.starts), supervised.starts > 1);
        record.generation += 1;
        let event = record.runtime_event(RuntimeStep::Starting, SystemTime::now());
        let stored = self.tools.store.put_sandbox(self.id(), record.to_text(), event).await;
        stored.map_err(|source| SandboxError::Store { id: self.id().clone(), source })?;
        self.record = record;
        self.publish();
        crash::point("runtime.intended");
        match hands.start(runtime.command(), Some(key), None::<()>).await {
            Ok(run) => {
                crash::point("runtime.started");
                if is_restart {
                    metrics().restarted(Restarted::Runtime);
                }
                self.has_begun(run).await;
            }
            Err(error) => {
                let why = chain(&error).to_string();
                self.runtime_ended(Ending::without_status(EndReason::NotStarted, why, SystemTime::now())).await;
            }
        }
        Ok(())
    }

    async fn has_begun(&mut self, run: Run) {
        if let Some(supervised) = &mut self.record.supervised {
            supervised.run = Some(run.id().clone());
        }
        self.seen_of_runtime(RuntimeStep::Started).await;
        self.watch_over(run);
    }

    fn watch_over(&mut self, run: Run) {
        let (Some(hands), Some(runtime)) = (self.body.hands(), &self.record.profile.runtime) else { return };
        self.watch.spawn(watch(hands, run, runtime.health.clone(), runtime.stop_grace));
    }

    /// The runtime has ended.
    pub(super) async fn runtime_ended(&mut self, ending: Ending) {
        crash::point("runtime.ended");
        let Some(runtime) = &self.record.profile.runtime else { return };
        let Some(supervised) = &mut self.record.supervised else { return };
        tracing::info!(sandbox.id = %self.record.profile.id, reason = ?ending.reason, "a runtime has ended");
        let now = SystemTime::now();
        supervised.end(ending, runtime.restart, &self.tools.defaults.restarts, &mut self.record.crashes, now);
        let step = if supervised.has_failed() { RuntimeStep::Failed } else { RuntimeStep::Exited };
        self.seen_of_runtime(step).await;
    }

    /// Ends the runtime before its sandbox is stopped, unless somebody wants the sandbox gone.
    pub(super) async fn end_runtime(&mut self) {
        self.watch.shutdown().await;
        let Some(runtime) = &self.record.profile.runtime else { return };
        let Some(supervised) = self.record.supervised.as_ref().filter(|it| it.is_running()) else { return };
        let Some(run) = self.body.hands().and_then(|hands| hands.run_keyed(&key(supervised.starts))) else { return };
        // How it ends says nothing: it was told to.
        tokio::select! {
            () = requested(&mut self.requests) => {}
            _ = run.cancel(runtime.stop_grace) => {}
        }
    }

    /// Gives a runtime that was given up another try, with a clean slate.
    pub(super) async fn retry_runtime(&mut self) -> Result<(), SandboxError> {
        if self.record.supervised.as_ref().is_some_and(Supervised::has_failed) {
            self.record.crashes.clear();
            self.postpone(Duration::ZERO);
        }
        Ok(())
    }

    fn postpone(&mut self, wait: Duration) {
        if let Some(supervised) = &mut self.record.supervised {
            supervised.postpone(SystemTime::now() + wait);
        }
    }

    /// Publishes what was seen of the runtime, and hands it to the store.
    async fn seen_of_runtime(&mut self, step: RuntimeStep) {
        self.record.generation += 1;
        self.hand_over(self.record.runtime_event(step, SystemTime::now())).await;
        self.publish();
    }
}
