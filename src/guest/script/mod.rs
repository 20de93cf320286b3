//! The brain that follows a script: `hands-guest script`, a real process that can really crash and hang.
//!
//! It speaks lines of JSON on stdin and stdout, one flat object each; `runtime::script` is the other side. A script is a
//! step a line:
//!
//! | step | what it does |
//! |---|---|
//! | `say TEXT`, `ask TEXT` | speaks to the user; `ask` also ends the turn, and the next message answers it |
//! | `bash LINE`, `read PATH`, `ls PATH`, `write PATH TEXT` | uses a tool; `\n` in TEXT is a newline |
//! | `tool NAME {...}` | uses any tool, with an input in JSON |
//! | `expect TEXT` | fails the turn if the last answer does not hold TEXT |
//! | `text TEXT` | thinks aloud |
//! | `tokens IN OUT` | reports tokens as used |
//! | `sleep SECONDS` | waits; an interrupt ends it |
//! | `crash`, `crash always` | exits; the process that follows goes on behind it, or crashes again |
//! | `hang` | does nothing for ever, whatever it is told |
//! | `fail TEXT` | ends the turn with an error |
//!
//! A message whose first line is a step is a script and takes the place of what is left of the one before; any other
//! message is an answer: what is left goes on. If nothing is left, the script of the prompt begins, and if there is none,
//! the message is said back.
//!
//! What is left is kept in the file `state` of the working directory, step by step. If that is lost with the sandbox, the
//! turn begins again, and as the calls have the same names then, they get the same answers and do nothing twice.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::time::{Duration, Instant};

use stdio::{Line, Stdio};

mod json;
mod stdio;

/// Where the script is kept.
const STATE: &str = "state";
/// Where the prompt is.
const PROMPT: &str = "prompt";
/// What a step begins with.
const STEPS: [&str; 14] =
    ["say", "ask", "bash", "read", "ls", "write", "tool", "expect", "text", "tokens", "sleep", "crash", "hang", "fail"];

/// Follows scripts until stdin ends.
///
/// # Errors
/// Those of stdin, stdout and the state.
pub fn run() -> io::Result<()> {
    let mut brain = Brain::load(Stdio::new())?;
    while let Some(line) = brain.stdio.next(None)? {
        brain.hear(&line)?;
        while brain.turn.is_some() {
            brain.step()?;
        }
    }
    Ok(())
}

struct Brain {
    stdio: Stdio,
    prompt: String,
    /// The turn that is under way.
    turn: Option<String>,
    /// The turn that has ended last, and how.
    ended: Option<(String, String)>,
    /// Calls of the turn so far.
    calls: u32,
    /// Steps that are left.
    left: VecDeque<String>,
    /// What the last tool answered.
    answer: String,
    is_interrupted: bool,
}

/// What became of a wait for something.
enum Heard {
    /// An answer to the call.
    Answer(String),
    /// The time is over.
    Timeout,
    /// The turn is to end, or nobody speaks to us any more.
    Interrupted,
}

impl Brain {
    fn load(stdio: Stdio) -> io::Result<Self> {
        let read = |path| match fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
            read => read,
        };
        let state = read(STATE)?;
        let mut lines = state.lines().map(str::to_owned);
        let mut field = || lines.next().filter(|text| !text.is_empty());
        let (turn, ended, how, calls) = (field(), field(), field(), field());
        let calls = calls.and_then(|calls| calls.parse().ok()).unwrap_or(0);
        let (prompt, left) = (read(PROMPT)?, lines.collect());
        let ended = ended.zip(how);
        Ok(Self { stdio, prompt, turn, ended, calls, left, answer: String::new(), is_interrupted: false })
    }

    /// Keeps what is left, at once or not at all.
    fn save(&self) -> io::Result<()> {
        let (ended, how) = self.ended.as_ref().map_or(("", ""), |(turn, how)| (turn, how));
        let mut text = format!("{}\n{ended}\n{how}\n{}\n", self.turn.as_deref().unwrap_or_default(), self.calls);
        self.left.iter().for_each(|step| text.extend([step, "\n"]));
        fs::write("state.new", text)?;
        fs::rename("state.new", STATE)
    }

    /// Takes a line that came between turns, or one that any moment can bring. Answers whether it was an answer.
    fn hear(&mut self, line: &Line) -> io::Result<Option<String>> {
        let turn = line.get("turn").unwrap_or_default();
        let is_current = self.turn.as_deref() == Some(turn);
        match line.get("type") {
            Some("turn" | "resume") if is_current => {}
            Some("turn" | "resume") if self.ended.as_ref().is_some_and(|(ended, _)| ended == turn) => {
                self.tell_end()?
            }
            Some("turn" | "resume") => self.begin(turn.to_owned(), line.get("text").unwrap_or_default())?,
            // One that is too late is part of the next turn.
            Some("steer") if is_current => {
                self.left.extend(steps(line.get("text").unwrap_or_default()));
                let message = line.get("message").unwrap_or_default();
                self.stdio.say(&[("type", "took"), ("message", message)])?;
            }
            Some("interrupt") if is_current => self.is_interrupted = true,
            Some("answer") => return Ok(Some(line.get("call").unwrap_or_default().to_owned())),
            // The other side may be of another version.
            _ => {}
        }
        Ok(None)
    }

    fn begin(&mut self, turn: String, text: &str) -> io::Result<()> {
        (self.turn, self.calls, self.is_interrupted) = (Some(turn), 0, false);
        if text.lines().next().is_some_and(is_step) {
            self.left = steps(text).collect();
        } else if self.left.is_empty() {
            self.left = steps(&self.prompt).collect();
            if self.left.is_empty() {
                self.left.push_back(format!("say {}", text.replace('\n', "\\n")));
            }
        }
        self.save()
    }

    /// Takes the next step of the turn.
    fn step(&mut self) -> io::Result<()> {
        let Some(step) = self.left.front().cloned() else { return self.end("completed", "") };
        let (verb, rest) = step.split_once(' ').unwrap_or((&step, ""));
        if verb == "crash" {
            self.crash(rest)?;
        }
        match verb {
            "hang" => loop {
                self.stdio.ignore()?;
            },
            "sleep" => {
                let seconds = rest.parse().ok().and_then(|it| Duration::try_from_secs_f64(it).ok());
                let until = Instant::now() + seconds.unwrap_or_default();
                while let Heard::Answer(_) = self.wait(Some(until), &[])? {}
            }
            "text" => self.stdio.say(&[("type", "text"), ("text", rest)])?,
            "tokens" => {
                let (input, output) = rest.split_once(' ').unwrap_or((rest, "0"));
                self.stdio.say(&[("type", "spent"), ("input_tokens", input), ("output_tokens", output)])?;
            }
            "fail" => {
                self.left.clear();
                return self.end("failed", rest);
            }
            "expect" if !self.answer.contains(rest) => {
                self.left.clear();
                return self.end("failed", &format!("expected {rest:?}, got {:?}", self.answer));
            }
            "expect" => {}
            _ => self.call(verb, rest)?,
        }
        if self.is_interrupted {
            return self.end("interrupted", "");
        }
        self.left.pop_front();
        // The answer that an `expect` is about is not kept: so a process that follows asks for it again.
        if !self.left.front().is_some_and(|next| next.starts_with("expect ")) {
            self.save()?;
        }
        if verb == "ask" { self.end("completed", "") } else { Ok(()) }
    }

    fn crash(&mut self, rest: &str) -> io::Result<()> {
        if rest != "always" {
            self.left.pop_front();
            self.save()?;
        }
        std::process::exit(1)
    }

    /// Calls a tool and waits for its answer, however long that takes.
    fn call(&mut self, verb: &str, rest: &str) -> io::Result<()> {
        self.calls += 1;
        let id = format!("{}.{}", self.turn.as_deref().unwrap_or_default(), self.calls);
        let (tool, input) = match verb {
            "tool" => {
                let (tool, input) = rest.split_once(' ').unwrap_or((rest, "{}"));
                (tool, input.to_owned())
            }
            "say" => (verb, json::object(&[("text", &unescape(rest))])),
            "ask" => (verb, json::object(&[("question", &unescape(rest))])),
            "bash" => (verb, json::object(&[("command", rest)])),
            "write" => {
                let (path, text) = rest.split_once(' ').unwrap_or((rest, ""));
                (verb, json::object(&[("path", path), ("content", &unescape(text))]))
            }
            _ => (verb, json::object(&[("path", rest)])),
        };
        let fields = json::object(&[("type", "call"), ("call", &id), ("tool", tool)]);
        // The input is an object of its own.
        let line = format!("{},\"input\":{input}}}\n", fields.trim_end_matches('}'));
        self.stdio.write(line.as_bytes())?;
        loop {
            match self.wait(None, line.as_bytes())? {
                Heard::Answer(call) if call == id => return Ok(()),
                Heard::Answer(_) => {}
                Heard::Timeout | Heard::Interrupted => return Ok(()),
            }
        }
    }

    /// Waits for an answer; repeats what it is waiting for to a daemon that asks.
    fn wait(&mut self, until: Option<Instant>, question: &[u8]) -> io::Result<Heard> {
        loop {
            if self.is_interrupted {
                return Ok(Heard::Interrupted);
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            let Some(line) = self.stdio.next(left)? else {
                if self.stdio.is_over() {
                    std::process::exit(0);
                }
                return Ok(Heard::Timeout);
            };
            if line.get("type") == Some("resume") && line.get("turn") == self.turn.as_deref() {
                self.stdio.write(question)?;
            }
            if let Some(call) = self.hear(&line)? {
                self.answer = line.get("text").unwrap_or_default().to_owned();
                return Ok(Heard::Answer(call));
            }
        }
    }

    fn end(&mut self, how: &str, message: &str) -> io::Result<()> {
        let turn = self.turn.take().unwrap_or_default();
        let how = if message.is_empty() { how.to_owned() } else { format!("{how} {}", message.replace('\n', " ")) };
        self.ended = Some((turn, how));
        self.tell_end()?;
        self.save()
    }

    fn tell_end(&mut self) -> io::Result<()> {
        let Some((turn, how)) = &self.ended else { return Ok(()) };
        let (how, message) = how.split_once(' ').unwrap_or((how, ""));
        self.stdio.say(&[("type", "ended"), ("turn", turn), ("how", how), ("message", message)])
    }
}

fn is_step(line: &str) -> bool {
    STEPS.contains(&line.split(' ').next().unwrap_or_default())
}

/// The steps of a script; what is none is left out.
fn steps(text: &str) -> impl Iterator<Item = String> + '_ {
    text.lines().map(str::trim).filter(|line| is_step(line)).map(str::to_owned)
}

fn unescape(text: &str) -> String {
    text.replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_known_by_its_first_word() {
        assert!(is_step("say hello"));
        assert!(is_step("hang"));
        assert!(!is_step("saying hello"));
        assert!(!is_step("yes"));
        let script = "  say a\n\n# a comment\nbash echo b";
        assert_eq!(steps(script).collect::<Vec<_>>(), ["say a", "bash echo b"]);
    }
}
