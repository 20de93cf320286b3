//! Turns begin and end. Pure.

use serde_json::{Value, json};

use super::super::event::{Level, NewEvent};
use super::super::turn::{Failure, Turn, TurnEnd, YieldReason};
use super::{Active, Effect, INTERRUPT_GRACE, Presence, Step};
use crate::ids::{EventId, TurnId};
use crate::runtime::Usage;

impl Step<'_> {
    /// Begins a turn with all that waits, or ends it at once if there may be no more.
    pub(super) fn begin(&mut self) {
        let limits = self.rules.limits;
        if limits.turns.is_some_and(|most| self.state.turns >= most) {
            self.begin_and_end(YieldReason::MaxTurns);
            self.release();
        } else if limits.tokens.is_some_and(|most| self.state.usage.tokens() >= most) {
            self.begin_and_end(YieldReason::BudgetExceeded);
            self.release();
        } else {
            let messages = self.state.queue.iter().copied().collect();
            let turn = self.start();
            self.expect_output();
            self.act(Effect::Begin(turn, messages));
        }
    }

    pub(super) fn start(&mut self) -> TurnId {
        let messages: Vec<(u64, bool)> = self.state.queue.drain(..).map(|seq| (seq, true)).collect();
        let bounds = (messages.first().map_or(0, |it| it.0), messages.last().map_or(0, |it| it.0));
        self.state.turns += 1;
        let turn = Turn {
            id: TurnId::of(self.rules.session, self.state.turns),
            number: self.state.turns,
            input_from_seq: bounds.0,
            input_to_seq: bounds.1,
            started_at_ms: self.now_ms,
            end: None,
            usage: Usage::default(),
            is_usage_reported: false,
            attempts: 1,
            result: None,
        };
        let deadline_ms = crate::session::millis(self.now + self.rules.limits.turn());
        let body = json!({ "turn_id": turn.id.as_str(), "input_from_seq": bounds.0, "input_to_seq": bounds.1 });
        self.state.calls.clear();
        self.out.forget_calls = true;
        let id = turn.id.clone();
        self.keep_turn(turn.clone());
        let active =
            Active { turn, messages, has_asked: false, has_spoken: false, deadline_ms, closing: None, ended: None };
        self.state.active = Some(active);
        self.emit(NewEvent::system(Level::Progress, "turn.started", body));
        id
    }

    pub(super) fn begin_and_end(&mut self, reason: YieldReason) {
        self.begin_and_end_with(reason, None);
    }

    pub(super) fn begin_and_end_with(&mut self, reason: YieldReason, failure: Option<Failure>) {
        self.start();
        self.finish(reason, failure);
    }

    /// The turn is to end early.
    pub(super) fn close(&mut self, reason: YieldReason) {
        let Some(active) = self.state.active.as_mut().filter(|active| active.closing.is_none()) else { return };
        active.closing = Some((reason, crate::session::millis(self.now + INTERRUPT_GRACE)));
        let turn = active.turn.id.clone();
        self.state.silent_at_ms = None;
        self.act(Effect::StopCalls);
        match self.state.presence {
            Presence::Here => self.act(Effect::Interrupt(turn)),
            // It is interrupted when it arrives.
            Presence::Coming => {}
            Presence::Away => {
                self.state.restart_at_ms = None;
                self.end(reason, None);
            }
        }
    }

    /// The brain's part of the turn is over.
    pub(super) fn end(&mut self, reason: YieldReason, failure: Option<Failure>) {
        if let Some(active) = self.state.active.as_mut().filter(|active| active.ended.is_none()) {
            active.ended = Some((reason, failure));
        }
        self.finish_if_quiet();
    }

    pub(super) fn finish_if_quiet(&mut self) {
        if self.open_calls().next().is_some() {
            return;
        }
        let Some((reason, failure)) = self.state.active.as_ref().and_then(|active| active.ended.clone()) else {
            return;
        };
        self.finish(reason, failure);
        if !self.state.is_archived {
            self.act(Effect::Copy);
        }
        if self.state.queue.is_empty() || self.state.failure.is_some() {
            self.release();
        } else if self.state.presence == Presence::Here {
            self.begin();
        } else {
            self.fetch();
        }
    }

    pub(super) fn finish(&mut self, reason: YieldReason, failure: Option<Failure>) {
        let Some(active) = &self.state.active else { return };
        let mut turn = active.turn.clone();
        turn.end = Some(TurnEnd { reason, at_ms: self.now_ms, failure });
        let body = json!({
            "turn_id": turn.id.as_str(),
            "yield_reason": reason.name(),
            "outcome": reason.name(),
            "result_event_id": turn.result.as_ref().map(EventId::as_str),
            "usage": usage(&turn),
        });
        self.emit(NewEvent::system(Level::User, "turn.completed", body));
        // What the brain did not take is for the next turn.
        let left: Vec<u64> = active_messages(&self.state.active).filter(|it| !it.1).map(|it| it.0).collect();
        left.into_iter().rev().for_each(|seq| self.state.queue.push_front(seq));
        if self.state.is_archived {
            self.state.queue.clear();
        }
        self.state.active = None;
        self.state.silent_at_ms = None;
        self.state.active_ms += turn.active_ms();
        self.state.last_turn = Some(turn.clone());
        self.keep_turn(turn);
    }
}

fn active_messages(active: &Option<Active>) -> impl Iterator<Item = (u64, bool)> {
    active.iter().flat_map(|active| active.messages.iter().copied())
}

/// What a turn used, as events tell it.
fn usage(turn: &Turn) -> Value {
    if !turn.is_usage_reported {
        return json!({ "reported": false });
    }
    let mut value = serde_json::to_value(turn.usage).unwrap_or_default();
    value["reported"] = true.into();
    value["tokens"] = turn.usage.tokens().into();
    value
}
