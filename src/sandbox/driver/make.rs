//! The making of a sandbox, and its removal.

use std::sync::Arc;
use std::time::SystemTime;

use super::Driver;
use crate::crash;
use crate::engine::EngineError;
use crate::hands::remove_spools;
use crate::metrics::{LifeStep, metrics};
use crate::sandbox::SandboxError;
use crate::sandbox::live::Body;
use crate::sandbox::reserve::Ready;
use crate::sandbox::state::Observation;
use crate::telemetry::chain;

impl Driver {
    pub(super) async fn make(&mut self, ready: Option<Box<Ready>>) -> Result<(), SandboxError> {
        let made = self.try_make(ready).await;
        if let Err(error) = &made {
            let why = chain(error).to_string();
            self.observe(Observation::CreateFailed(why.into())).await;
        }
        made
    }

    async fn try_make(&mut self, ready: Option<Box<Ready>>) -> Result<(), SandboxError> {
        let _timing = metrics().step(LifeStep::Create);
        let is_taken = match ready {
            Some(ready) => self.take(*ready).await?,
            None => false,
        };
        // Not waited for: what was being made is removed by the next daemon, on record or not. Of one that is taken, it is
        // written together with the end.
        self.seen().await;
        crash::point("create.intended");
        if !is_taken {
            let (started, image) = self.tools.engine.create(&self.spec()).await.map_err(create_failed)?;
            self.record.image = image;
            crash::point("create.made");
            self.connect(started).await.map_err(|(error, _)| error)?;
        }
        crash::point("create.connected");
        // Not only handed over: the next daemon removes what was being made, so its maker hears of it after the disk has.
        self.intend(Observation::GuestReady).await?;
        crash::point("create.stored");
        Ok(())
    }

    /// Takes one that was made before as the sandbox's own; whether it could. One that is of no use is gone then.
    async fn take(&mut self, ready: Ready) -> Result<bool, SandboxError> {
        let Ready { spec, started, image } = ready;
        if spec.limits != self.record.limits {
            self.tools.engine.set_limits(self.id(), &self.record.limits).await.map_err(create_failed)?;
        }
        self.record.image = image;
        let Err((error, _)) = self.connect(started).await else { return Ok(true) };
        tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "it has died in reserve, and is made anew");
        self.tools.engine.remove(self.id()).await.map_err(create_failed)?;
        Ok(false)
    }

    /// Removes the sandbox; if that fails, again with every further request.
    pub(super) async fn remove_until_gone(&mut self) {
        self.activity.close();
        let mut body = std::mem::replace(&mut self.body, Body::Gone);
        loop {
            self.requests.borrow_and_update();
            // To remove it takes no disk, and gives some back.
            if let Err(error) = self.intend(Observation::DestroyRequested).await {
                tracing::warn!(error = %chain(&error), "a sandbox is destroyed all the same");
                self.step(Observation::DestroyRequested);
                self.publish();
            }
            crash::point("destroy.intended");
            body.close().await;
            let timing = metrics().step(LifeStep::Destroy);
            let removed = self.tools.engine.remove(self.id()).await;
            timing.observe_duration();
            match removed {
                Ok(()) => break,
                Err(error) => {
                    let message = chain(&error).to_string();
                    tracing::error!(sandbox.id = %self.id(), error = %message, "a sandbox could not be removed");
                    self.observe(Observation::RemoveFailed(message.into())).await;
                }
            }
            if self.requests.changed().await.is_err() {
                return;
            }
        }
        crash::point("destroy.removed");
        remove_spools(self.tools.defaults.spools.join(self.id().as_str())).await;
        crash::point("destroy.cleared");
        self.step(Observation::Removed);
        let forgotten = self.tools.store.remove_sandbox(self.id(), self.record.event(SystemTime::now())).await;
        if let Err(error) = forgotten {
            tracing::error!(sandbox.id = %self.id(), error = %chain(&error), "a removed sandbox is still on record");
        }
        self.publish();
    }
}

fn create_failed(error: EngineError) -> SandboxError {
    SandboxError::Create(Arc::new(error))
}
