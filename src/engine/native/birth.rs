//! The sandbox's first process, from clone to guest.
//!
//! It is a copy of the zygote in new namespaces, root there and nobody on the node. It waits until the zygote has mapped
//! its ids, attaches the mounts that the zygote made, adds those that belong to its own namespaces, gives up what it does
//! not need, and becomes the guest. What fails is reported to the zygote over a socket that closes on exec.

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, listen, socket};
use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chdir, dup2_raw, pivot_root, sethostname, setresgid, setresuid};

use super::fault::{Fault, Step};
use super::jail::{self, Filter};
use super::rootfs::{GUEST_PATH, Root};
use super::sys;
use super::zygote::Order;
use crate::guest::agent::workspace;

/// What a sandbox does not share with the node. Its cgroup namespace comes later, when it is in all its cgroups.
pub const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// The descriptor on which the guest finds its socket.
const LISTENER: i32 = 3;

/// What the first process needs.
pub struct Birth<'a> {
    /// What was asked for.
    pub order: &'a Order,
    /// By which it enters its cgroups of version 1: opened by the zygote, as nobody in the sandbox may.
    pub tasks: &'a [File],
    /// Its root file system.
    pub root: &'a Root,
    /// The guest's socket, bound.
    pub listener: &'a OwnedFd,
    /// The system call filter.
    pub filter: &'a Filter,
    /// Paths to mask besides those that every host has.
    pub masked: &'a [CString],
}

impl Birth<'_> {
    /// Becomes the guest; on a failure reports it and exits.
    pub fn live(&self, mut zygote: UnixStream) -> ! {
        wait_until_mapped(&mut zygote);
        let fault = self.become_guest();
        let _ = zygote.write_all(&format_report(&fault));
        exit()
    }

    fn become_guest(&self) -> Fault {
        match self.prepare() {
            Ok(()) => {
                let argv = [c"hands-guest".as_ptr(), std::ptr::null()];
                let env = [std::ptr::null()];
                // SAFETY: both arrays end in null and outlive the call.
                unsafe { libc::execve(GUEST_PATH.as_ptr(), argv.as_ptr(), env.as_ptr()) };
                Fault { step: "execute the guest".to_owned(), errno: Errno::last() }
            }
            Err(fault) => fault,
        }
    }

    fn prepare(&self) -> Result<(), Fault> {
        for mut tasks in self.tasks {
            // Itself (cgroups(7)).
            tasks.write_all(b"0").step("enter the cgroups of version 1")?;
        }
        unshare(CloneFlags::CLONE_NEWCGROUP).step("enter a cgroup namespace")?;
        let root = (Uid::from_raw(0), Gid::from_raw(0));
        setresgid(root.1, root.1, root.1).step("become the sandbox's root group")?;
        setresuid(root.0, root.0, root.0).step("become the sandbox's root")?;
        umask(Mode::from_bits_truncate(0o022));
        self.attach_root()?;
        mount_own(self.order.shared_memory)?;
        enter_root()?;
        forbid_namespaces()?;
        mask(self.masked)?;
        bring_up_loopback().step("bring up the loopback")?;
        sethostname(&self.order.id).step("set the host name")?;
        write_resolver(&self.order.resolver).step("write /etc/resolv.conf")?;
        workspace::make(Path::new(&self.order.workspace), &self.order.user).step("make the workspace")?;
        self.arrange_descriptors().step("arrange descriptors")?;
        jail::drop_capabilities().step("drop capabilities")?;
        self.filter.install().step("install the system call filter")
    }

    /// Attaches the trees and goes into the root.
    fn attach_root(&self) -> Result<(), Fault> {
        let flags = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(None::<&str>, "/", None::<&str>, flags, None::<&str>).step("detach the mount namespace")?;
        for (index, (target, tree)) in self.root.trees.iter().enumerate() {
            // The zygote stands in the engine's directory, and so do we.
            let place = if index == 0 { c"root" } else { target.as_c_str() };
            sys::attach_mount(tree.as_fd(), place).step("attach a tree")?;
            if index == 0 {
                chdir("root").step("enter the root")?;
            }
        }
        for place in ["proc", "sys", "dev", "tmp"] {
            ensure_directory(Path::new(place)).step("make a mount point")?;
        }
        sys::attach_mount(self.root.dev.as_fd(), c"dev").step("attach /dev")
    }

    /// Leaves the guest the sandbox's own /dev/null thrice, its socket, and nothing else.
    fn arrange_descriptors(&self) -> io::Result<()> {
        // Whoever connects from now on waits for the guest instead of being refused.
        listen(self.listener, Backlog::MAXCONN)?;
        let null = fs::File::options().read(true).write(true).open("/dev/null")?;
        // SAFETY: what was at these numbers is not used any more: standard streams of the zygote, and descriptors that
        // this process never returns to. The listener is copied before the report socket could be overwritten only if
        // that is not number 3, which it is not: the zygote opened other files before it.
        unsafe {
            for target in 0..=2 {
                let _ = dup2_raw(&null, target)?.into_raw_fd();
            }
            let _ = dup2_raw(self.listener, LISTENER)?.into_raw_fd();
        }
        // SAFETY: sets a flag on descriptors; none is closed before the exec.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, LISTENER + 1, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
        Errno::result(closed)?;
        Ok(())
    }
}

/// What the zygote says when the ids of the first process are mapped: it can be root.
pub const MAPPED: u8 = 1;

/// Waits until the zygote says so. If it could not do it, it tells the daemon itself, and hangs up.
fn wait_until_mapped(zygote: &mut UnixStream) {
    let mut said = [0];
    if zygote.read_exact(&mut said).is_err() || said != [MAPPED] {
        exit();
    }
}

/// Mounts what belongs to the namespaces of this sandbox.
fn mount_own(shared_memory: u64) -> Result<(), Fault> {
    let plain = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("proc"), "proc", Some("proc"), plain, None::<&str>).step("mount /proc")?;
    mount(Some("sysfs"), "sys", Some("sysfs"), plain | MsFlags::MS_RDONLY, None::<&str>).step("mount /sys")?;
    // The group of terminals is 5 everywhere; a sandbox with one user has no such group.
    let pts = MsFlags::MS_NOSUID | MsFlags::MS_NOEXEC;
    mount(Some("devpts"), "dev/pts", Some("devpts"), pts, Some("newinstance,ptmxmode=0666,mode=0620,gid=5"))
        .or_else(|_| mount(Some("devpts"), "dev/pts", Some("devpts"), pts, Some("newinstance,ptmxmode=0666,mode=0620")))
        .step("mount /dev/pts")?;
    let options = format!("mode=1777,size={shared_memory}");
    mount(Some("shm"), "dev/shm", Some("tmpfs"), plain, Some(options.as_str())).step("mount /dev/shm")?;
    mount(Some("mqueue"), "dev/mqueue", Some("mqueue"), plain, None::<&str>).step("mount /dev/mqueue")
}

/// Makes the directory that we stand in the root, and lets go of the old one (pivot_root(2), "pivot_root(".", ".")").
fn enter_root() -> Result<(), Fault> {
    pivot_root(".", ".").step("pivot into the root")?;
    umount2(".", MntFlags::MNT_DETACH).step("let go of the node's root")?;
    chdir("/").step("enter the root")
}

/// No user namespace can be made inside, and so no other: those need a capability that nobody inside has. This is what
/// lets the filter allow clone3, whose flags it cannot see.
fn forbid_namespaces() -> Result<(), Fault> {
    fs::write("/proc/sys/user/max_user_namespaces", "0").step("forbid user namespaces")
}

/// Hides and protects what Docker hides and protects. What this kernel does not have needs nothing.
fn mask(more: &[CString]) -> Result<(), Fault> {
    let none = None::<&CStr>;
    for path in jail::READONLY_PATHS.iter().copied() {
        match mount(Some(path), path, none, MsFlags::MS_BIND | MsFlags::MS_REC, none) {
            Err(Errno::ENOENT) => continue,
            result => result.step("bind a read-only path")?,
        }
        // The flags of /proc itself are locked to the mount (mount_namespaces(7)) and have to be given again.
        let kept = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | kept;
        mount(none, path, none, flags, none).step("make a path read-only")?;
    }
    for path in jail::MASKED_PATHS.iter().copied().chain(more.iter().map(CString::as_c_str)) {
        match mount(Some(c"/dev/null"), path, none, MsFlags::MS_BIND, none) {
            Err(Errno::ENOENT) => {}
            // A directory.
            Err(Errno::ENOTDIR) => {
                mount(Some(c"tmpfs"), path, Some(c"tmpfs"), MsFlags::MS_RDONLY, none).step("mask a directory")?;
            }
            result => result.step("mask a file")?,
        }
    }
    Ok(())
}

/// Names the resolver. Whatever the image has in its place is removed first: a link could lead anywhere.
fn write_resolver(address: &str) -> io::Result<()> {
    if address.is_empty() {
        return Ok(());
    }
    let path = Path::new("/etc/resolv.conf");
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    ensure_directory(Path::new("/etc"))?;
    fs::write(path, format!("nameserver {address}\n"))
}

fn ensure_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result,
    }
}

/// From linux/if.h; libc has it as an int, and the request wants a short.
const IFF_UP: libc::c_short = 0x1;

fn bring_up_loopback() -> io::Result<()> {
    let socket = socket(AddressFamily::Inet, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_flags = IFF_UP;
    // SAFETY: SIOCSIFFLAGS reads one ifreq through the pointer, which outlives the call (netdevice(7)).
    Errno::result(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) })?;
    Ok(())
}

fn exit() -> ! {
    // SAFETY: leaves without running what the zygote registered for its own exit.
    unsafe { libc::_exit(1) }
}

/// A fault on its way to the zygote: the errno, then the step.
fn format_report(fault: &Fault) -> Vec<u8> {
    [&(fault.errno as i32).to_ne_bytes()[..], fault.step.as_bytes()].concat()
}

/// The fault in what the first process said; nothing if it became the guest.
pub fn parse_report(report: &[u8]) -> Option<Fault> {
    let (errno, step) = report.split_first_chunk::<4>()?;
    Some(Fault { step: String::from_utf8_lossy(step).into_owned(), errno: Errno::from_raw(i32::from_ne_bytes(*errno)) })
}
