//! Shows findings to people.

use std::fmt::Write;

use super::{Finding, State};
use crate::telemetry::Colour;

/// The findings as a table for a terminal or a file, each fix on a line below its finding.
#[must_use]
pub fn render(findings: &[Finding], colour: Colour) -> String {
    let width = findings.iter().map(|finding| finding.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for finding in findings {
        let (word, paint) = match finding.state {
            State::Ok => ("ok", "\x1b[32m"),
            State::Lacking => ("lacking", "\x1b[31m"),
            State::Warning => ("warning", "\x1b[33m"),
        };
        let (paint, plain) = match colour {
            Colour::On => (paint, "\x1b[0m"),
            Colour::Off => ("", ""),
        };
        let (name, detail) = (finding.name, printable(&finding.detail));
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{paint}{word:<7}{plain}  {name:<width$}  {detail}");
        if let Some(fix) = &finding.fix {
            let _ = writeln!(text, "{:<7}  {:<width$}  fix: {}", "", "", printable(fix));
        }
    }
    text
}

/// Paths may hold anything; a terminal gets no control characters from them.
fn printable(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(name: &'static str, state: State, detail: &str, fix: Option<&str>) -> Finding {
        Finding { name, state, detail: detail.to_owned(), fix: fix.map(str::to_owned) }
    }

    #[test]
    fn the_table_is_aligned_and_coloured_only_if_asked() {
        let findings = [
            finding("kernel", State::Ok, "Linux 6.8", None),
            finding("disk limits", State::Lacking, "There are none.", Some("mount it\x1b[2J")),
        ];
        let plain = "\
ok       kernel       Linux 6.8
lacking  disk limits  There are none.
                      fix: mount it\u{fffd}[2J
";
        assert_eq!(render(&findings, Colour::Off), plain);
        let coloured = render(&findings, Colour::On);
        assert!(coloured.starts_with("\x1b[32mok     \x1b[0m  kernel"), "{coloured:?}");
        assert!(!coloured.contains("\x1b[2J"));
        assert_eq!(render(&[], Colour::Off), "");
    }
}
