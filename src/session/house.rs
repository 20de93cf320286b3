//! Where a session lives: a sandbox for its brain, one for its hands, and the brain's process.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::timeout;

use super::state::{House, Loss};
use crate::hands::Hands;
use crate::ids::{SandboxId, SessionId};
use crate::image::ImageRef;
use crate::runtime::process::{Process, ProcessError, Writer};
use crate::runtime::{Brain, Runtime};
use crate::sandbox::{Lease, Sandbox, SandboxError, Sandboxes, Wish};

/// How long a sandbox that was lost may take to be removed before the new one is made. What is left then the engine's next
/// look removes.
const REMOVE_DEADLINE: Duration = Duration::from_secs(10);

/// Why a session has nowhere to live.
#[derive(Debug, thiserror::Error)]
pub enum HouseError {
    /// A sandbox cannot be made or woken.
    #[error("the sandbox of the {role}")]
    Sandbox {
        /// "brain" or "hands".
        role: &'static str,
        /// Why.
        #[source]
        source: SandboxError,
    },
    /// The brain cannot be started.
    #[error("the brain's process")]
    Process(#[source] ProcessError),
}

/// A sandbox that is awake as long as this is held.
#[derive(Debug)]
pub struct Kept {
    /// The sandbox.
    pub sandbox: Sandbox,
    /// Its hands.
    pub hands: Hands,
    /// Keeps it awake.
    pub _lease: Lease,
}

/// What was made or found.
pub struct Found {
    /// Where everything is now.
    pub house: House,
    /// The brain's sandbox.
    pub brain: Kept,
    /// The hands'.
    pub hands: Kept,
    /// What was lost.
    pub lost: Vec<Loss>,
    /// The brain.
    pub process: Mind,
}

/// The brain's process.
pub enum Mind {
    /// The one that the driver has.
    Held,
    /// One of before the daemon.
    Joined(Process, Writer),
    /// A new one.
    Started(Process, Writer),
}

/// What is needed to find or make it.
pub struct Search {
    /// Where sandboxes are made.
    pub sandboxes: Sandboxes,
    /// For which session.
    pub session: SessionId,
    /// Where everything was.
    pub house: House,
    /// What the hands' sandbox is made of; `None`: the node's default.
    pub image: Option<ImageRef>,
    /// What thinks.
    pub runtime: &'static dyn Runtime,
    /// With which model.
    pub model: String,
    /// With which prompt.
    pub prompt: String,
    /// The driver has a process that runs.
    pub has_process: bool,
}

impl Search {
    /// Sees that both sandboxes are there and awake, and that the brain runs.
    ///
    /// # Errors
    /// See [`HouseError`]; what was made is found again by the next search.
    pub async fn run(self) -> Result<Found, HouseError> {
        let (mut lost, mut lost_brain) = (Vec::new(), Vec::new());
        // Both at once: what they wait for is the disk more than the processor.
        let (hands, brain) = tokio::join!(
            self.keep("hands", self.house.hands.as_ref(), self.image.clone(), &mut lost),
            self.keep("brain", self.house.brain.as_ref(), None, &mut lost_brain),
        );
        let (hands, brain) = (hands?, brain?);
        lost.append(&mut lost_brain);
        let brain_id = brain.sandbox.profile().id.clone();
        let is_same_sandbox = self.house.brain.as_ref() == Some(&brain_id);
        let mut house =
            House { brain: Some(brain_id), hands: Some(hands.sandbox.profile().id.clone()), ..self.house.clone() };
        let process = if self.has_process && is_same_sandbox {
            Mind::Held
        } else {
            self.find_process(&brain.hands, &mut house, is_same_sandbox).await?
        };
        Ok(Found { house, brain, hands, lost, process })
    }

    async fn find_process(&self, hands: &Hands, house: &mut House, is_same_sandbox: bool) -> Result<Mind, HouseError> {
        if let Some(run) = self.house.run.as_ref().filter(|_| is_same_sandbox && self.runtime.can_rejoin())
            && let Some((process, writer)) = Process::rejoin(hands, run, house.cursor).map_err(HouseError::Process)?
        {
            return Ok(Mind::Joined(process, writer));
        }
        let guest = self.sandboxes.engine().guest_path();
        let brain = Brain { model: &self.model, prompt: &self.prompt, guest, memory: self.house.memory.as_deref() };
        let program = self.runtime.program(&brain);
        let (process, writer) = Process::start(hands, program).await.map_err(HouseError::Process)?;
        (house.run, house.cursor) = (Some(process.id().clone()), 0);
        Ok(Mind::Started(process, writer))
    }

    /// A sandbox, awake: the one of before if it is still there, else a new one.
    async fn keep(
        &self,
        role: &'static str,
        before: Option<&SandboxId>,
        image: Option<ImageRef>,
        lost: &mut Vec<Loss>,
    ) -> Result<Kept, HouseError> {
        let failed = |source| HouseError::Sandbox { role, source };
        if let Some(id) = before {
            let why = match self.sandboxes.get(id) {
                Ok(sandbox) => match sandbox.awake().await {
                    Ok((hands, lease)) => return Ok(Kept { sandbox, hands, _lease: lease }),
                    Err(error @ SandboxError::NotRunning { .. }) => {
                        // Its processes are gone; whether its files are removed in time is nobody's loss.
                        let _ = timeout(REMOVE_DEADLINE, sandbox.destroy()).await;
                        error
                    }
                    Err(error) => return Err(failed(error)),
                },
                Err(error) => error,
            };
            lost.push(Loss { role, sandbox: id.clone(), why: why.to_string() });
        }
        let labels = [("handsd.session", self.session.as_str()), ("handsd.role", role)];
        let wish = Wish {
            image,
            env: BTreeMap::new(),
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            limits: Default::default(),
            user: None,
            workspace: None,
            idle: None,
            network: None,
            runtime: None,
            secrets: Vec::new(),
            secrets_digest: String::new(),
        };
        // The same one again, if the daemon was killed before the session knew of it.
        let key = format!("{}/{role}/{}", self.session, before.map_or("", SandboxId::as_str));
        let sandbox = self.sandboxes.create(wish, Some(key)).await.map_err(failed)?;
        let (hands, lease) = sandbox.awake().await.map_err(failed)?;
        Ok(Kept { sandbox, hands, _lease: lease })
    }
}
