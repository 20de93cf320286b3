//! Root file systems: what sandboxes share, and what is put together for one.
//!
//! Mounts are made by the zygote, which may, and handed to the sandbox's first process as descriptors of mounts that are
//! attached nowhere yet. Read-only layers are mounted once, with their owners mapped to the sandboxes' ids (`MOUNT_ATTR_IDMAP`), and used
//! by all sandboxes. `/dev` is one small read-only file system for all; it also holds the guest, which so sits on a mount
//! inside the sandbox.

use std::collections::HashMap;
use std::ffi::CString;
use std::fs;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{Gid, Pid, Uid, chown};

use super::fault::{Fault, Step};
use super::sys::{self, Cloned, Filesystem};
use super::zygote::{Order, Setup, Tree};
use crate::guest::binary::GUEST;

/// Where the guest is inside a sandbox.
pub const GUEST_PATH: &std::ffi::CStr = c"/dev/hands/guest";

/// Devices as every program expects them: name, major, minor (linux/Documentation/admin-guide/devices.txt).
const DEVICES: [(&str, u64, u64); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

/// Links in /dev, as Docker and the OCI runtime specification have them.
const DEVICE_LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// What all sandboxes share.
pub struct Shared {
    directory: PathBuf,
    rootless: bool,
    /// Maps ids as sandboxes do. Without root there is nothing to map.
    userns: Option<OwnedFd>,
    /// Where a layer is mounted, below `directory`.
    layers: HashMap<String, CString>,
}

/// A root file system that is not attached yet.
pub struct Root {
    /// The trees, the root first: where, and what.
    pub trees: Vec<(CString, OwnedFd)>,
    /// /dev.
    pub dev: OwnedFd,
}

impl Shared {
    /// Mounts what is shared. The zygote stays in `setup.directory` from here on: options of overlayfs are short.
    pub fn new(setup: &Setup) -> Result<Self, Fault> {
        let rootless = setup.id_count == 1;
        let directory = PathBuf::from(&setup.directory);
        for name in ["dev", "layers", "root"] {
            fs::create_dir_all(directory.join(name)).step("make a mount point")?;
        }
        std::env::set_current_dir(&directory).step("enter the engine's directory")?;
        let options = Some("mode=755,size=16m");
        for name in ["dev", "layers"] {
            mount(Some("tmpfs"), name, Some("tmpfs"), MsFlags::MS_NOSUID, options).step("mount a tmpfs")?;
        }
        fill_dev(Path::new("dev"), rootless, setup.id_base)?;
        let userns = if rootless { None } else { Some(mapping_namespace(setup)?) };
        Ok(Self { directory, rootless, userns, layers: HashMap::new() })
    }

    /// Puts a sandbox's root file system together.
    pub fn assemble(&mut self, order: &Order) -> Result<Root, Fault> {
        let mut trees = Vec::with_capacity(order.trees.len());
        for tree in &order.trees {
            let target = c_string(tree.target.trim_start_matches('/'))?;
            trees.push((target, self.overlay(tree)?));
        }
        let dev = sys::clone_mount(None, c"dev", true).step("clone /dev")?;
        Ok(Root { trees, dev })
    }

    fn overlay(&mut self, tree: &Tree) -> Result<OwnedFd, Fault> {
        let mut layers = Vec::with_capacity(tree.layers.len());
        for layer in &tree.layers {
            layers.push(self.layer(layer)?);
        }
        let overlay = Filesystem::open(c"overlay").step("open overlayfs")?;
        set_layers(&overlay, &layers)?;
        let writable = self.relative(&tree.writable);
        overlay.set(c"upperdir", &c_string(&format!("{writable}/upper"))?).step("set the writable layer")?;
        overlay.set(c"workdir", &c_string(&format!("{writable}/work"))?).step("set the work directory")?;
        if self.rootless {
            overlay.set_flag(c"userxattr").step("set userxattr")?;
        }
        overlay.mount(sys::MOUNT_ATTR_NOSUID | sys::MOUNT_ATTR_NODEV).step("mount the layers")
    }

    /// Where a layer is mounted; mounts it the first time.
    fn layer(&mut self, layer: &str) -> Result<CString, Fault> {
        if let Some(place) = self.layers.get(layer) {
            return Ok(place.clone());
        }
        let mount = sys::clone_mount(None, &c_string(layer)?, false).step(&format!("open layer {layer}"))?;
        sys::set_mount(mount.as_fd(), sys::MOUNT_ATTR_RDONLY, None).step("make a layer read-only")?;
        if let Some(userns) = &self.userns {
            let mapped = sys::set_mount(mount.as_fd(), sys::MOUNT_ATTR_IDMAP, Some(userns.as_fd()));
            mapped.step(&format!("map the owners in layer {layer} (its file system may not support it)"))?;
        }
        let place = format!("layers/{}", self.layers.len());
        fs::create_dir(&place).step("make a mount point")?;
        let place = c_string(&place)?;
        sys::attach_mount(mount.as_fd(), &place).step("attach a layer")?;
        self.layers.insert(layer.to_owned(), place.clone());
        Ok(place)
    }

    /// The same place from where the zygote stands, which is shorter.
    fn relative(&self, path: &str) -> String {
        let below = self.directory.parent().and_then(|parent| Path::new(path).strip_prefix(parent).ok());
        below.map_or_else(|| path.to_owned(), |below| format!("../{}", below.display()))
    }
}

/// All in one value, as every kernel takes them, as long as that is not longer than the kernel lets a value be; else one by
/// one, which it can since Linux 6.7. Before 6.5 it takes any option, and refuses the mount: there is no asking first.
fn set_layers(overlay: &Filesystem, layers: &[CString]) -> Result<(), Fault> {
    const MAX_VALUE: usize = 255;
    let all = layers.iter().map(|layer| layer.to_string_lossy()).collect::<Vec<_>>().join(":");
    if all.len() <= MAX_VALUE {
        return overlay.set(c"lowerdir", &c_string(&all)?).step("set the layers");
    }
    layers.iter().try_for_each(|layer| overlay.set(c"lowerdir+", layer)).step("set the layers")
}

fn c_string(text: &str) -> Result<CString, Fault> {
    CString::new(text).map_err(|_| nix::errno::Errno::EINVAL).step("pass a path to the kernel")
}

/// Fills /dev: the usual devices, the places where each sandbox mounts its own, and the guest.
fn fill_dev(dev: &Path, rootless: bool, id_base: u32) -> Result<(), Fault> {
    let owner = if rootless { 0 } else { id_base };
    let own = |path: &Path| chown(path, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)));
    own(dev).step("own /dev")?;
    for (name, major, minor) in DEVICES {
        let path = dev.join(name);
        if rootless {
            // Only root of the node makes devices; whoever is not binds those that are there.
            fs::File::create(&path).step("make a place for a device")?;
            let source = Path::new("/dev").join(name);
            mount(Some(&source), &path, None::<&str>, MsFlags::MS_BIND, None::<&str>).step("bind a device")?;
        } else {
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&path, SFlag::S_IFCHR, mode, makedev(major, minor)).step("make a device")?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).step("open a device to all")?;
            own(&path).step("own a device")?;
        }
    }
    for (name, target) in DEVICE_LINKS {
        symlink(target, dev.join(name)).step("link in /dev")?;
    }
    for name in ["pts", "shm", "mqueue", "hands"] {
        fs::DirBuilder::new().mode(0o755).create(dev.join(name)).step("make a directory in /dev")?;
    }
    fs::File::create(dev.join("console")).step("make /dev/console")?;
    let guest = fs::File::options().write(true).create_new(true).mode(0o555).open(dev.join("hands/guest"));
    guest.and_then(|mut file| file.write_all(GUEST)).step("write the guest")?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | MsFlags::MS_NOSUID;
    mount(None::<&str>, dev, None::<&str>, flags, None::<&str>).step("make /dev read-only")
}

/// A user namespace that maps ids as sandboxes do, by which layers are mapped.
fn mapping_namespace(setup: &Setup) -> Result<OwnedFd, Fault> {
    // SAFETY: this process has one thread.
    match unsafe { sys::clone(libc::CLONE_NEWUSER, None) }.step("make a user namespace")? {
        Cloned::Child => loop {
            // It only has to be there until it is killed.
            nix::unistd::pause();
        },
        Cloned::Parent(pid, pidfd) => {
            let map = format!("0 {} {}\n", setup.id_base, setup.id_count);
            let maps = ["uid_map", "gid_map"].map(|file| fs::write(format!("/proc/{pid}/{file}"), &map));
            let namespace = fs::File::open(format!("/proc/{pid}/ns/user"));
            kill(Pid::from_raw(pid), Signal::SIGKILL).step("end a helper process")?;
            super::wait_for_exit(&pidfd).step("end a helper process")?;
            maps.into_iter().collect::<io::Result<()>>().step("map users")?;
            namespace.map(OwnedFd::from).step("open a user namespace")
        }
    }
}
