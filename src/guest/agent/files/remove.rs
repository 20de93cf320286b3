//! Removing, by descriptors and without ever following a symlink.
//!
//! A tree may be deeper than there are descriptors, stack or memory for, and may change meanwhile. So the walk holds at
//! most [`MAX_OPEN`] directories; what lies deeper is moved up beside the top, and removed from there.

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, open, renameat2};
use nix::sys::stat::{FchmodatFlags, Mode, SFlag, fchmodat, fstatat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::replace::with_random_name;
use super::root::{Place, kind};

/// Directories open at once.
const MAX_OPEN: usize = 64;

/// Names of a directory held at once.
const BATCH: usize = 1024;

/// Times that a directory may turn out to be not empty after all, because somebody goes on filling it.
const MAX_REFILLS: usize = 64;

/// A directory that is being emptied.
#[derive(Debug)]
struct Level {
    dir: Dir,
    /// Its name in the level above.
    name: CString,
    names: Vec<CString>,
    refills: usize,
}

/// What may be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// A file or an empty directory.
    One,
    /// A directory with all it holds.
    Tree,
    /// The same, and directories that their owner has closed are opened first. For what nobody uses any more.
    AbandonedTree,
}

/// Removes a directory of the node that a sandbox has left behind, with all it holds. Nothing may be using it any more. One
/// that is not there is as good as removed.
///
/// # Errors
/// Those of unlink(2) and rmdir(2).
pub fn remove_abandoned(path: &Path) -> Result<(), Errno> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Err(Errno::EINVAL) };
    let dir = match open(parent, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()) {
        Err(Errno::ENOENT) => return Ok(()),
        dir => dir?,
    };
    match remove(&Place { dir, name: name.as_bytes().to_vec() }, Extent::AbandonedTree) {
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

/// Removes a file or directory.
///
/// # Errors
/// `ENOTEMPTY`; those of unlink(2) and rmdir(2). What was removed until then stays removed.
pub fn remove(place: &Place, extent: Extent) -> Result<(), Errno> {
    let name = CString::new(place.name.as_slice()).map_err(|_| Errno::EINVAL)?;
    let stat = fstatat(&place.dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind(&stat) != SFlag::S_IFDIR {
        return unlinkat(&place.dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir);
    }
    match unlinkat(&place.dir, name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if extent != Extent::One => {}
        result => return result,
    }
    let mut levels = vec![Level::open(&place.dir, name, extent)?];
    while let Some(level) = levels.last_mut() {
        match level.next() {
            Ok(Some(name)) => remove_entry(&mut levels, name, extent)?,
            Ok(None) | Err(Errno::ENOENT) => leave(place, &mut levels)?,
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Removes an entry of the lowest level, or goes into it. One that somebody else removes meanwhile is as good as removed;
/// one that became another thing comes again with the next batch.
fn remove_entry(levels: &mut Vec<Level>, name: CString, extent: Extent) -> Result<(), Errno> {
    let Some(level) = levels.last() else { return Ok(()) };
    match unlinkat(&level.dir, name.as_c_str(), UnlinkatFlags::NoRemoveDir) {
        Err(Errno::EISDIR) => {}
        Err(Errno::ENOENT) => return Ok(()),
        result => return result,
    }
    match unlinkat(&level.dir, name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) => {}
        Err(Errno::ENOENT) => return Ok(()),
        result => return result,
    }
    if levels.len() < MAX_OPEN {
        match Level::open(&level.dir, name, extent) {
            Ok(level) => levels.push(level),
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => {}
            Err(errno) => return Err(errno),
        }
        return Ok(());
    }
    let (from, top) = (&level.dir, &levels[0].dir);
    let free = RenameFlags::RENAME_NOREPLACE;
    match with_random_name(|fresh| renameat2(from, name.as_c_str(), top, fresh, free)) {
        Ok(_) | Err(Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// Removes the lowest level, which was found empty.
fn leave(place: &Place, levels: &mut Vec<Level>) -> Result<(), Errno> {
    let Some(mut level) = levels.pop() else { return Ok(()) };
    let parent = levels.last().map_or_else(|| place.dir.as_fd(), |parent| parent.dir.as_fd());
    match unlinkat(parent, level.name.as_c_str(), UnlinkatFlags::RemoveDir) {
        Err(Errno::ENOTEMPTY | Errno::EEXIST) if level.refills < MAX_REFILLS => {
            level.refills += 1;
            levels.push(level);
            Ok(())
        }
        Err(Errno::ENOENT) => Ok(()),
        result => result,
    }
}

impl Level {
    fn open(parent: impl AsFd, name: CString, extent: Extent) -> Result<Self, Errno> {
        if extent == Extent::AbandonedTree {
            fchmodat(&parent, name.as_c_str(), Mode::S_IRWXU, FchmodatFlags::FollowSymlink)?;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = Dir::openat(parent, name.as_c_str(), flags, Mode::empty())?;
        Ok(Self { dir, name, names: Vec::new(), refills: 0 })
    }

    /// The next name to be removed. Each batch is read from the beginning of the directory, where only what is left
    /// stands; so that moving a directory up, or removing while reading, cannot hide a name.
    fn next(&mut self) -> Result<Option<CString>, Errno> {
        if self.names.is_empty() {
            let names = self.dir.iter().map(|entry| entry.map(|entry| entry.file_name().to_owned()));
            let names = names.filter(|name| !matches!(name.as_deref().map(|name| name.to_bytes()), Ok(b"." | b"..")));
            self.names = names.take(BATCH).collect::<Result<_, _>>()?;
        }
        Ok(self.names.pop())
    }
}
