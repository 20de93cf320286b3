//! Commands in a sandbox: bash, attach, kill, runs.

use std::io;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use handsd::api::proto::exited::{Reason, Status};
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{
    BackgroundPolicy, BashRequest, Exited, GetRunRequest, KillRunRequest, ListRunsRequest, Pty, Run, Started,
};
use handsd::ids::RunId;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::events::{self, Format};
use crate::follow::Follow;
use crate::output::{self, Align, StdoutClosed};
use crate::signals::{First, Signals};
use crate::terminal::RawMode;
use crate::{Context, args, errors, input, json, signals, terminal};

/// A shell for a person, when a terminal was asked for and no command was given.
const LOGIN: &str = "exec \"$(command -v bash || command -v sh)\"";
/// Letters of a command in a table.
const SHOWN_COMMAND: usize = 60;

/// Runs a command and streams what it writes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
One word is a line for the sandbox's shell; several words are a program and its arguments, without a shell.

Examples:
  hands bash ID 'cd src && ls | wc -l'      # a line
  hands bash ID -- grep -r 'a b' /etc       # a program
  hands bash -t ID                          # a shell to type into
  tar c . | hands bash -i ID 'tar x'        # stdin goes to the command
  hands bash --timeout 0 --detach ID ./serve

Ctrl-C ends the run; a second one leaves it. A connection that breaks is taken up again where it broke; stdin is not.

Exit code: the command's own; 128 + n if signal n ended it; 124 if it timed out; 125 if hands itself failed, 126 if \
the program cannot be executed, 127 if there is none. If nobody reads stdout any more, the run is ended (141).

With --json each event is a line: {\"event\":\"started\",…}, \
{\"event\":\"output\",\"stream\":\"stdout\",\"cursor\":0,\"data\":\"…\"}, {\"event\":\"gap\",…}, {\"event\":\"exited\",\"code\":0,…}. Where `data` is no UTF-8, `data_base64` has the exact bytes.")]
pub struct BashArgs {
    /// The sandbox
    id: String,
    /// One word: a shell line. More: a program and its arguments
    #[arg(trailing_var_arg = true, required_unless_present = "tty", value_name = "COMMAND")]
    words: Vec<String>,
    /// Send stdin to the command
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal; implies -i
    #[arg(short, long)]
    tty: bool,
    /// Print the run's id and leave it running
    #[arg(short, long, conflicts_with_all = ["interactive", "tty"])]
    detach: bool,
    /// End it after this time, such as 30s or 5m; 0: never [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    timeout: Option<prost_types::Duration>,
    /// Working directory [default: the workspace]
    #[arg(long, value_name = "PATH")]
    cwd: Option<String>,
    /// Environment, over that of the sandbox; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// Run as: name, uid, name:group or uid:gid [default: the sandbox's user]
    #[arg(short, long)]
    user: Option<String>,
    /// End processes that the command leaves behind
    #[arg(long)]
    kill_background: bool,
}

/// Follows a run from its beginning, or from a cursor.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands attach ID RUN                  # all that is kept, then what comes live
  hands attach ID RUN --from 4096      # from this byte of the output on

Ctrl-C leaves; the run goes on. Exit codes and --json are those of `hands bash`.")]
pub struct AttachArgs {
    /// The sandbox
    id: String,
    /// The run
    run: String,
    /// First byte of the output, stdout and stderr counted together
    #[arg(long, value_name = "CURSOR", default_value_t = 0)]
    from: u64,
    /// Send stdin to the command
    #[arg(short, long)]
    interactive: bool,
}

/// Ends a run, or sends it a signal.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands kill ID RUN                    # SIGTERM, then SIGKILL, to all its processes; waits until none is left
  hands kill ID RUN --grace 10s
  hands kill ID RUN --signal HUP       # only this, to the command's process group")]
pub struct KillArgs {
    /// The sandbox
    id: String,
    /// The run
    run: String,
    /// Send this signal instead of ending the run: name or number
    #[arg(short, long, value_parser = args::signal, conflicts_with = "grace")]
    signal: Option<u32>,
    /// Between SIGTERM and SIGKILL [default: the node's]
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    grace: Option<prost_types::Duration>,
}

/// Lists the runs of a sandbox, oldest first.
#[derive(Debug, clap::Args)]
pub struct RunsArgs {
    /// The sandbox
    id: String,
}

impl BashArgs {
    fn request(self) -> BashRequest {
        let (command, argv) = match <[String; 1]>::try_from(self.words) {
            Ok([line]) => (Some(line), Vec::new()),
            Err(words) if words.is_empty() => (Some(LOGIN.to_owned()), Vec::new()),
            Err(words) => (None, words),
        };
        let policy = if self.kill_background { BackgroundPolicy::Kill } else { BackgroundPolicy::Keep };
        BashRequest {
            sandbox_id: self.id,
            command,
            argv,
            cwd: self.cwd.unwrap_or_default(),
            env: self.env.into_iter().collect(),
            user: self.user.unwrap_or_default(),
            timeout: self.timeout,
            stdin: self.interactive || self.tty,
            pty: self.tty.then(pty),
            background_policy: policy.into(),
            // So that asking again after a break cannot run the command twice.
            idempotency_key: RunId::random().to_string(),
        }
    }
}

fn pty() -> Pty {
    let (rows, cols) = terminal::size().unwrap_or_default();
    Pty { rows, cols, term: std::env::var("TERM").unwrap_or_default() }
}

/// `hands bash`
pub async fn bash(context: &Context, args: BashArgs) -> anyhow::Result<u8> {
    let input = match (args.tty, args.interactive) {
        (true, _) => Some(input::Kind::terminal()?),
        (false, true) => Some(input::Kind::Pipe),
        (false, false) => None,
    };
    let detach = args.detach;
    let request = args.request();
    let sandbox_id = request.sandbox_id.clone();
    let mut follow = Follow::bash(context.hands(), request);
    if detach {
        return match follow.next().await? {
            Event::Started(started) => detached(context, started),
            _ => bail!("the node did not begin with the run's id"),
        };
    }
    drive(context, sandbox_id, follow, input, First::Kills).await
}

fn detached(context: &Context, started: Started) -> anyhow::Result<u8> {
    match context.format {
        Format::Text => output::print(&format!("{}\n", started.run_id))?,
        Format::Json => output::print_json(&json::event(&Event::Started(started)))?,
    }
    Ok(0)
}

/// `hands attach`
pub async fn attach(context: &Context, args: AttachArgs) -> anyhow::Result<u8> {
    let AttachArgs { id: sandbox_id, run: run_id, from, interactive } = args;
    let mut input = None;
    if interactive {
        let request = GetRunRequest { sandbox_id: sandbox_id.clone(), run_id: run_id.clone() };
        let run = context.hands().get_run(request).await?.into_inner();
        input = Some(if run.pty { input::Kind::terminal()? } else { input::Kind::Pipe });
    }
    let follow = Follow::attach(context.hands(), sandbox_id.clone(), run_id, from);
    drive(context, sandbox_id, follow, input, First::Leaves).await
}

/// Tells the events as they come, until the run has ended; its exit code.
async fn drive(
    context: &Context,
    sandbox_id: String,
    mut follow: Follow,
    mut input: Option<input::Kind>,
    first: First,
) -> anyhow::Result<u8> {
    let (known, run_id) = watch::channel(None);
    let mut raw = None;
    // Dropped, and so ended, with this function.
    let mut tasks = JoinSet::new();
    let obey = signals::obey(Signals::new()?, first, context.hands(), sandbox_id.clone(), run_id);
    tasks.spawn(async {
        obey.await;
        Ok(())
    });
    loop {
        // Cancel-safe, both of them, by their own words.
        let event = tokio::select! {
            event = follow.next() => event?,
            Some(ended) = tasks.join_next() => {
                ended.context("a task of hands failed")??;
                continue;
            }
        };
        match &event {
            Event::Started(Started { run_id, .. }) => {
                known.send_replace(Some(run_id.clone()));
                if let Some(kind) = input.take() {
                    if matches!(kind, input::Kind::Terminal(_)) {
                        raw = RawMode::enter()?;
                    }
                    let target = input::Target { sandbox_id: sandbox_id.clone(), run_id: run_id.clone() };
                    tasks.spawn(input::pump(context.hands(), target, input::stdin()?, kind));
                }
            }
            Event::Exited(_) => drop(raw.take()),
            Event::Output(_) | Event::Gap(_) => {}
        }
        // Not locked beyond each write: while stdout blocks, the task that obeys signals must reach stderr.
        let told = events::tell(context.format, &event, &mut io::stdout(), &mut io::stderr());
        if let Err(error) = told {
            let run_id = known.borrow().clone();
            if let (First::Kills, Some(run_id), true) = (first, run_id, error.is::<StdoutClosed>()) {
                signals::kill(context.hands(), sandbox_id, run_id).await?;
            }
            return Err(error);
        }
        if let Event::Exited(exited) = event {
            if let Some(ending) = events::ending(&exited) {
                errors::note(&ending);
            }
            return Ok(events::exit_code(&exited));
        }
    }
}

/// `hands kill`
pub async fn kill(context: &Context, args: KillArgs) -> anyhow::Result<()> {
    let signal = args.signal.unwrap_or_default();
    let request = KillRunRequest { sandbox_id: args.id, run_id: args.run, signal, grace: args.grace };
    let exited = context.hands().kill_run(request).await?.into_inner().exited;
    match (context.format, exited) {
        (Format::Json, exited) => {
            output::print_json(&serde_json::json!({ "exited": exited.as_ref().map(json::exited) }))
        }
        (Format::Text, Some(exited)) => output::print(&format!("{}\n", state(Some(&exited)))),
        (Format::Text, None) => Ok(()),
    }
}

/// `hands runs`
pub async fn runs(context: &Context, args: RunsArgs) -> anyhow::Result<()> {
    let runs = context.hands().list_runs(ListRunsRequest { sandbox_id: args.id }).await?.into_inner().runs;
    if context.format == Format::Json {
        return output::print_json(&runs.iter().map(json::run).collect());
    }
    let columns = [
        ("RUN", Align::Left),
        ("STATE", Align::Left),
        ("AGE", Align::Right),
        ("OUTPUT", Align::Right),
        ("COMMAND", Align::Left),
    ];
    let now = SystemTime::now();
    let rows: Vec<Vec<String>> = runs.iter().map(|run| row(run, now)).collect();
    output::print(&output::table(&columns, &rows))
}

fn row(run: &Run, now: SystemTime) -> Vec<String> {
    let age = output::age(run.started_at, now);
    let command = run.command.clone().unwrap_or_else(|| run.argv.join(" "));
    let mut shown: String = command.chars().take(SHOWN_COMMAND).collect();
    if shown.len() < command.len() {
        shown.push('…');
    }
    vec![run.run_id.clone(), state(run.exited.as_ref()), age, output::size(run.output_bytes), shown]
}

/// How a run stands, in a few words.
fn state(exited: Option<&Exited>) -> String {
    let Some(exited) = exited else { return "running".to_owned() };
    let status = match exited.status {
        Some(Status::Code(code)) => format!("exit {code}"),
        Some(Status::Signal(signal)) => format!("signal {signal}"),
        None => "unknown".to_owned(),
    };
    match exited.reason() {
        Reason::Unspecified | Reason::Exited | Reason::Signaled => status,
        Reason::TimedOut => "timed out".to_owned(),
        Reason::Canceled => format!("canceled, {status}"),
        Reason::OomKilled => format!("out of memory, {status}"),
        Reason::SandboxLost => "lost".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::{Cli, Command};

    fn request(line: &[&str]) -> BashRequest {
        match Cli::try_parse_from([&["hands", "bash"], line].concat()).expect("it parses").command {
            Command::Bash(args) => args.request(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn one_word_is_a_line_and_more_are_a_program() {
        assert_eq!(request(&["sb", "ls | wc"]).command.as_deref(), Some("ls | wc"));
        assert_eq!(request(&["sb", "--", "true"]).command.as_deref(), Some("true"));
        assert_eq!(request(&["sb", ""]).command.as_deref(), Some(""));
        let program = request(&["sb", "--", "ls", "-t"]);
        assert_eq!((program.command, program.argv, program.pty), (None, vec!["ls".to_owned(), "-t".to_owned()], None));
        assert_eq!(request(&["sb", "ls", "--json"]).argv, ["ls", "--json"]);
    }

    #[test]
    fn a_command_may_be_missing_only_on_a_terminal() {
        assert!(Cli::try_parse_from(["hands", "bash", "sb"]).is_err());
        let shell = request(&["-t", "sb"]);
        assert_eq!(shell.command.as_deref(), Some(LOGIN));
        assert!(shell.stdin && shell.pty.is_some());
    }

    #[test]
    fn a_timeout_of_zero_is_told_from_none() {
        assert_eq!(request(&["sb", "true"]).timeout, None);
        assert_eq!(request(&["--timeout", "0", "sb", "true"]).timeout, Some(prost_types::Duration::default()));
    }

    #[test]
    fn every_request_has_a_key_of_its_own() {
        let (one, other) = (request(&["sb", "true"]), request(&["sb", "true"]));
        assert!(!one.idempotency_key.is_empty());
        assert_ne!(one.idempotency_key, other.idempotency_key);
    }

    #[test]
    fn a_state_says_how_it_ended() {
        let exited = |reason: Reason, status| Exited { reason: reason.into(), status, ..Default::default() };
        assert_eq!(state(None), "running");
        assert_eq!(state(Some(&exited(Reason::Exited, Some(Status::Code(3))))), "exit 3");
        assert_eq!(state(Some(&exited(Reason::Canceled, Some(Status::Signal(15))))), "canceled, signal 15");
        assert_eq!(state(Some(&exited(Reason::SandboxLost, None))), "lost");
    }
}
