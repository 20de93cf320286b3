//! The sandbox's root: every path is resolved beneath it, whatever symlinks and `..` say.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat};

use super::Fault;
use crate::guest::wire::FileInfo;

/// As the kernel's own bound on symlinks in one path.
const MAX_SYMLINKS: usize = 40;

/// openat2(2) gives up if a `..` meets a rename or mount that happens meanwhile; another try succeeds unless somebody
/// does that all the time.
const MAX_TRIES: usize = 64;

/// Permission bits, without the type.
const PERMISSIONS: u32 = 0o7777;

/// A directory that is the root of every path.
#[derive(Debug)]
pub struct Root(OwnedFd);

/// A name in a directory, the thing itself being there or not.
#[derive(Debug)]
pub struct Place {
    /// The directory, opened with `O_PATH`.
    pub dir: OwnedFd,
    /// One component, neither empty nor "." nor "..".
    pub name: Vec<u8>,
}

impl Root {
    /// The root of this process.
    ///
    /// # Errors
    /// Those of open(2).
    pub fn open() -> Result<Self, Errno> {
        open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty()).map(Self)
    }

    /// Any other directory.
    #[cfg(test)]
    pub(crate) fn at(directory: &std::path::Path) -> Self {
        Self(File::open(directory).expect("the test has made it").into())
    }

    /// Opens what is at a path.
    ///
    /// # Errors
    /// Those of openat2(2): `EINVAL` for a NUL, `ENAMETOOLONG` from 4,096 bytes on, `ELOOP` for a magic link of /proc.
    pub fn resolve(&self, path: &[u8], flags: OFlag) -> Result<OwnedFd, Errno> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        for _ in 0..MAX_TRIES {
            match openat2(&self.0, path, how) {
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }

    /// Opens a regular file for reading. Nothing else is ever opened: a FIFO would wait, and a device act.
    ///
    /// # Errors
    /// [`Fault::NotRegular`]; `EISDIR`; those of openat2(2).
    pub fn open_regular(&self, path: &[u8]) -> Result<OwnedFd, Fault> {
        open_regular(&self.resolve(path, OFlag::O_PATH)?)
    }

    /// The content of a small file.
    ///
    /// # Errors
    /// `EFBIG` above `bound`; `EINVAL` if it is no regular file; those of openat2(2) and read(2).
    pub fn read(&self, path: &[u8], bound: usize) -> Result<Vec<u8>, Errno> {
        let file = self.open_regular(path).map_err(|fault| match fault {
            Fault::Errno(errno) => errno,
            Fault::NotRegular | Fault::User(_) | Fault::Request => Errno::EINVAL,
        })?;
        let mut content = Vec::new();
        let result = File::from(file).take(bound as u64 + 1).read_to_end(&mut content);
        result.map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        if content.len() > bound { Err(Errno::EFBIG) } else { Ok(content) }
    }

    /// The place that a path names, a symlink at its end not followed.
    ///
    /// # Errors
    /// `EINVAL` if the path ends in no name; those of openat2(2).
    pub fn place(&self, path: &[u8]) -> Result<Place, Errno> {
        let (parent, name) = split(path).ok_or(Errno::EINVAL)?;
        let dir = self.resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        Ok(Place { dir, name: name.to_vec() })
    }

    /// The place that a path names, symlinks at its end followed, even if what they point to is not there.
    ///
    /// # Errors
    /// `EISDIR` if the path can only be a directory; `ELOOP`; those of openat2(2).
    pub fn place_of_file(&self, path: &[u8]) -> Result<Place, Errno> {
        let mut path = path.to_vec();
        for _ in 0..MAX_SYMLINKS {
            if path.ends_with(b"/") {
                return Err(Errno::EISDIR);
            }
            let (parent, name) = split(&path).ok_or(Errno::EISDIR)?;
            let dir = self.resolve(parent, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
            match readlinkat(&dir, name) {
                Ok(target) if target.as_encoded_bytes().starts_with(b"/") => path = target.into_vec(),
                Ok(target) => path = [parent, b"/", target.as_encoded_bytes()].concat(),
                // Not a symlink, or nothing.
                Err(Errno::EINVAL | Errno::ENOENT) => return Ok(Place { dir, name: name.to_vec() }),
                Err(errno) => return Err(errno),
            }
        }
        Err(Errno::ELOOP)
    }

    /// Makes a directory and the parents that are missing, and is content with those that are there. `mode` is for the
    /// last one; the parents get 0755.
    ///
    /// # Errors
    /// Those of openat2(2) and mkdir(2): `EEXIST` or `ENOTDIR` if something else is in the way.
    pub fn make_directories(&self, path: &[u8], mode: u32) -> Result<(), Errno> {
        let mut parent = match self.resolve(path, OFlag::O_PATH | OFlag::O_DIRECTORY) {
            Err(Errno::ENOENT) => self.resolve(b"/", OFlag::O_PATH | OFlag::O_DIRECTORY)?,
            result => return result.map(drop),
        };
        let trimmed = trim_slashes(path);
        let ends = (1..=trimmed.len()).filter(|end| *end == trimmed.len() || trimmed[*end] == b'/');
        for end in ends.filter(|end| trimmed[end - 1] != b'/') {
            // The whole prefix each time, so that `..` and symlinks mean what they mean to everybody else.
            let prefix = &trimmed[..end];
            parent = match self.resolve(prefix, OFlag::O_PATH | OFlag::O_DIRECTORY) {
                Err(Errno::ENOENT) => {
                    let name = split(prefix).ok_or(Errno::ENOENT)?.1;
                    make_directory(&parent, name, if end == trimmed.len() { mode } else { 0o755 })?
                }
                result => result?,
            };
        }
        Ok(())
    }
}

/// Makes one directory, with exactly this mode whatever the umask. Somebody may have made it just before.
fn make_directory(dir: &OwnedFd, name: &[u8], mode: u32) -> Result<OwnedFd, Errno> {
    match mkdirat(dir, name, Mode::from_bits_truncate(mode)) {
        Ok(()) => set_mode(dir, name, mode)?,
        Err(Errno::EEXIST) => {}
        Err(errno) => return Err(errno),
    }
    openat(dir, name, OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())
}

/// Gives a directory that was just made its mode, which the umask may have narrowed.
///
/// # Errors
/// Those of openat(2) and chmod(2).
pub fn set_mode(dir: &OwnedFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let made = openat(dir, name, flags, Mode::empty())?;
    let stat = fstat(&made)?;
    // A directory takes the set-group-ID bit from its parent.
    let wanted = (mode & PERMISSIONS) | (stat.st_mode & Mode::S_ISGID.bits());
    if stat.st_mode & PERMISSIONS == wanted {
        return Ok(());
    }
    let mode = Mode::from_bits_truncate(wanted);
    fchmodat(AT_FDCWD, magic_link(&made).as_str(), mode, FchmodatFlags::FollowSymlink)
}

/// Opens for reading what was opened with `O_PATH`, if it is a regular file.
///
/// # Errors
/// [`Fault::NotRegular`]; `EISDIR`; those of open(2).
pub fn open_regular(path: &OwnedFd) -> Result<OwnedFd, Fault> {
    let seen = fstat(path)?;
    check_regular(&seen)?;
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = open(magic_link(path).as_str(), flags, Mode::empty())?;
    // /proc is a mount of the sandbox and could be another thing by now.
    let opened = fstat(&file)?;
    if (opened.st_dev, opened.st_ino) == (seen.st_dev, seen.st_ino) { Ok(file) } else { Err(Fault::NotRegular) }
}

/// Refuses all but regular files.
///
/// # Errors
/// `EISDIR` for a directory, else [`Fault::NotRegular`].
pub fn check_regular(stat: &FileStat) -> Result<(), Fault> {
    match kind(stat) {
        SFlag::S_IFREG => Ok(()),
        SFlag::S_IFDIR => Err(Fault::Errno(Errno::EISDIR)),
        _ => Err(Fault::NotRegular),
    }
}

/// The path by which this process can open or link a descriptor of its own once more.
pub fn magic_link(fd: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// Type of a file.
pub fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

/// How a name in a directory stands, a symlink itself.
///
/// # Errors
/// Those of fstatat(2).
pub fn info_at(dir: impl AsFd, name: &[u8], path: Vec<u8>) -> Result<FileInfo, Errno> {
    let stat = fstatat(&dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let is_symlink = kind(&stat) == SFlag::S_IFLNK;
    // One that is gone or no symlink any more simply points nowhere.
    let target = if is_symlink { readlinkat(&dir, name).unwrap_or_default().into_vec() } else { Vec::new() };
    Ok(info(&stat, path, target))
}

/// The wire's word for a stat(2).
pub fn info(stat: &FileStat, path: Vec<u8>, target: Vec<u8>) -> FileInfo {
    FileInfo {
        path,
        mode: stat.st_mode,
        size: u64::try_from(stat.st_size).unwrap_or_default(),
        mtime: stat.st_mtime,
        mtime_nanos: u32::try_from(stat.st_mtime_nsec).unwrap_or_default(),
        uid: stat.st_uid,
        gid: stat.st_gid,
        target,
    }
}

/// Parent and last component; `None` if there is no last component that names something in its parent.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let trimmed = trim_slashes(path);
    let start = trimmed.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    let (parent, name) = trimmed.split_at(start);
    let parent = if parent.is_empty() { b"/" } else { parent };
    (!matches!(name, b"" | b"." | b"..")).then_some((parent, name))
}

fn trim_slashes(path: &[u8]) -> &[u8] {
    let end = path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    &path[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_split_into_parent_and_name() {
        assert_eq!(split(b"/a/b"), Some((&b"/a/"[..], &b"b"[..])));
        assert_eq!(split(b"/a//b//"), Some((&b"/a//"[..], &b"b"[..])));
        assert_eq!(split(b"/a"), Some((&b"/"[..], &b"a"[..])));
        for path in [&b""[..], b"/", b"//", b"/a/.", b"/a/..", b"/a/../"] {
            assert_eq!(split(path), None, "{path:?}");
        }
    }

    #[test]
    fn a_file_above_the_bound_is_refused_and_not_cut() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("f"), "12345").unwrap();
        let root = Root::at(directory.path());
        assert_eq!(root.read(b"/f", 5), Ok(b"12345".to_vec()));
        assert_eq!(root.read(b"/f", 4), Err(Errno::EFBIG));
        assert_eq!(root.read(b"/", 4), Err(Errno::EISDIR));
    }
}
