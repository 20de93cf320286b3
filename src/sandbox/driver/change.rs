//! What callers change of a sandbox while it lives.

use std::sync::Arc;

use super::Driver;
use crate::engine::Limits;
use crate::network::policy::Policy;
use crate::network::secrets::{Binding, MAX_SECRETS, Secrets};
use crate::sandbox::record::Record;
use crate::sandbox::{IdleTimeout, SandboxError, not_kept};

impl Driver {
    pub(super) async fn set_limits(&mut self, limits: Limits) -> Result<(), SandboxError> {
        // One without processes gets them with its next.
        if self.record.phase.has_guest() {
            let set = self.tools.engine.set_limits(self.id(), &limits).await;
            set.map_err(|error| self.failed("set the limits of", error))?;
        }
        self.change(|record| record.limits = limits.or(record.limits)).await?;
        if let Some(network) = self.body.network() {
            network.set_bandwidth(self.record.limits.bandwidth);
        }
        Ok(())
    }

    pub(super) async fn set_idle(&mut self, idle: IdleTimeout) -> Result<(), SandboxError> {
        self.change(|record| record.idle = Some(idle)).await
    }

    /// Stores and publishes what was changed without a change of phase.
    async fn change(&mut self, change: impl FnOnce(&mut Record)) -> Result<(), SandboxError> {
        let mut record = self.record.clone();
        change(&mut record);
        record.generation += 1;
        self.store(&record).await?;
        self.record = record;
        self.publish();
        Ok(())
    }

    pub(super) async fn set_network(&mut self, policy: Policy, changes: &[Binding]) -> Result<(), SandboxError> {
        let (made, asked) = (self.record.policy.name(), policy.name());
        if made != asked {
            return Err(SandboxError::NetworkMode { id: self.id().clone(), made, asked });
        }
        let secrets = self.changed_secrets(changes)?;
        let mut sealed = self.record.clone();
        if let Some(secrets) = &secrets {
            sealed.keep_secrets(&self.tools.sealer, secrets).map_err(not_kept)?;
        }
        // Where they go is published with the change.
        let secrets = secrets.map(Arc::new);
        let before = self.secrets.clone();
        self.secrets = secrets.clone().or_else(|| self.secrets.take());
        let changed = self.change(|record| (record.policy, record.secrets) = (policy, sealed.secrets)).await;
        if changed.is_err() {
            self.secrets = before;
            return changed;
        }
        if let Some(network) = self.body.network() {
            network.set_policy(self.record.policy.clone());
            secrets.into_iter().for_each(|secrets| network.set_secrets(secrets));
        }
        Ok(())
    }

    /// Its secrets with some changes; `None` if there are none to make.
    fn changed_secrets(&self, changes: &[Binding]) -> Result<Option<Secrets>, SandboxError> {
        if changes.is_empty() {
            return Ok(None);
        }
        let secrets = self.secrets.as_ref().ok_or_else(|| SandboxError::NoSecrets(self.id().clone()))?;
        let changed = secrets.with(changes).map_err(not_kept)?;
        if changed.count() > MAX_SECRETS { Err(SandboxError::TooManySecrets) } else { Ok(Some(changed)) }
    }
}
