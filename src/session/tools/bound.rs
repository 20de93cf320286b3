//! The head and the tail of a text that may be long.

use std::collections::VecDeque;

/// Bytes that are kept of the beginning.
const HEAD: usize = 20 << 10;
/// And of the end.
const TAIL: usize = 10 << 10;

/// Keeps the first and the last bytes of what is put in, and counts the rest.
#[derive(Debug, Default)]
pub struct Bounded {
    head: Vec<u8>,
    tail: VecDeque<u8>,
    len: u64,
}

impl Bounded {
    /// Puts in more.
    pub fn push(&mut self, bytes: &[u8]) {
        self.len += bytes.len() as u64;
        let (first, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
        self.head.extend_from_slice(first);
        let rest = &rest[rest.len().saturating_sub(TAIL)..];
        let surplus = (self.tail.len() + rest.len()).saturating_sub(TAIL);
        self.tail.drain(..surplus.min(self.tail.len()));
        self.tail.extend(rest);
    }

    /// Leaves out what never came, such as bytes that were not kept.
    pub fn skip(&mut self, bytes: u64) {
        self.len += bytes;
    }

    /// All that was put in, in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Nothing was put in.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// As text; `rest` says how to get what is left out, given where that begins and how much it is.
    #[must_use]
    pub fn text(&self, rest: impl FnOnce(u64, u64) -> String) -> String {
        let tail: Vec<u8> = self.tail.iter().copied().collect();
        let left_out = self.len - (self.head.len() + tail.len()) as u64;
        if left_out == 0 {
            let all = [self.head.as_slice(), &tail].concat();
            return String::from_utf8_lossy(&all).into_owned();
        }
        let (head, tail) = (String::from_utf8_lossy(&self.head), String::from_utf8_lossy(&tail));
        format!("{head}\n[... {left_out} bytes are left out; {} ...]\n{tail}", rest(self.head.len() as u64, left_out))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_short_text_is_whole_even_if_it_is_split_within_a_character() {
        let mut bounded = Bounded::default();
        for byte in "grün".bytes() {
            bounded.push(&[byte]);
        }
        assert_eq!(bounded.text(|_, _| unreachable!()), "grün");
    }

    proptest! {
        #[test]
        fn head_and_tail_are_those_of_the_whole(sizes in prop::collection::vec(0_usize..20_000, 0..8)) {
            let all: Vec<u8> = (b'a'..b'x').cycle().take(sizes.iter().sum()).collect();
            let mut bounded = Bounded::default();
            let mut rest = &all[..];
            for size in sizes {
                let (now, later) = rest.split_at(size);
                bounded.push(now);
                rest = later;
            }
            let text = bounded.text(|from, count| format!("<{from} {count}>"));
            prop_assert_eq!(bounded.len(), all.len() as u64);
            if all.len() <= HEAD + TAIL {
                prop_assert_eq!(text.as_bytes(), &all);
            } else {
                prop_assert!(text.as_bytes().starts_with(&all[..HEAD]));
                prop_assert!(text.as_bytes().ends_with(&all[all.len() - TAIL..]));
                let note = format!("<{HEAD} {}>", all.len() - HEAD - TAIL);
                prop_assert!(text.contains(&note));
            }
        }
    }
}
