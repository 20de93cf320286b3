//! The zygote's own life: set up, then make one sandbox after another until the daemon is gone.

use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{getgid, getuid};

use super::super::birth::{self, Birth, MAPPED};
use super::super::fault::{Fault, Step};
use super::super::init::Init;
use super::super::jail::{self, Filter};
use super::super::rootfs::Shared;
use super::super::sys::{self, Cloned};
use super::{Order, Outcome, Setup, socket};
use crate::guest::wire::{self, Receiver};

/// The zygote's main function. Its socket is its standard input.
#[must_use]
pub fn main() -> ExitCode {
    let Ok(socket) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    let mut receiver = Receiver::default();
    let Ok(Some(setup)) = receiver.wait::<Setup>(socket.as_fd()) else { return ExitCode::FAILURE };
    let zygote = Zygote::new(setup);
    let outcome = zygote.as_ref().map_or_else(|fault| refusal(fault, 0), |_| Outcome::default());
    if answer(socket.as_fd(), &outcome, None).is_err() {
        return ExitCode::FAILURE;
    }
    let Ok(mut zygote) = zygote else { return ExitCode::FAILURE };
    // The end of the stream is the end of the daemon.
    while let Ok(Some(order)) = receiver.wait::<Order>(socket.as_fd()) {
        let (outcome, pidfd) = if order.id.is_empty() { (Outcome::default(), None) } else { zygote.make(&order) };
        if answer(socket.as_fd(), &outcome, pidfd).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn answer(socket: BorrowedFd<'_>, outcome: &Outcome, pidfd: Option<OwnedFd>) -> io::Result<()> {
    let fds: Vec<_> = pidfd.iter().map(AsRawFd::as_raw_fd).collect();
    wire::send_all(socket, &wire::frame(outcome)?, &fds)
}

fn refusal(fault: &Fault, pid: i32) -> Outcome {
    Outcome { pid, step: fault.step.clone(), errno: fault.errno as i32 }
}

struct Zygote {
    setup: Setup,
    shared: Shared,
    filter: Filter,
    /// Paths to mask besides those that every host has.
    masked: Vec<CString>,
}

impl Zygote {
    fn new(setup: Setup) -> Result<Self, Fault> {
        if setup.id_count == 1 {
            become_root_of_own_namespace().step("enter a user namespace")?;
        }
        unshare(CloneFlags::CLONE_NEWNS).step("enter a mount namespace")?;
        // What the node mounts later is still seen here; what is mounted here is seen by nobody else.
        let flags = MsFlags::MS_SLAVE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).step("detach the mount namespace")?;
        let shared = Shared::new(&setup)?;
        let masked = jail::thermal_paths().step("look for paths to mask")?;
        Ok(Self { setup, shared, filter: Filter::docker_default(), masked })
    }

    fn make(&mut self, order: &Order) -> (Outcome, Option<OwnedFd>) {
        match self.try_make(order) {
            Ok((pid, pidfd, None)) => (Outcome { pid, ..Outcome::default() }, Some(pidfd)),
            Ok((pid, pidfd, Some(fault))) => (refusal(&fault, pid), Some(pidfd)),
            Err(fault) => (refusal(&fault, 0), None),
        }
    }

    fn try_make(&mut self, order: &Order) -> Result<(i32, OwnedFd, Option<Fault>), Fault> {
        let root = self.shared.assemble(order)?;
        let listener = bind(Path::new(&order.directory)).step("bind the guest's socket")?;
        let (ours, theirs) = UnixStream::pair().step("make a socket pair")?;
        let cgroup = if order.cgroup.is_empty() {
            None
        } else {
            let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            Some(open(order.cgroup.as_str(), flags, Mode::empty()).step("open the cgroup")?)
        };
        let tasks: io::Result<Vec<File>> =
            order.v1_tasks.iter().map(|path| File::options().write(true).open(path)).collect();
        let tasks = tasks.step("open the cgroups of version 1")?;
        let flags = birth::NAMESPACES | libc::CLONE_PARENT;
        // SAFETY: this process has one thread.
        match unsafe { sys::clone(flags, cgroup.as_ref().map(AsFd::as_fd)) }.step("clone the first process")? {
            Cloned::Child => {
                drop(ours);
                let Self { filter, masked, .. } = self;
                Birth { order, tasks: &tasks, root: &root, listener: &listener, filter, masked }.live(theirs)
            }
            Cloned::Parent(pid, pidfd) => {
                drop(theirs);
                let fault = self.release(pid, order, ours).err();
                Ok((pid, pidfd, fault))
            }
        }
    }

    /// Gives the child its ids, lets it go, and waits until it has become the guest or failed.
    fn release(&self, pid: i32, order: &Order, mut child: UnixStream) -> Result<(), Fault> {
        // Here and not in the daemon, which may be killed before it could: the next one would not find the child.
        let recorded = Init::of(pid.cast_unsigned()).and_then(|init| init.save(Path::new(&order.directory)));
        recorded.step("record the first process")?;
        let Setup { id_base, id_count, .. } = self.setup;
        if id_count == 1 {
            fs::write(format!("/proc/{pid}/setgroups"), "deny").step("deny groups to the sandbox")?;
        }
        let map = format!("0 {} {id_count}\n", if id_count == 1 { 0 } else { id_base });
        fs::write(format!("/proc/{pid}/uid_map"), &map).step("map the sandbox's users")?;
        fs::write(format!("/proc/{pid}/gid_map"), &map).step("map the sandbox's groups")?;
        child.write_all(&[MAPPED]).step("let the sandbox go")?;
        let mut report = Vec::new();
        child.read_to_end(&mut report).step("hear from the sandbox")?;
        birth::parse_report(&report).map_or(Ok(()), Err)
    }
}

/// Binds the guest's socket. The directory's path may be longer than an address holds, so it is named by its descriptor.
fn bind(directory: &Path) -> io::Result<OwnedFd> {
    let handle = open(directory, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())?;
    let short = Path::new("/proc/self/fd").join(handle.as_raw_fd().to_string());
    Ok(UnixListener::bind(socket(&short))?.into())
}

/// Without root: the only user there is becomes root of a user namespace (user_namespaces(7)).
fn become_root_of_own_namespace() -> io::Result<()> {
    let (uid, gid) = (getuid(), getgid());
    unshare(CloneFlags::CLONE_NEWUSER)?;
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1\n"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1\n"))
}
