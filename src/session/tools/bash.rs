//! `bash`: a command, live.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep_until;

use super::bound::Bounded;
use super::{Bench, Note, Outcome, from_now, needed, number, text, texts};
use crate::guest::client::ExitStatus;
use crate::hands::{
    BackgroundPolicy, Command, Deadline, Event, Events, Exited, Hands, Program, Reason, Run, RunError, Stdio,
};
use crate::ids::{RunId, SandboxId};
use crate::runtime::{Answer, Call, Exit};
use crate::sandbox::Lease;

/// How long a command gets that does not ask for more.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Between SIGTERM and SIGKILL of a command that is stopped: it lets a shell's trap run, and is within the second in which a
/// turn ends that is canceled.
const GRACE: Duration = Duration::from_millis(500);

/// Output is told at most so often, so that a build does not fill the log with a line each.
const TELL_EVERY: Duration = Duration::from_millis(250);

/// Bytes of output in one event: the last ones since the event before.
const TELL_BYTES: usize = 4 << 10;

/// Events of output of one command: more than 15 minutes of it at the fastest. The rest is in the run's spool.
const TELL_COUNT: usize = 4_000;

/// Longest command in an event, in characters.
const COMMAND: usize = 2_000;

impl Bench {
    /// Runs a command and sees it to its end.
    pub(super) async fn bash(&self, hands: &Hands, lease: Lease, call: &Call) -> Outcome {
        let refused = |text| Outcome::Done { answer: Answer::error(text), exec: None };
        let command = match self.command(&call.input) {
            Ok(command) => command,
            Err(text) => return refused(text),
        };
        let run = match hands.start(command, Some(self.key(&call.id)), Some(lease)).await {
            Ok(run) => run,
            // It may have begun before its guest was gone.
            Err(RunError::Lost(_)) => return refused(LOST.to_owned()),
            Err(error) => return refused(crate::telemetry::chain(&error).to_string()),
        };
        let began = Note::Began(call.id.clone(), self.sandbox.profile().id.clone(), run.id().clone());
        // A driver that is gone does not want to know.
        let _ = self.notes.send(began).await;
        self.see_to_its_end(&call.id, run, 0).await
    }

    fn command(&self, input: &Value) -> Result<Command, String> {
        let timeout = number(input, "timeout_seconds")?.map_or(TIMEOUT, Duration::from_secs).min(self.left());
        Ok(Command {
            program: Program::Shell(needed(input, "command")?.to_owned()),
            cwd: text(input, "cwd")?.unwrap_or_default().to_owned(),
            env: texts(input, "env")?,
            user: None,
            deadline: Deadline::After(timeout),
            stdio: Stdio::Output,
            background: BackgroundPolicy::Keep,
        })
    }

    /// Follows a run to its end, and tells what it writes behind a cursor.
    pub(super) async fn see_to_its_end(&self, call: &str, run: Run, told: u64) -> Outcome {
        let mut output = Bounded::default();
        let mut live = Live::new(call, &self.sandbox.profile().id, run.id(), told);
        let exited = match Events::from(run.clone(), 0) {
            Ok(events) => self.watch(call, &run, events, &mut output, &mut live).await,
            Err(_) => run.wait_exited().await,
        };
        self.tell(call, live.take()).await;
        let (id, reading) = (run.id().clone(), "read them with the tool read");
        let text = output.text(|from, _| format!("{reading} and {{\"run\": \"{id}\", \"offset\": {from}}}"));
        let separator = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
        let ending = ending(&exited);
        let (code, signal) = parts(exited.status);
        let exit = Some(Exit { code, signal, bytes: output.len(), shown: text.len() });
        let text = format!("{text}{separator}[{ending}]");
        let answer = Answer { text, is_ok: exited.reason == Reason::Exited, exit };
        Outcome::Done { answer, exec: Some(self.body(call, &run, &exited, &ending)) }
    }

    async fn watch(&self, call: &str, run: &Run, mut events: Events, output: &mut Bounded, live: &mut Live) -> Exited {
        let mut is_stopping = false;
        loop {
            // All are cancel-safe: events keep their place, and the others wait for what stays.
            tokio::select! {
                biased;
                () = self.stop.cancelled(), if !is_stopping => is_stopping = true,
                event = events.next() => match event {
                    Ok(Some(Event::Output { cursor, data, .. })) => {
                        output.push(&data);
                        live.push(cursor, &data);
                    }
                    Ok(Some(Event::Gap { from, to })) => output.skip(to - from),
                    Ok(Some(Event::Exited(exited))) => return exited,
                    Ok(Some(Event::Started(_))) => {}
                    Ok(None) | Err(_) => return run.wait_exited().await,
                },
                () = sleep_until(live.due().into()), if live.has_something() => {}
            }
            if is_stopping {
                // One that has ended meanwhile has nothing to stop.
                let _ = run.cancel(GRACE).await;
            }
            if live.due() <= Instant::now() {
                self.tell(call, live.take()).await;
            }
        }
    }

    async fn tell(&self, call: &str, told: Option<(u64, Value)>) {
        if let Some((to, body)) = told {
            // A driver that is gone does not want to know.
            let _ = self.notes.send(Note::Output(call.to_owned(), to, body)).await;
        }
    }

    fn body(&self, call: &str, run: &Run, exited: &Exited, summary: &str) -> Value {
        let command = match &run.command().program {
            Program::Shell(line) => line.chars().take(COMMAND).collect(),
            Program::Argv(argv) => argv.join(" ").chars().take(COMMAND).collect::<String>(),
        };
        let (code, signal) = parts(exited.status);
        json!({
            "command": command,
            "exit_code": code,
            "signal": signal,
            "reason": exited.reason.name(),
            "summary": summary,
            "bytes": exited.output_bytes,
            "duration_ms": u64::try_from(exited.elapsed.as_millis()).unwrap_or(u64::MAX),
            "call_id": call,
            "run_id": run.id().as_str(),
            "sandbox_id": self.sandbox.profile().id.as_str(),
        })
    }
}

/// What a command wrote and nobody was told of yet.
struct Live {
    call: String,
    sandbox: SandboxId,
    run: RunId,
    /// What is before this was told.
    told: u64,
    /// Cursors of the first byte, and behind the last.
    range: Option<(u64, u64)>,
    text: Vec<u8>,
    due: Instant,
    left: usize,
}

impl Live {
    fn new(call: &str, sandbox: &SandboxId, run: &RunId, told: u64) -> Self {
        let (call, sandbox, run) = (call.to_owned(), sandbox.clone(), run.clone());
        Self { call, sandbox, run, told, range: None, text: Vec::new(), due: Instant::now(), left: TELL_COUNT }
    }

    fn push(&mut self, cursor: u64, data: &[u8]) {
        let end = cursor + data.len() as u64;
        let known = usize::try_from(self.told.saturating_sub(cursor)).unwrap_or(usize::MAX).min(data.len());
        let (cursor, data) = (cursor + known as u64, &data[known..]);
        if data.is_empty() {
            return;
        }
        self.range = Some((self.range.map_or(cursor, |(from, _)| from), end));
        self.text.extend_from_slice(&data[data.len().saturating_sub(TELL_BYTES)..]);
        let surplus = self.text.len().saturating_sub(TELL_BYTES);
        self.text.drain(..surplus);
    }

    fn has_something(&self) -> bool {
        self.range.is_some()
    }

    /// When it may be told.
    fn due(&self) -> Instant {
        self.due
    }

    fn take(&mut self) -> Option<(u64, Value)> {
        let (from, to) = self.range.take()?;
        let text = String::from_utf8_lossy(&std::mem::take(&mut self.text)).into_owned();
        self.due = from_now(TELL_EVERY);
        self.left = self.left.checked_sub(1)?;
        let body = json!({
            "text": text,
            "from": from,
            "to": to,
            "call_id": self.call,
            "run_id": self.run.as_str(),
            "sandbox_id": self.sandbox.as_str(),
        });
        Some((to, body))
    }
}

/// Of a command whose sandbox went away while it was started, or later.
const LOST: &str = "the sandbox was lost: the outcome is unknown, and its processes are gone";

/// The exit code of a command, or the signal that ended it.
fn parts(status: Option<ExitStatus>) -> (Option<i32>, Option<i32>) {
    match status {
        Some(ExitStatus::Code(code)) => (Some(code), None),
        Some(ExitStatus::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    }
}

/// How a command ended, for people and models.
fn ending(exited: &Exited) -> String {
    let seconds = exited.elapsed.as_secs_f64();
    match (exited.reason, exited.status) {
        (Reason::Exited, Some(ExitStatus::Code(code))) => format!("exit {code}"),
        (Reason::TimedOut, _) => format!("killed: it did not end within {seconds:.0} s"),
        (Reason::Canceled, _) => "stopped".to_owned(),
        (Reason::OomKilled, _) => "killed: the sandbox has no more memory".to_owned(),
        (Reason::Exited | Reason::Signaled, Some(ExitStatus::Signal(signal))) => format!("killed by signal {signal}"),
        (Reason::Signaled, Some(ExitStatus::Code(code))) => format!("exit {code}"),
        (Reason::SandboxLost | Reason::Exited | Reason::Signaled, _) => LOST.to_owned(),
    }
}
