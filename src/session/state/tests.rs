use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::ids::EventId;
use crate::runtime::{Answer, Call, Ending, Said};
use crate::session::event::ActorKind;
use crate::session::turn::YieldReason;

/// A session that is fed by hand.
struct Table {
    session: SessionId,
    state: State,
    limits: Limits,
    now_ms: u64,
    /// All events so far: type and turn.
    events: Vec<(&'static str, Option<String>)>,
    /// The `seq` of every message.
    messages: Vec<u64>,
    /// Messages that a turn ended with the brain having them.
    consumed: Vec<u64>,
    /// Calls that were run, with their turn.
    ran: Vec<(u64, String)>,
}

impl Table {
    fn new(limits: Limits) -> Self {
        let (session, state) = (SessionId::random(), State::default());
        let (events, messages, consumed, ran) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { session, state, limits, now_ms: 1_000_000, events, messages, consumed, ran }
    }

    fn feed(&mut self, input: Input) -> Vec<Effect> {
        let before = self.state.active.clone();
        if matches!(input, Input::Message { .. }) {
            self.messages.push(self.state.head + 1);
        }
        let rules = Rules { session: &self.session, limits: self.limits };
        let outcome = self.state.on(input, rules, crate::session::time(self.now_ms));
        for event in &outcome.events {
            self.events.push((event.kind, event.turn.as_ref().map(ToString::to_string)));
        }
        for turn in outcome.turns.iter().filter(|turn| turn.end.is_some()) {
            let active = before.clone().filter(|active| active.turn.number == turn.number);
            match active {
                Some(active) => self.consumed.extend(active.messages.iter().map(|it| it.0)),
                // It began and ended at once.
                None => {
                    let range = turn.input_from_seq..=turn.input_to_seq;
                    self.consumed.extend(self.messages.iter().filter(|seq| range.contains(seq)));
                }
            }
        }
        let number = self.state.turns;
        let ran = outcome.effects.iter().filter_map(|effect| match effect {
            Effect::Run(call) => Some((number, call.id.clone())),
            _ => None,
        });
        self.ran.extend(ran);
        outcome.effects
    }

    fn message(&mut self) -> Vec<Effect> {
        self.feed(message())
    }

    fn arrive(&mut self, arrival: Arrival) -> Vec<Effect> {
        self.feed(arrived(arrival))
    }

    fn said(&mut self, said: Said) -> Vec<Effect> {
        self.feed(Input::Said(said, 0))
    }

    fn count(&self, kind: &str) -> usize {
        self.events.iter().filter(|event| event.0 == kind).count()
    }

    /// In the middle of its first turn.
    fn running() -> Self {
        let mut table = Self::new(Limits::default());
        assert_eq!(table.message(), [Effect::Fetch]);
        assert!(matches!(table.arrive(Arrival::Started)[..], [Effect::Begin(..)]));
        table
    }

    fn last_reason(&self) -> Option<YieldReason> {
        self.state.last_turn.as_ref().and_then(|turn| turn.end.as_ref()).map(|end| end.reason)
    }
}

fn message() -> Input {
    Input::Message { actor: ActorKind::Human.into(), body: json!({ "text": "x" }), refs: Value::Null }
}

fn arrived(arrival: Arrival) -> Input {
    let house = House { run: Some(RunId::random()), brain: Some(SandboxId::random()), ..House::default() };
    Input::Arrived { house, lost: Vec::new(), arrival }
}

fn called(id: &str, tool: &str) -> Said {
    let input = json!({ "command": "true", "text": "hello", "question": "well?" });
    Said::Called(Call { id: id.to_owned(), tool: tool.to_owned(), input })
}

fn done(id: &str) -> Input {
    Input::Done { id: id.to_owned(), answer: Answer::ok("fine"), exec: Some(json!({ "exit_code": 0 })) }
}

#[test]
fn a_turn_waits_for_the_brain_and_ends_with_it() {
    let mut table = Table::running();
    assert_eq!(table.state.status(), Status::Running);
    table.said(called("1", "say"));
    let effects = table.said(Said::Ended(Ending::Completed));
    assert_eq!(effects.last(), Some(&Effect::Release));
    assert_eq!((table.state.status(), table.last_reason()), (Status::Idle, Some(YieldReason::Completed)));
    let turn = table.state.last_turn.as_ref().unwrap();
    assert_eq!(turn.result, Some(EventId::of(&table.session, 3)));
}

#[test]
fn a_question_ends_the_turn_and_its_answer_begins_the_next() {
    let mut table = Table::running();
    table.said(called("1", "ask"));
    table.said(Said::Ended(Ending::Completed));
    assert_eq!(table.state.status(), Status::AwaitingInput);
    table.message();
    table.arrive(Arrival::Held);
    assert_eq!((table.state.status(), table.state.turns), (Status::Running, 2));
}

#[test]
fn a_steer_that_the_brain_did_not_take_is_the_next_turn() {
    let mut table = Table::running();
    let effects = table.message();
    assert!(matches!(effects[..], [Effect::Steer(_, 3)]), "{effects:?}");
    let effects = table.said(Said::Ended(Ending::Completed));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Begin(_, messages) if *messages == [3])));
    assert_eq!(table.state.turns, 2);
}

#[test]
fn the_same_call_is_answered_from_the_record() {
    let mut table = Table::running();
    assert!(matches!(table.said(called("1", "bash"))[..], [Effect::Run(_)]));
    assert_eq!(table.said(called("1", "bash")), [], "it is under way");
    assert!(matches!(table.feed(done("1"))[..], [Effect::Answer(..)]));
    assert_eq!(table.said(called("1", "bash")), [Effect::Replay("1".to_owned())]);
    let other = table.said(called("1", "read"));
    assert!(matches!(&other[..], [Effect::Answer(_, answer)] if !answer.is_ok), "{other:?}");
    assert_eq!(table.ran.len(), 1);
}

#[test]
fn a_call_is_stopped_by_itself_as_long_as_it_is_under_way() {
    let mut table = Table::running();
    table.said(called("c1", "bash"));
    table.said(called("c2", "bash"));
    let stop = || Said::Stop("c1".to_owned());
    assert_eq!(table.said(stop()), [Effect::StopCall("c1".to_owned())]);
    table.feed(done("c1"));
    assert_eq!(table.said(stop()), []);
    assert_eq!(table.said(Said::Stop("c3".to_owned())), []);
}

#[test]
fn a_turn_ends_once_its_calls_have() {
    let mut table = Table::running();
    table.said(called("1", "bash"));
    assert_eq!(table.feed(Input::Cancel).first(), Some(&Effect::StopCalls));
    table.said(Said::Ended(Ending::Interrupted));
    assert_eq!(table.state.status(), Status::Running, "the command is still being stopped");
    table.feed(done("1"));
    assert_eq!((table.state.status(), table.last_reason()), (Status::Idle, Some(YieldReason::Canceled)));
    let kinds: Vec<_> = table.events.iter().map(|event| event.0).collect();
    assert_eq!(kinds[kinds.len() - 2..], ["exec.completed", "turn.completed"]);
}

#[test]
fn a_brain_that_does_not_end_its_turn_is_killed() {
    let mut table = Table::running();
    table.now_ms += 1_800_000;
    assert_eq!(table.state.alarm(), Some(crate::session::time(1_000_000 + 120_000)), "it has said nothing yet");
    table.said(Said::Text("hm".to_owned()));
    assert_eq!(table.state.alarm(), Some(crate::session::time(table.now_ms)));
    let effects = table.feed(Input::Clock);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Interrupt(_))), "{effects:?}");
    table.now_ms += 5_000;
    assert!(table.feed(Input::Clock).contains(&Effect::Kill));
    assert_eq!(table.last_reason(), Some(YieldReason::DeadlineExceeded));
    assert_eq!(table.state.alarm(), None);
}

#[test]
fn a_brain_that_says_nothing_is_killed_and_another_has_the_same_turn() {
    let mut table = Table::running();
    table.now_ms += 120_000;
    assert_eq!(table.feed(Input::Clock).first(), Some(&Effect::Kill));
    assert_eq!(table.count("error.runtime"), 1);
    table.now_ms += 1_000;
    assert_eq!(table.feed(Input::Clock), [Effect::Fetch]);
    assert!(matches!(table.arrive(Arrival::Started)[..], [Effect::Resume { is_same: false, .. }]));
}

#[test]
fn a_crash_is_followed_by_a_pause_and_the_same_turn() {
    let mut table = Table::running();
    table.feed(Input::Gone { why: "killed".to_owned() });
    assert_eq!(table.state.alarm(), Some(crate::session::time(table.now_ms + 1_000)));
    table.now_ms += 1_000;
    assert_eq!(table.feed(Input::Clock), [Effect::Fetch]);
    let effects = table.arrive(Arrival::Started);
    assert!(matches!(effects[..], [Effect::Resume { is_same: false, .. }]), "{effects:?}");
    assert_eq!(table.state.active.as_ref().map(|active| active.turn.attempts), Some(2));
}

#[test]
fn a_brain_that_is_gone_while_nothing_is_to_be_done_is_no_crash() {
    let mut table = Table::running();
    table.said(Said::Ended(Ending::Completed));
    table.feed(Input::Gone { why: "exit".to_owned() });
    assert_eq!((table.count("error.runtime"), table.count("runtime.exited")), (0, 1));
    assert_eq!(table.state.alarm(), None);
}

#[test]
fn what_was_under_way_in_an_earlier_daemon_goes_on() {
    let mut table = Table::running();
    table.said(called("1", "bash"));
    let json = serde_json::to_string(&table.state).unwrap();
    let stored: State = serde_json::from_str(&json).unwrap();
    table.state = State { head: table.state.head, calls: table.state.calls.clone(), ..stored };
    assert_eq!(table.feed(Input::Recovered), [Effect::Follow("1".to_owned()), Effect::Fetch]);
    assert!(matches!(table.arrive(Arrival::Joined)[..], [Effect::Resume { is_same: true, .. }]));
}

fn input() -> impl Strategy<Value = Input> {
    let id = prop_oneof![Just("1"), Just("2"), Just("3")];
    let said = prop_oneof![
        (id.clone(), prop_oneof![Just("bash"), Just("say"), Just("ask")]).prop_map(|(id, tool)| called(id, tool)),
        Just(Said::Ended(Ending::Completed)),
        Just(Said::Ended(Ending::Interrupted)),
        (0_u64..40).prop_map(|tokens| Said::Spent(Usage { input_tokens: tokens, ..Usage::default() })),
        Just(Said::Text("hm".to_owned())),
    ];
    prop_oneof![
        4 => Just(message()),
        1 => Just(Input::Cancel),
        1 => Just(Input::Recovered),
        4 => prop_oneof![Just(Arrival::Held), Just(Arrival::Joined), Just(Arrival::Started)].prop_map(arrived),
        8 => said.prop_map(|said| Input::Said(said, 0)),
        2 => Just(Input::Gone { why: "why".to_owned() }),
        4 => id.prop_map(done),
        3 => Just(Input::Clock),
    ]
}

proptest! {
    /// Whatever happens in whatever order: the log tells a story, and nothing is lost or done twice.
    #[test]
    fn nothing_is_lost_and_nothing_happens_twice(
        steps in prop::collection::vec((input(), 0_u64..40_000), 0..120),
        turns in prop::option::of(1_u64..6),
        tokens in prop::option::of(1_u64..200),
    ) {
        let mut table = Table::new(Limits { turns, tokens, turn_seconds: Some(60) });
        for (input, wait) in steps {
            table.now_ms += wait;
            table.feed(input);
            prop_assert_eq!(table.state.head, table.events.len() as u64);
            // A turn begins, ends, and then the next one does.
            let (began, ended) = (table.count("turn.started"), table.count("turn.completed"));
            prop_assert_eq!(began, ended + usize::from(table.state.active.is_some()));
            prop_assert_eq!(table.state.turns, began as u64);
            // Every message is with a turn that has ended, with the one under way, or waits.
            let active = table.state.active.iter().flat_map(|active| active.messages.iter().map(|it| it.0));
            let known: BTreeSet<u64> =
                table.consumed.iter().copied().chain(active).chain(table.state.queue.iter().copied()).collect();
            prop_assert_eq!(known, table.messages.iter().copied().collect::<BTreeSet<_>>());
            // No call of a turn runs twice.
            let ran: BTreeSet<_> = table.ran.iter().collect();
            prop_assert_eq!(ran.len(), table.ran.len());
            // What is stored is the same when it is read again, but for what nobody knows after a crash.
            let read: State = serde_json::from_str(&serde_json::to_string(&table.state).unwrap()).unwrap();
            prop_assert_eq!(read.status(), table.state.status());
        }
    }

    /// From anywhere an archive leads to the end, as soon as the brain and its calls are gone.
    #[test]
    fn an_archive_leads_to_the_end(steps in prop::collection::vec(input(), 0..60)) {
        let mut table = Table::new(Limits::default());
        steps.into_iter().for_each(|input| drop(table.feed(input)));
        let mut effects = table.feed(Input::Archive);
        for id in ["1", "2", "3"] {
            effects.extend(table.feed(done(id)));
        }
        table.now_ms += 10_000;
        effects.extend(table.feed(Input::Clock));
        prop_assert!(table.state.active.is_none(), "{:?}", table.state);
        prop_assert!(effects.contains(&Effect::Dispose));
        prop_assert_eq!(table.state.status(), Status::Archived);
        prop_assert!(!table.state.is_busy());
    }
}
