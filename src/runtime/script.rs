//! The brain that follows a script; `guest::script` is its program, and says what a script is.
//!
//! Everything is a line of JSON. The dialogue keeps nothing: turns, messages and calls have their names in every line, so
//! that a new daemon goes on with an old process as if nothing had been.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Answer, Brain, Call, Dialogue, Ending, LineError, Message, Program, Recorded, Runtime, Said, Trace, Turn, Usage,
};
use crate::ids::{SessionId, TurnId};

/// The runtime.
#[derive(Debug, Clone, Copy)]
pub struct Script;

impl Runtime for Script {
    fn program(&self, brain: &Brain<'_>) -> Program {
        Program {
            argv: vec![brain.guest.to_owned(), "script".to_owned()],
            env: BTreeMap::new(),
            files: vec![("prompt".to_owned(), brain.prompt.as_bytes().to_vec())],
        }
    }

    fn trace(&self, _session: &SessionId, _memory: Option<&str>) -> Option<Trace> {
        None
    }

    fn can_rejoin(&self) -> bool {
        true
    }

    fn dialogue(&self, _brain: &Brain<'_>) -> Box<dyn Dialogue> {
        Box::new(Talk)
    }
}

/// The conversation.
struct Talk;

/// What the brain writes.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Line {
    Took {
        message: String,
    },
    Text {
        text: String,
    },
    Call {
        call: String,
        tool: String,
        input: Value,
    },
    /// Its JSON knows no numbers.
    Spent {
        input_tokens: String,
        output_tokens: String,
    },
    Ended {
        how: How,
        #[serde(default)]
        message: String,
    },
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum How {
    Completed,
    Interrupted,
    Failed,
}

fn line(value: &Value) -> Vec<u8> {
    format!("{value}\n").into_bytes()
}

fn turn_line(kind: &str, turn: &Turn) -> Vec<u8> {
    let texts: Vec<&str> = turn.messages.iter().map(|message| message.text.as_str()).collect();
    line(&json!({ "type": kind, "turn": turn.id.as_str(), "text": texts.join("\n") }))
}

impl Dialogue for Talk {
    fn open(&mut self) -> Vec<u8> {
        Vec::new()
    }

    fn begin(&mut self, turn: &Turn) -> Vec<u8> {
        turn_line("turn", turn)
    }

    fn steer(&mut self, turn: &TurnId, message: &Message) -> Vec<u8> {
        let (message, text) = (message.id.as_str(), &message.text);
        line(&json!({ "type": "steer", "turn": turn.as_str(), "message": message, "text": text }))
    }

    fn resume(&mut self, turn: &Turn, _calls: &[Recorded]) -> Vec<u8> {
        // It repeats the call that it waits for, and that is answered from the record.
        turn_line("resume", turn)
    }

    fn rejoin(&mut self, turn: Option<&Turn>) -> Vec<u8> {
        // A killed daemon may have left half a line.
        let mut lines = vec![b'\n'];
        lines.extend(turn.map(|turn| turn_line("resume", turn)).unwrap_or_default());
        lines
    }

    fn interrupt(&mut self, turn: &TurnId) -> Vec<u8> {
        line(&json!({ "type": "interrupt", "turn": turn.as_str() }))
    }

    fn answer(&mut self, call: &str, answer: &Answer) -> Vec<u8> {
        line(&json!({ "type": "answer", "call": call, "text": answer.text }))
    }

    fn read(&mut self, line: &[u8]) -> Result<Vec<Said>, LineError> {
        let wrong = |error: &dyn std::fmt::Display| LineError { message: error.to_string() };
        let line: Line = serde_json::from_slice(line).map_err(|error| wrong(&error))?;
        Ok(vec![match line {
            Line::Took { message } => Said::Took(message.parse().map_err(|error| wrong(&error))?),
            Line::Text { text } => Said::Text(text),
            Line::Call { call, tool, input } => Said::Called(Call { id: call, tool, input }),
            Line::Spent { input_tokens, output_tokens } => Said::Spent(Usage {
                input_tokens: input_tokens.parse().map_err(|error| wrong(&error))?,
                output_tokens: output_tokens.parse().map_err(|error| wrong(&error))?,
                ..Usage::default()
            }),
            Line::Ended { how, message } => Said::Ended(match how {
                How::Completed => Ending::Completed,
                How::Interrupted => Ending::Interrupted,
                How::Failed => Ending::Failed { kind: "error.task", code: "script_failed".to_owned(), message },
            }),
        }])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_brain_means_something() {
        let read = |line: &str| Talk.read(line.as_bytes()).unwrap();
        let call = Call { id: "c1".to_owned(), tool: "bash".to_owned(), input: json!({ "command": "true" }) };
        let line = r#"{"type":"call","call":"c1","tool":"bash","input":{"command":"true"}}"#;
        assert_eq!(read(line), [Said::Called(call)]);
        assert_eq!(read(r#"{"type":"text","text":"hm"}"#), [Said::Text("hm".to_owned())]);
        let ended = read(r#"{"type":"ended","turn":"t","how":"completed","message":""}"#);
        assert_eq!(ended, [Said::Ended(Ending::Completed)]);
        let spent = read(r#"{"type":"spent","input_tokens":"3","output_tokens":"4"}"#);
        assert!(matches!(spent[..], [Said::Spent(usage)] if usage.tokens() == 7), "{spent:?}");
    }

    #[test]
    fn anything_else_is_no_line_of_this_brain() {
        for line in ["", "hello", "{}", r#"{"type":"spent","input_tokens":"-1","output_tokens":"0"}"#, "[]", "\u{0}"] {
            assert!(Talk.read(line.as_bytes()).is_err(), "{line}");
        }
    }
}
