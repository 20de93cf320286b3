//! The embedded engine: namespaces, overlayfs and cgroups, made by a zygote of our own. Nothing has to be installed.
//!
//! ```text
//! STATE/engine/                  mount points of what sandboxes share; see `rootfs`
//! STATE/sandboxes/<id>/          guest.sock, init.json, and for each tree of the image a directory with
//!                     <n>/       upper and work of overlayfs
//!                     nat        of one that has an address: its number; see `nat`
//! ```
//!
//! A sandbox is known by its directory, and its first process by what `init.json` says: enough to remove what a killed
//! daemon left behind.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use nix::libc;
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Uid;
use tokio::sync::mpsc;

use super::cgroup::{self, Controller};
use super::nat::{self, Nat};
use super::{
    Engine, EngineError, Found, Happening, ImageDefaults, LimitSupport, Limits, Process, Spec, Started, Uplink, undo,
};
use crate::crash;
use crate::guest::agent::files::remove_abandoned;
use crate::ids::SandboxId;
use crate::image::{Image, ImageStore};
use init::Init;
use layers::writable_layer;
use quota::Quotas;
use zygote::{Order, Setup, Zygote};

mod birth;
mod fault;
mod init;
pub mod jail;
mod layers;
mod quota;
mod rootfs;
pub(in crate::engine) mod sys;
pub mod zygote;

/// How long the processes of a sandbox may take to be gone after SIGKILL. Only a process stuck in the kernel takes longer
/// than some milliseconds.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// The engine.
#[derive(Debug)]
pub struct Native {
    sandboxes: PathBuf,
    images: ImageStore,
    cgroups: Option<cgroup::Tree>,
    /// Of the state directory's file system, where it has them.
    quotas: Option<Quotas>,
    zygote: Zygote,
    ids: Ids,
    /// Or why there is none.
    nat: Result<Nat, String>,
}

/// Which ids on the node sandboxes are mapped to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ids {
    /// As root: 65,536 of them, from this one on.
    Range(u32),
    /// Without root: the daemon's own user only.
    Own,
}

impl Ids {
    /// The ids that a sandbox has: 0 to this.
    fn count(self) -> u32 {
        match self {
            Self::Range(_) => 65_536,
            Self::Own => 1,
        }
    }

    fn base(self) -> u32 {
        match self {
            Self::Range(base) => base,
            Self::Own => 0,
        }
    }
}

impl Native {
    /// Opens the engine in a state directory and starts its zygote from `executable`, which is handsd's own binary: the
    /// kernel's link /proc/self/exe names it even when an upgrade has replaced the file.
    ///
    /// # Errors
    /// [`EngineError::Step`].
    pub fn open(
        state: &Path,
        executable: PathBuf,
        images: ImageStore,
        cgroups: Option<cgroup::Tree>,
        ids: Ids,
    ) -> Result<Self, EngineError> {
        let sandboxes = state.join("sandboxes");
        let shared = state.join("engine");
        for directory in [&sandboxes, &shared] {
            make_directory(directory).map_err(failed("make", directory))?;
        }
        // Only root of the node sets quotas.
        let quotas = match ids {
            Ids::Range(_) => Quotas::open(&sandboxes).map_err(failed("open", &sandboxes))?,
            Ids::Own => None,
        };
        let setup = Setup { directory: zygote::text(&shared), id_base: ids.base(), id_count: ids.count() };
        let zygote = Zygote::start(executable, setup)?;
        let nat = Err("it is not configured".to_owned());
        Ok(Self { sandboxes, images, cgroups, quotas, zygote, ids, nat })
    }

    /// Lets sandboxes have addresses of their own, or says why they cannot.
    pub fn attach_to(&mut self, nat: Result<nat::Settings, String>) {
        self.nat = Nat::try_open(nat, &self.sandboxes);
    }

    /// Checks that a sandbox can be attached; answers the network that it gets an address of.
    fn uplink(&self, uplink: Uplink) -> Result<Option<&Nat>, EngineError> {
        match uplink {
            Uplink::None => Ok(None),
            Uplink::Nat => nat::required(&self.nat).map(Some),
            Uplink::Host => {
                let lack = "the native engine keeps every sandbox in a network namespace of its own".to_owned();
                Err(EngineError::NetworkUnsupported { mode: "host", lack })
            }
        }
    }

    fn directory(&self, id: &SandboxId) -> PathBuf {
        self.sandboxes.join(id.as_str())
    }

    /// Who the sandbox's root is on the node.
    fn owner(&self) -> Uid {
        match self.ids {
            Ids::Range(base) => Uid::from_raw(base),
            Ids::Own => nix::unistd::geteuid(),
        }
    }

    fn cgroup(&self, id: &SandboxId) -> Result<cgroup::Sandbox, EngineError> {
        let tree = self.cgroups.as_ref().ok_or(EngineError::FreezeUnsupported)?;
        Ok(tree.sandbox(id, self.owner()))
    }

    fn check_limits(&self, limits: &Limits) -> Result<(), EngineError> {
        let controller = "there is no cgroup controller for it that handsd may use";
        self.support().check(limits, controller, "the state directory's file system keeps no project quotas")
    }

    async fn resolve(&self, spec: &Spec) -> Result<Image, EngineError> {
        let image = self.images.resolve(&spec.image).await;
        image.map_err(|source| EngineError::Image { image: spec.image.clone(), source })
    }

    /// Makes what is missing of a sandbox, and starts its guest.
    async fn make(&self, spec: &Spec, image: &Image) -> Result<Started, EngineError> {
        let directory = self.directory(&spec.id);
        let nat = self.uplink(spec.uplink)?;
        let trees =
            self.make_layers(&directory, image, spec.limits.disk).map_err(failed("make the layers in", &directory))?;
        crash::point("make.layers");
        let cgroup = self.cgroups.as_ref().map(|tree| tree.create(&spec.id, &spec.limits, self.owner())).transpose();
        let cgroup = cgroup.map_err(|source| EngineError::Step { step: "make the cgroups".to_owned(), source })?;
        crash::point("make.cgroups");
        let order = Order {
            id: spec.id.to_string(),
            directory: zygote::text(&directory),
            trees,
            cgroup: cgroup.as_ref().map(|cgroup| zygote::text(cgroup.directory())).unwrap_or_default(),
            v1_tasks: cgroup.iter().flat_map(cgroup::Sandbox::v1_tasks).map(|path| zygote::text(&path)).collect(),
            workspace: zygote::text(&spec.workspace),
            user: spec.user.clone().or_else(|| image.user.clone()).unwrap_or_default(),
            resolver: nat.map(|nat| nat.gateway().to_string()).unwrap_or_default(),
            shared_memory: spec.limits.shared_memory(),
        };
        let born = self.zygote.make(order).await?;
        crash::point("make.born");
        let init = Process::new(born.pidfd).map_err(failed("watch the first process in", &directory))?;
        if let Some(nat) = nat {
            nat.attach(&directory, born.pid, spec.limits.bandwidth)
                .await
                .map_err(failed("attach to the network", &directory))?;
        }
        let (socket, counter) = (zygote::socket(&directory), nat::counter(&self.nat, &directory));
        Ok(Started { init, pid: born.pid, socket, listener: born.pid, cgroup, counter })
    }

    /// The first process of a sandbox, if it is alive.
    fn alive(&self, id: &SandboxId) -> io::Result<Option<Found>> {
        let directory = self.directory(id);
        let Some(init) = Init::load(&directory)? else { return Ok(None) };
        let Some(pidfd) = init.open()? else { return Ok(None) };
        let cgroup = self.cgroups.as_ref().map(|tree| tree.sandbox(id, self.owner()));
        let cgroup = cgroup.filter(|cgroup| cgroup.directory().is_dir());
        let is_frozen = cgroup.as_ref().map_or(Ok(false), cgroup::Sandbox::is_frozen)?;
        let socket = zygote::socket(&directory);
        let counter = nat::counter(&self.nat, &directory);
        let pid = init.pid();
        let started = Started { init: Process::new(pidfd)?, pid, socket, listener: pid, cgroup, counter };
        Ok(Some(Found::Alive { started, is_frozen }))
    }

    /// Takes a sandbox's address back, if it has one.
    async fn detach(&self, directory: &Path) -> Result<(), EngineError> {
        match &self.nat {
            Ok(nat) => nat.detach(directory).await.map_err(failed("detach from the network", directory)),
            Err(_) => Ok(()),
        }
    }

    /// Ends the processes of a sandbox, whoever started them, and waits until they are gone.
    async fn kill(&self, id: &SandboxId, cgroup: Option<&cgroup::Sandbox>) -> io::Result<()> {
        if let Some(cgroup) = cgroup {
            cgroup.kill()?;
        }
        // The first process takes all others of its PID namespace with it (pid_namespaces(7)).
        match Init::load(&self.directory(id))? {
            Some(init) => init.end(KILL_DEADLINE).await,
            None => Ok(()),
        }
    }
}

#[async_trait]
impl Engine for Native {
    fn name(&self) -> &'static str {
        "native"
    }

    fn guest_path(&self) -> &'static str {
        rootfs::GUEST_PATH.to_str().expect("it is ASCII")
    }

    fn support(&self) -> LimitSupport {
        let has = |controller| self.cgroups.as_ref().is_some_and(|tree| tree.host().mount(controller).is_some());
        LimitSupport {
            memory: has(Controller::Memory),
            cpus: has(Controller::Cpu),
            pids: has(Controller::Pids),
            disk: self.quotas.is_some(),
        }
    }

    async fn create(&self, spec: &Spec) -> Result<(Started, ImageDefaults), EngineError> {
        self.check_limits(&spec.limits)?;
        self.uplink(spec.uplink)?;
        let image = self.resolve(spec).await?;
        let started = undo(self.make(spec, &image).await, self.remove(&spec.id)).await?;
        Ok((started, ImageDefaults { env: image.env, user: image.user }))
    }

    async fn find(&self, id: &SandboxId) -> Result<Found, EngineError> {
        let directory = self.directory(id);
        match self.alive(id).map_err(failed("look for the first process in", &directory))? {
            Some(found) => Ok(found),
            None if writable_layer(&directory, 0).is_dir() => Ok(Found::Dead),
            None => Ok(Found::Nothing),
        }
    }

    async fn stop(&self, id: &SandboxId) -> Result<(), EngineError> {
        let directory = self.directory(id);
        let cgroup = self.cgroups.as_ref().map(|tree| tree.sandbox(id, self.owner()));
        self.kill(id, cgroup.as_ref()).await.map_err(failed("end the processes of", &directory))?;
        crash::point("end.killed");
        self.detach(&directory).await?;
        crash::point("end.detached");
        let socket = zygote::socket(&directory);
        let removed = cgroup.map_or(Ok(()), |cgroup| cgroup.remove()).and_then(|()| match fs::remove_file(socket) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Init::forget(&directory),
        });
        removed.map_err(failed("clear up after the processes of", &directory))
    }

    async fn start(&self, spec: &Spec) -> Result<Started, EngineError> {
        // What a crash has left of its processes is in the way.
        self.stop(&spec.id).await?;
        let image = self.resolve(spec).await?;
        undo(self.make(spec, &image).await, self.stop(&spec.id)).await
    }

    async fn freeze(&self, id: &SandboxId) -> Result<(), EngineError> {
        let cgroup = self.cgroup(id)?;
        cgroup.freeze().await.map_err(failed("freeze", cgroup.directory()))?;
        // Takes a while for a large sandbox; a wake does not wait for it.
        tokio::task::spawn_blocking(move || cgroup.page_out());
        Ok(())
    }

    async fn thaw(&self, id: &SandboxId) -> Result<(), EngineError> {
        let cgroup = self.cgroup(id)?;
        cgroup.thaw().await.map_err(failed("thaw", cgroup.directory()))
    }

    async fn set_limits(&self, id: &SandboxId, limits: &Limits) -> Result<(), EngineError> {
        self.check_limits(limits)?;
        let set = self.cgroups.as_ref().map_or(Ok(()), |tree| tree.set_limits(id, limits));
        set.map_err(|source| match source.raw_os_error() {
            // cgroup v1; v2 ends processes instead.
            Some(libc::EBUSY) => EngineError::LimitUnsupported {
                field: "memory_bytes",
                lack: "the sandbox uses more than that, and it cannot be taken back".to_owned(),
            },
            _ => EngineError::Step { step: format!("set the limits of {id}"), source },
        })?;
        let (Ok(nat), Some(bandwidth)) = (&self.nat, limits.bandwidth) else { return Ok(()) };
        let directory = self.directory(id);
        let failed = failed("set the bandwidth of", &directory);
        match Init::load(&directory) {
            Ok(Some(init)) => nat.limit(&directory, init.pid(), bandwidth).await.map_err(failed),
            Ok(None) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    async fn remove(&self, id: &SandboxId) -> Result<(), EngineError> {
        let directory = self.directory(id);
        let cgroup = self.cgroups.as_ref().map(|tree| tree.sandbox(id, self.owner()));
        self.kill(id, cgroup.as_ref()).await.map_err(failed("end the processes of", &directory))?;
        crash::point("remove.killed");
        self.detach(&directory).await?;
        crash::point("remove.detached");
        if let Some(quotas) = &self.quotas {
            quotas.lift(&writable_layer(&directory, 0)).map_err(failed("lift the quota of", &directory))?;
        }
        let doomed = directory.clone();
        let removing = tokio::task::spawn_blocking(move || {
            let removed = cgroup.map_or(Ok(()), |cgroup| cgroup.remove());
            remove_abandoned(&doomed).map_err(io::Error::from).and(removed)
        });
        removing.await.map_err(|_| EngineError::Gone)?.map_err(failed("remove", &directory))
    }

    async fn ping(&self) -> Result<(), EngineError> {
        self.zygote.ping().await
    }

    /// The first process is a child of ours, and tells it all itself.
    async fn post_mortem(&self, _id: &SandboxId) -> Option<String> {
        None
    }

    async fn list(&self) -> Result<Vec<SandboxId>, EngineError> {
        let entries = fs::read_dir(&self.sandboxes).and_then(Iterator::collect::<io::Result<Vec<_>>>);
        let entries = entries.map_err(failed("list", &self.sandboxes))?;
        let mut ids: Vec<SandboxId> =
            entries.iter().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
        if let Some(tree) = &self.cgroups {
            ids.extend(tree.list().map_err(|source| EngineError::Step { step: "list cgroups".to_owned(), source })?);
        }
        ids.sort_unstable();
        ids.dedup();
        Ok(ids)
    }

    async fn stale_images(&self) -> Result<Vec<String>, EngineError> {
        self.of_images(ImageStore::stale).await
    }

    async fn remove_image(&self, name: &str) -> Result<(), EngineError> {
        let name = name.to_owned();
        self.of_images(move |images, usage| images.remove(&name, usage)).await
    }

    /// Nobody but the daemon does anything to its sandboxes, and their first processes tell their ends themselves.
    async fn watch(&self, tell: mpsc::Sender<Happening>) {
        tell.closed().await;
    }
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> EngineError {
    let step = format!("{verb} {}", path.display());
    move |source| EngineError::Step { step, source }
}

/// Only the daemon looks into what it keeps.
fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)
}

/// Waits until a process has ended, and takes it off the process table if it is our child.
fn wait_for_exit(pidfd: &OwnedFd) -> io::Result<()> {
    match waitid(Id::PIDFd(pidfd.as_fd()), WaitPidFlag::WEXITED) {
        Ok(_) | Err(nix::errno::Errno::ECHILD) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
