//! Looking at what somebody else may have done to the sandbox.

use tokio::time::Instant;

use super::Driver;
use crate::engine::{Change, Found};
use crate::sandbox::SandboxError;
use crate::sandbox::state::{Observation, Phase, Tier};

impl Driver {
    /// Takes note of how the engine has the sandbox, if a change is none of the driver's own. What was frozen counts as
    /// asleep, and the next call wakes it.
    pub(super) async fn look(&mut self, change: Change) -> Result<(), SandboxError> {
        // Only here is it known what the steps before have led to.
        if !self.record.phase.is_surprised_by(change) {
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
            (_, Found::Nothing) => self.lose().await,
            // Its files are as they were.
            (phase, Found::Dead) if !phase.has_guest() => {}
            (_, Found::Dead) => {
                let why = self.explain("the engine says that its processes have ended".to_owned()).await;
                self.crash(why).await;
            }
        }
        Ok(())
    }
}
