//! When a delivery is tried again, which events a destination wants, and where it may be. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// How often an event is sent, until it is given up.
pub const MAX_ATTEMPTS: u32 = 9;
/// How many times longer each pause is than the one before: with the usual first one of 5 s, they are 5 s, 20 s, 80 s,
/// 5 min, 21 min, 85 min, 6 h and 6 h, about 14 h together.
const FACTOR: u32 = 4;
/// The longest pause.
const LONGEST: Duration = Duration::from_secs(6 * 3600);

/// What follows a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Another attempt, after a pause.
    After(Duration),
    /// Nothing: the event is given up, and the next one has its turn.
    Never,
}

/// What follows after so many attempts, all of which failed. Pauses are drawn out by up to a quarter, as `random` says, so
/// that destinations that failed together are not tried together.
#[must_use]
pub fn after_failure(attempts: u32, first: Duration, random: u8) -> Next {
    if attempts >= MAX_ATTEMPTS {
        return Next::Never;
    }
    let pause = first.saturating_mul(FACTOR.saturating_pow(attempts.saturating_sub(1))).min(LONGEST);
    Next::After(pause + pause * u32::from(random) / (4 * 255))
}

/// Whether a destination that wants these types wants an event of this one. A type that ends with ".*" is all that begin so.
#[must_use]
pub fn wants(types: Option<&[String]>, kind: &str) -> bool {
    types.is_none_or(|types| {
        types.iter().any(|wanted| match wanted.strip_suffix('*') {
            Some(beginning) => kind.starts_with(beginning),
            None => wanted == kind,
        })
    })
}

/// Whether an address is on the open internet, and not of this machine or its neighbours.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => is_public_v4(mapped),
            None => is_public_v6(address),
        },
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let [a, b, c, _] = address.octets();
    let is_shared = a == 100 && (64..128).contains(&b);
    let is_protocol = a == 192 && b == 0 && c == 0;
    let is_benchmark = a == 198 && (b == 18 || b == 19);
    let is_other = address.is_private()
        || address.is_loopback()
        || address.is_link_local()
        || address.is_documentation()
        || a == 0
        || a >= 224;
    !(is_shared || is_protocol || is_benchmark || is_other)
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    // Global unicast is 2000::/3; in it, 6to4 and Teredo hold IPv4 addresses, and 2001:db8::/32 is for documentation.
    let is_global = segments[0] & 0xe000 == 0x2000;
    let is_tunnel = segments[0] == 0x2002 || (segments[0] == 0x2001 && segments[1] == 0);
    let is_documentation = segments[0] == 0x2001 && segments[1] == 0xdb8;
    is_global && !is_tunnel && !is_documentation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let first = Duration::from_secs(5);
        let pauses: Vec<_> = (1..)
            .map_while(|attempts| match after_failure(attempts, first, 0) {
                Next::After(pause) => Some(pause.as_secs()),
                Next::Never => None,
            })
            .collect();
        assert_eq!(pauses, [5, 20, 80, 320, 1280, 5120, 20480, 21600]);
        assert_eq!(after_failure(1, first, 255), Next::After(Duration::from_millis(6250)));
        assert_eq!(after_failure(u32::MAX, first, 0), Next::Never);
    }

    #[test]
    fn types_are_exact_or_a_beginning() {
        let types = ["turn.*".to_owned(), "user.message".to_owned()];
        for (kind, is_wanted) in
            [("turn.started", true), ("user.message", true), ("user.messages", false), ("turns", false)]
        {
            assert_eq!(wants(Some(&types), kind), is_wanted, "{kind}");
        }
        assert!(wants(None, "anything"));
        assert!(!wants(Some(&[]), "anything"));
    }

    #[test]
    fn nothing_of_this_machine_or_its_neighbours_is_public() {
        for address in [
            "127.0.0.1",
            "10.0.0.1",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "0.0.0.0",
            "224.0.0.1",
            "255.255.255.255",
            "192.0.0.1",
            "198.18.0.1",
            "::1",
            "::",
            "fe80::1",
            "fc00::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "ff02::1",
            "64:ff9b::7f00:1",
        ] {
            assert!(!is_public(address.parse().unwrap()), "{address}");
        }
        for address in ["1.1.1.1", "100.63.0.1", "2606:4700::1111", "::ffff:8.8.8.8"] {
            assert!(is_public(address.parse().unwrap()), "{address}");
        }
    }
}
