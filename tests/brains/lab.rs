//! A daemon, a model, and an agent whose brain is a real program.

use std::path::{Path, PathBuf};

use handsd::api::proto::{
    BashRequest, CancelSessionRequest, CreateAgentRequest, CreateCredentialRequest, CreateSessionRequest, SessionEvent,
    SessionLimits, session::Status,
};

use crate::support::session::summary;
use crate::support::{Daemon, Model, Options, Session, Step, process};

/// The agent's credential, which must be nowhere but with the model.
pub const CREDENTIAL: &str = "sk-of-the-agent-4c1f0b";

/// A command that waits for the file `go`.
pub const WAIT: &str = "while [ ! -e go ]; do sleep 0.02; done; echo went";

/// The agent that speaks the Agent Client Protocol: one whose files and commands are all its client's.
const GOOSE: &str = "1.52.0";

/// All of it.
pub struct Lab {
    /// The daemon.
    pub daemon: Daemon,
    /// The model.
    pub model: Model,
}

/// Where npm has installed the programs.
fn npm() -> Option<PathBuf> {
    let directory = std::env::var_os("HANDSD_NPM").map(PathBuf::from).filter(|path| path.join("node_modules").is_dir());
    if directory.is_none() {
        println!("skipped: HANDSD_NPM names no directory in which npm has installed the runtimes");
    }
    directory
}

/// Without them it makes no requests, not even to a model that needs none.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How it is started.
fn goose(npm: &Path) -> Option<String> {
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "x64" };
    let program = npm.join(format!("node_modules/@aaif/goose-binary-linux-{architecture}/bin/goose"));
    if let Some(missing) = [program.as_path(), Path::new(CERTIFICATES)].into_iter().find(|path| !path.exists()) {
        println!("skipped: {} is not there", missing.display());
        return None;
    }
    Some(format!(
        "[brain.acp]
program = '{program}'
versions = ['{GOOSE}']
args = ['acp', '--with-builtin', 'developer']
files = ['{CERTIFICATES}']
env = [
  'GOOSE_PROVIDER=anthropic', 'GOOSE_MODEL={{model}}', 'ANTHROPIC_HOST={{base_url}}', 'ANTHROPIC_API_KEY=none',
  'GOOSE_MODE=auto', 'GOOSE_DISABLE_KEYRING=1', 'GOOSE_DISABLE_SESSION_NAMING=true', 'GOOSE_TELEMETRY_ENABLED=false',
]
",
        program = program.display(),
    ))
}

/// How our own agent is started: a program, and files that it reads.
fn script() -> Option<String> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let node = std::env::split_paths(&places).map(|place| place.join("node")).find(|file| file.exists());
    let Some(node) = node else {
        println!("skipped: there is no node");
        return None;
    };
    let agent = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/brains/agent");
    // Debian's node has a part of itself there.
    let parts = Some("/usr/share/nodejs").filter(|place| Path::new(place).exists());
    let files: Vec<String> = parts.into_iter().chain([agent]).map(|place| format!("'{place}'")).collect();
    Some(format!(
        "[brain.acp]\nprogram = '{node}'\nargs = ['{agent}/index.mjs', '{{model}}']\nfiles = [{files}]\n\
         env = ['MODEL_URL={{base_url}}']\n",
        node = node.display(),
        files = files.join(", "),
    ))
}

impl Lab {
    /// With a model that does this; `None` where the programs are not there.
    pub async fn start(runtime: &str, steps: impl IntoIterator<Item = Step>) -> Option<Self> {
        Self::configured(runtime, steps, "").await
    }

    /// The same with more configuration. Timeouts of models are short.
    pub async fn configured(runtime: &str, steps: impl IntoIterator<Item = Step>, more: &str) -> Option<Self> {
        let npm = npm()?;
        let acp = if runtime == "acp" { goose(&npm)? } else { String::new() };
        let brain = format!("[brain]\nnpm = '{}'\n{acp}", npm.display());
        Self::make(runtime, steps, &format!("{more}\n{brain}")).await
    }

    /// One whose brain is our own agent, a script; `None` where there is no node.
    pub async fn scripted_agent(steps: impl IntoIterator<Item = Step>) -> Option<Self> {
        Self::make("acp", steps, &script()?).await
    }

    async fn make(runtime: &str, steps: impl IntoIterator<Item = Step>, more: &str) -> Option<Self> {
        let model = Model::start(steps).await;
        let config = format!(
            "{more}[model]\nfirst_byte_timeout = '5s'\nidle_timeout = '5s'\n\
             [model.anthropic]\nbase_url = '{url}'\n[model.openai]\nbase_url = '{url}'\n",
            url = model.url,
        );
        let daemon = Daemon::start_with(Options { config, ..Options::default() }).await?;
        let key = CreateCredentialRequest {
            provider: if runtime == "codex" { "openai" } else { "anthropic" }.to_owned(),
            name: "of-the-lab".to_owned(),
            key: CREDENTIAL.to_owned(),
            ..Default::default()
        };
        daemon.sessions().create_credential(key).await.expect("a credential is kept");
        let agent = CreateAgentRequest {
            name: "brain".to_owned(),
            runtime: runtime.to_owned(),
            model: "scripted-model".to_owned(),
            prompt: "You are the brain of a test.".to_owned(),
            credential: "of-the-lab".to_owned(),
            ..Default::default()
        };
        daemon.sessions().create_agent(agent).await.expect("an agent is made");
        Some(Self { daemon, model })
    }

    /// A session that begins with a message.
    pub async fn session(&self, input: &str) -> Session {
        self.limited(input, SessionLimits::default()).await
    }

    /// One with limits.
    pub async fn limited(&self, input: &str, limits: SessionLimits) -> Session {
        let request = CreateSessionRequest {
            agent: "brain".to_owned(),
            input: input.to_owned(),
            limits: Some(limits),
            ..Default::default()
        };
        Session::of_agent(&self.daemon, request).await
    }

    /// Has the turn end.
    pub async fn cancel(&self, session: &Session) {
        let request = CancelSessionRequest { session_id: session.id.clone() };
        self.daemon.sessions().cancel(request).await.expect("it is there");
    }

    /// The processes of brains, on the node.
    pub fn brain_processes(&self) -> Vec<u32> {
        let sandboxes = std::fs::read_dir(self.daemon.state().join("sandboxes")).expect("there are sandboxes");
        let first = sandboxes.filter_map(|entry| {
            let record = std::fs::read(entry.ok()?.path().join("init.json")).ok()?;
            let record: serde_json::Value = serde_json::from_slice(&record).ok()?;
            u32::try_from(record["pid"].as_u64()?).ok()
        });
        let below = first.flat_map(process::descendants).map(|(pid, _)| pid);
        below.filter(|pid| process::command_line(*pid).contains("/opt/brain/program")).collect()
    }

    /// Kills them.
    pub fn kill_brain(&self) {
        let brains = self.brain_processes();
        assert!(!brains.is_empty(), "there is a brain");
        brains.into_iter().for_each(process::kill);
    }

    /// A session whose first call is [`WAIT`], and that gets a message in the middle of it: the events of its one turn.
    pub async fn steer_in_mid_call(&self, message: &str) -> Vec<SessionEvent> {
        let session = self.session("first").await;
        session.until("exec.started", 1).await;
        session.send(message).await;
        self.in_hands(&session, "touch go").await;
        let (reason, events) = session.turns(1).await;
        assert_eq!(reason, "completed", "{:#?}", summary(&events));
        assert_eq!(session.status().await, Status::Idle, "nothing is left for another turn");
        events
    }

    /// Runs a command where the session has its hands.
    pub async fn in_hands(&self, session: &Session, command: &str) {
        let request = BashRequest {
            sandbox_id: session.get().await.hands_sandbox_id,
            command: Some(command.to_owned()),
            ..Default::default()
        };
        let mut running = self.daemon.hands().bash(request).await.expect("it runs").into_inner();
        while running.message().await.expect("it ends well").is_some() {}
    }
}
