//! A command that an agent has begun, and asks about until it lets go of it. Pure.
//!
//! What a command writes is in the session's log as it comes; the agent is told it when the command has ended, its head and its
//! tail, as any brain is.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::super::{Answer, Exit};
use super::rpc::{self, Fault};

/// Requests that may wait for the end of one command.
const MAX_WAITS: usize = 16;

/// A terminal, as the protocol calls it.
#[derive(Debug, Default)]
pub struct Terminal {
    /// Bytes of output that are wanted at most, the last ones.
    limit: Option<usize>,
    /// It is not to be asked about any more.
    pub is_released: bool,
    /// Requests that wait for the end.
    waits: Vec<(Value, Wait)>,
    answer: Option<Answer>,
}

/// What waits for the end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Who wants to know how it ends.
    Status,
    /// Who has it end, to ask for its output then.
    Kill,
}

impl Terminal {
    /// Of a command that is about to begin, with so many bytes of output at most, the last ones.
    pub fn new(limit: Option<usize>) -> Self {
        Self { limit, ..Self::default() }
    }

    /// It has ended.
    pub fn is_over(&self) -> bool {
        self.answer.is_some()
    }

    /// The command has ended: the responses to all who wait for that.
    pub fn end(&mut self, answer: Answer) -> Vec<u8> {
        let told = |(id, wait): (Value, Wait)| rpc::response(&id, Ok(wait.result(&answer)));
        let told = std::mem::take(&mut self.waits).into_iter().flat_map(told).collect();
        self.answer = Some(answer);
        told
    }

    /// The response to a request that waits for the end, if it can be given.
    pub fn wait(&mut self, id: Value, wait: Wait) -> Vec<u8> {
        match &self.answer {
            Some(answer) => rpc::response(&id, Ok(wait.result(answer))),
            None if self.waits.len() >= MAX_WAITS => {
                rpc::response(&id, Err(Fault::failed("too many requests wait for its end")))
            }
            None => {
                self.waits.push((id, wait));
                Vec::new()
            }
        }
    }

    /// What it has written, and how it ended.
    pub fn output(&self) -> Value {
        let Some(answer) = &self.answer else { return json!({ "output": "", "truncated": false }) };
        // How it ended without a code is told in words only.
        let shown = answer.exit.filter(|exit| exit.code.is_some()).map_or(answer.text.len(), |exit| exit.shown);
        let text = answer.text.get(..shown).unwrap_or(&answer.text);
        let last = last(text, self.limit);
        let is_cut = answer.exit.is_some_and(|exit| exit.bytes > exit.shown as u64);
        json!({ "output": last, "truncated": is_cut || last.len() < text.len(), "exitStatus": status(answer) })
    }
}

impl Wait {
    fn result(self, answer: &Answer) -> Value {
        match self {
            Self::Status => status(answer),
            Self::Kill => json!({}),
        }
    }
}

/// How a command ended; nothing is known of one that did not begin.
fn status(answer: &Answer) -> Value {
    let Some(Exit { code, signal, .. }) = answer.exit else { return json!({ "exitCode": null, "signal": null }) };
    let named = |number: i32| Signal::try_from(number).map_or_else(|_| number.to_string(), |signal| signal.to_string());
    json!({ "exitCode": code, "signal": signal.map(named) })
}

/// The end of a text, of so many bytes at most.
fn last(text: &str, limit: Option<usize>) -> &str {
    let first = text.len().saturating_sub(limit.unwrap_or(usize::MAX));
    let first = (first..=text.len()).find(|place| text.is_char_boundary(*place)).unwrap_or(text.len());
    &text[first..]
}

/// A command line for a shell. Without arguments, the command is one already.
pub fn command_line(command: &str, arguments: &[String]) -> String {
    if arguments.is_empty() {
        return command.to_owned();
    }
    let quoted: Vec<String> = [command].into_iter().chain(arguments.iter().map(String::as_str)).map(quote).collect();
    quoted.join(" ")
}

fn quote(word: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_./=:,@%+".contains(&byte);
    if !word.is_empty() && word.bytes().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_with_arguments_is_quoted_and_one_without_is_as_it_is() {
        assert_eq!(command_line("cd a && make", &[]), "cd a && make");
        let arguments = ["-c", "it's $HOME", ""].map(str::to_owned);
        assert_eq!(command_line("bash", &arguments), r"bash -c 'it'\''s $HOME' ''");
    }

    #[test]
    fn a_code_is_told_beside_the_output_and_all_else_in_words() {
        let exit = |code, signal| Some(Exit { code, signal, bytes: 4, shown: 4 });
        let mut terminal = Terminal::new(Some(3));
        assert_eq!(terminal.output(), json!({ "output": "", "truncated": false }));
        assert_eq!(terminal.wait(json!(1), Wait::Status), b"");
        let told = terminal.end(Answer { text: "agü\n[exit 3]".to_owned(), is_ok: true, exit: exit(Some(3), None) });
        let told: Value = serde_json::from_slice(&told).unwrap();
        assert_eq!((&told["id"], &told["result"]), (&json!(1), &json!({ "exitCode": 3, "signal": null })));
        let status = json!({ "exitCode": 3, "signal": null });
        assert_eq!(terminal.output(), json!({ "output": "gü", "truncated": true, "exitStatus": status }));

        let mut killed = Terminal::default();
        assert_eq!(killed.wait(json!(2), Wait::Kill), b"");
        let told = killed.end(Answer { text: "hey\n[stopped]".to_owned(), is_ok: false, exit: exit(None, Some(9)) });
        assert_eq!(serde_json::from_slice::<Value>(&told).unwrap()["result"], json!({}));
        assert_eq!(killed.output()["output"], "hey\n[stopped]");
        assert_eq!(killed.output()["exitStatus"], json!({ "exitCode": null, "signal": "SIGKILL" }));
    }
}
