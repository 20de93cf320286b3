//! Addresses that no sandbox reaches unless the node's configuration lists them. Pure but for [`own_addresses`].

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// What an address is that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// One of the node's own, its loopback among them.
    #[error("it is an address of the node")]
    Node,
    /// Of the link only; cloud providers tell secrets there.
    #[error("it is a link-local address")]
    LinkLocal,
    /// Of a private network.
    #[error("it is a private address")]
    Private,
    /// No host has it: multicast, broadcast, reserved, or one that stands for another.
    #[error("it is no address of one host")]
    Special,
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// What is refused of IPv4 (the IANA registry of special-purpose addresses).
pub const REFUSED_V4: [(Ipv4Net, Refusal); 11] = [
    (v4(0, 0, 0, 0, 8), Refusal::Special),
    (v4(10, 0, 0, 0, 8), Refusal::Private),
    (v4(100, 64, 0, 0, 10), Refusal::Private),
    (v4(127, 0, 0, 0, 8), Refusal::Node),
    (v4(169, 254, 0, 0, 16), Refusal::LinkLocal),
    (v4(172, 16, 0, 0, 12), Refusal::Private),
    (v4(192, 0, 0, 0, 24), Refusal::Special),
    (v4(192, 168, 0, 0, 16), Refusal::Private),
    (v4(198, 18, 0, 0, 15), Refusal::Private),
    (v4(224, 0, 0, 0, 4), Refusal::Special),
    (v4(240, 0, 0, 0, 4), Refusal::Special),
];

/// The same of IPv6. What translates to an address of IPv4 could be any of those above.
pub const REFUSED_V6: [(Ipv6Net, Refusal); 9] = [
    (Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128), Refusal::Node),
    (v6(0, 0, 96), Refusal::Special),
    (v6(0x64, 0xff9b, 32), Refusal::Special),
    (v6(0x2001, 0, 32), Refusal::Special),
    (v6(0x2002, 0, 16), Refusal::Special),
    (v6(0xfc00, 0, 7), Refusal::Private),
    (v6(0xfe80, 0, 10), Refusal::LinkLocal),
    (v6(0xfec0, 0, 10), Refusal::Private),
    (v6(0xff00, 0, 8), Refusal::Special),
];

/// Why an address is refused, if it is. What is in `reachable` is not, be it the node's own.
#[must_use]
pub fn refusal(address: IpAddr, own: &[IpAddr], reachable: &[IpNet]) -> Option<Refusal> {
    let address = address.to_canonical();
    if reachable.iter().any(|range| range.contains(&address)) {
        return None;
    }
    if own.iter().any(|own| own.to_canonical() == address) {
        return Some(Refusal::Node);
    }
    match address {
        IpAddr::V4(address) => {
            REFUSED_V4.iter().find(|(range, _)| range.contains(&address)).map(|(_, refusal)| *refusal)
        }
        IpAddr::V6(address) => {
            REFUSED_V6.iter().find(|(range, _)| range.contains(&address)).map(|(_, refusal)| *refusal)
        }
    }
}

/// The addresses that the node has now.
///
/// # Errors
/// Those of getifaddrs(3).
pub fn own_addresses() -> nix::Result<Vec<IpAddr>> {
    let address = |interface: nix::ifaddrs::InterfaceAddress| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|address| address.ip().into()))
    };
    Ok(nix::ifaddrs::getifaddrs()?.filter_map(address).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Option<Refusal> {
        refusal(address.parse().unwrap(), &["198.51.100.7".parse().unwrap()], &[])
    }

    #[test]
    fn what_is_not_of_the_public_network_is_refused() {
        for (address, expected) in [
            ("127.0.0.1", Refusal::Node),
            ("127.255.255.255", Refusal::Node),
            ("::1", Refusal::Node),
            ("198.51.100.7", Refusal::Node),
            ("::ffff:198.51.100.7", Refusal::Node),
            ("169.254.169.254", Refusal::LinkLocal),
            ("fe80::1", Refusal::LinkLocal),
            ("fd00:ec2::254", Refusal::Private),
            ("10.0.0.1", Refusal::Private),
            ("172.31.255.255", Refusal::Private),
            ("192.168.1.1", Refusal::Private),
            ("100.64.0.1", Refusal::Private),
            ("::ffff:10.0.0.1", Refusal::Private),
            ("::10.0.0.1", Refusal::Special),
            ("64:ff9b::a00:1", Refusal::Special),
            ("64:ff9b:1::a00:1", Refusal::Special),
            ("2002:a00:1::", Refusal::Special),
            ("0.0.0.0", Refusal::Special),
            ("::", Refusal::Special),
            ("255.255.255.255", Refusal::Special),
            ("224.0.0.1", Refusal::Special),
            ("ff02::1", Refusal::Special),
        ] {
            assert_eq!(of(address), Some(expected), "{address}");
        }
        for address in ["8.8.8.8", "198.51.100.8", "172.32.0.1", "2606:4700::1", "2001:4860:4860::8888"] {
            assert_eq!(of(address), None, "{address}");
        }
    }

    #[test]
    fn what_is_listed_is_reachable_all_the_same() {
        let reachable = ["10.1.0.0/16".parse().unwrap()];
        assert_eq!(refusal("10.1.2.3".parse().unwrap(), &[], &reachable), None);
        assert_eq!(refusal("::ffff:10.1.2.3".parse().unwrap(), &[], &reachable), None);
        assert_eq!(refusal("10.2.0.1".parse().unwrap(), &[], &reachable), Some(Refusal::Private));
    }

    #[test]
    fn this_machine_has_its_loopback() {
        assert!(own_addresses().unwrap().contains(&Ipv4Addr::LOCALHOST.into()));
    }
}
