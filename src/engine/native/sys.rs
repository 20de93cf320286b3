//! System calls that no library wraps: the mount API of Linux 5.2 and later, clone3, and pidfd_open.
//!
//! Each is one call with its pointers made from Rust values; see the man page of the same name.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;

use nix::errno::Errno;

/// open_tree(2): take a copy of the mount instead of the place.
pub const OPEN_TREE_CLONE: u32 = 1;
/// fsmount(2), mount_setattr(2): read-only.
pub const MOUNT_ATTR_RDONLY: u64 = 0x1;
/// Set-user-ID bits and file capabilities have no effect.
pub const MOUNT_ATTR_NOSUID: u64 = 0x2;
/// Devices cannot be opened.
pub const MOUNT_ATTR_NODEV: u64 = 0x4;
/// Ids are mapped by a user namespace.
pub const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

const FSCONFIG_SET_FLAG: u32 = 0;
const FSCONFIG_SET_STRING: u32 = 1;
const FSCONFIG_CMD_CREATE: u32 = 6;
const MOVE_MOUNT_F_EMPTY_PATH: u32 = 0x4;
/// From linux/sched.h; beyond the 32 bits of the other flags.
pub const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

fn new_fd(result: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = Errno::result(result)?;
    // SAFETY: the kernel has just made this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(RawFd::try_from(fd).map_err(|_| Errno::EBADF)?) })
}

/// A descriptor of a process.
pub fn pidfd_open(pid: u32) -> nix::Result<OwnedFd> {
    // SAFETY: values only.
    new_fd(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// A copy of the mount at a path, attached nowhere; with `recursive`, of those below it too.
pub fn clone_mount(at: Option<BorrowedFd<'_>>, path: &CStr, recursive: bool) -> nix::Result<OwnedFd> {
    let mut flags = OPEN_TREE_CLONE | libc::O_CLOEXEC.unsigned_abs();
    if recursive {
        flags |= libc::AT_RECURSIVE.unsigned_abs();
    }
    let directory = at.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: the path outlives the call.
    new_fd(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// Attaches a mount that is attached nowhere.
pub fn attach_mount(mount: BorrowedFd<'_>, path: &CStr) -> nix::Result<()> {
    // SAFETY: both paths outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            path.as_ptr(),
            MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    Errno::result(result).map(drop)
}

/// Sets attributes of a mount; `userns` goes with [`MOUNT_ATTR_IDMAP`].
pub fn set_mount(mount: BorrowedFd<'_>, set: u64, userns: Option<BorrowedFd<'_>>) -> nix::Result<()> {
    let userns = userns.map_or(0, |fd| u64::from(fd.as_raw_fd().unsigned_abs()));
    let attributes = MountAttributes { set, clear: 0, propagation: 0, userns };
    // SAFETY: path and attributes outlive the call, and the size is that of the attributes.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            ptr::from_ref(&attributes),
            size_of::<MountAttributes>(),
        )
    };
    Errno::result(result).map(drop)
}

/// A file system that is being configured.
pub struct Filesystem(OwnedFd);

impl Filesystem {
    /// fsopen(2)
    pub fn open(kind: &CStr) -> nix::Result<Self> {
        const FSOPEN_CLOEXEC: u32 = 1;
        // SAFETY: the name outlives the call.
        new_fd(unsafe { libc::syscall(libc::SYS_fsopen, kind.as_ptr(), FSOPEN_CLOEXEC) }).map(Self)
    }

    /// Sets an option. The kernel takes values of up to 255 bytes.
    pub fn set(&self, key: &CStr, value: &CStr) -> nix::Result<()> {
        self.configure(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr())
    }

    /// Sets an option that has no value.
    pub fn set_flag(&self, key: &CStr) -> nix::Result<()> {
        self.configure(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null())
    }

    /// Makes the file system, and a mount of it that is attached nowhere.
    pub fn mount(&self, attributes: u64) -> nix::Result<OwnedFd> {
        const FSMOUNT_CLOEXEC: u32 = 1;
        self.configure(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null())?;
        // SAFETY: values only.
        new_fd(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), FSMOUNT_CLOEXEC, attributes) })
    }

    fn configure(&self, command: u32, key: *const libc::c_char, value: *const libc::c_char) -> nix::Result<()> {
        // SAFETY: the callers pass pointers to strings that outlive the call, or null where the command takes none.
        let result = unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, 0) };
        Errno::result(result).map(drop)
    }
}

/// Which side of a clone this is.
pub enum Cloned {
    /// The new process.
    Child,
    /// The old one, with the new one's id and descriptor.
    Parent(libc::pid_t, OwnedFd),
}

/// clone3(2) without shared memory, as fork(2) with `flags` and into a cgroup.
///
/// # Safety
/// The caller has one thread only: else the child may find locks held by threads that it does not have.
pub unsafe fn clone(flags: libc::c_int, cgroup: Option<BorrowedFd<'_>>) -> nix::Result<Cloned> {
    let mut pidfd: RawFd = -1;
    // SAFETY: all-zero is a valid clone_args.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = u64::from((flags | libc::CLONE_PIDFD).cast_unsigned());
    args.pidfd = (&raw mut pidfd).addr() as u64;
    // With CLONE_PARENT it is that of the caller itself, and must be zero here.
    if flags & libc::CLONE_PARENT == 0 {
        args.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    }
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
    }
    // SAFETY: the arguments outlive the call and have the size given; the child gets a copy of our memory and stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    match libc::pid_t::try_from(Errno::result(pid)?) {
        Ok(0) => Ok(Cloned::Child),
        // SAFETY: the kernel has put a new descriptor there (CLONE_PIDFD), and nobody else knows of it.
        Ok(pid) => Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
        Err(_) => Err(Errno::EOVERFLOW),
    }
}
