//! Sockets inside the sandbox's network, handed to the daemon.
//!
//! A socket belongs to the network namespace in which it was made, whoever uses it. So the guest only makes them: the
//! daemon connects and accepts by itself, and no byte and no wait of a connection passes through PID 1.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReuseAddr;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, listen, setsockopt, socket};

use super::control::Control;
use crate::guest::wire::{Listen, MakeSocket, SocketMade, Step, from_guest};

/// Listeners at once. The daemon asks for one.
const MAX_LISTENERS: usize = 8;

/// The sockets that the guest keeps.
#[derive(Debug, Default)]
pub struct Sockets {
    /// By port.
    listeners: BTreeMap<u16, Rc<OwnedFd>>,
}

impl Sockets {
    /// Makes a socket for the daemon; nothing of it stays here.
    pub fn make(&self, control: &mut Control, request: u64, make: MakeSocket) {
        let family = if make.ipv6 { AddressFamily::Inet6 } else { AddressFamily::Inet };
        hand_out(control, request, new_socket(family).map(Rc::new));
    }

    /// Listens on a port, unless it does already; answers the listener, if there is one.
    pub fn listen(&mut self, control: &mut Control, request: u64, listen: Listen) -> Option<(u16, Rc<OwnedFd>)> {
        let listener = number(listen.port).and_then(|port| Ok((port, self.listener(port)?)));
        hand_out(control, request, listener.clone().map(|(_, listener)| listener));
        listener.ok()
    }

    fn listener(&mut self, port: u16) -> nix::Result<Rc<OwnedFd>> {
        if let Some(listener) = self.listeners.get(&port) {
            return Ok(Rc::clone(listener));
        }
        if self.listeners.len() == MAX_LISTENERS {
            return Err(Errno::EMFILE);
        }
        let listener = Rc::new(listen_on(port)?);
        self.listeners.insert(port, Rc::clone(&listener));
        Ok(listener)
    }
}

/// A port as the wire has it.
pub(super) fn number(port: u32) -> nix::Result<u16> {
    u16::try_from(port).ok().filter(|port| *port > 0).ok_or(Errno::EINVAL)
}

pub(super) fn new_socket(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)
}

fn listen_on(port: u16) -> nix::Result<OwnedFd> {
    let socket = new_socket(AddressFamily::Inet)?;
    setsockopt(&socket, ReuseAddr, &true)?;
    bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)))?;
    listen(&socket, Backlog::MAXCONN)?;
    Ok(socket)
}

fn hand_out(control: &mut Control, request: u64, socket: nix::Result<Rc<OwnedFd>>) {
    match socket {
        Ok(socket) => control.answer(request, from_guest::Body::SocketMade(SocketMade {}), vec![socket]),
        Err(errno) => control.refuse(request, Step::Socket, errno as i32),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn free_port() -> u16 {
        TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn the_same_port_is_the_same_listener_and_another_is_refused_beyond_the_bound() {
        let mut sockets = Sockets::default();
        let port = free_port();
        let first = sockets.listener(port).unwrap();
        assert!(Rc::ptr_eq(&first, &sockets.listener(port).unwrap()));
        assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());
        for _ in 1..MAX_LISTENERS {
            sockets.listener(free_port()).unwrap();
        }
        assert_eq!(sockets.listener(free_port()).unwrap_err(), Errno::EMFILE);
    }

    #[test]
    fn what_is_no_port_and_what_somebody_has_is_refused() {
        for port in [0, 65_536, u32::MAX] {
            assert_eq!(number(port).unwrap_err(), Errno::EINVAL);
        }
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        assert_eq!(Sockets::default().listener(port).unwrap_err(), Errno::EADDRINUSE);
    }
}
