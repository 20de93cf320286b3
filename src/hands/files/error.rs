//! Why something with a file failed.

use std::io;

use nix::errno::Errno;
use nix::libc;

use crate::guest::wire::FileFault;

/// Why something with a file failed. Each variant is one `ErrorReason` of the API; each names the path.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "every variant has the path and the kernel's word, and nothing to add")]
pub enum FileError {
    /// No such file or directory.
    #[error("{path}: no such file or directory")]
    NotFound { path: String, errno: i32 },
    /// Something is there already.
    #[error("{path}: exists already")]
    Exists { path: String, errno: i32 },
    /// The sandbox's user may not do this.
    #[error("{path}: the user may not do this")]
    Permission { path: String, errno: i32 },
    /// A directory where a file was expected.
    #[error("{path}: is a directory")]
    IsDirectory { path: String, errno: i32 },
    /// A file where a directory was expected.
    #[error("{path}: is no directory")]
    NotDirectory { path: String, errno: i32 },
    /// A FIFO, socket or device.
    #[error("{path}: is no regular file")]
    NotRegular { path: String },
    /// The directory has entries.
    #[error("{path}: the directory is not empty")]
    NotEmpty { path: String, errno: i32 },
    /// The path holds NUL, is empty or too long, winds through too many symlinks, or names nothing that this can be done
    /// to ("/", ".", "..").
    #[error("{path}: {}", invalid(*errno))]
    PathInvalid { path: String, errno: i32 },
    /// No space or quota is left.
    #[error("{path}: no space is left")]
    DiskFull { path: String, errno: i32 },
    /// The bytes that came have another checksum than announced. Nothing was changed.
    #[error("{path}: the bytes that came have another SHA-256 than announced")]
    ChecksumMismatch { path: String },
    /// The sandbox has no such user or group.
    #[error("{path}: the sandbox has no such user")]
    UserNotFound { path: String, errno: i32 },
    /// The token is of no page of this path.
    #[error("{path}: the page token is not of this path")]
    PageTokenInvalid { path: String },
    /// As many operations as are allowed at once are under way, and none ended soon enough.
    #[error("{path}: too many file operations at once")]
    Busy { path: String },
    /// The sandbox has as many processes and threads as it may have, and files take one.
    #[error("{path}: the sandbox has no room for another thread")]
    NoThread { path: String, errno: i32 },
    /// The guest went away, did not answer in time, or broke the protocol. What was asked may be done or not.
    #[error("{path}: the guest did not answer")]
    Lost {
        path: String,
        #[source]
        source: io::Error,
    },
    /// Another error of the file system.
    #[error("{path}: {}", Errno::from_raw(*errno))]
    Other { path: String, errno: i32 },
}

impl FileError {
    /// What the guest's word means.
    pub(super) fn from_guest(path: &str, fault: i32, errno: i32) -> Self {
        let path = path.to_owned();
        match FileFault::try_from(fault) {
            Ok(FileFault::Errno) => Self::from_errno(path, errno),
            Ok(FileFault::NotRegular) => Self::NotRegular { path },
            Ok(FileFault::User) => Self::UserNotFound { path, errno },
            Ok(FileFault::NoThread) => Self::NoThread { path, errno },
            // The daemon makes no malformed requests: one of the two sides has a fault.
            Ok(FileFault::Request) | Err(_) => Self::Other { path, errno: libc::EPROTO },
        }
    }

    /// What the kernel's word means.
    pub(super) fn from_errno(path: String, errno: i32) -> Self {
        match errno {
            libc::ENOENT => Self::NotFound { path, errno },
            libc::EEXIST => Self::Exists { path, errno },
            libc::EACCES | libc::EPERM | libc::EROFS => Self::Permission { path, errno },
            libc::EISDIR => Self::IsDirectory { path, errno },
            libc::ENOTDIR => Self::NotDirectory { path, errno },
            libc::ENOTEMPTY => Self::NotEmpty { path, errno },
            libc::EINVAL | libc::ENAMETOOLONG | libc::ELOOP => Self::PathInvalid { path, errno },
            libc::ENOSPC | libc::EDQUOT => Self::DiskFull { path, errno },
            _ => Self::Other { path, errno },
        }
    }

    /// What an error on an open file means.
    pub(super) fn from_io(path: &str, error: &io::Error) -> Self {
        Self::from_errno(path.to_owned(), error.raw_os_error().unwrap_or(libc::EIO))
    }

    /// The guest went away or misbehaves.
    pub(super) fn lost(path: &str, source: impl Into<io::Error>) -> Self {
        Self::Lost { path: path.to_owned(), source: source.into() }
    }

    /// The kernel's word, if it has said one.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::NotFound { errno, .. }
            | Self::Exists { errno, .. }
            | Self::Permission { errno, .. }
            | Self::IsDirectory { errno, .. }
            | Self::NotDirectory { errno, .. }
            | Self::NotEmpty { errno, .. }
            | Self::PathInvalid { errno, .. }
            | Self::DiskFull { errno, .. }
            | Self::UserNotFound { errno, .. }
            | Self::NoThread { errno, .. }
            | Self::Other { errno, .. } => Some(*errno).filter(|errno| *errno != 0),
            Self::NotRegular { .. }
            | Self::ChecksumMismatch { .. }
            | Self::PageTokenInvalid { .. }
            | Self::Busy { .. }
            | Self::Lost { .. } => None,
        }
    }
}

/// What is wrong with a path.
fn invalid(errno: i32) -> &'static str {
    match errno {
        libc::ENAMETOOLONG => "the path or a name in it is too long",
        libc::ELOOP => "the path winds through too many symlinks, or through one that is not followed",
        _ => "the path is empty, holds NUL, or names nothing that this can be done to",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The variant's name.
    fn name(error: &FileError) -> String {
        format!("{error:?}").split([' ', '{']).next().unwrap().to_owned()
    }

    #[test]
    fn every_errno_has_its_variant_and_keeps_its_number() {
        let table = [
            (libc::ENOENT, "NotFound"),
            (libc::EEXIST, "Exists"),
            (libc::EACCES, "Permission"),
            (libc::EPERM, "Permission"),
            (libc::EROFS, "Permission"),
            (libc::EISDIR, "IsDirectory"),
            (libc::ENOTDIR, "NotDirectory"),
            (libc::ENOTEMPTY, "NotEmpty"),
            (libc::EINVAL, "PathInvalid"),
            (libc::ENAMETOOLONG, "PathInvalid"),
            (libc::ELOOP, "PathInvalid"),
            (libc::ENOSPC, "DiskFull"),
            (libc::EDQUOT, "DiskFull"),
            (libc::EIO, "Other"),
            (libc::EBUSY, "Other"),
        ];
        for (errno, variant) in table {
            let error = FileError::from_guest("/f", FileFault::Errno.into(), errno);
            assert_eq!((name(&error).as_str(), error.errno()), (variant, Some(errno)));
        }
    }

    #[test]
    fn the_guests_own_faults_have_theirs() {
        let of = |fault: i32| FileError::from_guest("/f", fault, 0);
        assert_eq!(name(&of(FileFault::NotRegular.into())), "NotRegular");
        assert_eq!(name(&of(FileFault::User.into())), "UserNotFound");
        assert_eq!(of(FileFault::User.into()).errno(), None);
        assert_eq!(name(&of(FileFault::Request.into())), "Other");
        assert_eq!(name(&of(77)), "Other");
    }
}
