//! Which ports are listened on inside a sandbox.
//!
//! The kernel tells it of the first process's network in /proc, so that nobody inside is asked and a sandbox that sleeps
//! goes on sleeping. How many lines there are is up to the sandbox; what they hold is not.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// Bytes read of each table for whoever asks. The kernel puts those that listen first, and this is ten thousand of them.
pub const ALL: u64 = 2 << 20;

/// The same for a look that is taken often: four hundred, always the same ones of more.
pub const FIRST: u64 = 64 << 10;

/// The state of a socket that listens (TCP_LISTEN in net/tcp_states.h), as the tables write it.
const LISTEN: &str = "0A";

/// A port that is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// The address on which connections are taken; unspecified: on all.
    pub address: IpAddr,
}

/// What became of a port between two looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortChange {
    /// It is listened on.
    Opened(Port),
    /// It is not any more.
    Closed(Port),
}

/// Changes that are told of one look, and ports that are told to be open at once. A server has a few; who plays with
/// thousands is heard slowly, and not of all.
const MAX_CHANGES: usize = 8;
const MAX_OPEN: usize = 64;

/// What is to be told when `told` were told to be listened on, and `seen` are. What is left out here is seen again.
#[must_use]
pub fn port_changes(told: &[Port], seen: &[Port]) -> Vec<PortChange> {
    let closed = told.iter().filter(|port| !seen.contains(port)).copied().map(PortChange::Closed);
    let room = MAX_OPEN.saturating_sub(told.len());
    let opened = seen.iter().filter(|port| !told.contains(port)).copied().map(PortChange::Opened).take(room);
    closed.chain(opened).take(MAX_CHANGES).collect()
}

/// How many TCP sockets there are, as sockstat tells (proc_net(5)). That costs microseconds; to read the tables costs
/// milliseconds, as the kernel looks through the connections of the whole node for those of one network.
pub fn sockets(proc: &Path) -> io::Result<u64> {
    let of = |file: &str, name: &str| match read(&proc.join(file), FIRST) {
        Ok(text) => Ok(in_use(&text, name)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    };
    Ok(of("sockstat", "TCP:")? + of("sockstat6", "TCP6:")?)
}

/// The number after "inuse" in the line of a protocol.
fn in_use(text: &str, protocol: &str) -> u64 {
    let mut lines = text.lines().map(|line| line.split_ascii_whitespace().collect::<Vec<_>>());
    let number = lines.find_map(|line| match line[..] {
        [name, "inuse", number, ..] if name == protocol => number.parse().ok(),
        _ => None,
    });
    number.unwrap_or(0)
}

/// Those of so many bytes of each table, in order.
pub fn list(proc: &Path, bytes: u64) -> io::Result<Vec<Port>> {
    let mut ports = parse(&read(&proc.join("tcp"), bytes)?);
    match read(&proc.join("tcp6"), bytes) {
        Ok(table) => ports.extend(parse(&table)),
        // A kernel without IPv6.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    ports.sort_unstable();
    // Several processes may share a port (SO_REUSEPORT).
    ports.dedup();
    Ok(ports)
}

fn read(path: &Path, bytes: u64) -> io::Result<String> {
    let mut table = String::new();
    File::open(path)?.take(bytes).read_to_string(&mut table)?;
    Ok(table)
}

/// The listeners of a table of proc_net(5), `tcp` or `tcp6`. A line that was cut off is no line.
fn parse(table: &str) -> Vec<Port> {
    let listener = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let state = fields.nth(1)?;
        let port = u16::from_str_radix(port, 16).ok()?;
        Some(Port { port, address: parse_address(address)? }).filter(|_| state == LISTEN)
    };
    table.lines().skip(1).filter_map(listener).collect()
}

/// Words of 32 bits, each as a number in the machine's own order, of an address in the network's.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let digits = text.get(8 * at..8 * at + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for (at, octets) in octets.chunks_exact_mut(4).enumerate() {
                octets.copy_from_slice(&word(at)?);
            }
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kernels_own_table_holds_a_listener_of_ours_and_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(address).unwrap();
        let ports = list(Path::new("/proc/self/net"), ALL).unwrap();
        assert!(ports.contains(&Port { port: address.port(), address: address.ip() }), "{ports:?}");
        assert!(!ports.iter().any(|port| port.port == client.local_addr().unwrap().port()));
    }

    #[test]
    fn sockets_are_counted_by_protocol() {
        let text = "sockets: used 21\nTCP: inuse 4 orphan 0 tw 0 alloc 1 mem 29\nUDP: inuse 9 mem 0\n";
        assert_eq!((in_use(text, "TCP:"), in_use(text, "TCP6:")), (4, 0));
        let _listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert!(sockets(Path::new("/proc/self/net")).unwrap() > 0);
    }

    #[test]
    fn an_address_of_ipv6_is_read_in_words() {
        let listener = TcpListener::bind("[::1]:0");
        let Ok(address) = listener.as_ref().map(|listener| listener.local_addr().unwrap()) else {
            println!("skipped: this machine has no IPv6");
            return;
        };
        let ports = list(Path::new("/proc/self/net"), ALL).unwrap();
        assert!(ports.contains(&Port { port: address.port(), address: address.ip() }), "{ports:?}");
    }

    fn port(port: u16) -> Port {
        Port { port, address: Ipv4Addr::LOCALHOST.into() }
    }

    #[test]
    fn what_has_changed_is_told_once() {
        let changes = port_changes(&[port(1), port(2)], &[port(2), port(3)]);
        assert_eq!(changes, [PortChange::Closed(port(1)), PortChange::Opened(port(3))]);
        assert_eq!(port_changes(&[port(2)], &[port(2)]), []);
    }

    #[test]
    fn very_many_are_told_a_few_at_a_time_and_never_all() {
        let seen: Vec<Port> = (1..=1000).map(port).collect();
        let mut told = Vec::new();
        for _ in 0..100 {
            let changes = port_changes(&told, &seen);
            assert!(changes.len() <= MAX_CHANGES);
            told.extend(changes.iter().filter_map(|change| match change {
                PortChange::Opened(port) => Some(*port),
                PortChange::Closed(_) => None,
            }));
        }
        assert_eq!(told, seen[..MAX_OPEN]);
    }

    proptest! {
        #[test]
        fn no_text_panics(table in "(.|\n){0,400}") {
            let _ = parse(&table);
        }

        #[test]
        fn a_line_that_is_cut_off_is_none(cut in 0..24_usize) {
            let line = "   0: 0100007F:1F90 00000000:0000 0A 0";
            prop_assert_eq!(parse(&format!("header\n{}", &line[..cut])), Vec::new());
        }
    }
}
