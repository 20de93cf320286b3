//! Messages of the control connection.

use prost::Message;

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
    #[prost(oneof = "to_guest::Body", tags = "3, 4, 5, 6, 7, 8, 9, 10, 11, 12")]
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
        /// Answered by `SocketMade` or `Refused`.
        #[prost(message, tag = "9")]
        MakeSocket(super::MakeSocket),
        /// Answered by `SocketMade` or `Refused`.
        #[prost(message, tag = "10")]
        Listen(super::Listen),
        /// Answered by `SocketMade` or `Refused`.
        #[prost(message, tag = "11")]
        Connect(super::Connect),
        /// Answered by `Done` or `Refused`.
        #[prost(message, tag = "12")]
        Resize(super::Resize),
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
    #[prost(oneof = "from_guest::Body", tags = "3, 4, 5, 6, 7, 8, 9")]
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
        /// A socket was made.
        #[prost(message, tag = "9")]
        SocketMade(super::SocketMade),
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
    /// Of a run whose output is carried by a trunk: its channels, stdout's for both ways of a terminal. No descriptors come
    /// with it then.
    #[prost(message, optional, tag = "10")]
    pub channels: Option<Channels>,
}

/// The channels of a run. The guest makes its pipes.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Channels {
    /// Of stdin, if it has one.
    #[prost(uint32, tag = "1")]
    pub stdin: u32,
    /// Of stdout.
    #[prost(uint32, tag = "2")]
    pub stdout: u32,
    /// Of stderr.
    #[prost(uint32, tag = "3")]
    pub stderr: u32,
}

/// Size of a terminal in characters.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
#[cfg_attr(feature = "daemon", derive(serde::Serialize, serde::Deserialize))]
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

/// Makes a TCP socket, neither bound nor connected. A socket stays in the network of whoever made it, so that what the
/// daemon connects with it, it connects from inside the sandbox.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct MakeSocket {
    /// For IPv6; else for IPv4.
    #[prost(bool, tag = "1")]
    pub ipv6: bool,
}

/// Listens on a port of the loopback. The guest keeps the socket, so that connections wait while there is no daemon, and
/// hands out the same one whenever it is asked for.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Listen {
    /// 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub port: u32,
}

/// Connects to a port of the loopback, where no socket gets out: what comes back is one whose bytes are carried. Only of
/// a guest behind a trunk; others have [`MakeSocket`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct Connect {
    /// 1 to 65535.
    #[prost(uint32, tag = "1")]
    pub port: u32,
    /// The channel of the connection, which the relay chooses.
    #[prost(uint32, tag = "2")]
    pub channel: u32,
}

/// Gives the terminal of a run another size. Of a terminal whose master the daemon has, it needs not ask.
#[derive(Clone, PartialEq, Message)]
pub struct Resize {
    /// The run.
    #[prost(string, tag = "1")]
    pub run: String,
    /// The size; always set.
    #[prost(message, optional, tag = "2")]
    pub size: Option<PtySize>,
}

/// A socket was made. Brings it.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SocketMade {}

/// A run has begun. Brings the terminal's master, if one was asked for, or a socket that stands for it.
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
    /// Making a socket, listening on it, or connecting it.
    Socket = 10,
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
    /// Of a run whose output is carried by a trunk: how much of it was there by then.
    #[prost(message, optional, tag = "3")]
    pub written: Option<Written>,
}

/// How many bytes of a run's output have to have come through a trunk before its end is told: all that were written
/// before it. `u64::MAX` is all until the channel is over.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Written {
    /// Of stdout.
    #[prost(uint64, tag = "1")]
    pub stdout: u64,
    /// Of stderr.
    #[prost(uint64, tag = "2")]
    pub stderr: u64,
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
