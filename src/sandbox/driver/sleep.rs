//! Going to sleep, deeper, and waking.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::{Driver, WAKE_QUEUE_DEADLINE};
use crate::crash;
use crate::engine::{EngineError, Found};
use crate::metrics::{LifeStep, Restarted, metrics};
use crate::sandbox::live::Body;
use crate::sandbox::runtime::state::Supervised;
use crate::sandbox::state::{Observation, Phase, Tier};
use crate::sandbox::{IdleTimeout, SandboxError};
use crate::telemetry::chain;

impl Driver {
    pub(super) async fn hibernate_now(&mut self, tier: Tier) -> Result<(), SandboxError> {
        match self.record.phase {
            Phase::Running if !self.activity.close_if_idle(Duration::ZERO) => {
                Err(SandboxError::Busy(self.id().clone()))
            }
            Phase::Running => self.hibernate(tier).await,
            Phase::Hibernated(now) if now < tier => self.hibernate(tier).await,
            Phase::Hibernated(_) => Ok(()),
            _ => Err(self.not_running()),
        }
    }

    /// Goes to sleep if nobody came in the meantime.
    pub(super) async fn fall_asleep(&mut self) {
        let IdleTimeout::After(timeout) = self.record.idle() else { return };
        if self.activity.close_if_idle(timeout)
            && let Err(error) = self.hibernate(Tier::Frozen).await
        {
            tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "an idle sandbox stays awake");
        }
    }

    /// Ends the processes of one that has been asleep for long, unless somebody else put it to sleep in the middle of its
    /// runs.
    pub(super) async fn sink(&mut self) {
        if !self.activity.close_if_idle(Duration::ZERO) {
            self.asleep_since = Instant::now();
        } else if let Err(error) = self.hibernate(Tier::Stopped).await {
            tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a sandbox stays frozen");
            self.asleep_since = Instant::now();
        }
    }

    /// Puts the sandbox to sleep; the activity is closed.
    async fn hibernate(&mut self, tier: Tier) -> Result<(), SandboxError> {
        let from = self.record.phase.clone();
        if let Err(error) = self.intend(Observation::HibernateBegun).await {
            if from == Phase::Running {
                self.activity.open();
            }
            return Err(error);
        }
        let (intended, done, observed) = match tier {
            Tier::Frozen => ("freeze.intended", "freeze.done", "freeze.observed"),
            Tier::Stopped => ("stop.intended", "stop.done", "stop.observed"),
        };
        crash::point(intended);
        let mut is_thawed = false;
        match (tier, &from) {
            (Tier::Frozen, _) => {}
            (Tier::Stopped, Phase::Running) => self.end_runtime().await,
            (Tier::Stopped, _) => is_thawed = self.end_frozen_runtime().await,
        }
        let timing = metrics().step(LifeStep::Hibernate);
        let slept = match tier {
            Tier::Frozen => self.tools.engine.freeze(self.id()).await,
            Tier::Stopped => self.tools.engine.stop(self.id()).await,
        };
        timing.observe_duration();
        match slept {
            Ok(()) => {
                crash::point(done);
                self.asleep_since = Instant::now();
                let mut body = match tier {
                    Tier::Frozen => Body::Gone,
                    Tier::Stopped => std::mem::replace(&mut self.body, Body::Gone),
                };
                self.observe(Observation::Asleep(tier)).await;
                crash::point(observed);
                body.close().await;
                Ok(())
            }
            Err(error) => {
                let error = self.failed("hibernate", error);
                let sleeps = !is_thawed || self.tools.engine.freeze(self.id()).await.is_ok();
                match from {
                    Phase::Hibernated(tier) if sleeps => self.observe(Observation::Asleep(tier)).await,
                    _ => {
                        self.observe(Observation::HibernateFailed).await;
                        self.activity.open();
                    }
                }
                Err(error)
            }
        }
    }

    /// Ends the runtime of one that is frozen, before it is stopped: awake for as long as that takes, it can put away what it
    /// has in hand. Answers whether the sandbox is awake now.
    async fn end_frozen_runtime(&mut self) -> bool {
        if !self.record.supervised.as_ref().is_some_and(Supervised::is_running) {
            return false;
        }
        if let Err(error) = self.tools.engine.thaw(self.id()).await {
            tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a runtime is stopped unasked");
            return false;
        }
        match self.rouse().await {
            Ok(()) => self.end_runtime().await,
            Err(error) => {
                tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a runtime is stopped unasked");
            }
        }
        true
    }

    pub(super) async fn wake(&mut self) -> Result<(), SandboxError> {
        let tier = match self.record.phase {
            Phase::Running => return Ok(()),
            Phase::Hibernated(tier) => tier,
            Phase::Crashed(_) => Tier::Stopped,
            _ => return Err(self.not_running()),
        };
        let is_restart = matches!(self.record.phase, Phase::Crashed(_));
        let tools = Arc::clone(&self.tools);
        if tools.draining.is_cancelled() {
            return Err(SandboxError::Draining);
        }
        let permit = timeout(WAKE_QUEUE_DEADLINE, tools.wakes.acquire()).await;
        let _permit = permit.map_err(|_| SandboxError::WakesFull)?.map_err(|_| SandboxError::ShuttingDown)?;
        // Alone of all steps it does not wait for the disk, which would be most of a thaw's time: a sandbox that is found
        // awake is taken over awake, whatever the record says of it (see `recovery`).
        self.observe(Observation::WakeBegun).await;
        let timing = metrics().step(LifeStep::Wake);
        let woken = match tier {
            Tier::Frozen => self.thaw().await,
            Tier::Stopped => self.start().await,
        };
        timing.observe_duration();
        match woken {
            Ok(()) => {
                self.activity.open();
                self.observe(Observation::Awake).await;
                if is_restart {
                    metrics().restarted(Restarted::Sandbox);
                }
                Ok(())
            }
            Err(error) if self.is_missing(&error).await => {
                self.lose().await;
                Err(self.not_running())
            }
            Err(error) => {
                self.observe(Observation::WakeFailed).await;
                Err(error)
            }
        }
    }

    /// Whether a step has failed because there is nothing of the sandbox any more. An engine that has just not answered is
    /// not asked.
    async fn is_missing(&self, error: &SandboxError) -> bool {
        let SandboxError::Engine { source, .. } = error else { return false };
        !matches!(**source, EngineError::Unavailable { .. })
            && matches!(self.tools.engine.find(self.id()).await, Ok(Found::Nothing))
    }

    async fn thaw(&mut self) -> Result<(), SandboxError> {
        crash::point("thaw.intended");
        self.tools.engine.thaw(self.id()).await.map_err(|error| self.failed("wake", error))?;
        crash::point("thaw.done");
        if let Err(error) = self.rouse().await {
            // It goes on sleeping; what it was when it fell asleep is not lost.
            if let Err(error) = self.tools.engine.freeze(self.id()).await {
                tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a failed wake was not undone");
            }
            return Err(error);
        }
        Ok(())
    }

    /// Talks to the guest of one that an earlier daemon froze, and that goes on.
    pub(super) async fn rouse(&mut self) -> Result<(), SandboxError> {
        match std::mem::replace(&mut self.body, Body::Gone) {
            Body::Dormant(started) => match self.connect(started).await {
                Ok(()) => Ok(()),
                Err((error, started)) => {
                    self.body = Body::Dormant(started);
                    Err(error)
                }
            },
            body => {
                self.body = body;
                Ok(())
            }
        }
    }

    async fn start(&mut self) -> Result<(), SandboxError> {
        crash::point("start.intended");
        let started = self.tools.engine.start(&self.spec()).await.map_err(|error| self.failed("wake", error))?;
        crash::point("start.made");
        if let Err((error, _)) = self.connect(started).await {
            if let Err(error) = self.tools.engine.stop(self.id()).await {
                tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a failed wake was not undone");
            }
            return Err(error);
        }
        crash::point("start.connected");
        Ok(())
    }
}
