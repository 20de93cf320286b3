//! Text for people: stdout without panics, tables, sizes and ages.

use std::io::{self, ErrorKind, Write};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

/// Writes text to stdout.
pub fn print(text: &str) -> anyhow::Result<()> {
    write_flushed(&mut io::stdout().lock(), text.as_bytes())
}

/// Writes a JSON document and a newline to stdout.
pub fn print_json(value: &serde_json::Value) -> anyhow::Result<()> {
    print(&format!("{value}\n"))
}

/// Whoever read our stdout has gone (`hands bash … | head`): no reason to say anything.
#[derive(Debug, thiserror::Error)]
#[error("nobody reads stdout any more")]
pub struct StdoutClosed;

/// Writes all bytes and flushes, so that whoever reads sees them now. A reader that has gone is [`StdoutClosed`].
pub fn write_flushed(target: &mut impl Write, bytes: &[u8]) -> anyhow::Result<()> {
    match target.write_all(bytes).and_then(|()| target.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(StdoutClosed.into()),
        written => written.context("cannot write the output"),
    }
}

/// The text with control characters shown as `?`: names from a sandbox must not steer the caller's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { '?' } else { letter }).collect()
}

/// How a column of a table is aligned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Align {
    /// Text.
    Left,
    /// Numbers.
    Right,
}

/// Rows below a header, columns two spaces apart. An empty title everywhere leaves the header out.
pub fn table(columns: &[(&str, Align)], rows: &[Vec<String>]) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let header: Vec<String> = columns.iter().map(|(title, _)| (*title).to_owned()).collect();
    let shown = header.iter().any(|title| !title.is_empty()).then_some(&header);
    let lines: Vec<&Vec<String>> = shown.into_iter().chain(&rows).collect();
    let width = |column: usize| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns.len()).map(width).collect();
    let mut text = String::new();
    for line in lines {
        let cells = line.iter().zip(&widths).zip(columns).map(|((cell, width), (_, align))| match align {
            Align::Left => format!("{cell:<width$}"),
            Align::Right => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// One field a line, values below each other; empty values are left out.
pub fn fields(fields: &[(&str, String)]) -> String {
    let shown = fields.iter().filter(|(_, value)| !value.is_empty());
    let rows: Vec<Vec<String>> = shown.map(|(name, value)| vec![format!("{name}:"), value.clone()]).collect();
    table(&[("", Align::Left), ("", Align::Left)], &rows)
}

/// A size in the largest unit that keeps it above one: `0`, `4.0K`, `1.5G`; powers of 1,024.
pub fn size(bytes: u64) -> String {
    if bytes < 1024 {
        return bytes.to_string();
    }
    #[expect(clippy::cast_precision_loss, reason = "two digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut units = ["K", "M", "G", "T", "P", "E"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    // What would be shown as 1024 is one of the next unit.
    while value >= 1023.5 {
        let Some(next) = units.next() else { break };
        value /= 1024.0;
        unit = next;
    }
    if value < 9.95 { format!("{value:.1}{unit}") } else { format!("{value:.0}{unit}") }
}

/// A span of time in one unit: `0s`, `59s`, `5m`, `3h`, `12d`.
pub fn span(span: Duration) -> String {
    let seconds = span.as_secs();
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3_600 => format!("{}m", seconds / 60),
        3_600..172_800 => format!("{}h", seconds / 3_600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// How long ago `then` was. What is missing or lies in the future is `-`.
pub fn age(then: Option<prost_types::Timestamp>, now: SystemTime) -> String {
    let then = then.and_then(|then| SystemTime::try_from(then).ok());
    then.and_then(|then| now.duration_since(then).ok()).map_or_else(|| "-".to_owned(), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell_and_lines_end_without_spaces() {
        let rows = [
            vec!["a".to_owned(), "1".to_owned(), "x".to_owned()],
            vec!["bcd".to_owned(), "22".to_owned(), String::new()],
        ];
        let text = table(&[("N", Align::Left), ("SIZE", Align::Right), ("T", Align::Left)], &rows);
        assert_eq!(text, "N    SIZE  T\na       1  x\nbcd    22\n");
    }

    #[test]
    fn a_table_without_titles_has_no_header() {
        assert_eq!(table(&[("", Align::Left)], &[vec!["a".to_owned()]]), "a\n");
        assert_eq!(table(&[("", Align::Left)], &[]), "");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        assert_eq!(table(&[("", Align::Left)], &[vec!["a\x1b[31m\nb".to_owned()]]), "a?[31m?b\n");
    }

    #[test]
    fn sizes_never_show_1024_of_a_unit() {
        let shown =
            [(0, "0"), (1023, "1023"), (1024, "1.0K"), (10 << 10, "10K"), (1_048_575, "1.0M"), (3 << 29, "1.5G")];
        for (bytes, text) in shown {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size(u64::MAX), "16E");
    }

    #[test]
    fn ages_have_one_unit() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
        let ago = |seconds: i64| age(Some(prost_types::Timestamp { seconds: 1_000_000 - seconds, nanos: 0 }), now);
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (172_800, "2d"), (-5, "-")] {
            assert_eq!(ago(seconds), text);
        }
        assert_eq!(age(None, now), "-");
    }

    #[test]
    fn a_reader_that_has_gone_is_told_from_other_errors() {
        struct Failing(ErrorKind);
        impl Write for Failing {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(self.0.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let kind = |kind| write_flushed(&mut Failing(kind), b"x").expect_err("it fails").is::<StdoutClosed>();
        assert!(kind(ErrorKind::BrokenPipe));
        assert!(!kind(ErrorKind::StorageFull));
    }
}
