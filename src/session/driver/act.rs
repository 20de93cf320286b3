//! What follows from inputs is done.

use std::sync::Arc;
use std::time::SystemTime;

use tokio_util::sync::CancellationToken;

use super::super::house::Search;
use super::super::state::{Effect, House, Input, Record};
use super::super::tools::{Bench, Left, unknown};
use super::super::{SessionError, log};
use super::{Copying, Driver, Job, Parked};
use crate::ids::{EventId, TurnId};
use crate::runtime::process::Process;
use crate::runtime::{Answer, Dialogue, Message, Recorded, Turn};
use crate::sandbox::Sandbox;
use crate::telemetry::chain;

impl Driver {
    pub(super) async fn act(&mut self, effect: Effect) -> Result<(), SessionError> {
        match effect {
            Effect::Fetch => self.fetch(),
            Effect::Release => self.kept = None,
            Effect::Begin(turn, messages) => {
                let messages = messages.into_iter().map(|seq| (seq, false)).collect();
                let turn = self.turn(turn, messages).await?;
                self.tell(|dialogue| dialogue.begin(&turn));
            }
            Effect::Resume { turn, messages, is_same } => {
                let turn = self.turn(turn, messages).await?;
                let calls = if is_same { Vec::new() } else { self.recorded().await? };
                self.tell(
                    |dialogue| if is_same { dialogue.rejoin(Some(&turn)) } else { dialogue.resume(&turn, &calls) },
                );
            }
            Effect::Steer(turn, seq) => {
                let message = self.message(seq, false).await?;
                self.tell(|dialogue| dialogue.steer(&turn, &message));
            }
            Effect::Interrupt(turn) => self.tell(|dialogue| dialogue.interrupt(&turn)),
            Effect::Kill => self.kill(),
            Effect::Run(call) => self.launch(Parked::Run(call)),
            Effect::Follow(call) => self.launch(Parked::Follow(call)),
            Effect::StopCalls => self.stop_calls(),
            Effect::StopCall(call) => self.stop_call(&call),
            Effect::Answer(call, answer) => self.tell(|dialogue| dialogue.answer(&call, &answer)),
            Effect::Replay(call) => {
                let stored = self.context.store.call(self.number, call.clone()).await.map_err(SessionError::Store)?;
                let record = stored.and_then(|record| serde_json::from_str::<Record>(&record).ok());
                let answer = record.and_then(|record| record.answer).unwrap_or_else(unknown);
                self.tell(|dialogue| dialogue.answer(&call, &answer));
            }
            Effect::Copy => self.copy(),
            Effect::Write(lines) => self.write(lines),
            Effect::Dispose => self.dispose(),
        }
        Ok(())
    }

    pub(super) fn fetch(&mut self) {
        // The one under way finds what this one would.
        if std::mem::replace(&mut self.is_searching, true) {
            return;
        }
        let spec = &self.profile.spec;
        let search = Search {
            sandboxes: self.context.sandboxes.clone(),
            session: self.id.clone(),
            house: self.state.house.clone(),
            image: spec.image.parse().ok(),
            labels: self.profile.labels.clone(),
            brains: Arc::clone(&self.context.brains),
            kind: spec.runtime,
            model: spec.model_name().to_owned(),
            prompt: spec.prompt.clone(),
            has_process: self.process.as_ref().is_some_and(Process::is_alive),
        };
        self.jobs.spawn(async move { Job::Found(Box::new(search.run().await)) });
    }

    pub(super) fn tell(&mut self, line: impl FnOnce(&mut dyn Dialogue) -> Vec<u8>) {
        // A brain that has gone meanwhile is told when it is back.
        if let Some(dialogue) = &mut self.dialogue {
            let lines = line(&mut **dialogue);
            self.write(lines);
        }
    }

    pub(super) fn write(&mut self, lines: Vec<u8>) {
        let is_written = self.process.as_ref().is_none_or(|process| process.write(lines));
        if !is_written {
            self.lose_process("the brain does not read what it is told".to_owned());
        }
    }

    /// A turn with the texts of its messages.
    pub(super) async fn turn(&self, id: TurnId, messages: Vec<(u64, bool)>) -> Result<Turn, SessionError> {
        let attempt = self.state.active.as_ref().map_or(1, |active| active.turn.attempts);
        let mut turn = Turn { id, attempt, messages: Vec::with_capacity(messages.len()) };
        for (seq, is_taken) in messages {
            turn.messages.push(self.message(seq, is_taken).await?);
        }
        Ok(turn)
    }

    pub(super) async fn message(&self, seq: u64, is_taken: bool) -> Result<Message, SessionError> {
        let text = match self.texts.get(&seq) {
            Some(text) => text.clone(),
            None => log::text(&self.context.store, &self.context.contents, &self.id, self.number, seq).await?,
        };
        Ok(Message { id: EventId::of(&self.id, seq), text, is_taken })
    }

    /// The calls of the turn, for a brain that begins anew.
    pub(super) async fn recorded(&self) -> Result<Vec<Recorded>, SessionError> {
        let calls = self.context.store.calls(self.number).await.map_err(SessionError::Store)?;
        let calls = calls.into_iter().map(|(id, record)| {
            let damaged = |source| SessionError::Record { what: "call", id: id.clone(), source };
            let Record { tool, answer, is_void, .. } = serde_json::from_str(&record).map_err(damaged)?;
            let answer = answer.or_else(|| is_void.then(|| Answer::error("it was not begun: call it again")));
            Ok(Recorded { id, tool, answer })
        });
        calls.collect()
    }

    /// Begins a call, or has it wait for the hands.
    pub(super) fn launch(&mut self, parked: Parked) {
        let Some((_, hands)) = &self.kept else {
            self.parked.push(parked);
            return;
        };
        let Some(active) = &self.state.active else { return };
        let stop = self.stop_calls.child_token();
        self.stops.insert(parked.id().to_owned(), stop.clone());
        let bench = Bench {
            sandbox: hands.sandbox.clone(),
            notes: self.notes.0.clone(),
            stop,
            until: crate::session::time(active.deadline_ms),
            session: self.id.to_string(),
            forgets_after: self.context.sandboxes.defaults().runs.retention,
        };
        // What the state says of the sandbox is from before it was looked for.
        let is_here = self.state.house.hands.as_ref() == Some(&hands.sandbox.profile().id);
        match parked {
            Parked::Run(call) => {
                self.jobs.spawn(async move { Job::Finished(bench.carry_out(call).await) });
            }
            Parked::Follow(id) => {
                let Some(call) = self.state.calls.get(&id) else { return };
                let age = SystemTime::now().duration_since(crate::session::time(call.at_ms)).unwrap_or_default();
                let left = Left { id, tool: call.tool.clone(), is_here, age, told: call.told };
                self.jobs.spawn(async move { Job::Finished(bench.follow(left).await) });
            }
        }
    }

    pub(super) fn stop_calls(&mut self) {
        self.stop_calls.cancel();
        self.stop_calls = CancellationToken::new();
        self.stops.clear();
        std::mem::take(&mut self.parked).into_iter().for_each(|parked| self.stop_parked(parked));
    }

    fn stop_call(&mut self, id: &str) {
        if let Some(stop) = self.stops.get(id) {
            stop.cancel();
        } else if let Some(place) = self.parked.iter().position(|parked| parked.id() == id) {
            let parked = self.parked.remove(place);
            self.stop_parked(parked);
        }
    }

    fn stop_parked(&mut self, parked: Parked) {
        let (id, answer) = match parked {
            Parked::Run(call) => (call.id, Answer::error("it was stopped before it began")),
            Parked::Follow(id) => (id, unknown()),
        };
        self.push(Input::Done { id, answer, exec: None });
    }

    /// Copies the brain's conversation. If that fails, the next turn's end is as good.
    pub(super) fn copy(&mut self) {
        let house = &self.state.house;
        let Some(sandbox) = house.brain.as_ref().and_then(|id| self.context.sandboxes.get(id).ok()) else { return };
        let runtime = self.profile.spec.runtime.runtime();
        let Some(trace) = runtime.trace(&self.id, house.memory.as_deref()) else { return };
        if self.copying != Copying::Done {
            self.copying = Copying::Again;
            return;
        }
        self.copying = Copying::Begun;
        let (session, brains) = (self.id.clone(), Arc::clone(&self.context.brains));
        self.jobs.spawn(async move {
            match sandbox.awake().await {
                Ok((hands, _lease)) => {
                    if let Err(error) = brains.transcripts.keep(&session, &hands, &trace).await {
                        tracing::warn!(session.id = %session, error = %chain(&error), "a conversation is not copied");
                    }
                }
                Err(error) => tracing::debug!(session.id = %session, %error, "a brain has gone before its copy"),
            }
            Job::Copied
        });
    }

    /// Removes the sandboxes and the brain's conversation; the log stays.
    pub(super) fn dispose(&mut self) {
        (self.kept, self.dialogue, self.gateway, self.process) = (None, None, None, None);
        let House { brain, hands, .. } = &self.state.house;
        let sandboxes: Vec<Sandbox> =
            [brain, hands].into_iter().flatten().filter_map(|id| self.context.sandboxes.get(id).ok()).collect();
        let (session, brains) = (self.id.clone(), Arc::clone(&self.context.brains));
        self.jobs.spawn(async move {
            for sandbox in sandboxes {
                if let Err(error) = sandbox.destroy().await {
                    tracing::error!(sandbox.id = %sandbox.profile().id, %error, "a sandbox of a session is left behind");
                }
            }
            if let Err(error) = brains.transcripts.forget(&session).await {
                tracing::error!(session.id = %session, error = %chain(&error), "a conversation is left behind");
            }
            Job::Disposed
        });
    }
}
