//! Netlink: messages with nested attributes, sent in one go, and the kernel's word on each (netlink(7)).
//!
//! No crate that may be used speaks nf_tables, and what speaks only rtnetlink would be a second way to do the same. So
//! both are spoken here, as far as they are needed.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::sockopt::ReceiveTimeout;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, setsockopt, socket,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// How long the kernel may take to answer. It answers within the system call that asks.
const ANSWER_SECONDS: i64 = 10;

/// Room for the kernel's answers to one batch; each holds a header, an error, and the header of the message.
const ANSWERS: usize = 64 << 10;

const HEADER: usize = 16;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLA_F_NESTED: u16 = 0x8000;

/// The thing exists already: it is not changed, and that is an error.
pub const EXCLUSIVE: u16 = 0x200;
/// It takes the place of the one that there is.
pub const REPLACE: u16 = 0x100;
/// It is made if it does not exist.
pub const CREATE: u16 = 0x400;
/// It is put behind those that are there.
pub const APPEND: u16 = 0x800;

/// Messages that are sent together.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    /// How many of them the kernel answers.
    answers: usize,
}

impl Batch {
    /// Adds a message that the kernel answers: its type, flags, fixed part and attributes.
    pub fn push(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.answers += 1;
        self.message(kind, flags | NLM_F_ACK, fixed, fill);
    }

    /// Adds a question, which the kernel answers by what it is asked for; see [`Batch::ask`].
    pub fn push_question(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.message(kind, 0, fixed, fill);
    }

    /// Adds one that it does not.
    pub fn push_silent(&mut self, kind: u16, fixed: &[u8]) {
        self.message(kind, 0, fixed, |_| {});
    }

    fn message(&mut self, kind: u16, flags: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        // Length, sequence number and port are filled in later or not needed.
        self.bytes.extend_from_slice(&[0; HEADER]);
        self.bytes[start + 4..start + 6].copy_from_slice(&kind.to_ne_bytes());
        self.bytes[start + 6..start + 8].copy_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(fixed);
        fill(&mut Attributes(&mut self.bytes));
        let length = u32::try_from(self.bytes.len() - start).expect("messages are short");
        self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// Sends all of them, and waits for the kernel's word on each.
    ///
    /// # Errors
    /// The first that it refused.
    pub fn send(&self, protocol: SockProtocol) -> io::Result<()> {
        self.hear(&self.say(protocol)?)
    }

    /// Sends one question; answers the body of the kernel's answer.
    ///
    /// # Errors
    /// The kernel refused it.
    pub fn ask(&self, protocol: SockProtocol) -> io::Result<Vec<u8>> {
        let socket = self.say(protocol)?;
        let mut buffer = vec![0; ANSWERS];
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        match split(&buffer[..length]) {
            Some((NLMSG_ERROR, body, _)) => Err(refusal(body).unwrap_or(Errno::EBADMSG).into()),
            Some((_, body, _)) => Ok(body.to_vec()),
            None => Err(Errno::EBADMSG.into()),
        }
    }

    fn say(&self, protocol: SockProtocol) -> io::Result<OwnedFd> {
        let flags = SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol)?;
        setsockopt(&socket, ReceiveTimeout, &TimeVal::seconds(ANSWER_SECONDS))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        sendto(socket.as_raw_fd(), &self.bytes, &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
        Ok(socket)
    }

    fn hear(&self, socket: &OwnedFd) -> io::Result<()> {
        let mut buffer = vec![0; ANSWERS];
        let mut heard = 0;
        while heard < self.answers {
            let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
            let mut answers = &buffer[..length];
            while let Some((kind, body, rest)) = split(answers) {
                if kind == NLMSG_ERROR {
                    if let Some(errno) = refusal(body) {
                        return Err(errno.into());
                    }
                    heard += 1;
                }
                answers = rest;
            }
        }
        Ok(())
    }
}

/// What an answer to a message says is wrong with it, if anything.
fn refusal(body: &[u8]) -> Option<Errno> {
    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
    (code != 0).then(|| Errno::from_raw(-code))
}

/// Asks for all there are of something: the request's type, fixed part and attributes. Answers the body of each.
///
/// # Errors
/// The kernel's.
pub fn list(
    protocol: SockProtocol,
    kind: u16,
    fixed: &[u8],
    fill: impl FnOnce(&mut Attributes<'_>),
) -> io::Result<Vec<Vec<u8>>> {
    let mut request = Batch::default();
    request.message(kind, NLM_F_DUMP, fixed, fill);
    let socket = request.say(protocol)?;
    let (mut buffer, mut found) = (vec![0; ANSWERS], Vec::new());
    loop {
        let length = recv(socket.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        let mut answers = &buffer[..length];
        while let Some((kind, body, rest)) = split(answers) {
            match kind {
                NLMSG_DONE => return Ok(found),
                NLMSG_ERROR => return Err(refusal(body).unwrap_or(Errno::EBADMSG).into()),
                _ => found.push(body.to_vec()),
            }
            answers = rest;
        }
    }
}

/// The value of the first attribute of a kind, if there is one.
pub fn attribute(mut attributes: &[u8], kind: u16) -> Option<&[u8]> {
    /// Bits of the type that say how the value is written.
    const FLAGS: u16 = 0xc000;
    loop {
        let length = usize::from(u16::from_ne_bytes(*attributes.first_chunk()?));
        let found = u16::from_ne_bytes(*attributes.get(2..)?.first_chunk()?);
        let value = attributes.get(4..length)?;
        if found & !FLAGS == kind {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}

/// Type and body of the first message, and what follows it.
fn split(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let body = bytes.get(HEADER..length)?;
    Some((kind, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// The attributes of a message, or of an attribute.
pub struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// Adds bytes.
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.attribute(kind, |bytes| bytes.extend_from_slice(value));
    }

    /// Adds a text with the NUL at its end.
    pub fn text(&mut self, kind: u16, value: &str) {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat());
    }

    /// Adds a number in the network's order, as nf_tables has them.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// Adds attributes.
    pub fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind | NLA_F_NESTED, |bytes| fill(&mut Attributes(bytes)));
    }

    /// Adds a fixed part and attributes, as a link's peer has them.
    pub fn framed(&mut self, kind: u16, fixed: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        self.attribute(kind, |bytes| {
            bytes.extend_from_slice(fixed);
            fill(&mut Attributes(bytes));
        });
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 2]);
        self.0.extend_from_slice(&kind.to_ne_bytes());
        fill(self.0);
        let length = u16::try_from(self.0.len() - start).expect("attributes are short");
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_those_of_the_content_and_everything_begins_at_a_multiple_of_four() {
        let mut batch = Batch::default();
        batch.push(16, CREATE, &[7; 4], |attributes| {
            attributes.nested(2, |inner| inner.text(1, "ab"));
            attributes.bytes(3, &[9]);
        });
        let expected = [
            &[40, 0, 0, 0, 16, 0, 5, 4, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7, 7, 7][..],
            &[12, 0, 2, 0x80, 7, 0, 1, 0, b'a', b'b', 0, 0],
            &[5, 0, 3, 0, 9, 0, 0, 0],
        ]
        .concat();
        assert_eq!(batch.bytes, expected);
    }

    #[test]
    fn an_attribute_is_found_among_others_and_nothing_is_found_in_what_is_cut_off() {
        let mut bytes = Vec::new();
        Attributes(&mut bytes).bytes(1, &[1, 2, 3]);
        Attributes(&mut bytes).nested(2, |inner| inner.number(3, 4));
        assert_eq!(attribute(&bytes, 2).and_then(|inner| attribute(inner, 3)), Some(&[0, 0, 0, 4][..]));
        assert_eq!(attribute(&bytes, 9), None);
        for cut in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..cut], 2), None, "{cut}");
        }
    }

    #[test]
    fn the_kernels_refusal_is_told() {
        let mut batch = Batch::default();
        // RTM_DELLINK of a link that is not there; without the right to it, that is said first.
        batch.push(17, 0, &[0; 16], |attributes| attributes.text(3, "no-such-link"));
        let error = batch.send(SockProtocol::NetlinkRoute).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENODEV | libc::EPERM)), "{error}");
    }
}
