//! What is stored of a sandbox, and the events of its life.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::policy::History;
use super::runtime::state::Supervised;
use super::secret_env::SecretEnv;
use super::state::{Failure, Phase, Tier};
use super::{IdleTimeout, Profile, Wish};
use crate::engine::{ImageDefaults, Limits};
use crate::network::policy::Policy;
use crate::network::secrets::Secrets;
use crate::network::{Port, PortChange};
use crate::seal::{SealError, Sealer, Secret};
use crate::store::NewEvent;

/// The version of the format; a record of another one is refused.
const VERSION: u32 = 1;

/// What the next daemon must know of a sandbox.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    version: u32,
    /// What it is.
    pub profile: Arc<Profile>,
    /// The idempotency key with which it was asked for, and what was asked for.
    pub claim: Option<Claim>,
    /// What its image says about runs; known once it was made.
    pub image: ImageDefaults,
    /// Bounds in force.
    pub limits: Limits,
    /// When it goes to sleep, if that was changed since it was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleTimeout>,
    /// What it may reach.
    pub policy: Policy,
    /// Grows with every change.
    pub generation: u64,
    /// Where it stands, or what is being done to it.
    pub phase: Phase,
    /// The boot of the node in which that was.
    pub boot: String,
    /// Crashes of its runtime that still count.
    pub crashes: History,
    /// Its secrets, sealed, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secrets: Option<String>,
    /// Its secret environment, sealed, in base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_env: Option<String>,
    /// The ports that are listened on, as far as that was told.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<Port>,
    /// How its runtime stands, if it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supervised: Option<Supervised>,
}

/// What became of a runtime.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuntimeStep {
    /// It is about to be started.
    Starting,
    /// Its run has begun.
    Started,
    /// It has ended, or could not be started.
    Exited,
    /// The same, and it is given up.
    Failed,
    /// It was ended with its sandbox, and is to be started with it again.
    Stopped,
}

/// A request that may come again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Claim {
    /// Its idempotency key.
    pub key: String,
    /// What was asked for.
    pub wish: Wish,
}

/// What an event tells of a sandbox.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The generation that began with it.
    pub generation: u64,
    /// How deep it sleeps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tier: Option<Tier>,
    /// What went wrong.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// Of an event about a port: which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<Port>,
    /// How its runtime stands, if it is of that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<Supervised>,
}

impl Record {
    /// Of a sandbox that is to be made.
    #[must_use]
    pub fn new(profile: Arc<Profile>, claim: Option<Claim>, limits: Limits, policy: Policy, boot: String) -> Self {
        let supervised = profile.runtime.as_ref().map(|_| Supervised::new(profile.created_at));
        Self {
            version: VERSION,
            profile,
            claim,
            image: ImageDefaults::default(),
            limits,
            idle: None,
            policy,
            generation: 1,
            phase: Phase::Creating,
            boot,
            crashes: History::default(),
            secrets: None,
            secret_env: None,
            ports: Vec::new(),
            supervised,
        }
    }

    /// Its secrets; `None` if it has none, or they cannot be opened.
    #[must_use]
    pub fn secrets(&self, sealer: &Sealer) -> Option<Secrets> {
        let opened = open(sealer, &self.context("secrets"), self.secrets.as_ref()?);
        let secrets = opened.and_then(|secret| Secrets::of_secret(&secret));
        if secrets.is_none() {
            tracing::error!(sandbox.id = %self.profile.id, "its secrets cannot be opened; it goes on without");
        }
        secrets
    }

    /// Keeps its secrets, sealed.
    ///
    /// # Errors
    /// Those of sealing.
    pub fn keep_secrets(&mut self, sealer: &Sealer, secrets: &Secrets) -> Result<(), SealError> {
        self.secrets = Some(seal(sealer, &self.context("secrets"), &secrets.to_secret())?);
        Ok(())
    }

    /// Its secret environment; empty if it has none, or it cannot be opened.
    #[must_use]
    pub fn secret_env(&self, sealer: &Sealer) -> SecretEnv {
        let Some(sealed) = &self.secret_env else { return SecretEnv::default() };
        let opened = open(sealer, &self.context("env"), sealed);
        opened.and_then(|secret| SecretEnv::of_secret(&secret)).unwrap_or_else(|| {
            tracing::error!(sandbox.id = %self.profile.id, "its secret environment cannot be opened; it goes on without");
            SecretEnv::default()
        })
    }

    /// Keeps its secret environment, sealed.
    ///
    /// # Errors
    /// Those of sealing.
    pub fn keep_secret_env(&mut self, sealer: &Sealer, env: &SecretEnv) -> Result<(), SealError> {
        self.secret_env = Some(seal(sealer, &self.context("env"), &env.to_secret())?);
        Ok(())
    }

    /// What of this sandbox is sealed.
    fn context(&self, what: &str) -> String {
        format!("sandbox/{}/{what}", self.profile.id)
    }

    /// When it goes to sleep.
    #[must_use]
    pub fn idle(&self) -> IdleTimeout {
        self.idle.unwrap_or(self.profile.idle)
    }

    /// As it is stored.
    ///
    /// # Panics
    /// Never: it is made of maps with text for keys.
    #[must_use]
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("all keys are text")
    }

    /// As it was stored; `None` if this program cannot read it.
    #[must_use]
    pub fn of_text(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok().filter(|record: &Self| record.version == VERSION)
    }

    /// The event of having come to where it stands.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn event(&self, now: SystemTime) -> NewEvent {
        let (tier, failure) = (self.phase.tier(), self.phase.failure().cloned());
        let told = Told { generation: self.generation, tier, failure, ..Told::default() };
        told.event(now, format!("sandbox.{}", self.phase.name()))
    }

    /// A port is listened on now, or is not any more.
    pub fn apply(&mut self, change: &PortChange) {
        match change {
            PortChange::Opened(port) => self.ports.push(*port),
            PortChange::Closed(port) => self.ports.retain(|known| known != port),
        }
    }

    /// The event of that.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn port_event(&self, change: &PortChange, now: SystemTime) -> NewEvent {
        let (kind, port) = match change {
            PortChange::Opened(port) => ("port.opened", *port),
            PortChange::Closed(port) => ("port.closed", *port),
        };
        let told = Told { generation: self.generation, port: Some(port), ..Told::default() };
        told.event(now, kind.to_owned())
    }

    /// The event of what became of its runtime.
    #[must_use]
    pub fn runtime_event(&self, step: RuntimeStep, now: SystemTime) -> NewEvent {
        let kind = match step {
            RuntimeStep::Starting => "runtime.starting",
            RuntimeStep::Started => "runtime.started",
            RuntimeStep::Exited => "runtime.exited",
            RuntimeStep::Failed => "runtime.failed",
            RuntimeStep::Stopped => "runtime.stopped",
        };
        let told = Told { generation: self.generation, runtime: self.supervised.clone(), ..Told::default() };
        told.event(now, kind.to_owned())
    }
}

impl Told {
    fn event(&self, at: SystemTime, kind: String) -> NewEvent {
        NewEvent { at, kind, body: serde_json::to_string(self).expect("all keys are text") }
    }
}

fn seal(sealer: &Sealer, context: &str, secret: &Secret) -> Result<String, SealError> {
    sealer.seal(context, secret).map(|sealed| BASE64.encode(sealed))
}

fn open(sealer: &Sealer, context: &str, sealed: &str) -> Option<Secret> {
    sealer.open(context, &BASE64.decode(sealed).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_format_is_that_of_earlier_daemons() {
        let golden = concat!(
            r#"{"version":1,"profile":{"id":"sb_0123456789abcdefghij","image":"host","env":{"A":"b"},"labels":{},"#,
            r#""user":null,"workspace":"/workspace","idle":{"after":{"secs":600,"nanos":0}},"#,
            r#""created_at":{"secs_since_epoch":1,"nanos_since_epoch":0},"engine":"native"},"#,
            r#""claim":{"key":"k","wish":{"image":"tar:/r.tar","env":{},"labels":{"a":"b"},"#,
            r#""limits":{"memory":null,"cpus":0.5,"pids":null,"disk":null},"user":"me","workspace":null,"idle":"never","network":null}},"#,
            r#""image":{"env":{"PATH":"/bin"},"user":null},"#,
            r#""limits":{"memory":16777216,"cpus":null,"pids":9,"disk":null},"policy":{"proxy":["*.example"]},"generation":3,"#,
            r#""phase":{"hibernated":"frozen"},"boot":"b","crashes":{"crashes":[]}}"#,
        );
        let record = Record::of_text(golden).unwrap();
        assert_eq!(record.phase, Phase::Hibernated(Tier::Frozen));
        assert_eq!(record.to_text(), golden);
        assert_eq!(Record::of_text(&golden.replace(r#""version":1"#, r#""version":2"#)), None);
    }

    #[test]
    fn an_event_says_what_became_of_it() {
        let golden = r#"{"generation":7,"failure":{"kind":"lost","message":"gone"}}"#;
        let told: Told = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&told).unwrap(), golden);
    }
}
