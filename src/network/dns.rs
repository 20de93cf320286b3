//! The resolver of sandboxes that have addresses: it passes their questions on to the node's own.
//!
//! It reads nothing of what it passes on. An answer may name any address; the rules see to what is reached.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::sockopt::{IpFreebind, ReuseAddr};
use nix::sys::socket::{self, AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, setsockopt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::pace::Pace;
use super::relay::{Moved, relay};

/// The port of every resolver.
const PORT: u16 = 53;

/// Questions under way at once, of all sandboxes; beyond it they are dropped, and asked again by who asked.
const MAX_QUESTIONS: usize = 512;

/// How long an answer may take. Clients ask again after five seconds.
const ANSWER_WAIT: Duration = Duration::from_secs(5);

/// How long a conversation over TCP may take.
const TCP_WAIT: Duration = Duration::from_secs(15);

/// Most bytes of a message over UDP: what EDNS allows in practice.
const MAX_MESSAGE: usize = 4096;

/// The header of a message (RFC 1035, section 4.1.1).
const HEADER: usize = 12;

/// Where the node's own resolvers are written.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Sockets on an address that the node need not have yet.
#[derive(Debug)]
pub struct Resolver {
    udp: Arc<UdpSocket>,
    tcp: TcpListener,
}

impl Resolver {
    /// Listens on an address.
    ///
    /// # Errors
    /// Those of bind(2).
    pub fn bind(address: Ipv4Addr) -> io::Result<Self> {
        let address = SocketAddrV4::new(address, PORT);
        let udp = bound(address, SockType::Datagram)?;
        let tcp = bound(address, SockType::Stream)?;
        socket::listen(&tcp, Backlog::MAXCONN)?;
        Ok(Self { udp: Arc::new(UdpSocket::from_std(udp.into())?), tcp: TcpListener::from_std(tcp.into())? })
    }

    /// Passes questions on until it is told to stop.
    pub async fn serve(self, stop: CancellationToken) {
        let (tasks, places) = (TaskTracker::new(), Arc::new(Semaphore::new(MAX_QUESTIONS)));
        let mut message = [0; MAX_MESSAGE];
        let serving = async {
            loop {
                // Both are cancel-safe: what was not received or accepted stays in the kernel.
                tokio::select! {
                    received = self.udp.recv_from(&mut message) => {
                        let Ok((length, client)) = received else { continue };
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                        let (socket, question) = (Arc::clone(&self.udp), message[..length].to_vec());
                        tasks.spawn(async move {
                            answer(&socket, question, client).await;
                            drop(place);
                        });
                    }
                    accepted = self.tcp.accept() => {
                        let Ok((socket, _)) = accepted else { continue };
                        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
                        tasks.spawn(async move {
                            // A client that gets nothing asks again.
                            let _ = timeout(TCP_WAIT, pass_on(socket)).await;
                            drop(place);
                        });
                    }
                }
            }
        };
        stop.run_until_cancelled(serving).await;
        tasks.close();
        // Each has a deadline of its own.
        tasks.wait().await;
    }
}

fn bound(address: SocketAddrV4, kind: SockType) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket::socket(AddressFamily::Inet, kind, flags, None)?;
    setsockopt(&socket, IpFreebind, &true)?;
    if kind == SockType::Stream {
        // A connection of the daemon before may linger.
        setsockopt(&socket, ReuseAddr, &true)?;
    }
    socket::bind(socket.as_raw_fd(), &SockaddrIn::from(address))?;
    Ok(socket)
}

/// Answers a question: as the node's resolver does, or that there is none.
async fn answer(socket: &UdpSocket, question: Vec<u8>, client: SocketAddr) {
    if question.len() < HEADER {
        return;
    }
    let answer = match timeout(ANSWER_WAIT, ask(&question)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(_)) | Err(_) => failure(question),
    };
    // A client that is gone needs none.
    let _ = socket.send_to(&answer, client).await;
}

async fn ask(question: &[u8]) -> io::Result<Vec<u8>> {
    // A socket for each question: its port is a part of what an answer has to know.
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
    socket.connect(upstream()?).await?;
    socket.send(question).await?;
    let mut answer = vec![0; MAX_MESSAGE];
    loop {
        let length = socket.recv(&mut answer).await?;
        if length >= HEADER && answer[..2] == question[..2] {
            answer.truncate(length);
            return Ok(answer);
        }
    }
}

async fn pass_on(client: TcpStream) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream()?).await?;
    relay(client, upstream, &Pace::default(), &Moved::default(), &Moved::default()).await
}

/// The first of the node's own resolvers. It is read each time, because it changes with the node's network.
fn upstream() -> io::Result<SocketAddr> {
    let text = fs::read_to_string(RESOLV_CONF)?;
    first_nameserver(&text).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the node has no resolver"))
}

fn first_nameserver(text: &str) -> Option<SocketAddr> {
    let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().parse::<IpAddr>().ok();
    // A socket of IPv4 asks those of IPv4.
    let address = text.lines().filter_map(address).find(IpAddr::is_ipv4)?;
    Some(SocketAddr::new(address, PORT))
}

/// "Server failure", with the question itself.
fn failure(mut question: Vec<u8>) -> Vec<u8> {
    const RESPONSE: u8 = 0x80;
    const SERVER_FAILURE: u8 = 2;
    question[2] |= RESPONSE;
    question[3] = question[3] & 0xf0 | SERVER_FAILURE;
    question
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_nameserver_is_found_among_other_lines() {
        let text = "# nameserver 9.9.9.9\nsearch a.b\nnameserver ::1\n nameserver\t10.0.0.2 \nnameserver 10.0.0.3\n";
        assert_eq!(first_nameserver(text), Some(([10, 0, 0, 2], 53).into()));
        assert_eq!(first_nameserver("nameserver x"), None);
    }

    #[test]
    fn a_failure_is_a_response_to_that_question() {
        let question = vec![0xab, 0xcd, 0x01, 0x20, 0, 1, 0, 0, 0, 0, 0, 0, 9];
        assert_eq!(failure(question), [0xab, 0xcd, 0x81, 0x22, 0, 1, 0, 0, 0, 0, 0, 0, 9]);
    }
}
