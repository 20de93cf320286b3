//! The brain comes, speaks, and goes. Pure.

use serde_json::json;

use super::super::event::{Level, NewEvent};
use super::super::turn::{Failure, YieldReason};
use super::{Active, Arrival, CRASHES, Effect, FIRST_OUTPUT, House, Loss, Presence, Step};
use crate::runtime::{Ending, Said, Usage};
use crate::sandbox::policy::Decision;

impl Step<'_> {
    pub(super) fn fetch(&mut self) {
        if self.state.presence == Presence::Away {
            self.state.presence = Presence::Coming;
            self.state.restart_at_ms = None;
            self.act(Effect::Fetch);
        }
    }

    pub(super) fn release(&mut self) {
        if self.state.presence == Presence::Here {
            self.state.presence = Presence::Away;
        }
        self.act(if self.state.is_archived { Effect::Dispose } else { Effect::Release });
    }

    pub(super) fn arrived(&mut self, house: House, lost: Vec<Loss>, arrival: Arrival) {
        for Loss { role, sandbox, why } in lost {
            let body = json!({ "sandbox": role, "sandbox_id": sandbox.as_str(), "message": why });
            self.emit(NewEvent::system(Level::Internal, "runtime.sandbox_lost", body));
        }
        // It may have spoken while it was looked for.
        let cursor = if arrival == Arrival::Started { 0 } else { self.state.house.cursor };
        self.state.house = House { cursor, memory: self.state.house.memory.take(), ..house };
        self.state.presence = Presence::Here;
        if arrival == Arrival::Started {
            self.state.up_since_ms = self.now_ms;
        }
        match &mut self.state.active {
            Some(active) if active.closing.is_some() => {
                let turn = active.turn.id.clone();
                self.act(Effect::Interrupt(turn));
            }
            // It is over, and waits for a call.
            Some(active) if active.ended.is_some() => {}
            Some(_) => {
                self.go_on(arrival);
                self.steer_all();
            }
            None if self.state.queue.is_empty() => self.release(),
            None => self.begin(),
        }
    }

    /// Tells the brain its turn, unless it is the one that has it.
    fn go_on(&mut self, arrival: Arrival) {
        let Some(active) = &mut self.state.active else { return };
        let (turn, messages) = (active.turn.id.clone(), active.messages.clone());
        match arrival {
            Arrival::Held => {}
            Arrival::Joined => self.act(Effect::Resume { turn, messages, is_same: true }),
            Arrival::Started => {
                active.turn.attempts += 1;
                active.messages.iter_mut().for_each(|(_, is_taken)| *is_taken = true);
                let body = json!({ "attempt": active.turn.attempts });
                self.emit(NewEvent::system(Level::Internal, "runtime.resumed", body));
                self.expect_output();
                self.act(Effect::Resume { turn, messages, is_same: false });
            }
        }
    }

    /// What came while the brain was away.
    pub(super) fn steer_all(&mut self) {
        let Some(active) = &mut self.state.active else { return };
        for seq in self.state.queue.drain(..) {
            active.messages.push((seq, false));
            self.out.effects.push(Effect::Steer(active.turn.id.clone(), seq));
        }
    }

    pub(super) fn expect_output(&mut self) {
        self.state.silent_at_ms = Some(crate::session::millis(self.now + FIRST_OUTPUT));
    }

    pub(super) fn gone(&mut self, why: &str) {
        let was_coming = self.state.presence == Presence::Coming;
        self.state.presence = Presence::Away;
        self.state.silent_at_ms = None;
        self.state.house.run = None;
        match &self.state.active {
            Some(Active { closing: Some((reason, _)), .. }) => {
                let reason = *reason;
                self.end(reason, None);
            }
            // It is over, and waits for a call.
            Some(active) if active.ended.is_some() => {}
            None if self.state.queue.is_empty() && !was_coming => {
                self.emit(NewEvent::system(Level::Internal, "runtime.exited", json!({ "message": why })));
            }
            Some(_) | None => self.crashed(why),
        }
    }

    pub(super) fn crashed(&mut self, why: &str) {
        let started = crate::session::time(self.state.up_since_ms);
        match self.state.history.crashed(&CRASHES, started, self.now) {
            Decision::RestartAfter(delay) => {
                self.emit(NewEvent::error("error.runtime", "runtime_lost", why, true));
                let body = json!({ "after_ms": delay.as_millis() });
                self.emit(NewEvent::system(Level::Internal, "runtime.restarting", body));
                self.state.restart_at_ms = Some(crate::session::millis(self.now + delay));
            }
            Decision::GiveUp { .. } => {
                self.emit(NewEvent::error("error.runtime", "crash_loop", why, false));
                let failure = Failure { code: "crash_loop".to_owned(), message: why.to_owned() };
                self.state.failure = Some(failure.clone());
                self.act(Effect::StopCalls);
                if self.state.active.is_none() {
                    self.begin_and_end_with(YieldReason::Error, Some(failure));
                    self.release();
                } else {
                    self.end(YieldReason::Error, Some(failure));
                }
            }
        }
    }

    pub(super) fn said(&mut self, said: Said) {
        match said {
            Said::Took(id) => {
                let messages = self.state.active.iter_mut().flat_map(|active| &mut active.messages);
                messages.filter(|(seq, _)| *seq == id.seq()).for_each(|(_, is_taken)| *is_taken = true);
            }
            Said::Text(text) => {
                self.emit(NewEvent::agent(Level::Progress, "agent.message", json!({ "text": text })));
            }
            Said::Spoke(text) => {
                if self.state.active.as_ref().is_some_and(|active| !active.has_spoken) {
                    self.speak(json!({ "text": text }));
                } else {
                    self.emit(NewEvent::agent(Level::Progress, "agent.message", json!({ "text": text })));
                }
            }
            Said::Called(call) => self.called(call),
            Said::Stop(call) => self.stop(call),
            Said::Spent(usage) => self.spent(usage),
            Said::Ended(ending) => self.ended(ending),
            Said::Note(kind, body) => {
                self.emit(NewEvent::agent(Level::Internal, kind, body));
            }
            Said::Reply(bytes) => self.act(Effect::Write(bytes)),
            Said::Remember(memory) => self.state.house.memory = Some(memory),
        }
    }

    pub(super) fn spent(&mut self, usage: Usage) {
        self.state.usage = self.state.usage.plus(usage);
        let Some(active) = &mut self.state.active else { return };
        active.turn.usage = active.turn.usage.plus(usage);
        active.turn.is_usage_reported = true;
        if self.rules.limits.tokens.is_some_and(|most| self.state.usage.tokens() >= most) {
            self.close(YieldReason::BudgetExceeded);
        }
    }

    pub(super) fn ended(&mut self, ending: Ending) {
        let Some(active) = &self.state.active else { return };
        let closing = active.closing.map(|(reason, _)| reason);
        let (reason, failure) = match (closing, ending) {
            (Some(reason), _) => (reason, None),
            (None, Ending::Completed) if active.has_asked => (YieldReason::NeedsInput, None),
            (None, Ending::Completed) => (YieldReason::Completed, None),
            (None, Ending::Interrupted) => (YieldReason::Canceled, None),
            (None, Ending::Failed { kind, code, message }) => {
                self.emit(NewEvent::error(kind, &code, &message, false));
                (YieldReason::Error, Some(Failure { code, message }))
            }
        };
        self.act(Effect::StopCalls);
        self.end(reason, failure);
    }
}
