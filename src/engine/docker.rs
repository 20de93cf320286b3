//! The engine that drives Docker.
//!
//! ```text
//! STATE/guest/<hash>/hands-guest    the guest's binary, bind-mounted read-only
//! STATE/sandboxes/<id>/guest.sock   the guest's socket
//! STATE/sandboxes/<id>/io/          where the guest makes it, bind-mounted; gone once it has
//! STATE/sandboxes/<id>/relay        of one that no socket leads into: the process that listens in the guest's place
//! STATE/sandboxes/<id>/nat          of one that has an address: its number; see `nat`
//! STATE/docker-images/              which images were brought; see `brought`
//! ```
//!
//! A sandbox is a container with two labels, the daemon's and its own. What has not both is not touched. The guest is the
//! container's entrypoint, and everything goes through its socket; Docker is only asked to make and to remove.
//!
//! The guest makes its socket in a directory that the container sees. Before anything else can run in there, the socket
//! is moved out and the directory removed, so that the sandbox can neither replace the one nor fill the other.
//!
//! Some runtimes let no unix socket of the node into a sandbox. There the guest speaks over the container's stdin and stdout,
//! and a relay makes its socket; see `relay`.
//!
//! A sandbox with an address of its own is a container without a network, which is attached as those of the native engine
//! are: by the same links, under the same rules.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use bollard::models::ContainerState;
use tokio::sync::mpsc;

use super::cgroup;
use super::nat::{self, Nat};
use super::{
    Engine, EngineError, Found, Happening, ImageDefaults, LimitSupport, Limits, Passage, Process, Spec, Started,
    Uplink, undo,
};
use crate::guest::agent::files::remove_abandoned;
use crate::ids::SandboxId;
use brought::Brought;
use client::Client;
use container::Parts;
use guest::write_guest;
use images::{Image, Images};
use node::Node;
use readiness::Lookout;

mod brought;
mod client;
mod container;
mod digests;
mod events;
mod guest;
mod images;
mod node;
mod readiness;
mod relay;
mod seccomp;
mod settings;

pub use settings::{Network, Pull, Settings, UserNamespace};

const NAME: &str = "docker";

/// How long a container that somebody else has begun to remove may take to be gone.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(30);

/// How long Docker may take to hear of an end that everybody else has heard of. It takes some ten milliseconds.
const HEARSAY_DEADLINE: Duration = Duration::from_secs(1);

/// The engine.
#[derive(Debug)]
pub struct Docker {
    client: Client,
    images: Images,
    settings: Settings,
    /// Tells this daemon's containers from those of another.
    instance: String,
    sandboxes: PathBuf,
    guest: PathBuf,
    cgroups: Option<cgroup::Containers>,
    /// Runs can be placed in cgroups from outside.
    is_placed: bool,
    node: Node,
    /// Or why there is none.
    nat: Result<Nat, String>,
}

impl Docker {
    /// Opens the engine in a state directory. `instance` tells this daemon's containers from those of another on the same
    /// Docker; `cgroups` is where the runs are placed.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if Docker does not answer, [`EngineError::RuntimeUnknown`], [`EngineError::Step`] for
    /// a state directory that is of no use.
    pub async fn open(
        state: &Path,
        instance: &str,
        settings: Settings,
        cgroups: Option<cgroup::Containers>,
    ) -> Result<Self, EngineError> {
        let client = Client::connect(&settings.socket).await?;
        let info = client.info().await?;
        if let Some(runtime) = &settings.runtime {
            node::check_runtime(&info, runtime)?;
        }
        let node = Node::of(&info, settings.user_namespace);
        let sandboxes = state.join("sandboxes");
        make_directory(&sandboxes).map_err(failed("make", &sandboxes))?;
        let guest = write_guest(&state.join("guest")).map_err(failed("write the guest below", state))?;
        let brought = Brought::open(state).map_err(failed("note images below", state))?;
        let Settings { pull, credentials, .. } = settings.clone();
        let images = Images::new(client.clone(), instance.to_owned(), pull, credentials, brought);
        // Another runtime's processes are not processes of this kernel, or not ones that it lets be placed.
        let is_shared_kernel = matches!(settings.runtime.as_deref(), None | Some("runc" | "crun"));
        let is_placed = is_shared_kernel && node.root.0 == 0 && settings.passage() == Passage::Socket;
        let (instance, nat) = (instance.to_owned(), Err("it is not configured".to_owned()));
        Ok(Self { client, images, settings, instance, sandboxes, guest, cgroups, is_placed, node, nat })
    }

    /// Lets sandboxes have addresses of their own, or says why they cannot.
    pub fn attach_to(&mut self, nat: Result<nat::Settings, String>) {
        self.nat = Nat::try_open(nat, &self.sandboxes);
    }

    /// Checks that a sandbox can be attached; answers the network that it gets an address of, if that is ours.
    fn uplink(&self, uplink: Uplink) -> Result<Option<&Nat>, EngineError> {
        match (uplink, &self.settings.network) {
            (Uplink::None | Uplink::Host, _) | (Uplink::Nat, Network::Docker(_)) => Ok(None),
            (Uplink::Nat, Network::Own) => nat::required(&self.nat).map(Some),
            (Uplink::Nat, Network::None) => {
                let lack = "engine.docker.network_mode is \"none\"".to_owned();
                Err(EngineError::NetworkUnsupported { mode: "nat", lack })
            }
        }
    }

    fn directory(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes.join(id.as_str())
    }

    fn check_limits(&self, limits: &Limits) -> Result<(), EngineError> {
        let quota = "Docker's storage keeps no quotas that handsd uses";
        self.node.support.check(limits, "Docker has no cgroup controller for it", quota)
    }

    async fn try_create(&self, spec: &Spec, image: &Image) -> Result<Started, EngineError> {
        let io = self.directory(&spec.id).join("io");
        // What is bound has to be there from the start.
        self.make_io(&io).map_err(failed("make", &io))?;
        let body = container::body(&Parts {
            spec,
            image: &image.id,
            user: spec.user.as_deref().or(image.defaults.user.as_deref()).unwrap_or_default(),
            instance: &self.instance,
            guest: &self.guest,
            io: &io,
            seccomp: self.node.seccomp.as_deref(),
            resolver: self.uplink(spec.uplink)?.map(Nat::gateway),
            settings: &self.settings,
        });
        self.client.create(&self.name(&spec.id), body).await?;
        self.try_start(spec).await
    }

    /// Starts a container, and waits for its guest.
    async fn try_start(&self, spec: &Spec) -> Result<Started, EngineError> {
        let (id, nat) = (&spec.id, self.uplink(spec.uplink)?);
        let directory = self.directory(id);
        let io = directory.join("io");
        let lookout = self.make_io(&io).and_then(|()| Lookout::on(&io)).map_err(failed("make", &io))?;
        let container = self.name(id);
        if self.passage() == Passage::Stdio {
            let (listen, note) = (io.join(container::SOCKET), relay::note(&directory));
            let (program, docker) = (&self.guest, &self.settings.socket);
            let parts = relay::Parts { program, docker, container: &container, listen: &listen, note: &note };
            relay::start(&parts).await.map_err(failed("start the relay in", &directory))?;
        }
        self.client.start(&container).await?;
        let state = self.client.inspect(&container).await?.state.unwrap_or_default();
        let (pid, init) = first_process(state)?;
        if let Some(nat) = nat {
            nat.attach(&directory, pid, spec.limits.bandwidth)
                .await
                .map_err(failed("attach to the network", &directory))?;
        }
        lookout.wait(&init).await.map_err(failed("wait for the guest in", &directory))?;
        let socket = directory.join(container::SOCKET);
        let moved = fs::rename(io.join(container::SOCKET), &socket).and_then(|()| fs::remove_dir(&io));
        moved.map_err(failed("take the guest's socket from", &io))?;
        self.started(id, init, pid, socket)
    }

    fn started(&self, id: &SandboxId, init: Process, pid: u32, socket: PathBuf) -> Result<Started, EngineError> {
        let counter = nat::counter(&self.nat, &self.directory(id));
        Ok(Started { init, pid, socket, listener: self.listener(id, pid)?, cgroup: self.cgroup(id, pid), counter })
    }

    /// Who listens on the socket of a sandbox whose first process is this.
    fn listener(&self, id: &SandboxId, pid: u32) -> Result<u32, EngineError> {
        match self.passage() {
            Passage::Socket => Ok(pid),
            Passage::Stdio => {
                let note = relay::note(&self.directory(id));
                relay::noted(&note).map_err(failed("read", &note))
            }
        }
    }

    fn name(&self, id: &SandboxId) -> String {
        container::name(&self.instance, id)
    }

    fn cgroup(&self, id: &SandboxId, pid: u32) -> Option<cgroup::Sandbox> {
        let cgroups = self.cgroups.as_ref()?;
        let adopted = if self.is_placed { cgroups.adopt(id, pid) } else { cgroups.watch(id, pid) };
        match adopted {
            Ok(cgroup) => Some(cgroup),
            // Its runs are found by walking the process tree, and say that they are degraded.
            Err(error) => {
                tracing::warn!(sandbox.id = %id, %error, "a sandbox has no place for the cgroups of its runs");
                None
            }
        }
    }

    /// How a sandbox's container stands; `None` if there is none.
    async fn state(&self, id: &SandboxId) -> Result<Option<ContainerState>, EngineError> {
        let containers = self.client.list(container::labels(&self.instance, Some(id))).await?;
        match containers.into_iter().find_map(|container| container.id) {
            Some(container) => Ok(Some(self.client.inspect(&container).await?.state.unwrap_or_default())),
            None => Ok(None),
        }
    }

    /// The directory in which the guest makes its socket.
    fn make_io(&self, io: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(io)?;
        let (uid, gid) = self.node.root;
        chown(io, Some(uid), Some(gid))
    }

    /// Takes a sandbox's address back, if it has one.
    async fn detach(&self, id: &SandboxId) -> Result<(), EngineError> {
        let directory = self.directory(id);
        match &self.nat {
            Ok(nat) => nat.detach(&directory).await.map_err(failed("detach from the network", &directory)),
            Err(_) => Ok(()),
        }
    }

    /// Removes the containers of a sandbox. One that somebody else is removing is waited for.
    async fn remove_containers(&self, id: &SandboxId) -> Result<(), EngineError> {
        for container in self.client.list(container::labels(&self.instance, Some(id))).await? {
            let Some(container) = container.id else { continue };
            if !self.client.remove(&container).await? {
                self.client.wait(&container, "removed", REMOVAL_DEADLINE).await?;
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Engine for Docker {
    fn name(&self) -> &'static str {
        NAME
    }

    fn guest_path(&self) -> &'static str {
        container::GUEST
    }

    fn passage(&self) -> Passage {
        self.settings.passage()
    }

    fn support(&self) -> LimitSupport {
        self.node.support
    }

    async fn create(&self, spec: &Spec) -> Result<(Started, ImageDefaults), EngineError> {
        self.check_limits(&spec.limits)?;
        self.uplink(spec.uplink)?;
        let image = self.images.resolve(&spec.image).await?;
        let started = undo(self.try_create(spec, &image).await, self.remove(&spec.id)).await?;
        Ok((started, image.defaults))
    }

    async fn find(&self, id: &SandboxId) -> Result<Found, EngineError> {
        let Some(state) = self.state(id).await? else { return Ok(Found::Nothing) };
        if state.running != Some(true) {
            return Ok(Found::Dead);
        }
        let is_frozen = state.paused == Some(true);
        let (pid, init) = first_process(state)?;
        let socket = self.directory(id).join(container::SOCKET);
        Ok(Found::Alive { started: self.started(id, init, pid, socket)?, is_frozen })
    }

    async fn stop(&self, id: &SandboxId) -> Result<(), EngineError> {
        let Some(state) = self.state(id).await? else { return Ok(()) };
        if state.paused == Some(true) {
            // A version 1 freezer keeps even SIGKILL from what it has frozen.
            self.client.unpause(&self.name(id)).await?;
        }
        self.client.stop(&self.name(id)).await?;
        self.detach(id).await?;
        let cleared = self.cgroups.as_ref().map_or(Ok(()), |cgroups| cgroups.remove(id));
        cleared.map_err(failed("remove the cgroups of", &self.directory(id)))
    }

    async fn start(&self, spec: &Spec) -> Result<Started, EngineError> {
        // Of one that has just ended, Docker may not have heard yet; it would not start what it takes for running.
        self.stop(&spec.id).await?;
        undo(self.try_start(spec).await, self.stop(&spec.id)).await
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.client.pause(&self.name(id)).await
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.client.unpause(&self.name(id)).await
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), EngineError> {
        self.check_limits(limits)?;
        self.client.update(&self.name(id), container::update(limits)).await?;
        let (Ok(nat), Some(bandwidth)) = (&self.nat, limits.bandwidth) else { return Ok(()) };
        let state = self.client.inspect(&self.name(id)).await?.state.unwrap_or_default();
        let ((pid, _), directory) = (first_process(state)?, self.directory(id));
        nat.limit(&directory, pid, bandwidth).await.map_err(failed("set the bandwidth of", &directory))
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), EngineError> {
        self.remove_containers(id).await?;
        self.detach(id).await?;
        let directory = self.directory(id);
        let removed = self.cgroups.as_ref().map_or(Ok(()), |cgroups| cgroups.remove(id));
        let doomed = directory.clone();
        let removing =
            tokio::task::spawn_blocking(move || remove_abandoned(&doomed).map_err(io::Error::from).and(removed));
        removing.await.map_err(|_| EngineError::Gone)?.map_err(failed("remove", &directory))
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.client.ping().await
    }

    async fn post_mortem(&self, id: &SandboxId) -> Option<String> {
        // If it does not in time, that is what it says.
        let _ = self.client.wait(&self.name(id), "not-running", HEARSAY_DEADLINE).await;
        match self.state(id).await.ok()? {
            Some(state) => Some(container::describe_end(&state)),
            None => Some("Docker has no such container any more".to_owned()),
        }
    }

    async fn list(&self) -> Result<Vec<SandboxId>, EngineError> {
        let containers = self.client.list(container::labels(&self.instance, None)).await?;
        let mut ids: Vec<SandboxId> = containers.iter().filter_map(container::sandbox_of).collect();
        let entries = fs::read_dir(&self.sandboxes).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(failed("list", &self.sandboxes))?;
        ids.extend(entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()));
        if let Some(cgroups) = &self.cgroups {
            ids.extend(cgroups.list().map_err(|source| EngineError::Step { step: "list cgroups".to_owned(), source })?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    async fn stale_images(&self) -> Result<Vec<String>, EngineError> {
        self.images.stale().await
    }

    async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        self.images.remove(name).await
    }

    async fn watch(&self, tell: mpsc::Sender<Happening>) {
        events::watch(&self.client, &self.instance, tell).await;
    }
}

/// The first process of a container that runs. If another one has got its id by now, it does not listen on the guest's
/// socket, and is found out there.
fn first_process(state: ContainerState) -> Result<(u32, Process), EngineError> {
    let found = container::first_pid(state).and_then(|pid| Ok((pid, Process::open(pid)?)));
    found.map_err(|source| EngineError::Step { step: "find the container's first process".to_owned(), source })
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let step = format!("{verb} {}", path.display());
    move |source| EngineError::Step { step, source }
}

/// Only the daemon looks into what it keeps.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}
