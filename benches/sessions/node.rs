//! Agents and sessions of the daemon under test.

use anyhow::{Context, Result};
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::api::proto::{CreateAgentRequest, CreateSessionRequest, EventsRequest, SendRequest, SessionEvent};
use handsd::client::{self, Address, Channel};

use crate::daemon::{DEADLINE, Daemon};

/// A daemon and a connection to it.
pub struct Node {
    /// The daemon.
    pub daemon: Daemon,
    channel: Channel,
}

impl Node {
    /// Starts the daemon, and makes the agent that all sessions here have.
    pub async fn start(config: &str) -> Result<Self> {
        let daemon = Daemon::start(config).await?;
        let channel = client::connect(&Address::Unix(daemon.socket())).await?;
        let node = Self { daemon, channel };
        let agent = CreateAgentRequest { name: "bench".to_owned(), runtime: "script".to_owned(), ..Default::default() };
        node.sessions().create_agent(agent).await?;
        Ok(node)
    }

    /// Agents and sessions.
    pub fn sessions(&self) -> SessionsClient<Channel> {
        client::sessions(self.channel.clone())
    }

    /// A session.
    pub async fn session(&self, input: &str) -> Result<String> {
        let request = CreateSessionRequest { agent: "bench".to_owned(), input: input.to_owned(), ..Default::default() };
        Ok(self.sessions().create(request).await?.into_inner().id)
    }

    /// Gives a session a message.
    pub async fn send(&self, id: &str, text: &str) -> Result<()> {
        let request = SendRequest { session_id: id.to_owned(), text: text.to_owned(), ..Default::default() };
        self.sessions().send(request).await?;
        Ok(())
    }

    /// The next event of a type behind a `seq`.
    pub async fn wait(&self, id: &str, after: u64, kind: &str) -> Result<SessionEvent> {
        let (session_id, kind) = (id.to_owned(), kind.to_owned());
        let request = EventsRequest { session_id, after, follow: true, r#type: kind, ..Default::default() };
        let mut events = self.sessions().events(request).await?.into_inner();
        let event = tokio::time::timeout(DEADLINE, events.message()).await.context("no event comes")??;
        event.context("the log ended")
    }
}
