//! Docker's filter, where it has one.
//!
//! A Docker that manages iptables drops what it does not know when the node passes it on, and a packet that one table drops is
//! dropped, whatever another says. It lets everybody have a say before: what our rules have accepted is accepted in its
//! chain for that, too. Where there is no such chain of nf_tables, there is nothing to do.

use std::io;

use nix::sys::socket::SockProtocol;

use super::message::{Family, HEADER, begin, end, header, kind};
use super::netlink::{Batch, CREATE, attribute, list};
use super::step::Step;

const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_NEWRULE: u16 = 6;
const NFT_MSG_GETRULE: u16 = 7;
const NFT_MSG_DELRULE: u16 = 8;

const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const RULE_TABLE: u16 = 1;
const RULE_CHAIN: u16 = 2;
const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;

/// The table of iptables, and Docker's chain in it for the rules of others.
const TABLE: &str = "filter";
const CHAIN: &str = "DOCKER-USER";

/// Has Docker accept what comes from links of a prefix and what goes to them. Does nothing if it has been told.
///
/// # Errors
/// The kernel's.
pub fn join(prefix: &str) -> io::Result<()> {
    if !is_there()? {
        return Ok(());
    }
    let both = [[Step::From(prefix), Step::Accept], [Step::To(prefix), Step::Accept]];
    let there = handles(prefix)?;
    if there.len() == both.len() {
        return Ok(());
    }
    let mut batch = begin();
    there.iter().for_each(|handle| delete(&mut batch, handle));
    for steps in both {
        // Before those that are there: the last of them may return.
        batch.push(kind(NFT_MSG_NEWRULE), CREATE, &header(Family::V4), |rule| {
            rule.text(RULE_TABLE, TABLE);
            rule.text(RULE_CHAIN, CHAIN);
            rule.nested(RULE_EXPRESSIONS, |list| steps.iter().for_each(|step| step.append(list)));
        });
    }
    if_there(end(batch))
}

/// Takes that back.
///
/// # Errors
/// The kernel's.
pub fn leave(prefix: &str) -> io::Result<()> {
    let there = handles(prefix)?;
    if there.is_empty() {
        return Ok(());
    }
    let mut batch = begin();
    there.iter().for_each(|handle| delete(&mut batch, handle));
    if_there(end(batch))
}

/// Whether Docker has its chain. It is asked before anything is changed: the kernel takes 10 ms for a change, even for one
/// that it refuses.
fn is_there() -> io::Result<bool> {
    let mut question = Batch::default();
    question.push_question(kind(NFT_MSG_GETCHAIN), &header(Family::V4), |chain| {
        chain.text(CHAIN_TABLE, TABLE);
        chain.text(CHAIN_NAME, CHAIN);
    });
    match question.ask(SockProtocol::NetlinkNetFilter) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// The handles of the rules that name links of a prefix.
fn handles(prefix: &str) -> io::Result<Vec<Vec<u8>>> {
    let rules = list(SockProtocol::NetlinkNetFilter, kind(NFT_MSG_GETRULE), &header(Family::V4), |rule| {
        rule.text(RULE_TABLE, TABLE);
        rule.text(RULE_CHAIN, CHAIN);
    });
    let names = |rule: &&Vec<u8>| rule.windows(prefix.len()).any(|part| part == prefix.as_bytes());
    let handle = |rule: &Vec<u8>| attribute(rule.get(HEADER..)?, RULE_HANDLE).map(<[u8]>::to_vec);
    match rules {
        Ok(rules) => Ok(rules.iter().filter(names).filter_map(handle).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn delete(batch: &mut Batch, handle: &[u8]) {
    batch.push(kind(NFT_MSG_DELRULE), 0, &header(Family::V4), |rule| {
        rule.text(RULE_TABLE, TABLE);
        rule.text(RULE_CHAIN, CHAIN);
        rule.bytes(RULE_HANDLE, handle);
    });
}

/// A chain that is not there, or has just gone, needs nothing.
fn if_there(changed: io::Result<()>) -> io::Result<()> {
    match changed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
