//! Ports of a sandbox that no socket leads into, as the daemon is to see them: with sockets, which are here.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::guest::agent::listen_at;
use crate::guest::socket;
use crate::guest::trunk::{Flow, Trunk};
use crate::guest::wire::{Accepted, Connect, FromGuest, Listen, Step, from_guest};

/// Listeners at once, as in the guest.
const MAX_LISTENERS: usize = 8;

/// The ports.
#[derive(Debug)]
pub struct Ports {
    /// Where listeners are.
    place: PathBuf,
    /// Connections that the guest is making, by the number of the request: the channel, and the daemon's end.
    dials: HashMap<u64, (u32, OwnedFd)>,
    /// Listeners that were asked for, by the number of the request.
    asked: HashMap<u64, u16>,
    /// What stands for those of the guest, by port. Connections wait in them while there is no daemon.
    listeners: BTreeMap<u16, Rc<OwnedFd>>,
}

impl Ports {
    /// None, in a directory.
    pub fn new(place: PathBuf) -> Self {
        Self { place, dials: HashMap::new(), asked: HashMap::new(), listeners: BTreeMap::new() }
    }

    /// Joins what is to be a connection to a channel, and has the request name that.
    ///
    /// # Errors
    /// Where and why there can be none.
    pub fn connect(
        &mut self,
        trunk: &mut Trunk,
        number: u64,
        connect: &mut Connect,
        channel: u32,
    ) -> Result<(), (Step, Errno)> {
        let failed = |errno| (Step::Socket, errno);
        let (ours, theirs) = pair().map_err(failed)?;
        trunk.join(channel, ours, Flow::Duplex).map_err(|_| failed(Errno::EMFILE))?;
        connect.channel = channel;
        self.dials.insert(number, (channel, theirs));
        Ok(())
    }

    /// Makes what stands for a listener, unless it is there.
    ///
    /// # Errors
    /// Where and why there can be none.
    pub fn listen(&mut self, number: u64, listen: &Listen) -> Result<(), (Step, Errno)> {
        let failed = |errno| (Step::Socket, errno);
        let port = u16::try_from(listen.port).map_err(|_| failed(Errno::EINVAL))?;
        if !self.listeners.contains_key(&port) {
            if self.listeners.len() == MAX_LISTENERS {
                return Err(failed(Errno::EMFILE));
            }
            let listener = listen_at(&self.path(port)).map_err(|_| failed(Errno::EIO))?;
            self.listeners.insert(port, Rc::new(listener));
        }
        self.asked.insert(number, port);
        Ok(())
    }

    /// Takes note of an answer of the guest's: what comes with it, if it is about ports and no refusal.
    pub fn answered(&mut self, trunk: &mut Trunk, answer: &FromGuest) -> Option<Vec<Rc<OwnedFd>>> {
        let dial = self.dials.remove(&answer.request);
        let listener = self.asked.remove(&answer.request).and_then(|port| self.listeners.get(&port));
        match (&answer.body, dial, listener) {
            (Some(from_guest::Body::SocketMade(_)), Some((_, theirs)), _) => Some(vec![Rc::new(theirs)]),
            (Some(from_guest::Body::SocketMade(_)), None, Some(listener)) => Some(vec![Rc::clone(listener)]),
            (_, Some((channel, _)), _) => {
                trunk.close(channel);
                None
            }
            (_, None, _) => None,
        }
    }

    /// Passes a connection from inside to what stands for its listener.
    pub fn accept(&mut self, trunk: &mut Trunk, accepted: Accepted) {
        let Accepted { channel, port } = accepted;
        let port = u16::try_from(port).ok().filter(|port| self.listeners.contains_key(port));
        let connected = port.and_then(|port| socket::try_connect(&self.path(port)).ok());
        match connected.map(|socket| trunk.adopt(channel, socket, Flow::Duplex)) {
            Some(Ok(())) => {}
            // Nobody takes it.
            Some(Err(_)) | None => trunk.close(channel),
        }
    }

    /// The daemon that asked is gone.
    pub fn forget_questions(&mut self, trunk: &mut Trunk) {
        self.dials.drain().for_each(|(_, (channel, _))| trunk.close(channel));
        self.asked.clear();
    }

    fn path(&self, port: u16) -> PathBuf {
        self.place.join(format!("port-{port}"))
    }
}

/// Two ends of a connection, the first of which is for a channel.
pub fn pair() -> nix::Result<(OwnedFd, OwnedFd)> {
    socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)
}
