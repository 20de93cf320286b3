//! The program that is PID 1 of every sandbox.
//!
//! One thread, one poll loop: it accepts connections, starts runs, reaps every process that ends, and tells the daemon
//! how runs ended. Output does not pass through it. File requests block on file systems that the sandbox controls, so
//! each of their connections gets a thread of its own.
//!
//! | file | owns |
//! |---|---|
//! | `control` | the connection to the daemon: frames in, frames out |
//! | `runs` | which runs there are; starting, signalling, reaping them, handing them to the next daemon |
//! | `ends` | the pipes and terminals of runs |
//! | `spawn` | one process, from fork to exec |
//! | `keeper` | a subreaper above a run that has no cgroup |
//! | `users` | /etc/passwd and /etc/group |
//! | `files` | file requests |
//! | `options` | what it is started with |
//! | `stdio` | the trunk that takes the socket's place where no socket leads in |
//! | `workspace` | the sandbox's working directory |
//! | `seccomp` | a second system call filter, for runs |
//! | `sockets` | sockets inside the sandbox's network, handed to the daemon |
//! | `ports` | the same where no socket gets out: connections whose bytes the trunk carries |
//!
//! Nobody in the sandbox can get at it: it is not dumpable, so that it cannot be traced and its descriptors cannot be
//! opened; the kernel drops signals to PID 1 that it has no handler for (pid_namespaces(7)); and it talks only to
//! processes from outside its PID namespace.
//!
//! The daemon may die at any moment, and its runs go on: the guest keeps the other ends of their pipes and how they ended
//! until a daemon releases them. A new control connection takes the place of the old one.
//!
//! To be frozen takes nothing from it that a wake would have to give back: it has no timer, and asks the kernel for every
//! random number.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::socket::sockopt::{PeerCredentials, ReceiveTimeout};
use nix::sys::socket::{Backlog, SockFlag, accept4, getsockopt, listen, setsockopt};
use nix::sys::stat::{Mode, umask};
use nix::sys::time::{TimeVal, TimeValLike};

use super::trunk::{Happened, Place};
use super::wire::{self, Hello, Listen, Purpose, Receiver, Step, Welcome, to_guest};
use control::{Control, Request};
use files::Content;
use runs::Runs;
use sockets::Sockets;
use stdio::{Spot, Stdio};

pub use options::Options;

pub(super) mod control;
pub(super) mod ends;
pub mod files;
mod keeper;
pub mod options;
mod ports;
mod runs;
mod seccomp;
mod sockets;
pub(super) mod spawn;
mod stdio;
pub mod users;
pub mod workspace;

/// How long a new connection may take to say what it is for. The daemon says it with its first write.
const HELLO_SECONDS: i64 = 2;

/// Threads for file requests at once. The daemon asks for fewer; above it, connections are closed.
const MAX_FILE_THREADS: usize = 64;

/// The descriptor on which the guest finds its socket if it is not told to make one.
const LISTENER: RawFd = 3;

/// Serves; returns only what made it impossible.
pub fn start(options: &Options) -> io::Error {
    match Agent::new(options) {
        Ok(mut agent) => agent.run(),
        Err(error) => error,
    }
}

/// A unix socket at a path, where whoever looks for it finds it only when it can be connected to. In the sandbox only
/// root may.
pub(super) fn listen_at(path: &Path) -> io::Result<OwnedFd> {
    let unfinished = path.with_extension("new");
    for stale in [path, &unfinished] {
        match fs::remove_file(stale) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let mask = umask(Mode::from_bits_truncate(0o077));
    let listener = UnixListener::bind(&unfinished);
    umask(mask);
    let listener = OwnedFd::from(listener?);
    listen(&listener, Backlog::MAXCONN)?;
    fs::rename(unfinished, path)?;
    Ok(listener)
}

struct Agent {
    door: Door,
    signals: SignalFd,
    control: Option<Control>,
    runs: Runs,
    sockets: Sockets,
    file_threads: Vec<thread::JoinHandle<()>>,
}

/// How the daemon comes in.
enum Door {
    /// By a socket that listens.
    Listener(OwnedFd),
    /// By a trunk.
    Trunk(Box<Stdio>),
}

impl Door {
    fn open(options: &Options) -> io::Result<Self> {
        let listener = match &options.listen {
            _ if options.stdio => return Ok(Self::Trunk(Box::new(Stdio::take_over()?))),
            Some(path) => listen_at(path)?,
            // SAFETY: whoever starts us without a path passes a socket here, and nothing else has touched it.
            None => unsafe { OwnedFd::from_raw_fd(LISTENER) },
        };
        // Runs must not inherit it.
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        // Listening only now makes this process the one that peers see (SO_PEERCRED in unix(7)).
        listen(&listener, Backlog::MAXCONN)?;
        Ok(Self::Listener(listener))
    }

    fn trunk(&self) -> Option<&Stdio> {
        match self {
            Self::Trunk(stdio) => Some(stdio),
            Self::Listener(_) => None,
        }
    }
}

impl Agent {
    fn new(options: &Options) -> io::Result<Self> {
        prctl::set_dumpable(false)?;
        if options.deny_clone3 {
            seccomp::forbid_new_privileges()?;
        }
        if let Some(path) = &options.workspace {
            workspace::make(path, &options.user)?;
        }
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let runs = Runs::new(options.deny_clone3)?;
        let sockets = Sockets::default();
        let door = Door::open(options)?;
        Ok(Self { door, signals, control: None, runs, sockets, file_threads: Vec::new() })
    }

    fn run(&mut self) -> io::Error {
        loop {
            if let Err(error) = self.turn() {
                return error;
            }
        }
    }

    /// Waits until something has happened and deals with it. Errors are those that leave nothing to serve.
    fn turn(&mut self) -> io::Result<()> {
        let ready = self.wait()?;
        if ready.child {
            while self.signals.read_signal()?.is_some() {}
            self.runs.reap(&mut self.control, self.door.trunk());
        }
        self.runs.hear_keepers(&mut self.control, self.door.trunk());
        if ready.control {
            self.hear();
        }
        if ready.connection {
            self.accept();
        }
        self.serve_trunk(&ready.spots)
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(self.signals.as_fd(), PollFlags::POLLIN)];
        let control = self.control.as_ref().map(|control| {
            fds.push(PollFd::new(control.socket(), control.interest()));
            fds.len() - 1
        });
        fds.extend(self.runs.keepers().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        let (first, mut spots) = (fds.len(), Vec::new());
        match &self.door {
            Door::Listener(listener) => fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN)),
            Door::Trunk(stdio) => {
                for (spot, fd, flags) in stdio.interests() {
                    spots.push(spot);
                    fds.push(PollFd::new(fd, flags));
                }
            }
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(true));
        let connection = spots.is_empty() && is_ready(first);
        let mut index = first;
        spots.retain(|_| {
            index += 1;
            is_ready(index - 1)
        });
        Ok(Ready { connection, child: is_ready(0), control: control.is_some_and(is_ready), spots })
    }

    /// Moves what can be moved in a trunk, and opens the connections that came by it. A trunk that ends leaves nothing to
    /// serve: nobody could ever reach this sandbox again.
    fn serve_trunk(&mut self, spots: &[Spot]) -> io::Result<()> {
        let mut opened = Vec::new();
        if let Door::Trunk(stdio) = &mut self.door {
            for spot in spots {
                stdio.serve(*spot, self.control.as_mut())?;
            }
            while let Some(happened) = stdio.trunk.happened() {
                if let Happened::Opened(open) = happened {
                    opened.push((open.purpose(), stdio.connection(open)?));
                }
            }
            stdio.trunk.serve(Place::Output)?;
        }
        for (purpose, socket) in opened {
            self.admit(purpose, socket, Receiver::default());
        }
        Ok(())
    }

    /// Serves what the daemon asks; forgets the connection when it is over. The runs go on.
    fn hear(&mut self) {
        let Some(mut control) = self.control.take() else { return };
        let mut result = control.flush();
        while result.is_ok() {
            result = control.read();
            while let Some(mut request) = control.next() {
                if let Err(error) = self.lend(&mut request) {
                    control.refuse(request.number, Step::Fork, error.raw_os_error().unwrap_or(libc::EINVAL));
                    continue;
                }
                self.serve(&mut control, request);
            }
        }
        if result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) && !control.is_over() {
            self.control = Some(control);
        }
    }

    fn serve(&mut self, control: &mut Control, request: Request) {
        let number = request.number;
        match request.body {
            Some(to_guest::Body::MakeSocket(make)) => self.sockets.make(control, number, make),
            Some(to_guest::Body::Listen(listen)) => self.listen(control, number, listen),
            Some(to_guest::Body::Connect(connect)) => match &mut self.door {
                Door::Trunk(stdio) => stdio.ports.connect(control, number, connect),
                Door::Listener(_) => control.refuse(number, Step::Request, 0),
            },
            Some(to_guest::Body::Spawn(ref spawn)) => {
                let run = spawn.run.clone();
                self.runs.serve(control, request);
                if let Door::Trunk(stdio) = &mut self.door {
                    stdio.settle(&run, self.runs.kept(&run));
                }
            }
            _ => self.runs.serve(control, request),
        }
    }

    /// Whoever cannot be handed the listener gets what comes to it.
    fn listen(&mut self, control: &mut Control, number: u64, listen: Listen) {
        let listener = self.sockets.listen(control, number, listen);
        if let (Door::Trunk(stdio), Some((port, listener))) = (&mut self.door, listener) {
            stdio.ports.accept_at(port, listener);
        }
    }

    /// Makes what would have come with a request, were it not for the trunk.
    fn lend(&mut self, request: &mut Request) -> io::Result<()> {
        let Door::Trunk(stdio) = &mut self.door else { return Ok(()) };
        match &request.body {
            Some(to_guest::Body::Spawn(spawn)) => {
                if let Some(channels) = spawn.channels {
                    request.fds = stdio.lend(spawn, channels)?;
                }
            }
            Some(to_guest::Body::Release(release)) => stdio.forget(&release.run),
            _ => {}
        }
        Ok(())
    }

    fn accept(&mut self) {
        use std::os::fd::AsRawFd;
        let Door::Listener(listener) = &self.door else { return };
        let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // Whoever else that was, the connection is closed by dropping it.
        if is_outside(socket.as_fd()).unwrap_or(false)
            && let Ok((purpose, receiver)) = greet(&socket)
        {
            self.admit(purpose, socket, receiver);
        }
    }

    fn admit(&mut self, purpose: Purpose, socket: OwnedFd, receiver: Receiver) {
        match purpose {
            Purpose::Control => {
                self.control = Control::new(socket, receiver).ok();
                if let Door::Trunk(stdio) = &mut self.door {
                    stdio.ports.forget_questions();
                }
            }
            Purpose::Files => self.serve_files(socket, receiver),
            Purpose::Unspecified => {}
        }
    }

    fn serve_files(&mut self, socket: OwnedFd, receiver: Receiver) {
        self.file_threads.retain(|thread| !thread.is_finished());
        if self.file_threads.len() >= MAX_FILE_THREADS {
            return;
        }
        let Ok(answers) = socket.try_clone() else { return };
        let content = if self.door.trunk().is_some() { Content::Told } else { Content::Passed };
        match thread::Builder::new().stack_size(FILE_STACK).spawn(move || files::serve(socket, receiver, content)) {
            Ok(thread) => self.file_threads.push(thread),
            // The sandbox is full of processes. Whoever asks hears it as the answer to his first request.
            Err(error) => files::refuse(&answers, &error),
        }
    }
}

/// Stack of a thread for file requests, in bytes: they hold a path and a page of entries, both on the heap.
const FILE_STACK: usize = 256 << 10;

struct Ready {
    connection: bool,
    child: bool,
    control: bool,
    /// Of the trunk.
    spots: Vec<Spot>,
}

/// Hears what a connection is for.
pub(super) fn greet(socket: &OwnedFd) -> io::Result<(Purpose, Receiver)> {
    setsockopt(socket, ReceiveTimeout, &TimeVal::seconds(HELLO_SECONDS))?;
    let mut receiver = Receiver::default();
    let hello: Option<Hello> = receiver.wait(socket.as_fd())?;
    let purpose = hello.map_or(Purpose::Unspecified, |hello| hello.purpose());
    setsockopt(socket, ReceiveTimeout, &TimeVal::seconds(0))?;
    wire::send_all(socket.as_fd(), &wire::frame(&Welcome { version: wire::VERSION })?, &[])?;
    Ok((purpose, receiver))
}

/// A peer outside our PID namespace has no process id in it, and the kernel shows 0 (pid_namespaces(7)).
fn is_outside(socket: BorrowedFd<'_>) -> nix::Result<bool> {
    Ok(getsockopt(&socket, PeerCredentials)?.pid() == 0)
}
