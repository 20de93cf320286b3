//! What may go where: the rules of nf_tables, in tables of this daemon's own.
//!
//! ```text
//! from a sandbox to the node           refused, but for the resolver
//!                to another sandbox    refused
//!                to a listed range     accepted
//!                to a private range    refused
//!                to anywhere else      accepted, with the node's address
//! to a sandbox   what it has asked for accepted
//!                anything else         dropped
//! IPv6           from a sandbox        refused
//! ```
//!
//! What is refused is counted, and told to the sandbox by ICMP, so that a connection fails at once. That the source of a packet is the
//! sandbox's own is seen to by the kernel's reverse path filter.

use std::io;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use nix::sys::socket::SockProtocol;

use super::message::{Family, begin, end, header, kind};
use super::netlink::{APPEND, Batch, CREATE};
use super::step::Step;
use super::tally::Tally;

const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETGEN: u16 = 16;

const TABLE_NAME: u16 = 1;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;
const HOOK_PRIORITY: u16 = 2;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_EXPRESSIONS: u16 = 4;

/// Hooks of the network's layer (linux/netfilter.h).
const LOCAL_IN: u32 = 1;
const FORWARD: u32 = 2;
const POST_ROUTING: u32 = 4;

/// Before the filters of others, which may refuse more.
const BEFORE_FILTER: i32 = -10;
const SOURCE_NAT: i32 = 100;

const DNS: u16 = 53;

/// The chain that refuses.
const REFUSE: &str = "refuse";

/// What the rules are made of.
#[derive(Debug)]
pub struct Rules<'a> {
    /// The tables' name.
    pub table: &'a str,
    /// How the names of sandboxes' links begin.
    pub prefix: &'a str,
    /// Where the resolver is.
    pub gateway: Ipv4Addr,
    /// The sandboxes' addresses.
    pub subnet: Ipv4Net,
    /// Ranges that are refused.
    pub refused: &'a [Ipv4Net],
    /// Ranges that are not, all the same.
    pub reachable: &'a [Ipv4Net],
}

/// Asks for the generation of the rules that are in force.
pub fn probe() -> io::Result<()> {
    let mut batch = Batch::default();
    batch.push(kind(NFT_MSG_GETGEN), 0, &[0; 4], |_| {});
    batch.send(SockProtocol::NetlinkNetFilter)
}

impl Rules<'_> {
    /// Puts them in force in one step, in place of those of an earlier daemon.
    ///
    /// # Errors
    /// The kernel's.
    pub fn install(&self) -> io::Result<()> {
        let mut batch = begin();
        for family in [Family::V4, Family::V6] {
            // To remove a table it has to be there.
            self.table(&mut batch, family, NFT_MSG_NEWTABLE, CREATE);
            self.table(&mut batch, family, NFT_MSG_DELTABLE, 0);
            self.table(&mut batch, family, NFT_MSG_NEWTABLE, CREATE);
        }
        let addresses = 1 << (32 - self.subnet.prefix_len());
        for tally in Tally::ALL {
            tally.append(&mut batch, self.table, addresses);
        }
        self.refuse(&mut batch);
        self.input(&mut batch);
        self.forward(&mut batch);
        self.chain(&mut batch, Family::V4, "out", "nat", POST_ROUTING, SOURCE_NAT);
        for last in [Step::Count(Tally::Connected), Step::Masquerade] {
            let out = [Step::Source(self.subnet), Step::NotTo(self.prefix), last];
            self.rule(&mut batch, Family::V4, "out", &out);
        }
        for (name, hook) in [("input", LOCAL_IN), ("forward", FORWARD)] {
            self.chain(&mut batch, Family::V6, name, "filter", hook, BEFORE_FILTER);
            self.rule(&mut batch, Family::V6, name, &[Step::From(self.prefix), Step::Refuse(Family::V6)]);
        }
        end(batch)
    }

    /// Removes them; answers whether there were any.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&self) -> io::Result<bool> {
        let mut batch = begin();
        for family in [Family::V4, Family::V6] {
            self.table(&mut batch, family, NFT_MSG_DELTABLE, 0);
        }
        match end(batch) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Where the others go to refuse a packet. It is counted by a rule of its own: one that finds no room for another address
    /// goes no further.
    fn refuse(&self, batch: &mut Batch) {
        batch.push(kind(NFT_MSG_NEWCHAIN), CREATE, &header(Family::V4), |chain| {
            chain.text(CHAIN_TABLE, self.table);
            chain.text(CHAIN_NAME, REFUSE);
        });
        for step in [Step::Count(Tally::Refused), Step::Refuse(Family::V4)] {
            self.rule(batch, Family::V4, REFUSE, &[step]);
        }
    }

    fn input(&self, batch: &mut Batch) {
        let gateway = Ipv4Net::from(self.gateway);
        self.chain(batch, Family::V4, "input", "filter", LOCAL_IN, BEFORE_FILTER);
        for protocol in [libc::IPPROTO_UDP, libc::IPPROTO_TCP] {
            let [from, to] = [Step::From(self.prefix), Step::Destination(gateway)];
            let resolver = [from, to, Step::Protocol(protocol), Step::Port(DNS), Step::Accept];
            self.rule(batch, Family::V4, "input", &resolver);
        }
        self.rule(batch, Family::V4, "input", &[Step::From(self.prefix), Step::GoTo(REFUSE)]);
    }

    fn forward(&self, batch: &mut Batch) {
        let from = Step::From(self.prefix);
        self.chain(batch, Family::V4, "forward", "filter", FORWARD, BEFORE_FILTER);
        let mut rule = |steps: &[Step<'_>]| self.rule(batch, Family::V4, "forward", steps);
        rule(&[from, Step::To(self.prefix), Step::GoTo(REFUSE)]);
        for range in self.reachable {
            rule(&[from, Step::Destination(*range), Step::Accept]);
        }
        for range in self.refused {
            rule(&[from, Step::Destination(*range), Step::GoTo(REFUSE)]);
        }
        rule(&[from, Step::Accept]);
        rule(&[Step::To(self.prefix), Step::Established, Step::Accept]);
        rule(&[Step::To(self.prefix), Step::Drop]);
    }

    fn table(&self, batch: &mut Batch, family: Family, message: u16, flags: u16) {
        batch.push(kind(message), flags, &header(family), |table| table.text(TABLE_NAME, self.table));
    }

    fn chain(&self, batch: &mut Batch, family: Family, name: &str, kind_of: &str, hook: u32, priority: i32) {
        batch.push(kind(NFT_MSG_NEWCHAIN), CREATE, &header(family), |chain| {
            chain.text(CHAIN_TABLE, self.table);
            chain.text(CHAIN_NAME, name);
            chain.nested(CHAIN_HOOK, |place| {
                place.number(HOOK_NUMBER, hook);
                place.number(HOOK_PRIORITY, priority.cast_unsigned());
            });
            chain.text(CHAIN_TYPE, kind_of);
        });
    }

    fn rule(&self, batch: &mut Batch, family: Family, chain: &str, steps: &[Step<'_>]) {
        batch.push(kind(NFT_MSG_NEWRULE), CREATE | APPEND, &header(family), |rule| {
            rule.text(RULE_TABLE, self.table);
            rule.text(RULE_CHAIN, chain);
            rule.nested(RULE_EXPRESSIONS, |list| steps.iter().for_each(|step| step.append(list)));
        });
    }
}
