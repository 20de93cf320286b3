//! What is counted of each sandbox by its address: sets of nf_tables that rules add to, with a counter for each element.
//!
//! An element is made by the first packet that is counted, and removed with the sandbox. The sets are the rules', and so are
//! empty again once a later daemon has put its own in their place.

use std::io;
use std::net::Ipv4Addr;

use nix::sys::socket::SockProtocol;

use super::message::{Family, HEADER, begin, end, header, kind};
use super::netlink::{Attributes, Batch, CREATE, attribute};

const NFT_MSG_NEWSET: u16 = 9;
const NFT_MSG_GETSETELEM: u16 = 13;
const NFT_MSG_DELSETELEM: u16 = 14;

const SET_TABLE: u16 = 1;
const SET_NAME: u16 = 2;
const SET_FLAGS: u16 = 3;
const SET_KEY_TYPE: u16 = 4;
const SET_KEY_LENGTH: u16 = 5;
const SET_DESCRIPTION: u16 = 9;
const SET_ID: u16 = 10;
const DESCRIPTION_SIZE: u16 = 1;
const ELEMENTS_TABLE: u16 = 1;
const ELEMENTS_SET: u16 = 2;
const ELEMENTS: u16 = 3;
const LIST_ELEMENT: u16 = 1;
const ELEMENT_KEY: u16 = 1;
const ELEMENT_EXPRESSION: u16 = 7;
const DATA_VALUE: u16 = 1;
const EXPRESSION_DATA: u16 = 2;
const COUNTER_PACKETS: u16 = 2;

/// Rules add elements (NFT_SET_EVAL in linux/netfilter/nf_tables.h).
const FILLED_BY_RULES: u32 = 0x20;
/// The type of an address of IPv4, as nft(8) numbers it to show it.
const ADDRESS_TYPE: u32 = 7;

/// A set, and what it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tally {
    /// Connections out: each is looked at once for the node's address that it gets.
    Connected = 1,
    /// Packets that were refused. A connection that is refused is given up after one.
    Refused = 2,
}

impl Tally {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Connected, Self::Refused];

    /// The set's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Refused => "refused",
        }
    }

    /// Adds the set to a table that is made in the same batch, for so many addresses.
    pub fn append(self, batch: &mut Batch, table: &str, addresses: u32) {
        batch.push(kind(NFT_MSG_NEWSET), CREATE, &header(Family::V4), |set| {
            set.text(SET_TABLE, table);
            set.text(SET_NAME, self.name());
            set.number(SET_FLAGS, FILLED_BY_RULES);
            set.number(SET_KEY_TYPE, ADDRESS_TYPE);
            set.number(SET_KEY_LENGTH, 4);
            set.nested(SET_DESCRIPTION, |description| description.number(DESCRIPTION_SIZE, addresses));
            set.number(SET_ID, self as u32);
        });
    }

    /// How much was counted of an address.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(self, table: &str, address: Ipv4Addr) -> io::Result<u64> {
        Ok(self.find(table, address)?.and_then(|answer| packets(&answer)).unwrap_or(0))
    }

    /// The kernel's answer about the element of an address, if there is one.
    fn find(self, table: &str, address: Ipv4Addr) -> io::Result<Option<Vec<u8>>> {
        let mut question = Batch::default();
        question
            .push_question(kind(NFT_MSG_GETSETELEM), &header(Family::V4), |list| self.element(list, table, address));
        match question.ask(SockProtocol::NetlinkNetFilter) {
            Ok(answer) => Ok(Some(answer)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn element(self, list: &mut Attributes<'_>, table: &str, address: Ipv4Addr) {
        list.text(ELEMENTS_TABLE, table);
        list.text(ELEMENTS_SET, self.name());
        list.nested(ELEMENTS, |elements| {
            elements.nested(LIST_ELEMENT, |element| {
                element.nested(ELEMENT_KEY, |key| key.bytes(DATA_VALUE, &address.octets()));
            });
        });
    }
}

/// Forgets an address, from which nothing comes any more.
///
/// # Errors
/// The kernel's.
pub fn forget(table: &str, address: Ipv4Addr) -> io::Result<()> {
    let mut batch = begin();
    let mut counted = false;
    for tally in Tally::ALL {
        if tally.find(table, address)?.is_some() {
            batch.push(kind(NFT_MSG_DELSETELEM), 0, &header(Family::V4), |list| tally.element(list, table, address));
            counted = true;
        }
    }
    // A change takes the kernel 10 ms, and most sandboxes have sent nothing.
    if counted { end(batch) } else { Ok(()) }
}

/// The counter of the one element of an answer.
fn packets(answer: &[u8]) -> Option<u64> {
    let path = [ELEMENTS, LIST_ELEMENT, ELEMENT_EXPRESSION, EXPRESSION_DATA, COUNTER_PACKETS];
    let attributes = answer.get(HEADER..)?;
    let counter = path.into_iter().try_fold(attributes, attribute)?;
    Some(u64::from_be_bytes(*counter.first_chunk()?))
}
