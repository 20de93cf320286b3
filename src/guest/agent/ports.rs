//! Ports inside, where no socket gets out: connections that the daemon asks for are made here, those from inside are
//! accepted here, and a trunk carries the bytes of both.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::poll::PollFlags;
use nix::sys::socket::sockopt::{SocketError, TcpNoDelay};
use nix::sys::socket::{AddressFamily, SockFlag, SockaddrIn, SockaddrIn6, accept4, connect, getsockopt, setsockopt};

use super::control::Control;
use super::sockets::{self, new_socket};
use crate::guest::trunk::{Flow, Trunk};
use crate::guest::wire::trunk::GUESTS;
use crate::guest::wire::{Accepted, Connect, SocketMade, Step, from_guest};

/// Connections that are being made at once. The loopback answers at once, unless a server takes no more of them.
const MAX_DIALS: usize = 1024;

/// Connections from inside at once; more wait in the backlog. Each costs a descriptor here, and three on the node.
const MAX_ACCEPTED: usize = 512;

/// The ports.
#[derive(Debug, Default)]
pub struct Ports {
    /// By the channels that they are to be.
    dials: BTreeMap<u32, Dial>,
    listeners: BTreeMap<u16, Rc<OwnedFd>>,
    /// Connections accepted so far.
    accepted: u32,
}

/// A connection that is being made.
#[derive(Debug)]
struct Dial {
    request: u64,
    port: u16,
    socket: OwnedFd,
    family: AddressFamily,
}

/// What is to be waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    /// A connection that is being made.
    Dial(u32),
    /// A listener.
    Listener(u16),
}

impl Ports {
    /// What to wait for, and with what of it to come back to [`Ports::serve`].
    pub fn interests(&self, trunk: &Trunk) -> impl Iterator<Item = (Port, BorrowedFd<'_>, PollFlags)> {
        let dials = self.dials.iter().map(|(channel, dial)| (Port::Dial(*channel), dial.socket.as_fd()));
        let dials = dials.map(|(port, socket)| (port, socket, PollFlags::POLLOUT));
        let has_room = trunk.accepted() < MAX_ACCEPTED;
        let listeners = self.listeners.iter().filter(move |_| has_room);
        dials.chain(listeners.map(|(port, socket)| (Port::Listener(*port), socket.as_fd(), PollFlags::POLLIN)))
    }

    /// Does what can be done without waiting.
    pub fn serve(&mut self, port: Port, trunk: &mut Trunk, control: Option<&mut Control>) {
        match port {
            Port::Dial(channel) => self.dialled(channel, trunk, control),
            Port::Listener(port) => self.accept(port, trunk),
        }
    }

    /// Connects to a port: over IPv4, and over IPv6 if nobody listens there. It is answered when that is done.
    pub fn connect(&mut self, control: &mut Control, request: u64, wanted: Connect) {
        let Connect { port, channel } = wanted;
        let dialled = sockets::number(port).and_then(|port| {
            if self.dials.len() == MAX_DIALS {
                return Err(Errno::EMFILE);
            }
            let (socket, family) = match dial(port, AddressFamily::Inet) {
                Err(Errno::ECONNREFUSED) => (dial_ipv6(port)?, AddressFamily::Inet6),
                dialled => (dialled?, AddressFamily::Inet),
            };
            Ok(Dial { request, port, socket, family })
        });
        match dialled {
            Ok(dial) => drop(self.dials.insert(channel, dial)),
            Err(errno) => control.refuse(request, Step::Socket, errno as i32),
        }
    }

    /// Accepts what comes to a port from now on.
    pub fn accept_at(&mut self, port: u16, listener: Rc<OwnedFd>) {
        self.listeners.insert(port, listener);
    }

    /// The daemon that asked is gone.
    pub fn forget_questions(&mut self) {
        self.dials.clear();
    }

    /// A connection is made, or is not to be had.
    fn dialled(&mut self, channel: u32, trunk: &mut Trunk, control: Option<&mut Control>) {
        let (Some(dial), Some(control)) = (self.dials.remove(&channel), control) else { return };
        let Dial { request, port, socket, family } = dial;
        let made = match getsockopt(&socket, SocketError) {
            Ok(0) => carry(trunk, channel, socket),
            Ok(libc::ECONNREFUSED) if family == AddressFamily::Inet => match dial_ipv6(port) {
                Ok(socket) => {
                    self.dials.insert(channel, Dial { request, port, socket, family: AddressFamily::Inet6 });
                    return;
                }
                Err(errno) => Err(errno),
            },
            Ok(errno) => Err(Errno::from_raw(errno)),
            Err(errno) => Err(errno),
        };
        match made {
            Ok(()) => control.answer(request, from_guest::Body::SocketMade(SocketMade {}), Vec::new()),
            Err(errno) => control.refuse(request, Step::Socket, errno as i32),
        }
    }

    fn accept(&mut self, port: u16, trunk: &mut Trunk) {
        let Some(listener) = self.listeners.get(&port) else { return };
        let Ok(fd) = accept4(listener.as_raw_fd(), SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK) else { return };
        // SAFETY: accept4 has just made this descriptor, and nobody else knows of it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let channel = GUESTS | self.accepted;
        self.accepted = self.accepted.wrapping_add(1) & !GUESTS;
        // Of a channel that there is still, after two billion others, the connection is closed by dropping it.
        if carry(trunk, channel, socket).is_ok() {
            trunk.say_accepted(Accepted { channel, port: port.into() });
        }
    }
}

/// From now on, the bytes of a connection are a channel's.
fn carry(trunk: &mut Trunk, channel: u32, socket: OwnedFd) -> nix::Result<()> {
    setsockopt(&socket, TcpNoDelay, &true)?;
    trunk.join(channel, socket, Flow::Duplex).map_err(|_| Errno::EMFILE)
}

/// A socket that is connected to a port, or on the way there.
fn dial(port: u16, family: AddressFamily) -> nix::Result<OwnedFd> {
    let socket = new_socket(family)?;
    let connected = if family == AddressFamily::Inet6 {
        let address = SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0);
        connect(socket.as_raw_fd(), &SockaddrIn6::from(address))
    } else {
        connect(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))
    };
    match connected {
        Ok(()) | Err(Errno::EINPROGRESS) => Ok(socket),
        Err(errno) => Err(errno),
    }
}

/// The same over IPv6. In a sandbox that has none, nobody listens there.
fn dial_ipv6(port: u16) -> nix::Result<OwnedFd> {
    dial(port, AddressFamily::Inet6).map_err(|_| Errno::ECONNREFUSED)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;

    use nix::poll::{PollFd, PollTimeout, poll};

    use super::*;
    use crate::guest::trunk::Envelope;
    use crate::guest::wire::{FromGuest, Receiver};

    /// A guest's ports, and what the daemon has of them.
    struct Guest {
        ports: Ports,
        trunk: Trunk,
        control: Control,
        daemon: UnixStream,
        answers: Receiver,
    }

    impl Guest {
        fn new() -> Self {
            let ((near, _), (control, daemon)) = (UnixStream::pair().unwrap(), UnixStream::pair().unwrap());
            let input = near.try_clone().unwrap().into();
            Self {
                ports: Ports::default(),
                trunk: Trunk::new(input, near.into(), Envelope::None, Receiver::default()).unwrap(),
                control: Control::new(control.into(), Receiver::default()).unwrap(),
                daemon,
                answers: Receiver::default(),
            }
        }

        /// Waits for a port, and serves it.
        fn turn(&mut self) {
            let (ports, mut fds): (Vec<_>, Vec<_>) =
                (self.ports.interests(&self.trunk)).map(|(port, fd, flags)| (port, PollFd::new(fd, flags))).unzip();
            poll(&mut fds, PollTimeout::from(10_000_u16)).unwrap();
            let ready: Vec<_> = fds.iter().map(|fd| fd.any().unwrap()).collect();
            for (port, _) in ports.into_iter().zip(ready).filter(|(_, is_ready)| *is_ready) {
                self.ports.serve(port, &mut self.trunk, Some(&mut self.control));
            }
        }

        /// What becomes of a wish for a connection.
        fn connect(&mut self, port: u16, channel: u32) -> Result<(), Errno> {
            self.ports.connect(&mut self.control, 1, Connect { port: port.into(), channel });
            while !self.ports.dials.is_empty() {
                self.turn();
            }
            let answer: FromGuest = self.answers.wait(self.daemon.as_fd()).unwrap().unwrap();
            match answer.body.unwrap() {
                from_guest::Body::SocketMade(_) => Ok(()),
                from_guest::Body::Refused(refused) => Err(Errno::from_raw(refused.errno)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_port_is_connected_to_whichever_address_its_server_has() {
        let mut guest = Guest::new();
        for (channel, address) in [(1, "127.0.0.1:0"), (2, "[::1]:0")] {
            let Ok(server) = TcpListener::bind(address) else {
                println!("skipped: this machine has no {address}");
                continue;
            };
            let port = server.local_addr().unwrap().port();
            assert_eq!(guest.connect(port, channel), Ok(()), "{address}");
            let (mut accepted, _) = server.accept().unwrap();
            accepted.write_all(b"hello").unwrap();
            assert_eq!(guest.trunk.passed(channel), Some(0));
            drop(server);
            assert_eq!(guest.connect(port, 9), Err(Errno::ECONNREFUSED), "{address}");
            assert_eq!(guest.trunk.passed(9), None);
        }
        assert_eq!(guest.connect(0, 9), Err(Errno::EINVAL));
    }

    #[test]
    fn a_daemon_that_is_gone_is_answered_nothing() {
        let mut guest = Guest::new();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        guest.ports.connect(&mut guest.control, 1, Connect { port: port.into(), channel: 1 });
        guest.ports.forget_questions();
        let (mut accepted, _) = server.accept().unwrap();
        assert_eq!(accepted.read(&mut [0]).unwrap(), 0, "the connection is closed");
    }

    #[test]
    fn what_comes_to_a_listener_is_a_channel_of_its_own() {
        let mut guest = Guest::new();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        server.set_nonblocking(true).unwrap();
        let port = server.local_addr().unwrap().port();
        guest.ports.accept_at(port, Rc::new(server.into()));
        let _clients =
            [TcpStream::connect(("127.0.0.1", port)).unwrap(), TcpStream::connect(("127.0.0.1", port)).unwrap()];
        while guest.trunk.accepted() < 2 {
            guest.turn();
        }
        assert_eq!((guest.trunk.passed(GUESTS), guest.trunk.passed(GUESTS + 1)), (Some(0), Some(0)));
    }
}
