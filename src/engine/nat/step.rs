//! The steps of a rule, as nf_tables has them: expressions over a register.

use ipnet::Ipv4Net;

use super::message::Family;
use super::netlink::Attributes;
use super::tally::Tally;

const LIST_ELEMENT: u16 = 1;
const EXPRESSION_NAME: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const DATA_VALUE: u16 = 1;
const DATA_VERDICT: u16 = 2;
const VERDICT_CODE: u16 = 1;

/// The register in which everything is compared, and that of verdicts.
const REGISTER: u32 = 1;
const VERDICT_REGISTER: u32 = 0;

/// What a packet is looked at for, and what becomes of it.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// It came from a link of this prefix.
    From(&'a str),
    /// It goes to one.
    To(&'a str),
    /// It does not.
    NotTo(&'a str),
    /// It comes from this range.
    Source(Ipv4Net),
    /// It goes to this range.
    Destination(Ipv4Net),
    /// It is of this protocol.
    Protocol(libc::c_int),
    /// It goes to this port.
    Port(u16),
    /// It belongs to what somebody has asked for.
    Established,
    Accept,
    Drop,
    /// Dropped, and its sender is told.
    Refuse(Family),
    /// It is for the rules of another chain.
    GoTo(&'a str),
    /// It is counted by its source, and the rule goes on if there is room.
    Count(Tally),
    /// It gets the node's address.
    Masquerade,
}

impl Step<'_> {
    /// Adds the expressions that it takes.
    pub fn append(self, list: &mut Attributes<'_>) {
        const IIFNAME: u32 = 6;
        const OIFNAME: u32 = 7;
        const L4PROTO: u32 = 16;
        // Offsets in the headers of IPv4 and of TCP and UDP.
        const SOURCE: u32 = 12;
        const DESTINATION: u32 = 16;
        const DESTINATION_PORT: u32 = 2;
        match self {
            Self::From(prefix) => {
                meta(list, IIFNAME);
                compare(list, Comparison::Equal, prefix.as_bytes());
            }
            Self::To(prefix) => {
                meta(list, OIFNAME);
                compare(list, Comparison::Equal, prefix.as_bytes());
            }
            Self::NotTo(prefix) => {
                meta(list, OIFNAME);
                compare(list, Comparison::NotEqual, prefix.as_bytes());
            }
            Self::Source(range) => in_range(list, SOURCE, range),
            Self::Destination(range) => in_range(list, DESTINATION, range),
            Self::Protocol(number) => {
                meta(list, L4PROTO);
                compare(list, Comparison::Equal, &[u8::try_from(number).expect("protocols have eight bits")]);
            }
            Self::Port(port) => {
                payload(list, Header::Transport, DESTINATION_PORT, 2);
                compare(list, Comparison::Equal, &port.to_be_bytes());
            }
            Self::Established => established(list),
            Self::Accept => verdict(list, 1),
            Self::Drop => verdict(list, 0),
            Self::Refuse(family) => refuse(list, family),
            Self::GoTo(chain) => go_to(list, chain),
            Self::Count(tally) => {
                payload(list, Header::Network, SOURCE, 4);
                count(list, tally);
            }
            Self::Masquerade => expression(list, "masq", |_| {}),
        }
    }
}

#[derive(Clone, Copy)]
enum Comparison {
    Equal = 0,
    NotEqual = 1,
}

#[derive(Clone, Copy)]
enum Header {
    Network = 1,
    Transport = 2,
}

fn expression(list: &mut Attributes<'_>, name: &str, fill: impl FnOnce(&mut Attributes<'_>)) {
    list.nested(LIST_ELEMENT, |expression| {
        expression.text(EXPRESSION_NAME, name);
        expression.nested(EXPRESSION_DATA, fill);
    });
}

fn meta(list: &mut Attributes<'_>, key: u32) {
    expression(list, "meta", |meta| {
        meta.number(1, REGISTER);
        meta.number(2, key);
    });
}

/// Compares as many bytes as are given, so that a name is compared with the beginning of another.
fn compare(list: &mut Attributes<'_>, comparison: Comparison, value: &[u8]) {
    expression(list, "cmp", |compare| {
        compare.number(1, REGISTER);
        compare.number(2, comparison as u32);
        compare.nested(3, |data| data.bytes(DATA_VALUE, value));
    });
}

fn payload(list: &mut Attributes<'_>, header: Header, offset: u32, length: u32) {
    expression(list, "payload", |payload| {
        payload.number(1, REGISTER);
        payload.number(2, header as u32);
        payload.number(3, offset);
        payload.number(4, length);
    });
}

/// Keeps the bits of the register that a mask has.
fn mask(list: &mut Attributes<'_>, bits: [u8; 4]) {
    expression(list, "bitwise", |bitwise| {
        bitwise.number(1, REGISTER);
        bitwise.number(2, REGISTER);
        bitwise.number(3, 4);
        bitwise.nested(4, |data| data.bytes(DATA_VALUE, &bits));
        bitwise.nested(5, |data| data.bytes(DATA_VALUE, &[0; 4]));
    });
}

fn in_range(list: &mut Attributes<'_>, offset: u32, range: Ipv4Net) {
    payload(list, Header::Network, offset, 4);
    mask(list, range.netmask().octets());
    compare(list, Comparison::Equal, &range.network().octets());
}

fn established(list: &mut Attributes<'_>) {
    const STATE: u32 = 0;
    /// Established and related (NF_CT_STATE_BIT in linux/netfilter/nf_conntrack_common.h).
    const STATES: u32 = 0b110;
    expression(list, "ct", |ct| {
        ct.number(1, REGISTER);
        ct.number(2, STATE);
    });
    mask(list, STATES.to_ne_bytes());
    compare(list, Comparison::NotEqual, &[0; 4]);
}

fn verdict(list: &mut Attributes<'_>, code: u32) {
    expression(list, "immediate", |immediate| {
        immediate.number(1, VERDICT_REGISTER);
        immediate.nested(2, |data| data.nested(DATA_VERDICT, |verdict| verdict.number(VERDICT_CODE, code)));
    });
}

/// Continues in a chain and does not come back (NFT_GOTO).
fn go_to(list: &mut Attributes<'_>, chain: &str) {
    const GOTO: i32 = -4;
    const VERDICT_CHAIN: u16 = 2;
    expression(list, "immediate", |immediate| {
        immediate.number(1, VERDICT_REGISTER);
        immediate.nested(2, |data| {
            data.nested(DATA_VERDICT, |verdict| {
                verdict.number(VERDICT_CODE, GOTO.cast_unsigned());
                verdict.text(VERDICT_CHAIN, chain);
            });
        });
    });
}

/// Counts what is in the register.
fn count(list: &mut Attributes<'_>, tally: Tally) {
    const ADD: u32 = 0;
    expression(list, "dynset", |dynset| {
        dynset.text(1, tally.name());
        dynset.number(3, ADD);
        dynset.number(4, REGISTER);
        dynset.nested(7, |counter| counter.text(EXPRESSION_NAME, "counter"));
    });
}

fn refuse(list: &mut Attributes<'_>, family: Family) {
    const ICMP_UNREACHABLE: u32 = 0;
    // "Communication administratively prohibited".
    let code: u8 = match family {
        Family::V4 => 13,
        Family::V6 => 1,
    };
    expression(list, "reject", |reject| {
        reject.number(1, ICMP_UNREACHABLE);
        reject.bytes(2, &[code]);
    });
}
