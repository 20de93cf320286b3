//! Where a session lives: a sandbox for its brain, one for its hands, and the brain's process.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::brains::Brains;
use super::state::{House, Loss};
use super::tools::catalogue;
use super::transcripts::TranscriptError;
use crate::gateway::{self, Provider};
use crate::hands::Hands;
use crate::ids::{SandboxId, SessionId};
use crate::image::ImageRef;
use crate::network::policy::Policy;
use crate::network::{Listener, NetworkError};
use crate::runtime::cage::{self, CageError};
use crate::runtime::process::{Process, ProcessError, Writer};
use crate::runtime::{Brain, Kind};
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
    /// The brain's conversation cannot be found or put back.
    #[error("the brain's conversation")]
    Conversation(#[source] TranscriptError),
    /// There is nothing to make the brain's sandbox of.
    #[error("the brain's program")]
    Cage(#[source] CageError),
    /// The brain has no door to its model.
    #[error("the brain's door to its model")]
    Door(#[source] NetworkError),
}

/// A brain's way to its model, to be opened.
#[derive(Debug)]
pub struct Door {
    /// Where the brain asks.
    pub listener: Listener,
    /// Who answers.
    pub provider: Provider,
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
    /// A new one, and its door if it has a model.
    Started(Process, Writer, Option<Door>),
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
    /// The session's labels, which both have too.
    pub labels: BTreeMap<String, String>,
    /// What is needed to start it.
    pub brains: Arc<Brains>,
    /// What thinks.
    pub kind: Kind,
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
            self.keep(Role::Hands, self.house.hands.as_ref(), &mut lost),
            self.keep(Role::Brain, self.house.brain.as_ref(), &mut lost_brain),
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
            self.find_process(&brain, &mut house, is_same_sandbox).await?
        };
        Ok(Found { house, brain, hands, lost, process })
    }

    async fn find_process(&self, kept: &Kept, house: &mut House, is_same_sandbox: bool) -> Result<Mind, HouseError> {
        let (hands, runtime) = (&kept.hands, self.kind.runtime());
        if let Some(run) = self.house.run.as_ref().filter(|_| is_same_sandbox && runtime.can_rejoin())
            && let Some((process, writer)) = Process::rejoin(hands, run, house.cursor).map_err(HouseError::Process)?
        {
            return Ok(Mind::Joined(process, writer));
        }
        let (guest, tools) = (self.sandboxes.engine().guest_path(), catalogue());
        let mut brain = Brain {
            session: &self.session,
            model: &self.model,
            prompt: &self.prompt,
            guest,
            tools: &tools,
            launch: self.brains.cages.launch(self.kind),
            memory: house.memory.as_deref(),
            is_kept: false,
        };
        if let Some(trace) = runtime.trace(&self.session, brain.memory) {
            let restored = self.brains.transcripts.restore(&self.session, hands, &trace).await;
            brain.is_kept = restored.map_err(HouseError::Conversation)?;
        }
        let door = self.door(&kept.sandbox).await?;
        let program = runtime.program(&brain);
        let (process, writer) = Process::start(hands, program).await.map_err(HouseError::Process)?;
        (house.run, house.cursor) = (Some(process.id().clone()), 0);
        Ok(Mind::Started(process, writer, door))
    }

    /// The way of a brain to its model, if it has one.
    async fn door(&self, brain: &Sandbox) -> Result<Option<Door>, HouseError> {
        let Some(provider) = self.brains.cages.provider(self.kind) else { return Ok(None) };
        let network = brain.network().map_err(|source| HouseError::Sandbox { role: "brain", source })?;
        let listener = network.listen(gateway::PORT).await.map_err(HouseError::Door)?;
        Ok(Some(Door { listener, provider }))
    }

    /// A sandbox, awake: the one of before if it is still there, else a new one.
    async fn keep(&self, role: Role, before: Option<&SandboxId>, lost: &mut Vec<Loss>) -> Result<Kept, HouseError> {
        let name = role.name();
        let failed = |source| HouseError::Sandbox { role: name, source };
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
            lost.push(Loss { role: name, sandbox: id.clone(), why: why.to_string() });
        }
        let wish = self.wish(role).await?;
        // The same one again, if the daemon was killed before the session knew of it.
        let key = format!("{}/{name}/{}", self.session, before.map_or("", SandboxId::as_str));
        let sandbox = self.sandboxes.create(wish, Some(key)).await.map_err(failed)?;
        let (hands, lease) = sandbox.awake().await.map_err(failed)?;
        Ok(Kept { sandbox, hands, _lease: lease })
    }

    async fn wish(&self, role: Role) -> Result<Wish, HouseError> {
        let own = [("handsd.session", self.session.as_str()), ("handsd.role", role.name())];
        let own = own.map(|(key, value)| (key.to_owned(), value.to_owned()));
        let labels = self.labels.clone().into_iter().chain(own).collect();
        let wish = Wish { labels, ..Wish::default() };
        let cage = match role {
            Role::Hands => return Ok(Wish { image: self.image.clone(), ..wish }),
            Role::Brain => self.brains.cages.image(self.kind).await.map_err(HouseError::Cage)?,
        };
        // A brain has no network, whatever the node gives to others.
        let network = Some(Policy::None);
        let user = cage.is_some().then(|| cage::USER.to_owned());
        Ok(Wish { image: cage, user, network, ..wish })
    }
}

/// What a sandbox is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Brain,
    Hands,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Brain => "brain",
            Self::Hands => "hands",
        }
    }
}
