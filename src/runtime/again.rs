//! What a brain is told when its turn goes on in a new process. Pure.

use super::{Answer, Recorded, Turn};

/// Longest message of an error that is passed on, in characters.
pub const MAX_ERROR: usize = 1_000;

/// Calls that a resumption tells of, the latest: what came before them the brain has in what it kept.
const MAX_CALLS: usize = 16;

/// Longest answer of a call in a resumption, in characters.
const MAX_ANSWER: usize = 4_000;

/// The messages of a turn as one text.
#[must_use]
pub fn texts(turn: &Turn) -> String {
    let texts: Vec<&str> = turn.messages.iter().map(|message| message.text.as_str()).collect();
    texts.join("\n\n")
}

/// That the turn goes on, and what is known of its calls. A brain that was killed may have kept nothing of it.
#[must_use]
pub fn resumption(turn: &Turn, calls: &[Recorded]) -> String {
    let mut text = format!(
        "[host] Your runtime was restarted in the middle of this turn. Go on where you were; do nothing twice. The turn is \
         about:\n\n{}\n",
        texts(turn)
    );
    if !calls.is_empty() {
        text.push_str("\n[host] The record of your latest calls in this turn:\n");
    }
    for call in &calls[calls.len().saturating_sub(MAX_CALLS)..] {
        text.push_str(&match &call.answer {
            None => format!("\n- {} {}: still under way; its answer comes when it is done\n", call.tool, call.id),
            Some(answer) => format!("\n- {} {}: {}\n{}\n", call.tool, call.id, end(answer), cut(&answer.text)),
        });
    }
    text
}

/// What came of a call that an earlier process made.
#[must_use]
pub fn late_answer(call: &str, answer: &Answer) -> String {
    format!("[host] The call {call} of before the restart: {}\n{}", end(answer), cut(&answer.text))
}

fn end(answer: &Answer) -> &'static str {
    if answer.is_ok { "done, and answered:" } else { "failed, and answered:" }
}

fn cut(text: &str) -> String {
    let mut short: String = text.chars().take(MAX_ANSWER).collect();
    if short.len() < text.len() {
        short.push_str(" [...]");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::super::Message;
    use super::*;
    use crate::ids::{EventId, SessionId, TurnId};

    #[test]
    fn a_resumption_tells_the_messages_and_what_became_of_the_calls() {
        let session = SessionId::random();
        let messages = ["first", "second"];
        let message = |text: &&str| Message { id: EventId::of(&session, 1), text: (*text).to_owned(), is_taken: true };
        let turn = Turn { id: TurnId::of(&session, 1), attempt: 2, messages: messages.iter().map(message).collect() };
        let call = |id: usize, answer| Recorded { id: format!("c{id}"), tool: "bash".to_owned(), answer };
        let mut calls: Vec<Recorded> = (0..40).map(|id| call(id, Some(Answer::ok("x".repeat(10_000))))).collect();
        calls.push(call(40, None));
        let text = resumption(&turn, &calls);
        assert!(text.contains("first\n\nsecond\n"), "{text}");
        assert!(text.contains("bash c40: still under way") && text.contains("bash c39: done"), "{text}");
        assert!(!text.contains("bash c20:") && text.len() < 80_000, "it is as long as there are calls");
        assert!(!resumption(&turn, &[]).contains("record"));
    }
}
