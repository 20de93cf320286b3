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
//! | `workspace` | the sandbox's working directory |
//! | `seccomp` | a second system call filter, for runs |
//! | `sockets` | sockets inside the sandbox's network, handed to the daemon |
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

use super::wire::{self, Hello, Purpose, Receiver, Welcome, to_guest};
use control::Control;
use runs::Runs;
use sockets::Sockets;

pub use options::Options;

mod control;
mod ends;
pub mod files;
mod keeper;
pub mod options;
mod runs;
mod seccomp;
mod sockets;
mod spawn;
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
fn listen_at(path: &Path) -> io::Result<OwnedFd> {
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
    listener: OwnedFd,
    signals: SignalFd,
    control: Option<Control>,
    runs: Runs,
    sockets: Sockets,
    file_threads: Vec<thread::JoinHandle<()>>,
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
        let listener = match &options.listen {
            Some(path) => listen_at(path)?,
            // SAFETY: whoever starts us without a path passes a socket here, and nothing else has touched it.
            None => unsafe { OwnedFd::from_raw_fd(LISTENER) },
        };
        // Runs must not inherit it.
        fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGCHLD);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // Listening only now makes this process the one that peers see (SO_PEERCRED in unix(7)).
        listen(&listener, Backlog::MAXCONN)?;
        let runs = Runs::new(options.deny_clone3)?;
        let sockets = Sockets::default();
        Ok(Self { listener, signals, control: None, runs, sockets, file_threads: Vec::new() })
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
            self.runs.reap(&mut self.control);
        }
        self.runs.hear_keepers(&mut self.control);
        if ready.control {
            self.hear();
        }
        if ready.connection {
            self.accept();
        }
        Ok(())
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![
            PollFd::new(self.listener.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(control) = &self.control {
            fds.push(PollFd::new(control.socket(), control.interest()));
        }
        fds.extend(self.runs.keepers().map(|fd| PollFd::new(fd, PollFlags::POLLIN)));
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(true));
        Ok(Ready { connection: is_ready(0), child: is_ready(1), control: self.control.is_some() && is_ready(2) })
    }

    /// Serves what the daemon asks; forgets the connection when it is over. The runs go on.
    fn hear(&mut self) {
        let Some(mut control) = self.control.take() else { return };
        let mut result = control.flush();
        while result.is_ok() {
            result = control.read();
            while let Some(request) = control.next() {
                match request.body {
                    Some(to_guest::Body::MakeSocket(make)) => self.sockets.make(&mut control, request.number, make),
                    Some(to_guest::Body::Listen(listen)) => self.sockets.listen(&mut control, request.number, listen),
                    _ => self.runs.serve(&mut control, request),
                }
            }
        }
        if result.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock) && !control.is_over() {
            self.control = Some(control);
        }
    }

    fn accept(&mut self) {
        use std::os::fd::AsRawFd;
        let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        match greet(&socket) {
            Ok((Purpose::Control, receiver)) => self.control = Control::new(socket, receiver).ok(),
            Ok((Purpose::Files, receiver)) => self.serve_files(socket, receiver),
            // Whoever that was, the connection is closed by dropping it.
            Ok((Purpose::Unspecified, _)) | Err(_) => {}
        }
    }

    fn serve_files(&mut self, socket: OwnedFd, receiver: Receiver) {
        self.file_threads.retain(|thread| !thread.is_finished());
        if self.file_threads.len() >= MAX_FILE_THREADS {
            return;
        }
        let Ok(answers) = socket.try_clone() else { return };
        match thread::Builder::new().stack_size(FILE_STACK).spawn(move || files::serve(socket, receiver)) {
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
}

/// Checks who is there and hears what the connection is for.
fn greet(socket: &OwnedFd) -> io::Result<(Purpose, Receiver)> {
    if !is_outside(socket.as_fd())? {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
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
