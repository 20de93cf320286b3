//! Messages to nf_tables, and batches of them that the kernel puts in force as a whole.

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::Batch;

const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;

/// Bytes of the header of a message (struct nfgenmsg).
pub const HEADER: usize = 4;

/// One of the two families that have a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    V4 = 2,
    V6 = 10,
}

/// The type of a message.
pub fn kind(message: u16) -> u16 {
    NFNL_SUBSYS_NFTABLES << 8 | message
}

/// The header of a message about a family (struct nfgenmsg).
pub fn header(family: Family) -> [u8; HEADER] {
    [family as u8, 0, 0, 0]
}

/// A batch that is put in force as a whole.
pub fn begin() -> Batch {
    let mut batch = Batch::default();
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    batch.push_silent(NFNL_MSG_BATCH_BEGIN, &[0, 0, high, low]);
    batch
}

/// Puts it in force.
///
/// # Errors
/// The kernel's; then nothing of it is.
pub fn end(mut batch: Batch) -> io::Result<()> {
    let [high, low] = NFNL_SUBSYS_NFTABLES.to_be_bytes();
    batch.push_silent(NFNL_MSG_BATCH_END, &[0, 0, high, low]);
    batch.send(SockProtocol::NetlinkNetFilter)
}
