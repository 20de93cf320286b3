//! Sizes and durations as people write them.

use std::time::Duration;

/// Units of sizes, the largest first. All are powers of 1024, with or without the "i".
const UNITS: [(char, u64); 4] = [('T', 1 << 40), ('G', 1 << 30), ('M', 1 << 20), ('K', 1 << 10)];

/// Reads "512MiB", "4G", "64 kB" or "100" (bytes); `None` if it is no size or does not fit.
pub(super) fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.trim_start().to_ascii_uppercase();
    let unit = unit.strip_suffix('B').unwrap_or(&unit);
    if unit.is_empty() {
        return Some(number);
    }
    let letter = unit.strip_suffix('I').unwrap_or(unit);
    let (_, factor) = UNITS.iter().find(|(name, _)| letter.len() == 1 && letter.starts_with(*name))?;
    number.checked_mul(*factor)
}

/// Writes a size so that [`parse_size`] reads it back exactly: in the largest unit that divides it.
pub(super) fn format_size(bytes: u64) -> String {
    match UNITS.iter().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor)) {
        Some((name, factor)) => format!("{}{name}iB", bytes / factor),
        None => format!("{bytes}B"),
    }
}

/// Reads "300s", "10m" or "1h 30m"; `None` if it is no duration. A unit is needed.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok()
}

/// Writes a duration so that [`parse_duration`] reads it back exactly.
pub(super) fn format_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024_however_they_are_written() {
        for (text, bytes) in [
            ("0", 0),
            ("100", 100),
            ("100B", 100),
            ("64K", 64 << 10),
            ("64kB", 64 << 10),
            ("512MiB", 512 << 20),
            ("512 MiB", 512 << 20),
            ("4G", 4 << 30),
            ("2TiB", 2 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "G", "-1", "1.5G", "1X", "1iB", "1GG", "1GiBs", "1 G B", "99999999999999999999", "16777216T"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn a_duration_needs_its_unit() {
        assert_eq!(parse_duration("300s"), Some(Duration::from_secs(300)));
        assert_eq!(parse_duration("1h 30m"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("300"), None);
        assert_eq!(parse_duration(""), None);
    }

    proptest! {
        #[test]
        fn a_size_reads_back(bytes: u64) {
            prop_assert_eq!(parse_size(&format_size(bytes)), Some(bytes));
        }

        #[test]
        fn a_duration_reads_back(millis in 0..u64::from(u32::MAX) * 1000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Some(duration));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = (parse_size(&text), parse_duration(&text));
        }
    }
}
