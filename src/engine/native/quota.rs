//! Project quotas: what bounds the bytes that a sandbox writes.
//!
//! A project is a number that files carry. The directories in which a sandbox's writable layers are made carry the
//! sandbox's, all that comes to be below them inherits it, and the file system (ext4 or XFS, mounted with `prjquota`)
//! counts blocks and files by it, whoever owns them.
//!
//! Nobody in a sandbox can leave its project or pass its bound. Projects can be changed only in the node's own user
//! namespace. Hard limits do not hold for `CAP_SYS_RESOURCE` there, and both the sandbox's processes and the daemon, which
//! writes files through descriptors from inside, reach the layers by way of overlayfs, which acts without that capability.

use std::fs::{self, File};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::errno::Errno;

/// PRJQUOTA, of linux/quota.h.
const PROJECT: u32 = 2;

/// Commands of quotactl(2): linux/quota.h, linux/dqblk_xfs.h.
const GET_QUOTA: u32 = 0x80_0007;
const SET_QUOTA: u32 = 0x80_0008;
const GET_STATE: u32 = 0x5805;

/// FS_QUOTA_PDQ_ENFD: bounds of projects are enforced, and not only counted.
const PROJECTS_ENFORCED: u16 = 1 << 5;

/// Which parts of a quota are set: blocks and files.
const BLOCK_LIMITS: u32 = 1;
const FILE_LIMITS: u32 = 4;

/// Bytes in which quotactl(2) counts blocks.
const BLOCK_BYTES: u64 = 1024;

/// The least room that a file which is not empty takes. A bound of bytes also bounds the files to as many as could fill
/// it: empty ones take no blocks, and could use up the file system's inodes.
const FILE_BYTES: u64 = 4096;
const LEAST_FILES: u64 = 1024;

/// What is below a directory inherits its project.
const PROJECT_INHERITED: u32 = 0x200;

/// Projects tried before giving up. The first one is free unless somebody else numbers projects on this file system.
const MAX_TRIES: u32 = 16;

/// `struct fsxattr` of linux/fs.h.
#[repr(C)]
#[derive(Debug, Default)]
struct Attributes {
    flags: u32,
    extent_size: u32,
    extents: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

nix::ioctl_read!(get_attributes, b'X', 31, Attributes);
nix::ioctl_write_ptr!(set_attributes, b'X', 32, Attributes);

/// `struct fs_quota_stat` of linux/dqblk_xfs.h: a version, the flags, and what is of no use here.
#[repr(C, align(8))]
#[derive(Default)]
struct State {
    version: i8,
    flags: u16,
    rest: [u64; 9],
}

/// A file system that enforces project quotas.
#[derive(Debug)]
pub struct Quotas(OwnedFd);

/// The project of one sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Project(u32);

impl Quotas {
    /// The file system that a directory is on; `None` if it enforces no project quotas.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open(directory: &Path) -> io::Result<Option<Self>> {
        let quotas = Self(File::open(directory)?.into());
        let mut state = State { version: 1, ..State::default() };
        // A file system that knows no quotas refuses the question.
        let enforced = quotas.control(GET_STATE, 0, &mut state).is_ok() && state.flags & PROJECTS_ENFORCED != 0;
        Ok(enforced.then_some(quotas))
    }

    /// A project that nobody uses, for the sandbox with this directory.
    ///
    /// It is named after the directory's inode number, which no other file of the file system has as long as the directory
    /// is there. Longer numbers than 32 bits (XFS has them) are folded.
    ///
    /// # Errors
    /// Those of stat(2) and quotactl(2); EBUSY if all that were tried are in use.
    pub fn project(&self, directory: &Path) -> io::Result<Project> {
        let inode = fs::metadata(directory)?.ino();
        for candidate in candidates(inode) {
            if self.is_free(candidate)? {
                return Ok(candidate);
            }
        }
        Err(Errno::EBUSY.into())
    }

    fn is_free(&self, project: Project) -> io::Result<bool> {
        let mut quota = no_quota();
        match self.control(GET_QUOTA, project.0, &mut quota) {
            Ok(()) => Ok(quota.dqb_curspace == 0 && quota.dqb_curinodes == 0 && quota.dqb_bhardlimit == 0),
            // How XFS says that nobody has used the number yet.
            Err(Errno::ENOENT) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Bounds what the files of a project take, in bytes; they may take none beyond it.
    ///
    /// # Errors
    /// Those of quotactl(2).
    pub fn bound(&self, project: Project, bytes: u64) -> io::Result<()> {
        Ok(self.set(project, bytes / BLOCK_BYTES, (bytes / FILE_BYTES).max(LEAST_FILES))?)
    }

    /// Lifts the bound of the project that a directory carries, so that nothing is left of it when the directory is gone.
    /// One that carries none, or is gone, is left alone.
    ///
    /// # Errors
    /// Those of ioctl(2) and quotactl(2).
    pub fn lift(&self, directory: &Path) -> io::Result<()> {
        match Project::of(directory) {
            Ok(Some(project)) => Ok(self.set(project, 0, 0)?),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(None) | Err(_) => Ok(()),
        }
    }

    /// 0 is no bound.
    fn set(&self, project: Project, blocks: u64, files: u64) -> nix::Result<()> {
        let mut quota = no_quota();
        quota.dqb_bhardlimit = blocks;
        quota.dqb_ihardlimit = files;
        quota.dqb_valid = BLOCK_LIMITS | FILE_LIMITS;
        self.control(SET_QUOTA, project.0, &mut quota)
    }

    /// quotactl_fd(2). `T` is what the command reads or writes.
    fn control<T>(&self, command: u32, project: u32, data: &mut T) -> nix::Result<()> {
        let command = command << 8 | PROJECT;
        // SAFETY: each command is called with the structure that the kernel has for it, which outlives the call.
        let result =
            unsafe { libc::syscall(libc::SYS_quotactl_fd, self.0.as_raw_fd(), command, project, &raw mut *data) };
        Errno::result(result).map(drop)
    }
}

impl Project {
    /// Lets a directory and all that is going to be below it belong to the project.
    ///
    /// # Errors
    /// Those of open(2) and ioctl(2).
    pub fn adopt(self, directory: &Path) -> io::Result<()> {
        let directory = File::open(directory)?;
        let mut attributes = attributes(&directory)?;
        attributes.flags |= PROJECT_INHERITED;
        attributes.project = self.0;
        // SAFETY: the attributes are those that the kernel has just given, and outlive the call.
        unsafe { set_attributes(directory.as_raw_fd(), &raw const attributes) }?;
        Ok(())
    }

    /// The project that a directory hands on.
    fn of(directory: &Path) -> io::Result<Option<Self>> {
        let attributes = attributes(&File::open(directory)?)?;
        let hands_on = attributes.flags & PROJECT_INHERITED != 0 && attributes.project != 0;
        Ok(hands_on.then_some(Self(attributes.project)))
    }
}

fn attributes(directory: &File) -> io::Result<Attributes> {
    let mut attributes = Attributes::default();
    // SAFETY: the kernel writes one structure of this layout, which outlives the call.
    unsafe { get_attributes(directory.as_raw_fd(), &raw mut attributes) }?;
    Ok(attributes)
}

/// Projects for a directory with this inode number. Those that mean "none" to the kernel are not among them.
fn candidates(inode: u64) -> impl Iterator<Item = Project> {
    let bytes = inode.to_le_bytes();
    let [a, b, c, d, e, f, g, h] = bytes;
    let first = u32::from_le_bytes([a, b, c, d]) ^ u32::from_le_bytes([e, f, g, h]);
    let numbers = (0..MAX_TRIES).map(move |offset| first.wrapping_add(offset));
    numbers.filter(|number| ![0, u32::MAX].contains(number)).map(Project)
}

fn no_quota() -> libc::dqblk {
    // SAFETY: it holds numbers only, for which zero is a value.
    unsafe { mem::zeroed() }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use nix::mount::{MntFlags, MsFlags, mount, umount2};

    use super::*;

    /// A small ext4 with project quotas, mounted for as long as this is there.
    struct Disk(tempfile::TempDir);

    impl Disk {
        /// `None`, with the reason printed, where it cannot be made.
        fn new() -> Option<Self> {
            let directory = tempfile::tempdir().unwrap();
            let image = directory.path().join("image");
            File::create(&image).unwrap().set_len(64 << 20).unwrap();
            fs::create_dir(directory.path().join("mount")).unwrap();
            let done = |command: &mut Command| match command.output() {
                Ok(output) if output.status.success() => true,
                output => {
                    println!("skipped: {command:?}: {output:?}");
                    false
                }
            };
            let format = ["-q", "-O", "project,quota", "-E", "quotatype=prjquota"];
            let made = done(Command::new("mkfs.ext4").args(format).arg(&image))
                && done(
                    Command::new("mount").args(["-o", "loop,prjquota"]).arg(&image).arg(directory.path().join("mount")),
                );
            made.then_some(Self(directory))
        }

        fn root(&self) -> std::path::PathBuf {
            self.0.path().join("mount")
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            let _ = umount2(&self.root(), MntFlags::MNT_DETACH);
        }
    }

    /// An overlay of a sandbox's kind over nothing, mounted for as long as this is there.
    struct Overlay(std::path::PathBuf);

    impl Overlay {
        fn new(directory: &Path) -> Self {
            for name in ["lower", "upper", "work", "merged"] {
                fs::create_dir(directory.join(name)).unwrap();
            }
            let at = |name: &str| format!("{}={}", name, directory.join(name.trim_end_matches("dir")).display());
            let options = ["lowerdir", "upperdir", "workdir"].map(at).join(",");
            let merged = directory.join("merged");
            mount(Some("overlay"), &merged, Some("overlay"), MsFlags::empty(), Some(options.as_str())).unwrap();
            Self(merged)
        }
    }

    impl Drop for Overlay {
        fn drop(&mut self) {
            let _ = umount2(&self.0, MntFlags::MNT_DETACH);
        }
    }

    #[test]
    fn even_root_cannot_write_beyond_the_bound_and_a_neighbour_can() {
        let Some(disk) = Disk::new() else { return };
        let quotas = Quotas::open(&disk.root()).unwrap().unwrap();
        let [small, large] = ["small", "large"].map(|name| disk.root().join(name));
        for (directory, bytes) in [(&small, 1 << 20), (&large, 8 << 20)] {
            fs::create_dir(directory).unwrap();
            let project = quotas.project(directory).unwrap();
            project.adopt(directory).unwrap();
            quotas.bound(project, bytes).unwrap();
            assert_eq!(Project::of(directory).unwrap(), Some(project));
        }
        assert_ne!(Project::of(&small).unwrap(), Project::of(&large).unwrap());
        let content = vec![1; 2 << 20];
        let overlay = Overlay::new(&small);
        let error = fs::write(overlay.0.join("file"), &content).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EDQUOT));
        let kept = fs::metadata(overlay.0.join("file")).unwrap().len();
        assert!(kept <= 1 << 20, "{kept}");
        let overlay = Overlay::new(&large);
        fs::write(overlay.0.join("file"), &content).unwrap();
    }

    #[test]
    fn files_without_content_are_bounded_too() {
        let Some(disk) = Disk::new() else { return };
        let quotas = Quotas::open(&disk.root()).unwrap().unwrap();
        let project = quotas.project(&disk.root().join("lost+found")).unwrap();
        let directory = disk.root().join("directory");
        fs::create_dir(&directory).unwrap();
        project.adopt(&directory).unwrap();
        quotas.bound(project, 1 << 20).unwrap();
        let overlay = Overlay::new(&directory);
        let created = (0..2 * LEAST_FILES).take_while(|n| File::create(overlay.0.join(n.to_string())).is_ok()).count();
        assert!((900..1024).contains(&created), "{created}");
    }

    #[test]
    fn a_project_in_use_is_passed_over_and_a_lifted_one_is_free_again() {
        let Some(disk) = Disk::new() else { return };
        let quotas = Quotas::open(&disk.root()).unwrap().unwrap();
        let directory = disk.root().join("directory");
        fs::create_dir(&directory).unwrap();
        let project = quotas.project(&directory).unwrap();
        quotas.bound(project, 1 << 20).unwrap();
        let next = Project(project.0 + 1);
        assert_eq!(quotas.project(&directory).unwrap(), next);
        next.adopt(&directory).unwrap();
        quotas.bound(next, 1 << 20).unwrap();
        assert_eq!(quotas.project(&directory).unwrap(), Project(project.0 + 2));
        quotas.lift(&directory).unwrap();
        assert!(!quotas.is_free(next).unwrap(), "the directory still carries it");
        fs::remove_dir(&directory).unwrap();
        assert!(quotas.is_free(next).unwrap());
        quotas.lift(&directory).unwrap();
    }

    #[test]
    fn a_project_is_never_one_that_means_none() {
        let first = |inode| candidates(inode).next().unwrap();
        assert_eq!(first(12_345), Project(12_345));
        assert_eq!(first(0), Project(1));
        assert_eq!(first(u64::from(u32::MAX)), Project(1));
        assert_eq!(first(0x7_0000_0001), Project(6));
        assert_eq!(first(0x5_0000_0005), Project(1));
        assert_eq!(candidates(7).count(), 16);
    }

    #[test]
    fn a_file_system_without_project_quotas_is_told_apart() {
        assert!(Quotas::open(Path::new("/proc")).unwrap().is_none());
        assert_eq!(Quotas::open(Path::new("/nowhere")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<Attributes>(), 28);
        assert_eq!(size_of::<State>(), 80);
        assert_eq!(mem::offset_of!(State, flags), 2);
    }
}
