//! The hands of one sandbox: its runs and its files.
//!
//! | file | owns |
//! |---|---|
//! | `command` | what is to be run |
//! | `run` | a handle on a run |
//! | `task` | the run's life: the task that owns it |
//! | `launch` | pipes, cgroup and leader of a run |
//! | `reach` | which processes belong to a run, and how they are ended |
//! | `outcome` | how a run ended, decided from what was seen (pure) |
//! | `input` | a run's stdin and terminal: a task |
//! | `events` | a run as its readers see it |
//! | `registry` | which runs there are |
//! | `error` | why a run could not be started, found or driven |
//! | `journal` | what the next daemon has to know of them |
//! | `resume` | runs that an earlier daemon began |
//! | [`output`] | the spool of a run |
//! | [`files`] | file operations |

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::engine::cgroup;
use crate::guest::client::{Guest, GuestError};
use crate::ids::RunId;
use files::Files;
use journal::Journal;
use output::Sources;
use reach::Reach;
use registry::{Claim, Registry};
use run::Publisher;
use task::Task;

pub use command::{BackgroundPolicy, Command, Deadline, Program, Stdio};
pub use error::RunError;
pub use events::{Event, Events};
pub use input::Input;
pub use outcome::{Exited, Killed, Reason};
pub use run::{Run, Started};
pub use task::remove_spools;

mod command;
mod error;
mod events;
pub mod files;
mod input;
mod journal;
mod launch;
mod outcome;
pub mod output;
mod reach;
mod registry;
mod resume;
mod run;
mod task;

/// What all runs of a sandbox share.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Environment of image and sandbox.
    pub env: BTreeMap<String, String>,
    /// The sandbox's user; empty: root.
    pub user: String,
    /// Base of relative paths, absolute.
    pub workspace: String,
    /// Between SIGTERM and SIGKILL.
    pub kill_grace: Duration,
    /// How long a run that has ended is kept.
    pub retention: Duration,
    /// How many runs that have ended are kept.
    pub retained_runs: usize,
    /// How many runs there may be at once.
    pub max_runs: usize,
    /// Output kept of one run, in bytes.
    pub output_cap: u64,
    /// Which guest it is: another after each start of the sandbox. Empty if that is not known.
    pub guest: String,
}

/// A handle on the hands of one sandbox.
#[derive(Debug, Clone)]
pub struct Hands {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    guest: Guest,
    cgroup: Option<cgroup::Sandbox>,
    /// Spools are below it.
    directory: PathBuf,
    settings: Settings,
    files: Files,
    registry: Registry,
    journal: Journal,
    /// Owns the tasks of runs.
    tasks: TaskTracker,
    /// The sandbox is going away: tasks end.
    closing: CancellationToken,
}

impl Hands {
    /// The hands of a sandbox whose guest is ready. Spools are kept in `directory`, which need not exist; the runs of which
    /// an earlier daemon left something there are taken over. `lease` keeps the sandbox awake, for those that did.
    ///
    /// # Errors
    /// Any [`GuestError`], if there is something to take over.
    pub async fn open<L: Send + 'static>(
        guest: Guest,
        socket: PathBuf,
        cgroup: Option<cgroup::Sandbox>,
        directory: PathBuf,
        settings: Settings,
        lease: impl Fn() -> Option<L>,
    ) -> Result<Self, GuestError> {
        let files = Files::new(socket, settings.user.clone(), PathBuf::from(&settings.workspace));
        let registry = Registry::new(settings.max_runs, settings.retained_runs);
        let journal = Journal::new(&directory);
        let (tasks, closing) = (TaskTracker::new(), CancellationToken::new());
        let shared = Shared { guest, cgroup, directory, settings, files, registry, journal, tasks, closing };
        let shared = Arc::new(shared);
        resume::resume(&shared, lease).await?;
        Ok(Self { shared })
    }

    /// File operations.
    #[must_use]
    pub fn files(&self) -> &Files {
        &self.shared.files
    }

    /// Starts a run and answers once it runs; the run does not depend on the caller any more. The same key and command
    /// again are the same run. `lease` is whatever keeps the sandbox awake, if this run is to: it holds it until its end.
    ///
    /// # Errors
    /// See [`RunError`]; no run is left behind then.
    pub async fn start(
        &self,
        command: Command,
        key: Option<String>,
        lease: Option<impl Send + 'static>,
    ) -> Result<Run, RunError> {
        loop {
            match self.shared.registry.claim(&command, key.as_deref())? {
                Claim::New(run, publisher) => return self.start_claimed(run, publisher, key, lease).await,
                Claim::Existing(run) => {
                    // If the one that claimed the key fails, the key is free again.
                    if run.wait_started().await.is_some() {
                        return Ok(run);
                    }
                }
            }
        }
    }

    async fn start_claimed(
        &self,
        run: Run,
        publisher: Publisher,
        key: Option<String>,
        lease: Option<impl Send + 'static>,
    ) -> Result<Run, RunError> {
        let (sender, started) = tokio::sync::oneshot::channel();
        // A task of its own from the start: a caller that hangs up does not leave half a run behind.
        let task = Task::new(Arc::clone(&self.shared), run.clone(), publisher, key);
        self.shared.tasks.spawn(task.live(sender, lease));
        started.await.unwrap_or(Err(RunError::Lost(GuestError::Lost)))?;
        Ok(run)
    }

    /// A run that is running or retained.
    ///
    /// # Errors
    /// [`RunError::NotFound`].
    pub fn run(&self, id: &RunId) -> Result<Run, RunError> {
        self.shared.registry.get(id).ok_or_else(|| RunError::NotFound(id.clone()))
    }

    /// The run that was started with this key, in this daemon or an earlier one, as long as it is running or retained.
    #[must_use]
    pub fn run_keyed(&self, key: &str) -> Option<Run> {
        self.shared.registry.keyed(key)
    }

    /// The runs that are running or retained, oldest first.
    #[must_use]
    pub fn runs(&self) -> Vec<Run> {
        self.shared.registry.list()
    }

    /// Forgets a run that has ended, before its retention is over.
    pub fn discard(&self, run: &Run) {
        run.evict();
    }

    /// How many runs have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        self.shared.registry.running()
    }

    /// Signals the process group of a run's leader.
    ///
    /// # Errors
    /// [`RunError::NotFound`] if it has ended.
    pub async fn signal(&self, run: &Run, signal: i32) -> Result<(), RunError> {
        if run.exited().is_some() {
            return Err(RunError::NotFound(run.id().clone()));
        }
        match self.shared.guest.signal(run.id(), signal).await {
            Ok(()) => Ok(()),
            Err(GuestError::Refused { .. }) => Err(RunError::NotFound(run.id().clone())),
            Err(error) => Err(RunError::Lost(error)),
        }
    }

    /// Ends all tasks, once the sandbox's processes are gone or about to be. Runs that have not ended are lost; what is kept
    /// of them is there when the hands are opened again.
    pub async fn close(&self) {
        self.shared.closing.cancel();
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    /// Looks after what a run left: its children's output is dropped, and its cgroup is removed when they have ended. The
    /// guest keeps the pipes until nobody writes to them, so that its children outlive the daemon too.
    fn leave(&self, run: RunId, reach: Reach, sources: Sources) {
        let (closing, guest) = (self.closing.clone(), self.guest.clone());
        self.tasks.spawn(async move {
            let rest = async {
                let drained = async {
                    sources.discard().await;
                    if let Err(error) = guest.release(&run).await {
                        tracing::debug!(run.id = %run, %error, "the run was not released");
                    }
                };
                tokio::join!(drained, reach.wait_empty());
            };
            // The sandbox's own removal takes the cgroup with it.
            if closing.run_until_cancelled(rest).await.is_some()
                && let Err(error) = reach.remove()
            {
                tracing::debug!(%error, "the cgroup of a run could not be removed");
            }
        });
    }
}
