//! A sandbox, and commands in it.

use std::path::PathBuf;

use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::input_request::Input;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::{
    AttachRequest, BashRequest, CreateSandboxRequest, DestroySandboxRequest, GetRunRequest, GetSandboxRequest,
    InputRequest, InputResponse, KillRunRequest, KillRunResponse, ListRunsRequest, Run, Sandbox as SandboxMessage,
};
use handsd::client::Channel;
use tonic::Status;

use super::daemon::Daemon;
use super::run::{Outcome, Running};

/// A sandbox of a daemon; it stays when this is dropped, and goes with the daemon.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// Its id.
    pub id: String,
    /// As it was when it was made.
    pub made: SandboxMessage,
    hands: HandsClient<Channel>,
    sandboxes: SandboxesClient<Channel>,
}

/// A line for the shell.
pub fn shell(line: &str) -> BashRequest {
    BashRequest { command: Some(line.to_owned()), ..BashRequest::default() }
}

/// A program with arguments.
pub fn argv(words: &[&str]) -> BashRequest {
    BashRequest { argv: words.iter().map(|word| (*word).to_owned()).collect(), ..BashRequest::default() }
}

impl Sandbox {
    /// Makes one.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn create(daemon: &Daemon, request: CreateSandboxRequest) -> Result<Self, Status> {
        let made = daemon.sandboxes().create(request).await?.into_inner();
        Ok(Self { id: made.id.clone(), made, hands: daemon.hands(), sandboxes: daemon.sandboxes() })
    }

    /// The directories of its runs that wrote something and are kept.
    pub fn spools(&self, daemon: &Daemon) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(daemon.state().join("runs").join(&self.id)).expect("there was a run");
        entries.flatten().map(|entry| entry.path()).filter(|path| path.is_dir()).collect()
    }

    /// The same through a daemon that was started again.
    pub fn through(&self, daemon: &Daemon) -> Self {
        Self { hands: daemon.hands(), sandboxes: daemon.sandboxes(), ..self.clone() }
    }

    /// Runs a line in the shell to its end.
    #[track_caller]
    pub fn bash(&self, line: &str) -> impl Future<Output = Outcome> {
        let place = std::panic::Location::caller();
        let request = shell(line);
        async move { self.run(request).await.unwrap_or_else(|status| panic!("{place}: {status:?}")) }
    }

    /// What a line in the shell writes to stdout, as text, without blanks around it. It has to end with 0 and be quiet on
    /// stderr.
    #[track_caller]
    pub fn read(&self, line: &str) -> impl Future<Output = String> {
        let place = std::panic::Location::caller();
        let outcome = self.bash(line);
        async move {
            let outcome = outcome.await;
            assert_eq!((outcome.code(), outcome.stderr_text().as_str()), (Some(0), ""), "{place}");
            outcome.stdout_text().trim().to_owned()
        }
    }

    /// Runs a command to its end.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn run(&self, request: BashRequest) -> Result<Outcome, Status> {
        self.start(request).await?.finish().await
    }

    /// Starts a command and answers once it runs.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn start(&self, request: BashRequest) -> Result<Running, Status> {
        let request = BashRequest { sandbox_id: self.id.clone(), ..request };
        let stream = self.hands.clone().bash(request).await?.into_inner();
        Running::begin(stream, 0).await
    }

    /// The events of a run from a cursor.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn attach(&self, run_id: &str, cursor: u64) -> Result<Running, Status> {
        let request = AttachRequest { sandbox_id: self.id.clone(), run_id: run_id.to_owned(), cursor };
        let stream = self.hands.clone().attach(request).await?.into_inner();
        Running::begin(stream, cursor).await
    }

    /// Sends input to a run, one message each.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn input(&self, run_id: &str, inputs: Vec<Input>) -> Result<InputResponse, Status> {
        let (sandbox_id, run_id) = (self.id.clone(), run_id.to_owned());
        let messages = inputs.into_iter().map(move |input| InputRequest {
            sandbox_id: sandbox_id.clone(),
            run_id: run_id.clone(),
            input: Some(input),
        });
        let answer = self.hands.clone().input(futures_util::stream::iter(messages)).await?;
        Ok(answer.into_inner())
    }

    /// Sends a signal to a run, or ends it with 0.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn kill(&self, run_id: &str, signal: u32) -> Result<KillRunResponse, Status> {
        let (sandbox_id, run_id) = (self.id.clone(), run_id.to_owned());
        let request = KillRunRequest { sandbox_id, run_id, signal, grace: None };
        Ok(self.hands.clone().kill_run(request).await?.into_inner())
    }

    /// How a run stands.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn get_run(&self, run_id: &str) -> Result<Run, Status> {
        let request = GetRunRequest { sandbox_id: self.id.clone(), run_id: run_id.to_owned() };
        Ok(self.hands.clone().get_run(request).await?.into_inner())
    }

    /// Its runs.
    pub async fn runs(&self) -> Vec<Run> {
        let request = ListRunsRequest { sandbox_id: self.id.clone() };
        self.hands.clone().list_runs(request).await.expect("the sandbox is there").into_inner().runs
    }

    /// How it stands.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn get(&self) -> Result<SandboxMessage, Status> {
        let request = GetSandboxRequest { sandbox_id: self.id.clone() };
        Ok(self.sandboxes.clone().get(request).await?.into_inner())
    }

    /// Removes it.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn destroy(&self) -> Result<(), Status> {
        let request = DestroySandboxRequest { sandbox_id: self.id.clone() };
        self.sandboxes.clone().destroy(request).await.map(|_| ())
    }

    /// The command lines of all processes in it but those of the handsd machinery and of the look itself.
    pub async fn processes(&self) -> Vec<String> {
        // Only what the shell does itself: no process of the look is seen.
        let look = r#"for dir in /proc/[0-9]*; do
            [ "$dir" = "/proc/$$" ] && continue
            mapfile -d '' -t words < "$dir/cmdline" 2>/dev/null || continue
            [ ${#words[@]} -gt 0 ] && echo "${words[*]//$'\n'/ }"
        done 2>/dev/null; true"#;
        let listed = self.read(look).await;
        let guests = ["hands-guest", "/.hands/guest"];
        let own = |line: &&str| !line.is_empty() && !guests.iter().any(|guest| line.starts_with(guest));
        listed.lines().filter(own).map(str::to_owned).collect()
    }

    /// What the daemon keeps of it.
    pub fn directory(&self, daemon: &Daemon) -> PathBuf {
        daemon.state().join("sandboxes").join(&self.id)
    }
}
