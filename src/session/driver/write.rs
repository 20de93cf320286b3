//! What follows from inputs is stored, whole or not at all.

use std::time::SystemTime;

use super::super::record::{column, json};
use super::super::state::{Effect, Input, Outcome, Rules};
use super::super::{SessionError, log};
use super::{Driver, Task, Waits};
use crate::store::{Change, Claim, StoreError};

impl Driver {
    /// Stores what follows from some inputs, in one write, and answers who waits for it. If that fails nothing has
    /// happened: callers are told so, and what nobody can say again stays in the backlog.
    pub(super) async fn apply(&mut self, tasks: Vec<Task>) -> Result<Vec<Effect>, SessionError> {
        let now = SystemTime::now();
        let mut next = self.state.clone();
        let mut change = Change { head: self.state.head, ..Change::default() };
        let mut effects = Vec::new();
        let (mut events, mut seqs, mut texts) = (Vec::new(), Vec::new(), Vec::new());
        let rules = Rules { session: &self.id, limits: self.profile.limits };
        for task in &tasks {
            let seq = next.head + 1;
            if let Input::Message { body, .. } = &task.input {
                texts.push((seq, body["text"].as_str().unwrap_or_default().to_owned()));
            }
            if let Waits::Sender(Some(claim), _) = &task.waits {
                change.claims.push(Claim { value: seq.to_string(), ..claim.clone() });
            }
            seqs.push(seq);
            let outcome = next.on(task.input.clone(), rules, now);
            let Outcome { events: more, turns, forget_calls, calls, effects: act } = outcome;
            events.extend(more);
            if forget_calls {
                (change.forget_calls, change.calls) = (true, Vec::new());
            }
            change.turns.extend(turns.iter().map(|turn| (turn.number, turn.id.clone(), json(turn))));
            change.calls.extend(calls.iter().map(|(id, record)| (id.clone(), json(record))));
            effects.extend(act);
        }
        change.entries = match log::entries(&self.context.contents, &self.id, self.state.head, &events, now).await {
            Ok(entries) => entries,
            Err(error) => return Err(self.take_back(tasks, error)),
        };
        if next != self.state {
            change.state = Some((column(&next), json(&next)));
        }
        if let Err(error) = self.context.store.change_session(self.number, change).await {
            return Err(self.take_back(tasks, SessionError::Store(error)));
        }
        self.state = next;
        if self.state.is_busy() {
            self.texts.extend(texts)
        } else {
            self.texts.clear()
        }
        for (task, seq) in tasks.into_iter().zip(seqs) {
            // Whoever no longer waits does not want to know.
            match task.waits {
                Waits::Nobody => {}
                Waits::Caller(reply) => drop(reply.send(Ok(()))),
                Waits::Sender(_, reply) => drop(reply.send(Ok((seq, true)))),
            }
        }
        Ok(effects)
    }

    /// Nothing was stored.
    pub(super) fn take_back(&mut self, tasks: Vec<Task>, error: SessionError) -> SessionError {
        for task in tasks.into_iter().rev() {
            let copy = || match &error {
                SessionError::Store(error) => SessionError::Store(error.clone()),
                _ => SessionError::Store(StoreError::Gone),
            };
            match task.waits {
                Waits::Nobody => self.backlog.push_front(Task { input: task.input, waits: Waits::Nobody }),
                Waits::Caller(reply) => drop(reply.send(Err(copy()))),
                Waits::Sender(_, reply) => drop(reply.send(Err(copy()))),
            }
        }
        error
    }
}
