//! The task that owns a sandbox: it makes it, watches it, and removes it when asked to.

use std::sync::Arc;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;

use super::registry::Defaults;
use super::state::{Observation, Phase};
use super::{Profile, SandboxError, Snapshot};
use crate::engine::{Engine, Process, Spec, Started};
use crate::guest::client::Guest;
use crate::hands::{self, Hands};
use crate::ids::SandboxId;
use crate::telemetry::chain;

/// The task.
pub struct Driver {
    engine: Arc<dyn Engine>,
    profile: Arc<Profile>,
    defaults: Defaults,
    publisher: watch::Sender<Snapshot>,
    /// Counts requests to destroy the sandbox.
    requests: watch::Receiver<u64>,
}

/// A sandbox whose guest has answered.
struct Live {
    hands: Hands,
    init: Process,
    /// The connection to the guest.
    connection: JoinSet<()>,
}

impl Driver {
    /// A driver of a sandbox that is to be made.
    pub fn new(
        engine: Arc<dyn Engine>,
        profile: Arc<Profile>,
        defaults: Defaults,
        publisher: watch::Sender<Snapshot>,
        requests: watch::Receiver<u64>,
    ) -> Self {
        Self { engine, profile, defaults, publisher, requests }
    }

    /// The sandbox's whole life; `made` hears how the first part went. Answers its id when it is gone.
    pub async fn live(mut self, made: oneshot::Sender<Result<(), SandboxError>>) -> SandboxId {
        match self.make().await {
            Ok(live) => {
                self.observe(Observation::GuestReady, Some(live.hands.clone()));
                // A caller that has left does not undo the making.
                let _ = made.send(Ok(()));
                self.watch(live).await;
                self.wait_for_request().await;
            }
            Err(error) => {
                self.observe(Observation::CreateFailed(chain(&error).to_string().into()), None);
                let _ = made.send(Err(error));
            }
        }
        self.remove_until_gone().await;
        self.profile.id.clone()
    }

    async fn make(&self) -> Result<Live, SandboxError> {
        let Profile { id, image, limits, user, workspace, .. } = &*self.profile;
        let spec = Spec {
            id: id.clone(),
            image: image.clone(),
            limits: *limits,
            workspace: workspace.into(),
            user: user.clone(),
        };
        let started = self.engine.create(&spec).await.map_err(|error| SandboxError::Create(Arc::new(error)))?;
        let Started { init, pid, socket, image, cgroup } = started;
        let connected = Guest::connect(&socket, pid).await;
        let (guest, task) = connected.map_err(|error| SandboxError::Guest(chain(&error).to_string().into()))?;
        let mut connection = JoinSet::new();
        connection.spawn(task.serve());
        let mut settings = hands::Settings {
            env: image.env,
            user: user.clone().or(image.user).unwrap_or_default(),
            workspace: workspace.clone(),
            ..self.defaults.runs.clone()
        };
        settings.env.extend(self.profile.env.clone());
        let hands = Hands::new(guest, socket, cgroup, self.defaults.spools.join(id.as_str()), settings);
        Ok(Live { hands, init, connection })
    }

    /// Watches a running sandbox until it is to be destroyed or has crashed; its runs are over then.
    async fn watch(&mut self, live: Live) {
        let Live { hands, init, mut connection } = live;
        // All are cancel-safe: they only wait for something that stays.
        let gone = tokio::select! {
            biased;
            () = Self::requested(&mut self.requests) => None,
            ended = init.ended() => Some(ended),
            _ = connection.join_next() => Some("the guest closed its connection".to_owned()),
        };
        match gone {
            None => self.observe(Observation::DestroyRequested, None),
            Some(why) => self.observe(Observation::GuestGone(why.into()), None),
        }
        // Their processes are gone with the guest, or are about to be; what waits for them must not wait longer.
        connection.shutdown().await;
        hands.close().await;
    }

    async fn wait_for_request(&mut self) {
        Self::requested(&mut self.requests).await;
    }

    /// There is a request that was not served yet. Requests are counted, so that none is missed.
    async fn requested(requests: &mut watch::Receiver<u64>) {
        // Every handle gone is a request too: nobody could ever make one.
        let _ = requests.wait_for(|count| *count > 0).await;
    }

    /// Removes the sandbox; if that fails, again with every further request.
    async fn remove_until_gone(&mut self) {
        loop {
            self.requests.borrow_and_update();
            self.observe(Observation::DestroyRequested, None);
            match self.engine.remove(&self.profile.id).await {
                Ok(()) => return self.observe(Observation::Removed, None),
                Err(error) => {
                    let message = chain(&error).to_string();
                    tracing::error!(sandbox.id = %self.profile.id, error = %message, "a sandbox could not be removed");
                    self.observe(Observation::RemoveFailed(message.into()), None);
                }
            }
            if self.requests.changed().await.is_err() {
                return;
            }
        }
    }

    fn observe(&self, observation: Observation, hands: Option<Hands>) {
        self.publisher.send_if_modified(|snapshot| match snapshot.phase.after(observation) {
            Some(phase) => {
                tracing::info!(sandbox.id = %self.profile.id, phase = name(&phase), "sandbox");
                *snapshot = Snapshot { generation: snapshot.generation + 1, phase, hands };
                true
            }
            None => false,
        });
    }
}

fn name(phase: &Phase) -> &'static str {
    match phase {
        Phase::Creating => "creating",
        Phase::Running => "running",
        Phase::Crashed(_) => "crashed",
        Phase::Failed(_) => "failed",
        Phase::Destroying => "destroying",
        Phase::Destroyed => "destroyed",
    }
}
