//! The directory that a layer is unpacked into.
//!
//! Names and links in an archive are hostile, so no path is ever given to the kernel from the top: each step is taken by
//! openat2(2) below the descriptor of the root. Symbolic links of the layer itself are followed as if the layer were the
//! whole file system (`RESOLVE_IN_ROOT`), as a container engine would in a chroot; they lead nowhere else. The last
//! component of a name is never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2, readlink};
use nix::sys::stat::{FileStat, Mode, SFlag, fchmod, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{LinkatFlags, UnlinkatFlags, linkat, symlinkat, unlinkat};
use xattr::FileExt as _;

use super::ImageError;
use super::settings::Ownership;

/// Directories below one another. Deeper trees would make trouble for whoever removes them: removal holds a descriptor a
/// level.
pub(super) const MAX_DEPTH: usize = 256;

/// openat2(2) gives up when something is renamed anywhere while it follows a "..": it is asked again this often.
const RENAME_RACES: usize = 64;

/// Of a directory that is in names only.
const IMPLIED: Mode = Mode::from_bits_truncate(0o755);

const DIRECTORY: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_CLOEXEC);

/// What has a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Nothing,
    Directory,
    Whiteout,
    Other,
}

/// A directory that nothing is written out of.
pub(super) struct Root {
    directory: OwnedFd,
    /// Where it is, to tell how deep below it something is.
    path: PathBuf,
    opaque: &'static str,
}

impl Root {
    pub(super) fn open(path: &Path, ownership: Ownership) -> Result<Self, ImageError> {
        let open = || -> io::Result<(OwnedFd, PathBuf)> {
            let directory = File::open(path)?;
            Ok((OwnedFd::from(directory), path.canonicalize()?))
        };
        let (directory, path) = open().map_err(|error| ImageError::io(format!("open {}", path.display()), error))?;
        Ok(Self { directory, path, opaque: ownership.opaque_attribute() })
    }

    /// The directory at `path`, made with all its parents if it is missing.
    pub(super) fn reach(&self, path: &Path) -> Result<OwnedFd, ImageError> {
        match self.follow(path) {
            Err(Errno::ENOENT | Errno::ENOTDIR) => {
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(fault("open the root of", path, Errno::ENOENT));
                };
                let parent = self.reach(parent)?;
                self.make_directory(&parent, name, path)
            }
            found => found.map_err(|errno| fault("open directory", path, errno)),
        }
    }

    /// The directory at `path`, if there is one.
    pub(super) fn find(&self, path: &Path) -> Result<OwnedFd, ImageError> {
        self.follow(path).map_err(|errno| fault("open directory", path, errno))
    }

    fn follow(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let how = OpenHow::new().flags(DIRECTORY);
        let straight = how.resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
        match openat2(&self.directory, path, straight) {
            Err(Errno::ELOOP) => {}
            opened => return opened,
        }
        let linked = how.resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        let mut opened = openat2(&self.directory, path, linked);
        for _ in 0..RENAME_RACES {
            if !matches!(opened, Err(Errno::EAGAIN)) {
                break;
            }
            opened = openat2(&self.directory, path, linked);
        }
        // The depth of the name says nothing about the depth of the directory once links are followed.
        let opened = opened?;
        let place = PathBuf::from(readlink(format!("/proc/self/fd/{}", opened.as_raw_fd()).as_str())?);
        let below = place.strip_prefix(&self.path).map_err(|_| Errno::EXDEV)?;
        if below.components().count() > MAX_DEPTH { Err(Errno::ENAMETOOLONG) } else { Ok(opened) }
    }

    /// Opens the directory `name` in `parent`, which is made if there is none. In the place of a whiteout comes a
    /// directory that hides the one below it.
    pub(super) fn make_directory(&self, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<OwnedFd, ImageError> {
        let make = || mkdirat(parent, name, IMPLIED).map_err(|errno| fault("make directory", path, errno));
        let found = look(parent, name, path)?;
        match found {
            Found::Directory => {}
            Found::Nothing => make()?,
            Found::Whiteout => {
                remove(parent, name, path)?;
                make()?;
            }
            Found::Other => return Err(fault("make directory", path, Errno::ENOTDIR)),
        }
        let directory = openat(parent, name, DIRECTORY | OFlag::O_NOFOLLOW, Mode::empty())
            .map_err(|errno| fault("open directory", path, errno))?;
        if found != Found::Directory {
            // Whatever the umask of the daemon.
            fchmod(&directory, IMPLIED).map_err(|errno| fault("set the mode of", path, errno))?;
        }
        if found == Found::Whiteout { self.make_opaque(directory, path) } else { Ok(directory) }
    }

    /// Marks a directory, so that nothing of the same directory in lower layers is seen.
    pub(super) fn make_opaque(&self, directory: OwnedFd, path: &Path) -> Result<OwnedFd, ImageError> {
        let directory = File::from(directory);
        directory
            .set_xattr(self.opaque, b"y")
            .map_err(|error| ImageError::io(format!("set {} on {}", self.opaque, shown(path)), error))?;
        Ok(directory.into())
    }
}

/// What `name` in `parent` is, links not followed.
pub(super) fn look(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<Found, ImageError> {
    match fstatat(parent, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Err(Errno::ENOENT) => Ok(Found::Nothing),
        Err(errno) => Err(fault("look at", path, errno)),
        Ok(stat) => Ok(kind(&stat)),
    }
}

fn kind(stat: &FileStat) -> Found {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFDIR => Found::Directory,
        SFlag::S_IFCHR if stat.st_rdev == makedev(0, 0) => Found::Whiteout,
        _ => Found::Other,
    }
}

/// Removes what is at `name`, so that a later entry takes its place. A directory must be empty: no honest layer replaces
/// a full one.
pub(super) fn remove(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ImageError> {
    let removed = match unlinkat(parent, name, UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => unlinkat(parent, name, UnlinkatFlags::RemoveDir),
        removed => removed,
    };
    removed.map_err(|errno| fault("replace", path, errno))
}

/// Makes an empty file that only we can open until its mode is set.
pub(super) fn create(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<File, ImageError> {
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let file = openat(parent, name, flags, Mode::from_bits_truncate(0o600));
    file.map(File::from).map_err(|errno| fault("create", path, errno))
}

/// Makes a symbolic link; where it leads is for whoever follows it.
pub(super) fn link_symbolically(target: &OsStr, parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ImageError> {
    symlinkat(target, parent, name).map_err(|errno| fault("link", path, errno))
}

/// A place for a file: the directory, and the name in it.
pub(super) type Place<'a> = (&'a OwnedFd, &'a OsStr);

/// Makes another name for what is at `target`, be it a symbolic link itself.
pub(super) fn link(target: Place<'_>, link: Place<'_>, path: &Path) -> Result<(), ImageError> {
    linkat(target.0, target.1, link.0, link.1, LinkatFlags::empty()).map_err(|errno| match errno {
        Errno::ENOENT | Errno::EPERM => refused(path, "is a hard link to what is no file of this layer"),
        errno => fault("link", path, errno),
    })
}

/// Makes the mark that overlayfs reads as "not here any more". It needs no privilege since Linux 5.8.
pub(super) fn white_out(parent: &OwnedFd, name: &OsStr, path: &Path) -> Result<(), ImageError> {
    mknodat(parent, name, SFlag::S_IFCHR, Mode::empty(), makedev(0, 0)).map_err(|errno| fault("white out", path, errno))
}

/// A name from an archive, fit for a log.
pub(super) fn shown(path: &Path) -> String {
    path.to_string_lossy().escape_debug().to_string()
}

pub(super) fn refused(path: &Path, why: &str) -> ImageError {
    ImageError::invalid(format!("layer entry \"{}\" {why}", shown(path)))
}

/// Some errors can only come from what the archive asks for; the others are the host's.
pub(super) fn fault(step: &str, path: &Path, errno: Errno) -> ImageError {
    let why = match errno {
        Errno::ENOENT => "leads to what is not in the layer",
        Errno::ENOTDIR => "goes through what is no directory",
        Errno::ELOOP => "goes through symbolic links in a circle",
        Errno::ENAMETOOLONG => "has too long a name or lies too deep",
        Errno::EMLINK => "has too many hard links",
        Errno::ENOTEMPTY => "would replace a directory that is not empty",
        Errno::EXDEV => "leads out of the layer",
        errno => return ImageError::io(format!("{step} {}", shown(path)), errno),
    };
    refused(path, why)
}
