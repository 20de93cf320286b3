//! The program that stands on the node for a guest that no unix socket leads to.
//!
//! It attaches to the container's stdin and stdout, which are a [`trunk`](super::trunk), and listens in the guest's
//! place. To the daemon it is the guest: the descriptors that come with a request to start a run stay here, and what the
//! guest cannot do from where it is, it refuses.
//!
//! It is a process of its own, one for each sandbox, because it has to outlive the daemon as the guest does: it holds the
//! pipes of runs, and what of their output is on its way. It ends when the container does; when it is ended itself, the
//! guest ends too, and the sandbox with it.
//!
//! | file | owns |
//! |---|---|
//! | `attach` | the stream, from Docker |
//! | `runs` | the pipes and terminals of runs, and which ends may be told yet |
//! | `ports` | connections to ports inside, and from inside |

use std::ffi::OsString;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::PathBuf;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{SockFlag, accept4};

use super::agent::control::{Control, Request};
use super::agent::{greet, listen_at};
use super::trunk::{Envelope, Flow, Happened, Place, Trunk};
use super::wire::trunk::{CONNECTIONS_SINCE, GUESTS, Open};
use super::wire::{self, FromGuest, Purpose, Receiver, Step, ToGuest, from_guest, to_guest};
use ports::Ports;
use runs::Runs;

mod attach;
mod ports;
mod runs;

/// The program's first argument.
pub const COMMAND: &str = "relay";
/// Docker's socket.
pub const DOCKER: &str = "--docker";
/// The container's name.
pub const CONTAINER: &str = "--container";
/// Where to listen.
pub const LISTEN: &str = "--listen";
/// A directory for further sockets.
pub const PLACE: &str = "--place";

/// What it says on its stdout when it has attached: the container may be started then.
pub const ATTACHED: &str = "attached\n";

/// What it is started with.
#[derive(Debug, Default)]
struct Options {
    docker: PathBuf,
    container: String,
    listen: PathBuf,
    place: PathBuf,
}

impl Options {
    fn parse(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let value = arguments.next().ok_or(io::ErrorKind::InvalidInput)?;
            match argument.to_str() {
                Some(DOCKER) => options.docker = value.into(),
                Some(CONTAINER) => {
                    options.container = value.into_string().map_err(|_| io::ErrorKind::InvalidInput)?;
                }
                Some(LISTEN) => options.listen = value.into(),
                Some(PLACE) => options.place = value.into(),
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(options)
    }
}

/// Serves until the container has ended, which is no error.
///
/// # Errors
/// Whatever keeps it from that.
pub fn run(arguments: impl Iterator<Item = OsString>) -> io::Result<()> {
    let options = Options::parse(arguments)?;
    let stream = attach::attach(&options.docker, &options.container)?;
    let mut stdout = io::stdout();
    stdout.write_all(ATTACHED.as_bytes())?;
    stdout.flush()?;
    let input = stream.socket.try_clone()?;
    let mut envelope = Envelope::docker();
    let mut receiver = Receiver::default();
    envelope.open(&stream.rest, &mut receiver)?;
    let trunk = Trunk::new(input.into(), stream.socket.into(), envelope, receiver)?;
    match Relay::begin(trunk, &options).and_then(|mut relay| relay.serve()) {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(()),
        result => result,
    }
}

struct Relay {
    trunk: Trunk,
    listener: OwnedFd,
    daemon: Option<Daemon>,
    runs: Runs,
    ports: Ports,
    /// The version of the guest, which may be older than this.
    version: u32,
    last_channel: u32,
}

/// The control connection of the daemon that there is now.
struct Daemon {
    control: Control,
    channel: u32,
    /// What the guest says on it.
    answers: Receiver,
}

struct Ready {
    connection: bool,
    control: bool,
    places: Vec<Place>,
}

impl Relay {
    /// Listens once the guest serves.
    fn begin(mut trunk: Trunk, options: &Options) -> io::Result<Self> {
        let version = loop {
            if let Some(Happened::Ready(ready)) = trunk.happened() {
                break ready.version;
            }
            let mut fds = [PollFd::new(trunk.input(), PollFlags::POLLIN)];
            match poll(&mut fds, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            trunk.serve(Place::Input)?;
        };
        let listener = listen_at(&options.listen)?;
        let ports = Ports::new(options.place.clone());
        Ok(Self { trunk, listener, daemon: None, runs: Runs::new()?, ports, version, last_channel: 0 })
    }

    fn serve(&mut self) -> io::Result<()> {
        loop {
            let ready = self.wait()?;
            for place in ready.places {
                self.trunk.serve(place)?;
            }
            self.hear_guest()?;
            if ready.control {
                self.hear_daemon();
            }
            if ready.connection {
                self.accept();
            }
            self.trunk.serve(Place::Output)?;
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(self.listener.as_fd(), PollFlags::POLLIN)];
        // While the trunk is full the daemon waits, and is not looked at: its end would be told again and again.
        let control = self.daemon.as_ref().filter(|daemon| self.trunk.has_room(daemon.channel));
        if let Some(Daemon { control, .. }) = control {
            fds.push(PollFd::new(control.socket(), control.interest()));
        }
        let (first, mut places) = (fds.len(), Vec::new());
        for (place, fd, flags) in self.trunk.interests() {
            places.push(place);
            fds.push(PollFd::new(fd, flags));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        let is_ready = |index: usize| fds.get(index).is_some_and(|fd| fd.any().unwrap_or(true));
        let mut index = first;
        places.retain(|_| {
            index += 1;
            is_ready(index - 1)
        });
        Ok(Ready { connection: is_ready(0), control: control.is_some() && is_ready(1), places })
    }

    /// A channel that no other ever had.
    fn next_channel(&mut self) -> u32 {
        self.last_channel = self.last_channel.wrapping_add(1) % GUESTS;
        self.last_channel
    }

    fn accept(&mut self) {
        let Ok(fd) = accept4(self.listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC) else { return };
        // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        // Whoever that was, the connection is closed by dropping it.
        let Ok((purpose, receiver)) = greet(&socket) else { return };
        let channel = self.next_channel();
        let opened = match purpose {
            Purpose::Control => self.admit(socket, receiver, channel),
            Purpose::Files => self.trunk.join(channel, socket, Flow::Both).map(|()| receiver.into_rest()),
            Purpose::Unspecified => return,
        };
        if let Ok(said) = opened {
            self.trunk.say_open(Open { channel, purpose: purpose.into() });
            self.trunk.send(channel, &said);
        }
    }

    /// A daemon takes the place of the one before.
    fn admit(&mut self, socket: OwnedFd, receiver: Receiver, channel: u32) -> io::Result<Vec<u8>> {
        let control = Control::new(socket, receiver)?;
        self.dismiss();
        self.trunk.hold(channel)?;
        self.daemon = Some(Daemon { control, channel, answers: Receiver::default() });
        Ok(Vec::new())
    }

    /// The daemon is gone. Its runs go on.
    fn dismiss(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.trunk.close(daemon.channel);
            self.runs.forget_questions();
            self.ports.forget_questions(&mut self.trunk);
        }
    }

    /// Passes on what the daemon asks.
    fn hear_daemon(&mut self) {
        let Some(mut daemon) = self.daemon.take() else { return };
        let mut result = daemon.control.flush();
        while result.is_ok() && self.trunk.has_room(daemon.channel) {
            result = daemon.control.read();
            while let Some(request) = daemon.control.next() {
                let number = request.number;
                match self.prepare(request) {
                    Ok(message) => {
                        let frame = wire::frame(&message).expect("it came as a frame that was hardly shorter");
                        self.trunk.send(daemon.channel, &frame);
                    }
                    Err((step, errno)) => daemon.control.refuse(number, step, errno as i32),
                }
            }
        }
        let is_alive = result.as_ref().err().is_none_or(|error| error.kind() == io::ErrorKind::WouldBlock);
        let is_over = !is_alive || daemon.control.is_over();
        self.daemon = Some(daemon);
        if is_over {
            self.dismiss();
        }
    }

    /// A request as it can be passed on: its descriptors stay here.
    fn prepare(&mut self, request: Request) -> Result<ToGuest, (Step, Errno)> {
        let Request { number, mut body, fds } = request;
        match &mut body {
            Some(to_guest::Body::Spawn(spawn)) if spawn.pty.is_some() && !self.has_connections() => {
                return Err((Step::Pty, Errno::EOPNOTSUPP));
            }
            Some(to_guest::Body::Spawn(spawn)) => {
                let channels = [self.next_channel(), self.next_channel(), self.next_channel()];
                self.runs.begin(&mut self.trunk, number, spawn, fds, channels)?;
            }
            Some(to_guest::Body::CloseInput(close)) => self.runs.close_input(&close.run),
            Some(to_guest::Body::Release(release)) => self.runs.forget(&release.run),
            Some(to_guest::Body::Connect(connect)) if self.has_connections() => {
                let channel = self.next_channel();
                self.ports.connect(&mut self.trunk, number, connect, channel)?;
            }
            Some(to_guest::Body::Listen(listen)) if self.has_connections() => self.ports.listen(number, listen)?,
            Some(to_guest::Body::MakeSocket(_) | to_guest::Body::Listen(_) | to_guest::Body::Connect(_)) => {
                return Err((Step::Socket, Errno::EOPNOTSUPP));
            }
            Some(
                to_guest::Body::Signal(_)
                | to_guest::Body::Sweep(_)
                | to_guest::Body::Takeover(_)
                | to_guest::Body::Resize(_),
            )
            | None => {}
        }
        Ok(ToGuest { request: number, fds: 0, body })
    }

    /// The guest carries terminals and connections.
    fn has_connections(&self) -> bool {
        self.version >= CONNECTIONS_SINCE
    }

    /// Passes on what the guest answers, and the ends of runs whose output has come.
    fn hear_guest(&mut self) -> io::Result<()> {
        while let Some(happened) = self.trunk.happened() {
            let Happened::Accepted(accepted) = happened else {
                return Err(io::Error::new(io::ErrorKind::InvalidData, format!("no guest says {happened:?} by now")));
            };
            self.ports.accept(&mut self.trunk, accepted);
        }
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        daemon.answers.feed(&self.trunk.take(daemon.channel));
        let mut is_sound = true;
        while is_sound {
            match daemon.answers.next_message::<FromGuest>() {
                Ok(Some(message)) => match self.ports.answered(&mut self.trunk, &message) {
                    Some(fds) => daemon.control.answer(message.request, made(), fds),
                    None => self.runs.tell(&self.trunk, &mut daemon.control, message),
                },
                Ok(None) => break,
                Err(_) => is_sound = false,
            }
        }
        for (run, ended) in self.runs.due(&self.trunk) {
            let exited = wire::Exited { run, ended: Some(ended) };
            daemon.control.answer(0, from_guest::Body::Exited(exited), Vec::new());
        }
        if !is_sound || daemon.control.is_over() {
            self.dismiss();
        }
        Ok(())
    }
}

fn made() -> from_guest::Body {
    from_guest::Body::SocketMade(wire::SocketMade {})
}
