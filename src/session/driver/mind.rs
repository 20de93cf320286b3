//! The brain's process comes and goes, and with it the door to its model.

use std::sync::Arc;

use super::super::house::{Door, Found, Mind};
use super::super::state::{Arrival, Input, Presence};
use super::super::tools::catalogue;
use super::{Driver, Job};
use crate::gateway::{Gateway, Grant};
use crate::runtime::Brain;

impl Driver {
    pub(super) fn lose_process(&mut self, why: String) {
        self.kill();
        self.push(Input::Gone { why });
    }

    pub(super) fn kill(&mut self) {
        (self.dialogue, self.gateway) = (None, None);
        if let Some(process) = self.process.take() {
            let killing = process.kill();
            self.jobs.spawn(async move {
                killing.await;
                Job::Done
            });
        }
    }

    pub(super) fn arrived(&mut self, found: Found) {
        let Found { house, brain, hands, lost, process } = found;
        let (process, arrival) = match process {
            // It has ended since: if the brain is still wanted, another one is.
            Mind::Held if self.process.is_none() => {
                if self.state.presence == Presence::Coming {
                    self.fetch();
                }
                return;
            }
            Mind::Held => (None, Arrival::Held),
            Mind::Joined(process, writer) => (Some((process, writer)), Arrival::Joined),
            Mind::Started(process, writer, door) => {
                self.gateway = door.map(|door| self.open(door));
                (Some((process, writer)), Arrival::Started)
            }
        };
        self.watch_ports(&hands.sandbox);
        self.kept = Some((brain, hands));
        if let Some((process, writer)) = process {
            self.jobs.spawn(async move {
                writer.write_all().await;
                Job::Done
            });
            let tools = catalogue();
            let brain = Brain {
                session: &self.id,
                model: self.profile.spec.model_name(),
                prompt: &self.profile.spec.prompt,
                guest: self.context.sandboxes.engine().guest_path(),
                tools: &tools,
                launch: self.context.brains.cages.launch(self.profile.spec.runtime),
                memory: house.memory.as_deref(),
                // The process is there, whatever it found.
                is_kept: true,
            };
            self.dialogue = Some(self.profile.spec.runtime.runtime().dialogue(&brain));
            self.process = Some(process);
            match (arrival, &self.state.active) {
                (Arrival::Started, _) => self.tell(|dialogue| dialogue.open()),
                // Within a turn it is told that as well.
                (Arrival::Joined, None) => self.tell(|dialogue| dialogue.rejoin(None)),
                (Arrival::Joined, Some(_)) | (Arrival::Held, _) => {}
            }
        }
        self.push(Input::Arrived { house, lost, arrival });
        for parked in std::mem::take(&mut self.parked) {
            self.launch(parked);
        }
    }

    /// Opens the brain's door: as many tokens as the session has left go through it.
    fn open(&mut self, door: Door) -> Gateway {
        let used = self.state.usage.tokens();
        let grant = Grant {
            session: self.id.clone(),
            provider: door.provider,
            credentials: self.context.credentials.clone(),
            credential: self.profile.spec.credential.clone(),
            tokens: self.profile.limits.tokens.map(|most| most.saturating_sub(used)),
        };
        let (gateway, server) = Gateway::open(door.listener, Arc::clone(&self.context.brains.models), grant);
        self.jobs.spawn(async move {
            server.serve().await;
            Job::Done
        });
        gateway
    }
}
