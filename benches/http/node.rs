//! Agents and sessions of the daemon under test, over HTTP.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::daemon::{DEADLINE, Daemon, KEY, LOOK_AGAIN};

/// A daemon and a client of it.
pub struct Node {
    /// The daemon.
    pub daemon: Daemon,
    client: Client,
}

impl Node {
    /// Starts the daemon, and makes the agent that all sessions here have.
    pub async fn start() -> Result<Self> {
        // Fails if somebody else was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let node = Self { daemon: Daemon::start("").await?, client: Client::new() };
        let agent = json!({ "name": "bench", "runtime": "script" });
        node.request(Method::POST, "/v3/agents").json(&agent).send().await?.error_for_status()?;
        Ok(node)
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.daemon.http)).bearer_auth(KEY)
    }

    /// A session that begins with a script.
    pub async fn session(&self, input: &str) -> Result<String> {
        let wish = json!({ "agent": "bench", "input": input });
        let made = self.request(Method::POST, "/v3/sessions").json(&wish).send().await?.error_for_status()?;
        let made: Value = made.json().await?;
        Ok(made["session"]["id"].as_str().context("no id")?.to_owned())
    }

    /// Gives a session a message.
    pub async fn send(&self, id: &str, text: &str) -> Result<()> {
        let path = format!("/v3/sessions/{id}/messages");
        self.request(Method::POST, &path).json(&json!({ "text": text })).send().await?.error_for_status()?;
        Ok(())
    }

    /// Ends the turn of a session.
    pub async fn cancel(&self, id: &str) -> Result<()> {
        self.request(Method::POST, &format!("/v3/sessions/{id}/cancel")).send().await?.error_for_status()?;
        Ok(())
    }

    /// Waits until a turn is under way; the newest `seq` then.
    pub async fn running(&self, id: &str) -> Result<u64> {
        self.status(id, "running").await
    }

    /// Waits until nothing is to be done.
    pub async fn finished(&self, id: &str) -> Result<u64> {
        self.status(id, "idle").await
    }

    async fn status(&self, id: &str, wanted: &str) -> Result<u64> {
        let until = Instant::now() + DEADLINE;
        loop {
            let session: Value = self
                .request(Method::GET, &format!("/v3/sessions/{id}"))
                .send()
                .await?
                .error_for_status()?
                .json()
                .await?;
            if session["status"] == wanted {
                return session["head"].as_u64().context("no head");
            }
            ensure!(Instant::now() < until, "the session is never {wanted}: {session}");
            sleep(LOOK_AGAIN).await;
        }
    }
}
