//! Replacing a file at once: what is written goes to a file without a name, which takes the name when it is whole.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, fchmod, fstat, fstatat};
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, linkat, unlinkat};

use super::Fault;
use super::root::{Place, Root, check_regular, info, magic_link, open_regular, split};
use crate::guest::wire::{self, FileInfo};

/// Mode of a file that replaces none.
const DEFAULT_MODE: u32 = 0o644;

/// Of the mode, what a file takes over from the one that it replaces. Not the set-user-ID bit and its kin: the owner may be
/// another, and the content is.
const INHERITED_MODE: u32 = 0o777;

/// Random names that are tried before giving up.
const MAX_TRIES: usize = 16;

/// A file on the way. Dropping it leaves the old file as it is, and nothing beside it.
#[derive(Debug)]
pub struct Replacement {
    path: Vec<u8>,
    place: Place,
    file: OwnedFd,
    /// Its name in the directory of `place`; `None` as long as it has none.
    temporary: Option<Vec<u8>>,
}

impl Replacement {
    /// Begins to replace the file at a path.
    ///
    /// # Errors
    /// `EISDIR`; [`Fault::NotRegular`]; those of openat2(2), and of writing for `append`.
    pub fn begin(root: &Root, request: &wire::Replace) -> Result<(Self, FileInfo), Fault> {
        if request.create_parents
            && let Some((parent, _)) = split(&request.path)
        {
            root.make_directories(parent, 0o755)?;
        }
        let place = root.place_of_file(&request.path)?;
        let old = regular_at(&place)?;
        let inherited = old.map_or(DEFAULT_MODE, |old| old.st_mode & INHERITED_MODE);
        let mode = Mode::from_bits_truncate(request.mode.unwrap_or(inherited));
        let (file, temporary) = create(&place.dir, mode)?;
        let replacement = Self { path: request.path.clone(), place, file, temporary };
        if let Some(old) = &old {
            keep_owner(&replacement.file, old)?;
        }
        // The umask may have narrowed it, and a new owner takes bits away.
        fchmod(&replacement.file, mode)?;
        if request.append && old.is_some() {
            replacement.copy_old()?;
        }
        let info = info(&fstat(&replacement.file)?, request.path.clone(), Vec::new());
        Ok((replacement, info))
    }

    /// Another descriptor of the file, at the same position.
    ///
    /// # Errors
    /// Those of dup(2).
    pub fn file(&self) -> Result<OwnedFd, Errno> {
        self.file.try_clone().map_err(errno)
    }

    /// Gives the file its name. A file that has it loses it.
    ///
    /// # Errors
    /// As [`Replacement::begin`]; the old file is as it was.
    pub fn commit(mut self) -> Result<FileInfo, Fault> {
        let replaces = regular_at(&self.place)?.is_some();
        if self.temporary.is_none() {
            // Without an old file it gets the name itself, and there is no moment at which a kill would leave litter.
            let linked =
                if replaces { Err(Errno::EEXIST) } else { link(&self.file, &self.place.dir, &self.place.name) };
            match linked {
                Ok(()) => return self.info(),
                Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno.into()),
            }
            let name = with_random_name(|name| link(&self.file, &self.place.dir, name))?.1;
            self.temporary = Some(name);
        }
        if let Some(name) = &self.temporary {
            renameat(&self.place.dir, name.as_slice(), &self.place.dir, self.place.name.as_slice())?;
        }
        self.temporary = None;
        self.info()
    }

    fn info(&mut self) -> Result<FileInfo, Fault> {
        Ok(info(&fstat(&self.file)?, std::mem::take(&mut self.path), Vec::new()))
    }

    /// Copies the content of the file that is to be replaced; inside the kernel, or shared, where that is possible.
    fn copy_old(&self) -> Result<(), Fault> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let old = openat(&self.place.dir, self.place.name.as_slice(), flags, Mode::empty())?;
        let mut old = File::from(open_regular(&old)?);
        let mut new = File::from(self.file()?);
        io::copy(&mut old, &mut new).map_err(errno)?;
        Ok(())
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if let Some(name) = &self.temporary {
            // If it cannot be removed there is nobody to tell.
            let _ = unlinkat(&self.place.dir, name.as_slice(), UnlinkatFlags::NoRemoveDir);
        }
    }
}

/// Gives a file to the owner of the one that it replaces, if this user may give files away; else it stays the user's.
fn keep_owner(file: &OwnedFd, old: &FileStat) -> Result<(), Errno> {
    let new = fstat(file)?;
    if (new.st_uid, new.st_gid) == (old.st_uid, old.st_gid) {
        return Ok(());
    }
    match fchown(file, Some(Uid::from_raw(old.st_uid)), Some(Gid::from_raw(old.st_gid))) {
        // EINVAL: an owner that this sandbox has no number for.
        Ok(()) | Err(Errno::EPERM | Errno::EINVAL) => Ok(()),
        Err(errno) => Err(errno),
    }
}

/// The regular file at a place, or nothing.
fn regular_at(place: &Place) -> Result<Option<FileStat>, Fault> {
    match fstatat(&place.dir, place.name.as_slice(), AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => check_regular(&stat).map(|()| Some(stat)),
        Err(Errno::ENOENT) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes a file without a name; where the file system has no such thing, one with a temporary name.
fn create(dir: &OwnedFd, mode: Mode) -> Result<(OwnedFd, Option<Vec<u8>>), Errno> {
    match openat(dir, ".", OFlag::O_TMPFILE | OFlag::O_WRONLY | OFlag::O_CLOEXEC, mode) {
        Ok(file) => Ok((file, None)),
        Err(Errno::EOPNOTSUPP | Errno::EISDIR | Errno::EINVAL) => create_named(dir, mode),
        Err(errno) => Err(errno),
    }
}

fn create_named(dir: &OwnedFd, mode: Mode) -> Result<(OwnedFd, Option<Vec<u8>>), Errno> {
    let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
    with_random_name(|name| openat(dir, name, flags, mode)).map(|(file, name)| (file, Some(name)))
}

/// Gives a file that was made without a name one that is free.
fn link(file: &OwnedFd, dir: &OwnedFd, name: &[u8]) -> Result<(), Errno> {
    linkat(AT_FDCWD, magic_link(file).as_str(), dir, name, AtFlags::AT_SYMLINK_FOLLOW)
}

/// Tries names like `.hands-0123abcd` until one is free.
///
/// # Errors
/// Those of `action`.
pub fn with_random_name<T>(mut action: impl FnMut(&[u8]) -> Result<T, Errno>) -> Result<(T, Vec<u8>), Errno> {
    for _ in 0..MAX_TRIES {
        let name = format!(".hands-{:08x}", random()).into_bytes();
        match action(&name) {
            Err(Errno::EEXIST) => {}
            result => return result.map(|value| (value, name)),
        }
    }
    Err(Errno::EEXIST)
}

fn random() -> u32 {
    let mut bytes = [0_u8; 4];
    // SAFETY: getrandom(2) writes at most as many bytes as the buffer is said to hold. If it fails, the name is a poor
    // one, and is still only used if it is free.
    unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), bytes.len(), 0) };
    u32::from_ne_bytes(bytes)
}

fn errno(error: io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;

    #[test]
    fn without_nameless_files_a_named_one_takes_its_place_and_leaves_no_litter() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::at(directory.path());
        for commit in [false, true] {
            let place = root.place(b"/f").unwrap();
            let (file, temporary) = create_named(&place.dir, Mode::from_bits_truncate(0o600)).unwrap();
            assert!(temporary.as_ref().unwrap().starts_with(b".hands-"));
            let replacement = Replacement { path: b"/f".to_vec(), place, file, temporary };
            File::from(replacement.file().unwrap()).write_all(b"new").unwrap();
            if commit {
                assert_eq!(replacement.commit().unwrap().size, 3);
            }
        }
        let names: Vec<_> = fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["f"]);
    }
}
