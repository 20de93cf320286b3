//! Looking at what somebody else may have done to the sandbox.

use tokio::time::Instant;

use super::Driver;
use crate::engine::Found;
use crate::sandbox::SandboxError;
use crate::sandbox::state::{Observation, Phase, Tier};

impl Driver {
    /// Takes note of how the engine has the sandbox. What was frozen counts as asleep, and the next call wakes it.
    pub(super) async fn look(&mut self) -> Result<(), SandboxError> {
        if !self.record.phase.has_guest() {
            return Ok(());
        }
        let found = self.tools.engine.find(self.id()).await.map_err(|error| self.failed("look at", error))?;
        match (&self.record.phase, found) {
            (Phase::Running, Found::Alive { is_frozen: true, .. }) => {
                self.activity.close();
                self.asleep_since = Instant::now();
                self.observe(Observation::Asleep(Tier::Frozen)).await;
            }
            (Phase::Hibernated(Tier::Frozen), Found::Alive { is_frozen: false, .. }) => {
                self.rouse().await?;
                self.activity.open();
                self.observe(Observation::Awake).await;
            }
            (_, Found::Alive { .. }) => {}
            (_, Found::Dead | Found::Nothing) => {
                let why = self.explain("the engine says that its processes have ended".to_owned()).await;
                self.crash(why).await;
            }
        }
        Ok(())
    }
}
