//! What is wrong with a config file, and where.

use std::fmt;

/// One fault of a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where in the file; `None` if nothing stands there, as when a default cannot be had or a flag is at fault.
    pub place: Option<Place>,
    /// The key with its sections, like `run.timeout`; empty if the text is no TOML there.
    pub key: String,
    /// What was expected, and what was found instead.
    pub message: String,
}

/// A place in a text; both count from 1, and columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}:{}", self.line, self.column)
    }
}

impl fmt::Display for Fault {
    /// `3:11: run.timeout: expected ..`, which editors can jump to once the file's name stands before it.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(formatter, "{place}: ")?;
        }
        if !self.key.is_empty() {
            write!(formatter, "{}: ", self.key)?;
        }
        formatter.write_str(&self.message)
    }
}

/// Turns byte offsets into places.
pub(super) struct Lines<'a> {
    text: &'a str,
    /// Offset at which each line begins.
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let after_breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(after_breaks).collect() }
    }

    /// An offset beyond the text is taken for its end.
    pub(super) fn place(&self, offset: usize) -> Place {
        let offset = self.text.floor_char_boundary(offset);
        let line = self.starts.partition_point(|start| *start <= offset);
        let column = self.text[self.starts[line - 1]..offset].chars().count() + 1;
        Place { line, column }
    }

    /// The bytes of the line that holds the offset, without its line break.
    pub(super) fn range(&self, offset: usize) -> std::ops::Range<usize> {
        let line = self.starts.partition_point(|start| *start <= offset);
        let end = self.starts.get(line).map_or(self.text.len(), |next| next - 1);
        self.starts[line - 1]..end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_count_from_one() {
        let lines = Lines::new("a\nüb\n");
        assert_eq!(lines.place(0), Place { line: 1, column: 1 });
        assert_eq!(lines.place(1), Place { line: 1, column: 2 });
        assert_eq!(lines.place(4), Place { line: 2, column: 2 });
        assert_eq!(lines.place(99), Place { line: 3, column: 1 });
    }

    #[test]
    fn the_range_of_a_line_leaves_out_its_break() {
        let lines = Lines::new("a\nbc\nd");
        assert_eq!(lines.range(3), 2..4);
        assert_eq!(lines.range(4), 2..4);
        assert_eq!(lines.range(5), 5..6);
    }
}
