//! Messages of files connections.

use std::io;

use prost::Message;

use super::control::Done;

/// A request on a files connection. Every path is absolute, and is resolved inside the sandbox's root.
#[derive(Clone, PartialEq, Message)]
pub struct FileRequest {
    /// Whose rights are used: name, uid, name:group or uid:gid. Empty: root.
    #[prost(string, tag = "1")]
    pub user: String,
    /// What is asked.
    #[prost(oneof = "file_request::Body", tags = "2, 3, 4, 5, 6, 7, 8, 9, 10, 11")]
    pub body: Option<file_request::Body>,
}

/// Bodies of [`FileRequest`].
pub mod file_request {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// Answered by `Opened` with a descriptor open for reading.
        #[prost(message, tag = "2")]
        Open(super::Open),
        /// Answered by `Opened` with a descriptor open for writing; [`super::Commit`] must follow. If the connection ends
        /// before that, what was written is removed.
        #[prost(message, tag = "3")]
        Replace(super::Replace),
        /// Answered by `Info`.
        #[prost(message, tag = "4")]
        Commit(super::Commit),
        /// Answered by `Listing`.
        #[prost(message, tag = "5")]
        List(super::List),
        /// Answered by `Info`.
        #[prost(message, tag = "6")]
        Stat(super::Stat),
        /// Answered by `Info`.
        #[prost(message, tag = "7")]
        Mkdir(super::Mkdir),
        /// Answered by `Done`.
        #[prost(message, tag = "8")]
        Remove(super::Remove),
        /// Answered by `Info`.
        #[prost(message, tag = "9")]
        Rename(super::Rename),
        /// Answered by `Content`.
        #[prost(message, tag = "10")]
        Fetch(super::Fetch),
        /// Answered by `Done`.
        #[prost(message, tag = "11")]
        Store(super::Store),
    }
}

/// The answer to a [`FileRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct FileReply {
    /// What is said.
    #[prost(oneof = "file_reply::Body", tags = "1, 2, 3, 4, 5, 6")]
    pub body: Option<file_reply::Body>,
}

/// Bodies of [`FileReply`].
pub mod file_reply {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The file is open; its descriptor comes with the frame, but over a trunk, where [`super::Fetch`] and
        /// [`super::Store`] take its place.
        #[prost(message, tag = "1")]
        Opened(super::FileInfo),
        /// How the file stands now.
        #[prost(message, tag = "2")]
        Info(super::FileInfo),
        /// A page of entries.
        #[prost(message, tag = "3")]
        Listing(super::Listing),
        /// Done.
        #[prost(message, tag = "4")]
        Done(super::Done),
        /// It failed.
        #[prost(message, tag = "5")]
        Failed(super::FileFailed),
        /// Bytes of the open file.
        #[prost(message, tag = "6")]
        Content(super::Content),
    }
}

/// Opens a regular file for reading. Anything else is refused without being opened.
#[derive(Clone, PartialEq, Message)]
pub struct Open {
    /// Path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
}

/// Begins to replace a file: opens a nameless or temporary file in its directory.
#[derive(Clone, PartialEq, Message)]
pub struct Replace {
    /// Path of the file to be.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Permission bits; unset: those of the file that is replaced, else 0644.
    #[prost(uint32, optional, tag = "2")]
    pub mode: Option<u32>,
    /// Makes missing parents.
    #[prost(bool, tag = "3")]
    pub create_parents: bool,
    /// Begins with the content of the file that is replaced; the descriptor stands at its end.
    #[prost(bool, tag = "4")]
    pub append: bool,
}

/// Puts the file of the last [`Replace`] in its place.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Commit {}

/// Most bytes of one [`Fetch`] or [`Store`].
pub const MAX_CONTENT: usize = 1 << 20;

/// Reads from the file of the last [`Open`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Fetch {
    /// Of the first byte.
    #[prost(uint64, tag = "1")]
    pub offset: u64,
    /// Most bytes; [`MAX_CONTENT`] at most.
    #[prost(uint32, tag = "2")]
    pub length: u32,
}

/// Some bytes of a file: fewer than were asked for only at its end.
#[derive(Clone, PartialEq, Message)]
pub struct Content {
    /// The bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
}

/// Writes on, where the last [`Replace`] or [`Store`] has ended; [`MAX_CONTENT`] bytes at most.
#[derive(Clone, PartialEq, Message)]
pub struct Store {
    /// The bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub bytes: Vec<u8>,
}

/// Lists entries in order: by path, component by component, bytewise; a parent before its children.
#[derive(Clone, PartialEq, Message)]
pub struct List {
    /// Where to begin.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Levels below `path`; 0 is `path` itself.
    #[prost(uint32, tag = "2")]
    pub depth: u32,
    /// Also names that begin with a dot.
    #[prost(bool, tag = "3")]
    pub hidden: bool,
    /// Most entries.
    #[prost(uint32, tag = "4")]
    pub limit: u32,
    /// Only entries after this one: a path relative to `path`. Empty: from the first.
    #[prost(bytes = "vec", tag = "5")]
    pub after: Vec<u8>,
}

/// Asks how a file stands.
#[derive(Clone, PartialEq, Message)]
pub struct Stat {
    /// Path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Follows a symlink at the end.
    #[prost(bool, tag = "2")]
    pub follow: bool,
}

/// Makes a directory.
#[derive(Clone, PartialEq, Message)]
pub struct Mkdir {
    /// Path.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// Permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Makes missing parents, and is content if the directory is there.
    #[prost(bool, tag = "3")]
    pub parents: bool,
}

/// Removes a file or directory.
#[derive(Clone, PartialEq, Message)]
pub struct Remove {
    /// Path; a symlink is removed itself.
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// With all it holds.
    #[prost(bool, tag = "2")]
    pub recursive: bool,
}

/// Renames a file or directory.
#[derive(Clone, PartialEq, Message)]
pub struct Rename {
    /// From this path.
    #[prost(bytes = "vec", tag = "1")]
    pub from: Vec<u8>,
    /// To this path.
    #[prost(bytes = "vec", tag = "2")]
    pub to: Vec<u8>,
    /// Replaces what is there.
    #[prost(bool, tag = "3")]
    pub replace: bool,
}

/// A page of entries.
#[derive(Clone, PartialEq, Message)]
pub struct Listing {
    /// Entries, in order, each a [`FileInfo`] with its length before it. No repeated field, because two bytes of that
    /// can become a hundred in memory: [`Listing::decode_entries`] stops at a bound.
    #[prost(bytes = "vec", tag = "1")]
    pub entries: Vec<u8>,
    /// There are more after the last one.
    #[prost(bool, tag = "2")]
    pub more: bool,
}

impl Listing {
    /// Puts an entry at the end.
    pub fn push(&mut self, entry: &FileInfo) {
        entry.encode_length_delimited(&mut self.entries).expect("a Vec grows");
    }

    /// The entries, `bound` at most.
    ///
    /// # Errors
    /// `InvalidData` if there are more, or something else.
    pub fn decode_entries(&self, bound: usize) -> io::Result<Vec<FileInfo>> {
        let (mut rest, mut entries) = (self.entries.as_slice(), Vec::new());
        while !rest.is_empty() {
            if entries.len() == bound {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "more entries than were asked for"));
            }
            let entry = FileInfo::decode_length_delimited(&mut rest);
            entries.push(entry.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?);
        }
        Ok(entries)
    }
}

/// How a file stands.
#[derive(Clone, PartialEq, Message)]
pub struct FileInfo {
    /// Absolute path; in a [`Listing`], the path relative to the listed one (empty for that one itself).
    #[prost(bytes = "vec", tag = "1")]
    pub path: Vec<u8>,
    /// `st_mode`: type and permission bits.
    #[prost(uint32, tag = "2")]
    pub mode: u32,
    /// Bytes.
    #[prost(uint64, tag = "3")]
    pub size: u64,
    /// Seconds since 1970.
    #[prost(int64, tag = "4")]
    pub mtime: i64,
    /// And nanoseconds.
    #[prost(uint32, tag = "5")]
    pub mtime_nanos: u32,
    /// Owner.
    #[prost(uint32, tag = "6")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, tag = "7")]
    pub gid: u32,
    /// Of a symlink: where it points.
    #[prost(bytes = "vec", tag = "8")]
    pub target: Vec<u8>,
}

/// A file request failed and has changed nothing.
#[derive(Clone, PartialEq, Message)]
pub struct FileFailed {
    /// Why.
    #[prost(enumeration = "FileFault", tag = "1")]
    pub fault: i32,
    /// The kernel's word, or 0.
    #[prost(int32, tag = "2")]
    pub errno: i32,
}

/// Why a file request failed, where the errno does not say it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FileFault {
    /// The errno says it.
    Errno = 0,
    /// Neither a regular file nor a directory.
    NotRegular = 1,
    /// There is no such user.
    User = 2,
    /// The request is malformed or out of turn.
    Request = 3,
    /// The sandbox has no room for the thread that a connection takes; the errno says why.
    NoThread = 4,
}
