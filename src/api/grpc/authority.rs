//! What clients of a unix socket send as `:authority`, made into one that can be read. Pure.
//!
//! A unix socket has no authority, and many clients (those on gRPC's C core, so of Python, C++ and Ruby, and those of Java)
//! send its path for one, plain or with percent signs: `/run/handsd/handsd.sock`. The HTTP/2 library resets such requests,
//! as it should (RFC 9113, 8.3.1; RFC 3986, 3.2), and has no setting for it. So what an authority cannot hold is changed as
//! it arrives: a byte for a byte, which changes no length, and so nothing that the compression of headers counts by
//! (RFC 7541, 4.1).
//!
//! Strings in Huffman's code are left alone: clients that use it (Go's) send an authority that can be read.

/// Bytes with which every connection begins (RFC 9113, 3.4).
const PREFACE: usize = 24;
/// Bytes of a frame's header (RFC 9113, 4.1).
const HEADER: usize = 9;

/// Types and flags of frames (RFC 9113, 6), and the bytes of a priority.
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const PADDED: u8 = 0x8;
const PRIORITY: u8 = 0x20;
const PRIORITY_LEN: usize = 5;

/// A name, and its index (RFC 7541, appendix A). Some write it out all the same.
const AUTHORITY: &[u8] = b":authority";
const AUTHORITY_INDEX: usize = 1;

/// Follows what a client sends.
#[derive(Debug)]
pub struct Rewriter {
    frame: Frame,
    field: Field,
}

/// Where in the frames we are.
#[derive(Debug, Clone, Copy)]
enum Frame {
    /// In a frame's header, of which so many bytes are here.
    Header([u8; HEADER], usize),
    /// In so many bytes of no interest.
    Skip(usize),
    /// Before the byte that says how long the padding is; behind it come a priority of so many bytes and so many more.
    Padding { priority: usize, rest: usize },
    /// In headers: so many bytes before them, of them, and behind them.
    Headers { before: usize, rest: usize, behind: usize },
}

/// Where in a field of the headers we are (RFC 7541, 6).
#[derive(Debug, Clone, Copy)]
enum Field {
    /// Before it.
    Start,
    /// In a number of several bytes.
    Number { value: usize, shift: u32, of: Number },
    /// Before a string.
    String(Text),
    /// In a string with so many bytes left.
    Bytes { rest: usize, text: Text, is_plain: bool },
}

/// What a number counts.
#[derive(Debug, Clone, Copy)]
enum Number {
    /// An entry of the table, or its size; the field is over with it.
    Whole,
    /// The entry that has the field's name.
    Name,
    /// The bytes of a string.
    Length { text: Text, is_plain: bool },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Text {
    /// A name, behind which comes a value. As far as it is that of the authority: so many bytes.
    Name(Option<usize>),
    /// The value of an authority.
    Authority,
    /// Any other value.
    Value,
}

impl Rewriter {
    /// For a new connection.
    pub fn new() -> Self {
        Self { frame: Frame::Skip(PREFACE), field: Field::Start }
    }

    /// Changes what has come next.
    pub fn rewrite(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() {
            let taken = self.take(bytes);
            bytes = &mut bytes[taken..];
        }
    }

    /// Goes on by at least one byte, or to another state; answers the bytes.
    fn take(&mut self, bytes: &mut [u8]) -> usize {
        let most = |rest: usize| bytes.len().min(rest);
        match self.frame {
            Frame::Skip(0) => {
                self.frame = Frame::Header([0; HEADER], 0);
                0
            }
            Frame::Skip(rest) => {
                let taken = most(rest);
                self.frame = Frame::Skip(rest - taken);
                taken
            }
            Frame::Header(mut header, filled) => {
                let taken = most(HEADER - filled);
                header[filled..filled + taken].copy_from_slice(&bytes[..taken]);
                self.frame = Frame::Header(header, filled + taken);
                if filled + taken == HEADER {
                    self.begin(header);
                }
                taken
            }
            Frame::Padding { priority, rest } => {
                let behind = usize::from(bytes[0]).min(rest);
                self.frame = Frame::Headers { before: priority, rest: rest - behind, behind };
                1
            }
            Frame::Headers { before: 0, rest: 0, behind } => {
                self.frame = Frame::Skip(behind);
                0
            }
            Frame::Headers { before: 0, rest, behind } => {
                let taken = most(rest);
                self.frame = Frame::Headers { before: 0, rest: rest - taken, behind };
                for byte in &mut bytes[..taken] {
                    self.field = self.field.after(byte);
                }
                taken
            }
            Frame::Headers { before, rest, behind } => {
                let taken = most(before);
                self.frame = Frame::Headers { before: before - taken, rest, behind };
                taken
            }
        }
    }

    /// Goes on behind a frame's header.
    fn begin(&mut self, [high, middle, low, kind, flags, ..]: [u8; HEADER]) {
        let length = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
        if kind == CONTINUATION {
            self.frame = Frame::Headers { before: 0, rest: length, behind: 0 };
            return;
        }
        if kind != HEADERS {
            self.frame = Frame::Skip(length);
            return;
        }
        self.field = Field::Start;
        let priority = if flags & PRIORITY == 0 { 0 } else { PRIORITY_LEN };
        let padding = usize::from(flags & PADDED != 0);
        // Whoever is too short is refused by the library.
        let Some(rest) = length.checked_sub(priority + padding) else {
            self.frame = Frame::Skip(length);
            return;
        };
        self.frame = match padding {
            0 => Frame::Headers { before: priority, rest, behind: 0 },
            _ => Frame::Padding { priority, rest },
        };
    }
}

impl Field {
    /// Where we are behind a byte, which is changed if an authority cannot hold it.
    fn after(self, byte: &mut u8) -> Self {
        match self {
            Self::Start => match *byte {
                indexed @ 0x80.. => Self::number(indexed, 7, Number::Whole),
                literal @ 0x40..=0x7f => Self::number(literal, 6, Number::Name),
                resize @ 0x20..=0x3f => Self::number(resize, 5, Number::Whole),
                unindexed @ ..=0x1f => Self::number(unindexed, 4, Number::Name),
            },
            Self::Number { value, shift, of } => {
                let value = value.saturating_add(usize::from(*byte & 0x7f) << shift);
                // More digits than these are refused by the library.
                let goes_on = *byte & 0x80 != 0 && shift < 28;
                if goes_on { Self::Number { value, shift: shift + 7, of } } else { of.is(value) }
            }
            Self::String(text) => {
                let is_plain = *byte & 0x80 == 0;
                Self::number(*byte, 7, Number::Length { text, is_plain })
            }
            Self::Bytes { rest, text, is_plain } => {
                if is_plain && text == Text::Authority && matches!(*byte, b'/' | b'%') {
                    *byte = b'-';
                }
                Self::bytes(rest - 1, text.after(*byte), is_plain)
            }
        }
    }

    /// A number that begins in the low bits of a byte (RFC 7541, 5.1).
    fn number(byte: u8, bits: u32, of: Number) -> Self {
        let most = (1 << bits) - 1;
        match usize::from(byte) & most {
            value if value < most => of.is(value),
            value => Self::Number { value, shift: 0, of },
        }
    }

    fn bytes(rest: usize, text: Text, is_plain: bool) -> Self {
        match (rest, text) {
            (0, Text::Name(Some(length))) if length == AUTHORITY.len() => Self::String(Text::Authority),
            (0, Text::Name(_)) => Self::String(Text::Value),
            (0, Text::Authority | Text::Value) => Self::Start,
            (rest, text) => Self::Bytes { rest, text, is_plain },
        }
    }
}

impl Text {
    /// What it is behind one of its bytes.
    fn after(self, byte: u8) -> Self {
        match self {
            Self::Name(Some(length)) => Self::Name((AUTHORITY.get(length) == Some(&byte)).then_some(length + 1)),
            other => other,
        }
    }
}

impl Number {
    /// Where we are when it is known.
    fn is(self, value: usize) -> Field {
        match (self, value) {
            (Self::Whole, _) => Field::Start,
            (Self::Name, 0) => Field::String(Text::Name(Some(0))),
            (Self::Name, AUTHORITY_INDEX) => Field::String(Text::Authority),
            (Self::Name, _) => Field::String(Text::Value),
            (Self::Length { text, is_plain }, length) => Field::bytes(length, text, is_plain),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PATH: &[u8] = b"%2Frun/handsd%2Fhandsd.sock";
    const READABLE: &[u8] = b"-2Frun-handsd-2Fhandsd.sock";

    fn frame(kind: u8, flags: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, 1], body].concat()
    }

    fn string(text: &[u8]) -> Vec<u8> {
        [&[u8::try_from(text.len()).unwrap()], text].concat()
    }

    /// The headers of a call: POST, the path, a name of its own, an authority, one more.
    fn headers(authority: &[u8]) -> Vec<u8> {
        let own = [&[0x40][..], &string(b"x-own"), &string(b"a/b%c")].concat();
        let long = [&[0x0f, 0x30, 127, 0x11][..], &[b'/'; 127 + 17]].concat();
        let named = [&[0x40][..], &string(b":authority"), &string(authority)].concat();
        let other = [&[0x40][..], &string(b":authority2"), &string(b"/%")].concat();
        let authority = [&[0x41][..], &string(authority), &named, &other].concat();
        [&[0x83, 0x86, 0x04][..], &string(b"/hands.v1.Node/Info"), &own, &long, &authority, &[0x3f, 0xe1, 0x1f, 0x90]]
            .concat()
    }

    /// A connection with the headers in each way in which they can be sent, between frames that look like such.
    fn connection(authority: &[u8]) -> Vec<u8> {
        let headers = headers(authority);
        let padded = [&[3][..], &[0; 5], &headers, b"%/%"].concat();
        let (first, second) = headers.split_at(headers.len() - 12);
        let frames = [
            frame(4, 0, b"/%A/%"),
            frame(HEADERS, 4, &headers),
            frame(0, 1, &[0x41, 3, b'/', b'/', b'%']),
            frame(HEADERS, 4 | PADDED | PRIORITY, &padded),
            frame(HEADERS, 0, first),
            frame(CONTINUATION, 4, second),
            frame(HEADERS, 4 | PADDED, &[]),
            frame(HEADERS, 4, &headers),
        ];
        [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames.concat()].concat()
    }

    #[test]
    fn a_path_becomes_an_authority_and_nothing_else_changes() {
        let mut sent = connection(PATH);
        Rewriter::new().rewrite(&mut sent);
        assert_eq!(sent, connection(READABLE));
        Rewriter::new().rewrite(&mut sent);
        assert_eq!(sent, connection(READABLE));
    }

    #[test]
    fn what_is_in_huffmans_code_is_left_alone() {
        let headers = [0x41, 0x83, b'/', b'%', b'/', 0x90];
        let sent = [&[b' '; PREFACE][..], &frame(HEADERS, 4, &headers)].concat();
        let mut rewritten = sent.clone();
        Rewriter::new().rewrite(&mut rewritten);
        assert_eq!(rewritten, sent);
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_it_comes(cuts in proptest::collection::vec(1_usize..40, 1..200)) {
            let (mut sent, mut rewriter) = (connection(PATH), Rewriter::new());
            let mut rest = sent.as_mut_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, more) = rest.split_at_mut((*cut).min(rest.len()));
                rewriter.rewrite(piece);
                rest = more;
            }
            prop_assert_eq!(sent, connection(READABLE));
        }

        #[test]
        fn whatever_comes_it_goes_on(mut bytes in proptest::collection::vec(any::<u8>(), 0..2_000)) {
            let (length, mut rewriter) = (bytes.len(), Rewriter::new());
            rewriter.rewrite(&mut bytes);
            prop_assert_eq!(bytes.len(), length);
        }
    }
}
