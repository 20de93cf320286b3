//! The session of the tour: an agent writes a program, runs a test that fails, and asks. It is answered while no process of
//! it is left, and its brain is killed in the middle of the next command. Its log has no gap all the while.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::session_event::Level;
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::api::proto::{
    CreateAgentRequest, CreateSessionRequest, EventsRequest, GetSessionRequest, HibernateSandboxRequest,
    KillRunRequest, ListRunsRequest, ResultRequest, SendRequest, Session, SessionEvent, Tier,
};
use handsd::client::events::{text, told};
use handsd::client::{self, Channel};
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::follow::refused;
use super::timeline::{Step, Timeline};

/// What the agent does: its brain follows a script, so that the tour needs no model.
const SCRIPT: &str = r#"write sum.sh echo $(($1 - $2))\n
bash test "$(sh sum.sh 2 2)" = 4 || { echo 2 and 2 is $(sh sum.sh 2 2); exit 1; }
ask The test fails: shall I repair it?
write sum.sh echo $(($1 + $2))\n
bash sleep 0.5; test "$(sh sum.sh 2 2)" = 4
expect exit 0
say The sum is right now."#;

/// SIGKILL.
const KILL: u32 = 9;

/// How long a session may be busy with the end of a turn that it has told of: it lets go of its sandboxes then.
const BUSY_DEADLINE: Duration = Duration::from_secs(10);

/// Between two tries.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// A conversation with an agent.
struct Conversation<'a> {
    hands: HandsClient<Channel>,
    sandboxes: SandboxesClient<Channel>,
    sessions: SessionsClient<Channel>,
    timeline: &'a mut Timeline,
    id: String,
    /// The number of the last event that was seen.
    seen: u64,
}

/// Has the conversation.
///
/// # Errors
/// The first thing that was seen and should not be.
pub async fn converse(channel: Channel, timeline: &mut Timeline) -> anyhow::Result<()> {
    let mut sessions = client::sessions(channel.clone());
    let agent = CreateAgentRequest { name: "demo".to_owned(), runtime: "script".to_owned(), ..Default::default() };
    sessions.create_agent(agent).await.map_err(|status| refused(&status))?;
    let wish = CreateSessionRequest { agent: "demo".to_owned(), input: SCRIPT.to_owned(), ..Default::default() };
    let session = sessions.create(wish).await.map_err(|status| refused(&status))?.into_inner();
    timeline.say(Step::Session, &format!("{} of an agent that follows a script", session.id))?;
    let (hands, sandboxes) = (client::hands(channel.clone()), client::sandboxes(channel));
    let mut talk = Conversation { hands, sandboxes, sessions, timeline, id: session.id, seen: 0 };
    let asked = talk.follow("turn.completed").await?;
    ensure!(text(&asked, "yield_reason") == "needs_input", "it did not ask: {asked:?}");
    talk.sleep().await?;
    talk.answer("Yes, please.").await?;
    talk.follow("exec.started").await?;
    talk.kill_brain().await?;
    let ended = talk.follow("turn.completed").await?;
    ensure!(text(&ended, "yield_reason") == "completed", "it did not get through: {ended:?}");
    talk.result("The sum is right now.").await
}

impl Conversation<'_> {
    /// Shows the log from where it was left, up to the next event of a type.
    async fn follow(&mut self, kind: &str) -> anyhow::Result<SessionEvent> {
        let level = Level::Output.into();
        let request =
            EventsRequest { session_id: self.id.clone(), after: self.seen, follow: true, level, ..Default::default() };
        let mut events = self.sessions.events(request).await.map_err(|status| refused(&status))?.into_inner();
        loop {
            let event = events.message().await.map_err(|status| refused(&status))?.context("the log ended")?;
            ensure!(event.seq == self.seen + 1, "event {} follows event {}", event.seq, self.seen);
            self.seen = event.seq;
            let line =
                format!("{:>2} {:<18} {}", event.seq, event.r#type, told(&event).lines().next().unwrap_or_default());
            self.timeline.say(Step::Session, line.trim_end())?;
            if event.r#type == kind {
                return Ok(event);
            }
        }
    }

    async fn get(&mut self) -> anyhow::Result<Session> {
        let request = GetSessionRequest { session_id: self.id.clone() };
        Ok(self.sessions.get(request).await.map_err(|status| refused(&status))?.into_inner())
    }

    /// Ends all its processes, as a long pause does. Its files and its log are kept.
    async fn sleep(&mut self) -> anyhow::Result<()> {
        let session = self.get().await?;
        for sandbox_id in [session.brain_sandbox_id, session.hands_sandbox_id] {
            let request = HibernateSandboxRequest { sandbox_id, tier: Tier::Stopped.into() };
            let stopping = async {
                loop {
                    match self.sandboxes.hibernate(request.clone()).await {
                        Err(status) if status.code() == Code::FailedPrecondition => sleep(LOOK_AGAIN).await,
                        other => return other.map(drop).map_err(|status| refused(&status)),
                    }
                }
            };
            timeout(BUSY_DEADLINE, stopping).await.context("it does not let go of its sandbox")??;
        }
        self.timeline.say(Step::Session, "both of its sandboxes sleep, and no process of it is left")?;
        Ok(())
    }

    async fn answer(&mut self, text: &str) -> anyhow::Result<()> {
        let request = SendRequest { session_id: self.id.clone(), text: text.to_owned(), ..Default::default() };
        self.sessions.send(request).await.map_err(|status| refused(&status))?;
        Ok(())
    }

    /// Kills the process that thinks.
    async fn kill_brain(&mut self) -> anyhow::Result<()> {
        let sandbox_id = self.get().await?.brain_sandbox_id;
        let request = ListRunsRequest { sandbox_id: sandbox_id.clone() };
        let runs = self.hands.list_runs(request).await.map_err(|status| refused(&status))?.into_inner().runs;
        let brain = runs.into_iter().find(|run| run.exited.is_none()).context("no brain runs")?;
        self.timeline.say(Step::Session, &format!("its brain is killed: process {}", brain.pid))?;
        let request = KillRunRequest { sandbox_id, run_id: brain.run_id, signal: KILL, grace: None };
        self.hands.kill_run(request).await.map_err(|status| refused(&status))?;
        Ok(())
    }

    async fn result(&mut self, expected: &str) -> anyhow::Result<()> {
        let request = ResultRequest { session_id: self.id.clone() };
        let found = self.sessions.result(request).await.map_err(|status| refused(&status))?.into_inner();
        let said = found.result.map(|event| text(&event, "text")).unwrap_or_default();
        ensure!(said == expected, "its result is {said:?}");
        self.timeline.say(Step::Session, &format!("{} events without a gap; result: {said}", self.seen))?;
        Ok(())
    }
}
