//! Which ports are listened on inside a sandbox.
//!
//! The kernel tells it of the first process's network in /proc, so that nobody inside is asked and a sandbox that sleeps
//! goes on sleeping. How many lines there are is up to the sandbox; what they hold is not.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

/// Bytes read of each table. The kernel puts those that listen first, and this is ten thousand of them.
const MAX_TABLE: u64 = 2 << 20;

/// The state of a socket that listens (TCP_LISTEN in net/tcp_states.h), as the tables write it.
const LISTEN: &str = "0A";

/// A port that is listened on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// The address on which connections are taken; unspecified: on all.
    pub address: IpAddr,
}

/// All of them, in order.
pub fn list(proc: &Path) -> io::Result<Vec<Port>> {
    let mut ports = parse(&read(&proc.join("tcp"))?);
    match read(&proc.join("tcp6")) {
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

fn read(path: &Path) -> io::Result<String> {
    let mut table = String::new();
    File::open(path)?.take(MAX_TABLE).read_to_string(&mut table)?;
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
        let ports = list(Path::new("/proc/self/net")).unwrap();
        assert!(ports.contains(&Port { port: address.port(), address: address.ip() }), "{ports:?}");
        assert!(!ports.iter().any(|port| port.port == client.local_addr().unwrap().port()));
    }

    #[test]
    fn an_address_of_ipv6_is_read_in_words() {
        let listener = TcpListener::bind("[::1]:0");
        let Ok(address) = listener.as_ref().map(|listener| listener.local_addr().unwrap()) else {
            println!("skipped: this machine has no IPv6");
            return;
        };
        let ports = list(Path::new("/proc/self/net")).unwrap();
        assert!(ports.contains(&Port { port: address.port(), address: address.ip() }), "{ports:?}");
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
