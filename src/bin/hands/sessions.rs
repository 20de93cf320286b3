//! Sessions.

use std::time::SystemTime;

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use handsd::api::proto::session_event::Level as LevelMessage;
use handsd::api::proto::{
    ArchiveSessionRequest, CancelSessionRequest, CreateSessionRequest, EventsRequest, GetSessionRequest,
    ListSessionsRequest, ResultRequest, SendRequest, Session, SessionEvent, SessionLimits, TurnsRequest,
};
use handsd::client::events::{text, told};
use serde_json::{Value, json};

use crate::events::Format;
use crate::output::{self, Align};
use crate::{Context, args, json};

/// Bounds of a session.
#[derive(Debug, Clone, Copy, clap::Args)]
pub struct LimitArgs {
    /// Turns of a session [default: unbounded]
    #[arg(long, value_name = "COUNT")]
    turns: Option<u64>,
    /// Seconds of one turn [default: 1800]
    #[arg(long, value_name = "SECONDS")]
    turn_seconds: Option<u64>,
    /// Tokens of all turns together [default: unbounded]
    #[arg(long, value_name = "COUNT")]
    tokens: Option<u64>,
}

/// Durable sessions of agents.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands agent create demo
  ID=$(hands session create demo 'bash uname -a
say done')
  hands session events --follow $ID
  hands session send $ID 'say again'
  hands session result $ID")]
pub struct SessionArgs {
    #[command(subcommand)]
    command: SessionCommand,
}

#[derive(Debug, Subcommand)]
enum SessionCommand {
    /// Makes a session and prints its id
    Create(CreateSessionArgs),
    /// Gives a session a message; it wakes for it
    Send(SendArgs),
    /// Prints the events of a session
    Events(EventArgs),
    /// Shows a session
    Get(SessionId),
    /// Lists the sessions, newest first
    List(ListSessionsArgs),
    /// Has the turn that is under way end
    Cancel(SessionId),
    /// Ends a session; its log can still be read
    Archive(SessionId),
    /// Prints the last message of the last turn
    Result(SessionId),
    /// Lists the turns of a session, newest first
    Turns(SessionId),
}

#[derive(Debug, clap::Args)]
struct CreateSessionArgs {
    /// The agent: its id or name
    agent: String,
    /// The first message
    #[arg(default_value = "")]
    input: String,
    /// A second create with the same key and request answers with the same session
    #[arg(long, default_value = "")]
    key: String,
    /// Your own words on the session and its sandboxes; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Debug, clap::Args)]
struct ListSessionsArgs {
    /// Only those with this label; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,
}

#[derive(Debug, clap::Args)]
struct SendArgs {
    /// The session
    id: String,
    /// The message
    text: String,
    /// The same key with the same message is the same message
    #[arg(long, default_value = "")]
    idempotency_key: String,
}

#[derive(Debug, clap::Args)]
struct EventArgs {
    /// The session
    id: String,
    /// Go on with those that come
    #[arg(short, long)]
    follow: bool,
    /// Only those behind this seq
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Up to this level
    #[arg(long, value_enum, default_value_t = Level::Internal)]
    level: Level,
    /// Only of this type; with .* at its end, of all that begin so
    #[arg(long, value_name = "TYPE", default_value = "")]
    r#type: String,
}

#[derive(Debug, clap::Args)]
struct SessionId {
    /// The session
    id: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Level {
    User,
    Progress,
    Internal,
    Output,
}

/// `hands session`
pub async fn session(context: &Context, args: SessionArgs) -> anyhow::Result<()> {
    let mut sessions = context.sessions();
    match args.command {
        SessionCommand::Create(CreateSessionArgs { agent, input, key, label, limits }) => {
            let labels = label.into_iter().collect();
            let limits = limits.message();
            let request = CreateSessionRequest { agent, input, key, limits, labels, ..Default::default() };
            let session = sessions.create(request).await?.into_inner();
            show(context, json::session(&session), || format!("{}\n", session.id))
        }
        SessionCommand::Send(SendArgs { id, text, idempotency_key }) => {
            let request = SendRequest { session_id: id, text, idempotency_key, ..Default::default() };
            let sent = sessions.send(request).await?.into_inner();
            let value = json!({ "event_id": sent.event_id, "seq": sent.seq, "replayed": sent.replayed });
            show(context, value, || format!("{}\n", sent.seq))
        }
        SessionCommand::Events(args) => events(context, args).await,
        SessionCommand::Get(SessionId { id }) => {
            let session = sessions.get(GetSessionRequest { session_id: id }).await?.into_inner();
            show(context, json::session(&session), || describe(&session, SystemTime::now()))
        }
        SessionCommand::List(args) => list(context, args).await,
        SessionCommand::Cancel(SessionId { id }) => {
            let session = sessions.cancel(CancelSessionRequest { session_id: id }).await?.into_inner();
            show(context, json::session(&session), || describe(&session, SystemTime::now()))
        }
        SessionCommand::Archive(SessionId { id }) => {
            let session = sessions.archive(ArchiveSessionRequest { session_id: id }).await?.into_inner();
            show(context, json::session(&session), || describe(&session, SystemTime::now()))
        }
        SessionCommand::Result(SessionId { id }) => {
            let found = sessions.result(ResultRequest { session_id: id }).await?.into_inner();
            let event = found.result.as_ref();
            let value = json!({
                "last_turn": found.last_turn.as_ref().map(json::turn),
                "result": event.map(json::session_event),
            });
            show(context, value, || event.map(|event| format!("{}\n", text(event, "text"))).unwrap_or_default())
        }
        SessionCommand::Turns(SessionId { id }) => turns(context, id).await,
    }
}

impl LimitArgs {
    /// The message that says the same.
    pub fn message(self) -> Option<SessionLimits> {
        Some(SessionLimits {
            turns: self.turns.unwrap_or(0),
            turn_seconds: self.turn_seconds.unwrap_or(0),
            tokens: self.tokens.unwrap_or(0),
        })
    }
}

/// Prints an answer in the form that was asked for.
pub fn show(context: &Context, value: Value, text: impl FnOnce() -> String) -> anyhow::Result<()> {
    match context.format {
        Format::Text => output::print(&text()),
        Format::Json => output::print_json(&value),
    }
}

async fn list(context: &Context, args: ListSessionsArgs) -> anyhow::Result<()> {
    let mut sessions = Vec::new();
    let mut request = ListSessionsRequest { labels: args.label.into_iter().collect(), ..Default::default() };
    loop {
        let page = context.sessions().list(request.clone()).await?.into_inner();
        sessions.extend(page.sessions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let now = SystemTime::now();
    show(context, sessions.iter().map(json::session).collect(), || session_table(&sessions, now))
}

async fn turns(context: &Context, id: String) -> anyhow::Result<()> {
    let mut turns = Vec::new();
    let mut request = TurnsRequest { session_id: id, ..Default::default() };
    loop {
        let page = context.sessions().turns(request.clone()).await?.into_inner();
        turns.extend(page.turns);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let columns = [("TURN", Align::Right), ("ENDED", Align::Left), ("TOKENS", Align::Right), ("ID", Align::Left)];
    let rows: Vec<Vec<String>> = turns
        .iter()
        .map(|turn| {
            let tokens = turn.usage.as_ref().map_or(0, |usage| usage.tokens);
            let ended = if turn.yield_reason.is_empty() { "under way" } else { &turn.yield_reason };
            vec![turn.number.to_string(), ended.to_owned(), tokens.to_string(), turn.id.clone()]
        })
        .collect();
    show(context, turns.iter().map(json::turn).collect(), || output::table(&columns, &rows))
}

/// `hands session events`: a line each.
async fn events(context: &Context, args: EventArgs) -> anyhow::Result<()> {
    let level = match args.level {
        Level::User => LevelMessage::User,
        Level::Progress => LevelMessage::Progress,
        Level::Internal => LevelMessage::Internal,
        Level::Output => LevelMessage::Output,
    };
    let request = EventsRequest {
        session_id: args.id,
        after: args.after,
        follow: args.follow,
        level: level.into(),
        r#type: args.r#type,
        turn_id: String::new(),
    };
    let mut stream = context.sessions().events(request).await?.into_inner();
    while let Some(event) = stream.message().await? {
        show(context, json::session_event(&event), || line(&event))?;
    }
    if args.follow { Err(anyhow::anyhow!("the node ended the stream")).context("follow the events") } else { Ok(()) }
}

/// An event for people.
fn line(event: &SessionEvent) -> String {
    let what: Vec<String> = told(event).lines().map(output::printable).collect();
    let line = format!("{:>6}  {:<18}  {}", event.seq, event.r#type, what.join("\n                            "));
    format!("{}\n", line.trim_end())
}

fn session_table(sessions: &[Session], now: SystemTime) -> String {
    let columns = [
        ("ID", Align::Left),
        ("STATUS", Align::Left),
        ("AGE", Align::Right),
        ("TURNS", Align::Right),
        ("EVENTS", Align::Right),
        ("AGENT", Align::Left),
        ("KEY", Align::Left),
    ];
    let row = |session: &Session| {
        let agent = session.agent.as_ref().map(|agent| agent.name.clone()).unwrap_or_default();
        let (age, key) = (output::age(session.created_at, now), session.key.clone());
        let (turns, head) = (session.turns.to_string(), session.head.to_string());
        vec![session.id.clone(), status(session), age, turns, head, agent, key]
    };
    output::table(&columns, &sessions.iter().map(row).collect::<Vec<_>>())
}

fn describe(session: &Session, now: SystemTime) -> String {
    let failure = session.failure.as_ref().map(|it| format!("{} ({})", it.message, it.code)).unwrap_or_default();
    let usage = session.usage.unwrap_or_default();
    output::fields(&[
        ("id", session.id.clone()),
        ("status", status(session)),
        ("failure", failure),
        ("age", output::age(session.created_at, now)),
        ("agent", session.agent.as_ref().map(|agent| agent.name.clone()).unwrap_or_default()),
        ("key", session.key.clone()),
        ("turns", session.turns.to_string()),
        ("events", session.head.to_string()),
        ("tokens", usage.tokens.to_string()),
        ("brain", session.brain_sandbox_id.clone()),
        ("hands", session.hands_sandbox_id.clone()),
    ])
}

fn status(session: &Session) -> String {
    session.status().as_str_name().to_ascii_lowercase()
}
