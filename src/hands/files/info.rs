//! How a file stands.

use nix::sys::stat::SFlag;

use crate::guest::wire;

/// How a file stands, as the guest tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileInfo {
    /// Absolute path inside the sandbox, without a "/" at its end (but "/" itself).
    pub path: Vec<u8>,
    /// What it is.
    pub kind: FileKind,
    /// In bytes.
    pub size: u64,
    /// Permission bits, 0 to 07777.
    pub mode: u32,
    /// Last change of the content, in seconds since 1970.
    pub mtime: i64,
    /// And nanoseconds, below 1,000,000,000.
    pub mtime_nanos: u32,
    /// Of a symlink: where it points.
    pub target: Vec<u8>,
    /// Owner inside the sandbox.
    pub uid: u32,
    /// Group inside the sandbox.
    pub gid: u32,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the kernel's")]
pub enum FileKind {
    File,
    Directory,
    Symlink,
    Fifo,
    Socket,
    CharDevice,
    BlockDevice,
    /// The user may read the directory's names and no more.
    Unknown,
}

impl FileInfo {
    /// What the guest says of the file at a path, which is not empty; what it says of the path is not needed.
    pub(super) fn at(path: &[u8], info: wire::FileInfo) -> Self {
        let last = path.iter().rposition(|byte| *byte != b'/').unwrap_or_default();
        Self {
            path: path[..=last].to_vec(),
            kind: FileKind::of(info.mode),
            size: info.size,
            mode: info.mode & 0o7777,
            mtime: info.mtime,
            mtime_nanos: info.mtime_nanos.min(999_999_999),
            target: info.target,
            uid: info.uid,
            gid: info.gid,
        }
    }

    /// The last component of the path; "/" of the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let name = self.path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if name.is_empty() { &self.path } else { name }
    }
}

impl FileKind {
    fn of(mode: u32) -> Self {
        match SFlag::from_bits_truncate(mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFDIR => Self::Directory,
            SFlag::S_IFLNK => Self::Symlink,
            SFlag::S_IFIFO => Self::Fifo,
            SFlag::S_IFSOCK => Self::Socket,
            SFlag::S_IFCHR => Self::CharDevice,
            SFlag::S_IFBLK => Self::BlockDevice,
            _ => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_the_last_component() {
        for (path, shown, name) in [("/a/b/", "/a/b", "b"), ("/a", "/a", "a"), ("/", "/", "/"), ("//", "/", "/")] {
            let info = FileInfo::at(path.as_bytes(), wire::FileInfo { mode: 0o120_777, ..wire::FileInfo::default() });
            assert_eq!((info.path.as_slice(), info.name()), (shown.as_bytes(), name.as_bytes()));
            assert_eq!((info.kind, info.mode), (FileKind::Symlink, 0o777));
        }
    }
}
