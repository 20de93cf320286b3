//! Links, addresses and routes (rtnetlink(7)).

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::SockProtocol;

use super::netlink::{Attributes, Batch, CREATE, EXCLUSIVE, REPLACE};

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWADDR: u16 = 20;
const RTM_DELADDR: u16 = 21;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWQDISC: u16 = 36;

const IFLA_IFNAME: u16 = 3;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RTN_UNICAST: u8 = 1;

const TCA_KIND: u16 = 1;
const TCA_OPTIONS: u16 = 2;
const TCA_TBF_PARMS: u16 = 1;
const TCA_TBF_RATE64: u16 = 4;
const TCA_TBF_BURST: u16 = 6;
/// The parent of what a link sends by, and a name for that (linux/pkt_sched.h).
const TC_H_ROOT: u32 = u32::MAX;
const FIRST: u32 = 1 << 16;
/// Lengths are those of packets on Ethernet, so that the kernel computes how long they take.
const TC_LINKLAYER_ETHERNET: u8 = 1;

/// Bytes that a link may send at once after a while of silence: more than the largest packet, and else as much as goes in
/// 50 ms. And bytes that wait for their turn; beyond it, packets are dropped and their senders slow down.
const MIN_BURST: u64 = 128 << 10;
const MAX_BURST: u64 = 8 << 20;
const BURSTS_A_SECOND: u64 = 20;
const QUEUED_BURSTS: u64 = 4;

const HOST_PREFIX: u8 = 32;

/// How far an address or a route reaches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scope {
    Universe = 0,
    Link = 253,
    Host = 254,
}

/// Makes a pair of links: `name` here, which is up, and `peer` in another network namespace, which cannot be before the
/// pair is whole.
///
/// # Errors
/// The kernel's; `EEXIST` if there is a link of this name.
pub fn make_pair(name: &str, peer: &str, namespace: BorrowedFd<'_>) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.push(RTM_NEWLINK, CREATE | EXCLUSIVE, &link_header(Flags::Up), |link| {
        link.text(IFLA_IFNAME, name);
        link.nested(IFLA_LINKINFO, |info| {
            info.text(IFLA_INFO_KIND, "veth");
            info.nested(IFLA_INFO_DATA, |data| {
                data.framed(VETH_INFO_PEER, &link_header(Flags::Kept), |link| {
                    link.text(IFLA_IFNAME, peer);
                    link.bytes(IFLA_NET_NS_FD, &namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
    });
    batch.send(SockProtocol::NetlinkRoute)
}

/// Sets a link up.
///
/// # Errors
/// The kernel's.
pub fn set_up(name: &str) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.push(RTM_NEWLINK, 0, &link_header(Flags::Up), |link| link.text(IFLA_IFNAME, name));
    batch.send(SockProtocol::NetlinkRoute)
}

/// Removes a link, and with it its pair and its routes. One that is not there is no error.
///
/// # Errors
/// The kernel's.
pub fn remove(name: &str) -> io::Result<()> {
    let mut batch = Batch::default();
    batch.push(RTM_DELLINK, 0, &link_header(Flags::Kept), |link| link.text(IFLA_IFNAME, name));
    match batch.send(SockProtocol::NetlinkRoute) {
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// Lets a link send so many bytes a second, by a token bucket (tc-tbf(8)).
///
/// # Errors
/// The kernel's; `ENOENT` if it has none.
pub fn limit(name: &str, rate: u64) -> io::Result<()> {
    let burst = (rate / BURSTS_A_SECOND).clamp(MIN_BURST, MAX_BURST);
    let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
    // struct tcmsg
    let mut header = vec![0; 4];
    for word in [index(name)?, FIRST, TC_H_ROOT, 0] {
        header.extend_from_slice(&word.to_ne_bytes());
    }
    // struct tc_tbf_qopt: two struct tc_ratespec of 12 bytes, then three numbers.
    let mut options = [0; 36];
    options[1] = TC_LINKLAYER_ETHERNET;
    options[8..12].copy_from_slice(&narrow(rate).to_ne_bytes());
    options[24..28].copy_from_slice(&narrow(burst * QUEUED_BURSTS).to_ne_bytes());
    let mut batch = Batch::default();
    batch.push(RTM_NEWQDISC, CREATE | REPLACE, &header, |qdisc| {
        qdisc.text(TCA_KIND, "tbf");
        qdisc.nested(TCA_OPTIONS, |tbf| {
            tbf.bytes(TCA_TBF_PARMS, &options);
            tbf.bytes(TCA_TBF_RATE64, &rate.to_ne_bytes());
            tbf.bytes(TCA_TBF_BURST, &narrow(burst).to_ne_bytes());
        });
    });
    batch.send(SockProtocol::NetlinkRoute)
}

/// The names of the links of this network namespace that begin with a prefix.
///
/// # Errors
/// Those of if_nameindex(3).
pub fn list(prefix: &str) -> io::Result<Vec<String>> {
    let links = nix::net::if_::if_nameindex()?;
    let names = links.iter().map(|link| link.name().to_string_lossy().into_owned());
    Ok(names.filter(|name| name.starts_with(prefix)).collect())
}

/// Gives a link an address that is its whole network. One that it has already is no error.
///
/// # Errors
/// The kernel's.
pub fn add_address(link: &str, address: Ipv4Addr) -> io::Result<()> {
    match change_address(RTM_NEWADDR, CREATE | EXCLUSIVE, link, address) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Takes the address away again. One that it has not is no error.
///
/// # Errors
/// The kernel's.
pub fn remove_address(link: &str, address: Ipv4Addr) -> io::Result<()> {
    match change_address(RTM_DELADDR, 0, link, address) {
        Err(error) if error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
        result => result,
    }
}

fn change_address(kind: u16, flags: u16, link: &str, address: Ipv4Addr) -> io::Result<()> {
    let index = index(link)?;
    let scope = if link == "lo" { Scope::Host } else { Scope::Universe };
    let mut header = vec![family(), HOST_PREFIX, 0, scope as u8];
    header.extend_from_slice(&index.to_ne_bytes());
    let mut batch = Batch::default();
    batch.push(kind, flags, &header, |attributes| {
        attributes.bytes(IFA_LOCAL, &address.octets());
        attributes.bytes(IFA_ADDRESS, &address.octets());
    });
    batch.send(SockProtocol::NetlinkRoute)
}

/// The way to one address: over a link, and from `source` unless the caller's socket says otherwise.
///
/// # Errors
/// The kernel's.
pub fn add_route(link: &str, to: Ipv4Addr, source: Option<Ipv4Addr>) -> io::Result<()> {
    route(link, HOST_PREFIX, Scope::Link, |route| {
        route.bytes(RTA_DST, &to.octets());
        if let Some(source) = source {
            route.bytes(RTA_PREFSRC, &source.octets());
        }
    })
}

/// The way to everything else: over a link to a gateway.
///
/// # Errors
/// The kernel's.
pub fn add_default_route(link: &str, gateway: Ipv4Addr) -> io::Result<()> {
    route(link, 0, Scope::Universe, |route| route.bytes(RTA_GATEWAY, &gateway.octets()))
}

fn route(link: &str, prefix: u8, scope: Scope, fill: impl FnOnce(&mut Attributes<'_>)) -> io::Result<()> {
    let index = index(link)?;
    let header = [family(), prefix, 0, 0, RT_TABLE_MAIN, RTPROT_STATIC, scope as u8, RTN_UNICAST, 0, 0, 0, 0];
    let mut batch = Batch::default();
    batch.push(RTM_NEWROUTE, CREATE | EXCLUSIVE, &header, |route| {
        fill(route);
        route.bytes(RTA_OIF, &index.to_ne_bytes());
    });
    batch.send(SockProtocol::NetlinkRoute)
}

/// What becomes of a link's flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Flags {
    Kept,
    Up,
}

/// The header of a message about a link (struct ifinfomsg) that is named by an attribute.
fn link_header(flags: Flags) -> Vec<u8> {
    let flags = if flags == Flags::Up { IFF_UP } else { 0 };
    [&[0; 8][..], &flags.to_ne_bytes(), &flags.to_ne_bytes()].concat()
}

fn index(link: &str) -> io::Result<u32> {
    Ok(nix::net::if_::if_nametoindex(link)?)
}

fn family() -> u8 {
    u8::try_from(libc::AF_INET).expect("families are small numbers")
}
