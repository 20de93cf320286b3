//! The wire between daemon and guest: frames of length-prefixed protobuf on a unix stream socket, with file descriptors
//! beside them.
//!
//! A frame is a little-endian `u32` length and that many bytes of one message. Descriptors travel as `SCM_RIGHTS` with
//! the first byte of the frame that they belong to (unix(7)). A frame says how many it brings, so that they are told
//! apart from those of the next one whatever becomes of it; each message says in which order.
//! The daemon opens every connection and says [`Hello`] first, which fixes what the connection is for:
//!
//! - **control**, one at a time: [`ToGuest`] down, [`FromGuest`] up; starts runs, signals them, reports their exits, and
//!   hands them to the next daemon when one has died;
//! - **files**, many: one [`FileRequest`] at a time is answered by one [`FileReply`], in order.
//!
//! The messages are additive only, so that a newer daemon can drive the guest that an older one left behind: fields are
//! never removed or given another meaning, and [`VERSION`] grows when a daemon has to know that a field is understood.
//! Neither side trusts the other with memory: a frame above [`MAX_FRAME`] ends the connection before it is read.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::cmsg_space;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};
use prost::Message;

/// What this build speaks.
pub const VERSION: u32 = 1;

/// Longest message of a frame, in bytes. Above the largest legal [`Spawn`] (1 MiB of arguments and environment) and the
/// largest page of entries.
pub const MAX_FRAME: usize = 8 << 20;

/// Most descriptors with one frame: both ends of stdin, stdout and stderr, the run's cgroup, and room to grow.
pub const MAX_FDS: usize = 8;

/// Most runs that have ended and were not released that the guest keeps. Beyond it those that ended first are forgotten:
/// it guards against a daemon that never releases, and no daemon that died has left so many behind.
pub const MAX_ENDED: usize = 4096;

/// First message on every connection.
#[derive(Clone, PartialEq, Message)]
pub struct Hello {
    /// [`VERSION`] of the daemon.
    #[prost(uint32, tag = "1")]
    pub version: u32,
    /// What the connection is for.
    #[prost(enumeration = "Purpose", tag = "2")]
    pub purpose: i32,
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Purpose {
    /// Never sent.
    Unspecified = 0,
    /// Runs.
    Control = 1,
    /// Files.
    Files = 2,
}

/// Answers [`Hello`], on both kinds of connection.
#[derive(Clone, PartialEq, Message)]
pub struct Welcome {
    /// [`VERSION`] of the guest.
    #[prost(uint32, tag = "1")]
    pub version: u32,
}

/// A request on the control connection.
#[derive(Clone, PartialEq, Message)]
pub struct ToGuest {
    /// Chosen by the daemon; the answer carries it.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// How many descriptors come with the frame.
    #[prost(uint32, tag = "2")]
    pub fds: u32,
    /// What is asked.
    #[prost(oneof = "to_guest::Body", tags = "3, 4, 5, 6, 7, 8")]
    pub body: Option<to_guest::Body>,
}

/// Bodies of [`ToGuest`].
pub mod to_guest {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// Answered by `Spawned` or `Refused`.
        #[prost(message, tag = "3")]
        Spawn(super::Spawn),
        /// Answered by `Done` or `Refused`.
        #[prost(message, tag = "4")]
        Signal(super::Signal),
        /// Answered by `Swept`.
        #[prost(message, tag = "5")]
        Sweep(super::Sweep),
        /// Answered by `Done`.
        #[prost(message, tag = "6")]
        CloseInput(super::CloseInput),
        /// Answered by `Done`.
        #[prost(message, tag = "7")]
        Release(super::Release),
        /// Answered by one `Held` for each run, and then `Done`.
        #[prost(message, tag = "8")]
        Takeover(super::Takeover),
    }
}

/// An answer, or an event that nobody asked for ([`Exited`]).
#[derive(Clone, PartialEq, Message)]
pub struct FromGuest {
    /// Of the request that this answers; 0 for an event.
    #[prost(uint64, tag = "1")]
    pub request: u64,
    /// How many descriptors come with the frame.
    #[prost(uint32, tag = "2")]
    pub fds: u32,
    /// What is said.
    #[prost(oneof = "from_guest::Body", tags = "3, 4, 5, 6, 7, 8")]
    pub body: Option<from_guest::Body>,
}

/// Bodies of [`FromGuest`].
pub mod from_guest {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The run has begun.
        #[prost(message, tag = "3")]
        Spawned(super::Spawned),
        /// The request failed.
        #[prost(message, tag = "4")]
        Refused(super::Refused),
        /// The request is done and has nothing more to say.
        #[prost(message, tag = "5")]
        Done(super::Done),
        /// A run's leader has ended.
        #[prost(message, tag = "6")]
        Exited(super::Exited),
        /// What a sweep found.
        #[prost(message, tag = "7")]
        Swept(super::Swept),
        /// A run to take over. More answers follow.
        #[prost(message, tag = "8")]
        Held(super::Held),
    }
}

/// Starts a run. Brings, in this order:
///
/// 1. the run's ends: of stdin, if `stdin`; of stdout and stderr, unless `pty`;
/// 2. the daemon's ends of the same pipes, in the same order. The guest keeps them until [`Release`] and hands them to a
///    daemon that takes over, so that no pipe breaks when this one dies. Of a terminal it keeps the master;
/// 3. the run's cgroup directory, if `cgroup`.
#[derive(Clone, PartialEq, Message)]
pub struct Spawn {
    /// Names the run from now on. One that the guest still keeps is refused.
    #[prost(string, tag = "1")]
    pub run: String,
    /// The program and its arguments. Empty if `shell` is set.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub argv: Vec<Vec<u8>>,
    /// A line for the shell instead: bash where there is one, else sh.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub shell: Option<Vec<u8>>,
    /// `KEY=value`, the whole environment but what the user's entry gives (HOME, USER, LOGNAME) if it is missing here.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub env: Vec<Vec<u8>>,
    /// Working directory, absolute.
    #[prost(bytes = "vec", tag = "5")]
    pub cwd: Vec<u8>,
    /// name, uid, name:group or uid:gid. Empty: root.
    #[prost(string, tag = "6")]
    pub user: String,
    /// A stdin comes with the frame; else it is /dev/null.
    #[prost(bool, tag = "7")]
    pub stdin: bool,
    /// The run gets a terminal of this size; its master comes back with [`Spawned`].
    #[prost(message, optional, tag = "8")]
    pub pty: Option<PtySize>,
    /// A cgroup directory comes with the frame, in which the run is to begin. Else the guest keeps a keeper process
    /// above the run, so that [`Sweep`] finds what it leaves.
    #[prost(bool, tag = "9")]
    pub cgroup: bool,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct PtySize {
    /// Lines.
    #[prost(uint32, tag = "1")]
    pub rows: u32,
    /// Columns.
    #[prost(uint32, tag = "2")]
    pub cols: u32,
}

/// Signals the process group of a run's leader.
#[derive(Clone, PartialEq, Message)]
pub struct Signal {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
    /// Number of the signal.
    #[prost(int32, tag = "2")]
    pub signal: i32,
}

/// Signals every process below a run's keeper (of a run without a cgroup).
#[derive(Clone, PartialEq, Message)]
pub struct Sweep {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
    /// Number of the signal; 0 only looks.
    #[prost(int32, tag = "2")]
    pub signal: i32,
}

/// The guest lets go of its duplicate of the daemon's end of stdin. The run sees the end of its input when the daemon has
/// closed its own too. Of a run that is not there, or of a terminal, there is none, which is no error.
#[derive(Clone, PartialEq, Message)]
pub struct CloseInput {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
}

/// The daemon has what there was of a run: its exit and all of its output. The guest forgets it and closes what it kept.
/// A run that is not there is no error.
#[derive(Clone, PartialEq, Message)]
pub struct Release {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
}

/// Asks for all runs that were not released: those of a daemon that died.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Takeover {}

/// A run that was not released. Brings, in this order: the daemon's end of stdin, if `stdin`; its ends of stdout and
/// stderr, or the terminal's master, if `pty`. What of the output the last daemon has not read is still in them.
#[derive(Clone, PartialEq, Message)]
pub struct Held {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
    /// What its leader's process id inside the sandbox is or was.
    #[prost(int32, tag = "2")]
    pub pid: i32,
    /// How the leader ended, if it has; else [`Exited`] will tell. It may tell of one that has, too.
    #[prost(message, optional, tag = "3")]
    pub ended: Option<Ended>,
    /// It was started without a cgroup.
    #[prost(bool, tag = "4")]
    pub keeper: bool,
    /// Its stdin is open.
    #[prost(bool, tag = "5")]
    pub stdin: bool,
    /// It has a terminal.
    #[prost(bool, tag = "6")]
    pub pty: bool,
}

/// A run has begun. Brings the terminal's master, if one was asked for.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Spawned {
    /// Process id of the leader inside the sandbox.
    #[prost(int32, tag = "1")]
    pub pid: i32,
}

/// A request failed and has left nothing behind.
#[derive(Clone, PartialEq, Message)]
pub struct Refused {
    /// Where it failed.
    #[prost(enumeration = "Step", tag = "1")]
    pub step: i32,
    /// The kernel's word; 0 if the guest itself refused.
    #[prost(int32, tag = "2")]
    pub errno: i32,
}

/// Where a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum Step {
    /// A step this build does not know.
    Unspecified = 0,
    /// The request itself is malformed.
    Request = 1,
    /// Looking up the user.
    User = 2,
    /// Opening the terminal.
    Pty = 3,
    /// Making the process.
    Fork = 4,
    /// Taking on the user.
    Credentials = 5,
    /// Entering the working directory.
    Cwd = 6,
    /// Executing the program.
    Exec = 7,
    /// The run is not there, or its leader has ended.
    Gone = 8,
    /// Executing the program: it is there, and its interpreter is not.
    Interpreter = 9,
}

/// Done.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Done {}

/// A run's leader has ended.
#[derive(Clone, PartialEq, Message)]
pub struct Exited {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
    /// How; always set.
    #[prost(message, optional, tag = "2")]
    pub ended: Option<Ended>,
}

/// How a leader ended, as waitid(2) told it.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Ended {
    /// Its exit code, if it exited.
    #[prost(int32, optional, tag = "1")]
    pub code: Option<i32>,
    /// The signal that ended it otherwise.
    #[prost(int32, tag = "2")]
    pub signal: i32,
}

/// What a sweep found.
#[derive(Clone, PartialEq, Message)]
pub struct Swept {
    /// Processes that were there and got the signal.
    #[prost(message, repeated, tag = "1")]
    pub processes: Vec<Process>,
}

/// A process of the sandbox.
#[derive(Clone, PartialEq, Message)]
pub struct Process {
    /// Its id inside the sandbox.
    #[prost(int32, tag = "1")]
    pub pid: i32,
    /// Its name, as in /proc/PID/comm.
    #[prost(string, tag = "2")]
    pub name: String,
}

/// A request on a files connection. Every path is absolute, and is resolved inside the sandbox's root.
#[derive(Clone, PartialEq, Message)]
pub struct FileRequest {
    /// Whose rights are used: name, uid, name:group or uid:gid. Empty: root.
    #[prost(string, tag = "1")]
    pub user: String,
    /// What is asked.
    #[prost(oneof = "file_request::Body", tags = "2, 3, 4, 5, 6, 7, 8, 9")]
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
    }
}

/// The answer to a [`FileRequest`].
#[derive(Clone, PartialEq, Message)]
pub struct FileReply {
    /// What is said.
    #[prost(oneof = "file_reply::Body", tags = "1, 2, 3, 4, 5")]
    pub body: Option<file_reply::Body>,
}

/// Bodies of [`FileReply`].
pub mod file_reply {
    /// See the messages.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub enum Body {
        /// The file is open; its descriptor comes with the frame.
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
}

/// A message as a frame.
///
/// # Errors
/// `InvalidInput` for one above [`MAX_FRAME`].
pub fn frame(message: &impl Message) -> io::Result<Vec<u8>> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let Some(prefix) = prefix else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "frame too long"));
    };
    let mut bytes = Vec::with_capacity(4 + length);
    bytes.extend_from_slice(&prefix.to_le_bytes());
    message.encode(&mut bytes).expect("a Vec grows");
    Ok(bytes)
}

/// Sends part of a frame, with descriptors if these are its first bytes; answers how many bytes went. Never raises
/// SIGPIPE.
///
/// # Errors
/// Those of sendmsg(2), `WouldBlock` on a non-blocking socket among them: then nothing went, no descriptor either.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[RawFd]) -> io::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let control = if fds.is_empty() { &[][..] } else { &rights[..] };
    let sent = sendmsg::<()>(socket.as_raw_fd(), &[IoSlice::new(bytes)], control, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(sent)
}

/// Sends a whole frame on a blocking socket.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send_all(socket: BorrowedFd<'_>, frame: &[u8], fds: &[RawFd]) -> io::Result<()> {
    let mut sent = 0;
    while sent < frame.len() {
        match send(socket, &frame[sent..], if sent == 0 { fds } else { &[] }) {
            Ok(count) => sent += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Takes frames out of a socket: bytes and descriptors as they come in, messages as they are whole.
#[derive(Debug, Default)]
pub struct Receiver {
    bytes: Vec<u8>,
    fds: std::collections::VecDeque<OwnedFd>,
}

/// Bytes asked for at a time. Most frames are far shorter.
const READ_SIZE: usize = 16 << 10;

impl Receiver {
    /// Reads once; answers how many bytes came, 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of recvmsg(2), `WouldBlock` on a non-blocking socket among them; `InvalidData` if descriptors were lost or
    /// are more than any message brings.
    pub fn read(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        let start = self.bytes.len();
        self.bytes.resize(start + READ_SIZE, 0);
        let result = receive(socket, &mut self.bytes[start..], &mut self.fds);
        self.bytes.truncate(start + *result.as_ref().unwrap_or(&0));
        if self.fds.len() > 2 * MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more descriptors than messages"));
        }
        result
    }

    /// The next whole message, or `None` until more bytes are read.
    ///
    /// # Errors
    /// `InvalidData` for a frame that is too long or is no such message; the connection is of no use then.
    pub fn next_message<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        let Some(prefix) = self.bytes.first_chunk::<4>() else { return Ok(None) };
        let length = u32::from_le_bytes(*prefix) as usize;
        if length > MAX_FRAME {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "frame too long"));
        }
        let Some(body) = self.bytes.get(4..4 + length) else { return Ok(None) };
        let message = M::decode(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        self.bytes.drain(..4 + length);
        Ok(Some(message))
    }

    /// Reads on a blocking socket until a message is whole; `None` at the end of the stream.
    ///
    /// # Errors
    /// As [`Receiver::read`] and [`Receiver::next_message`]; `UnexpectedEof` if the stream ends within a frame.
    pub fn wait<M: Message + Default>(&mut self, socket: BorrowedFd<'_>) -> io::Result<Option<M>> {
        loop {
            if let Some(message) = self.next_message()? {
                return Ok(Some(message));
            }
            match self.read(socket) {
                Ok(0) if self.bytes.is_empty() => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// The next descriptor that came, in order.
    pub fn take_fd(&mut self) -> Option<OwnedFd> {
        self.fds.pop_front()
    }

    /// The next descriptors that came, in order: those of the message that was taken last.
    ///
    /// # Errors
    /// `InvalidData` if fewer came; the connection is of no use then.
    pub fn take_fds(&mut self, count: u32) -> io::Result<Vec<OwnedFd>> {
        let count = usize::try_from(count).unwrap_or(usize::MAX);
        if count > self.fds.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a message lacks descriptors"));
        }
        Ok(self.fds.drain(..count).collect())
    }
}

/// One recvmsg(2); descriptors come close-on-exec.
fn receive(
    socket: BorrowedFd<'_>,
    buffer: &mut [u8],
    fds: &mut std::collections::VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = cmsg_space!([RawFd; MAX_FDS]);
    let mut slices = [IoSliceMut::new(buffer)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut slices, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = control {
            // SAFETY: the kernel has just made these descriptors for this process, and nobody else knows of them.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    if message.flags.contains(MsgFlags::MSG_CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors were lost"));
    }
    Ok(message.bytes)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    fn pipe() -> (OwnedFd, OwnedFd) {
        let (read, write) = std::io::pipe().unwrap();
        (read.into(), write.into())
    }

    fn send_message(socket: &UnixStream, message: &impl Message, fds: &[RawFd]) {
        send_all(socket.as_fd(), &frame(message).unwrap(), fds).unwrap();
    }

    fn held(run: &str) -> Held {
        let ended = Some(Ended { code: None, signal: 9 });
        Held { run: run.to_owned(), pid: 7, ended, keeper: true, stdin: true, pty: false }
    }

    #[test]
    fn a_message_reads_back_with_the_descriptors_that_it_brings() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = pipe();
        let message = FromGuest { request: 3, fds: 2, body: Some(from_guest::Body::Held(held("a"))) };
        send_message(&ours, &message, &[read.as_raw_fd(), write.as_raw_fd()]);
        let mut receiver = Receiver::default();
        assert_eq!(receiver.wait::<FromGuest>(theirs.as_fd()).unwrap(), Some(message));
        let mut fds = receiver.take_fds(2).unwrap().into_iter();
        let (mut there, mut back) = (std::fs::File::from(read), std::fs::File::from(fds.nth(1).unwrap()));
        back.write_all(b"x").unwrap();
        let mut byte = [0];
        io::Read::read_exact(&mut there, &mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn descriptors_of_a_message_of_a_newer_daemon_are_not_taken_for_those_of_the_next() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, write) = pipe();
        // A body with a tag that this build does not know.
        let mut newer = ToGuest { request: 1, fds: 1, body: None }.encode_to_vec();
        newer.extend([0xfa, 0x3f, 0x00]);
        let length = u32::try_from(newer.len()).unwrap().to_le_bytes();
        send_all(ours.as_fd(), &[&length[..], &newer].concat(), &[read.as_raw_fd()]).unwrap();
        let takeover = ToGuest { request: 2, fds: 1, body: Some(to_guest::Body::Takeover(Takeover {})) };
        send_message(&ours, &takeover, &[write.as_raw_fd()]);
        let mut receiver = Receiver::default();
        let first: ToGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(first, ToGuest { request: 1, fds: 1, body: None });
        drop(receiver.take_fds(first.fds).unwrap());
        let second: ToGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(second, takeover);
        let fd = receiver.take_fds(second.fds).unwrap().remove(0);
        assert_eq!(nix::sys::stat::fstat(&fd).unwrap().st_ino, nix::sys::stat::fstat(&write).unwrap().st_ino);
        assert!(nix::unistd::write(&fd, b"x").is_ok(), "it is the write end");
    }

    #[test]
    fn a_message_that_lacks_descriptors_is_refused() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, _write) = pipe();
        let message = FromGuest { request: 3, fds: u32::MAX, body: None };
        send_message(&ours, &message, &[read.as_raw_fd()]);
        let mut receiver = Receiver::default();
        let message: FromGuest = receiver.wait(theirs.as_fd()).unwrap().unwrap();
        assert_eq!(receiver.take_fds(message.fds).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn more_descriptors_than_messages_bring_end_the_connection() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (read, _write) = pipe();
        let fds = [read.as_raw_fd(); MAX_FDS];
        let mut receiver = Receiver::default();
        for _ in 0..2 {
            send(ours.as_fd(), b"x", &fds).unwrap();
            receiver.read(theirs.as_fd()).unwrap();
        }
        send(ours.as_fd(), b"x", &fds).unwrap();
        assert_eq!(receiver.read(theirs.as_fd()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn requests_and_answers_read_back() {
        let run = "run".to_owned();
        let requests = [
            to_guest::Body::CloseInput(CloseInput { run: run.clone() }),
            to_guest::Body::Release(Release { run: run.clone() }),
            to_guest::Body::Takeover(Takeover {}),
        ];
        for body in requests {
            let message = ToGuest { request: 9, fds: 0, body: Some(body) };
            assert_eq!(ToGuest::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
        for ended in [None, Some(Ended { code: Some(0), signal: 0 }), Some(Ended { code: None, signal: 15 })] {
            let message = Held { ended, ..held("run") };
            assert_eq!(Held::decode(message.encode_to_vec().as_slice()).unwrap(), message);
        }
    }
}
