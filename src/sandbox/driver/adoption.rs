//! Taking over what an earlier daemon left.

use tokio::time::sleep;

use super::{Driver, LOOK_AGAIN, requested};
use crate::engine::Found;
use crate::metrics::metrics;
use crate::sandbox::live::Body;
use crate::sandbox::recovery::{Plan, Remains, plan};
use crate::telemetry::chain;

impl Driver {
    /// Takes over what an earlier daemon left; `false` if it is to be removed.
    pub(super) async fn take_over(&mut self) -> bool {
        let Some(found) = self.find().await else { return true };
        let remains = match &found {
            Found::Alive { is_frozen: false, .. } => Remains::Awake,
            Found::Alive { is_frozen: true, .. } => Remains::Frozen,
            Found::Dead => Remains::Files,
            Found::Nothing => Remains::Nothing,
        };
        let same_boot = self.record.boot == self.tools.boot;
        let Plan::Adopt(phase) = plan(&self.record.phase, remains, same_boot) else { return false };
        let is_as_recorded = phase == self.record.phase;
        self.record.phase = phase;
        self.record.boot.clone_from(&self.tools.boot);
        metrics().adopted();
        match found {
            Found::Alive { started, is_frozen: true } => self.body = Body::Dormant(started),
            Found::Alive { started, is_frozen: false } => {
                if let Err((error, started)) = self.connect(started).await {
                    self.body = Body::Dormant(started);
                    let why = chain(&error).to_string();
                    self.crash(why).await;
                    return true;
                }
            }
            Found::Dead | Found::Nothing => {}
        }
        if is_as_recorded {
            self.publisher.send_modify(|snapshot| {
                (snapshot.hands, snapshot.network) = (self.body.hands(), self.body.network());
            });
        } else {
            self.record.generation += 1;
            self.seen().await;
        }
        true
    }

    /// Looks for the sandbox until the engine answers; `None` if it is to be destroyed meanwhile.
    async fn find(&mut self) -> Option<Found> {
        loop {
            match self.tools.engine.find(self.id()).await {
                Ok(found) => return Some(found),
                Err(error) => {
                    tracing::warn!(sandbox.id = %self.id(), error = %chain(&error), "a sandbox is not found yet");
                }
            }
            tokio::select! {
                () = requested(&mut self.requests) => return None,
                () = sleep(LOOK_AGAIN) => {}
            }
        }
    }
}
