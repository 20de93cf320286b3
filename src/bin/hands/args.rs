//! What people write on the command line, and what it means.

use std::path::PathBuf;
use std::str::FromStr;

use nix::sys::signal::Signal;

/// A number of bytes: `4096`, `512K`, `1.5G`; the units are powers of 1,024, and `KiB` or `KB` mean the same as `K`.
pub fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err("expected a size such as 4096, 512M or 1.5G".to_owned()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << shift).ok_or_else(|| "more bytes than there can be".to_owned());
    }
    let number: f64 = number.parse().map_err(|_| "expected a size such as 4096, 512M or 1.5G".to_owned())?;
    let bytes = (number * f64::from(2_u32).powi(shift)).round();
    if bytes >= 2_f64.powi(63) {
        return Err("more bytes than there can be".to_owned());
    }
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "no sign was read, and it is below 2^63"
    )]
    Ok(bytes as u64)
}

/// `KEY=VALUE`; the value may be empty and may hold more `=`.
pub fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE".to_owned()),
    }
}

/// A span of time: `30s`, `1m 30s`, `500ms`; `0` is none at all.
pub fn duration(text: &str) -> Result<prost_types::Duration, String> {
    let span = if text == "0" { std::time::Duration::ZERO } else { parse_span(text)? };
    span.try_into().map_err(|_| "longer than can be told".to_owned())
}

fn parse_span(text: &str) -> Result<std::time::Duration, String> {
    humantime::parse_duration(text).map_err(|_| "expected a time such as 30s, 5m or 500ms".to_owned())
}

/// Permission bits in octal, as chmod(1) takes them: `644`, `0755`.
pub fn mode(text: &str) -> Result<u32, String> {
    match u32::from_str_radix(text, 8) {
        Ok(mode) if mode <= 0o7777 => Ok(mode),
        _ => Err("expected permission bits in octal, such as 644".to_owned()),
    }
}

/// A signal by name or number: `TERM`, `SIGTERM`, `15`.
pub fn signal(text: &str) -> Result<u32, String> {
    if let Ok(number) = text.parse::<u32>() {
        return if (1..=64).contains(&number) { Ok(number) } else { Err("signals are 1 to 64".to_owned()) };
    }
    let name = text.to_ascii_uppercase();
    let name = if name.starts_with("SIG") { name } else { format!("SIG{name}") };
    let signal = Signal::from_str(&name).map_err(|_| "expected a signal such as TERM or 15".to_owned())?;
    Ok(u32::try_from(signal as i32).expect("signals are positive"))
}

/// Lines of a file, the first being 1, the last included: `10:20`, `10:`, `:20`, `10`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lines {
    /// Lines to skip.
    pub offset: u64,
    /// The most lines to return; 0: to the end.
    pub limit: u64,
}

impl FromStr for Lines {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let error = || "expected lines such as 10:20, 10: or :20, counted from 1".to_owned();
        let number = |text: &str| text.parse::<u64>().ok().filter(|line| *line > 0).ok_or_else(error);
        let (first, last) = match text.split_once(':') {
            Some(("", "")) => return Err(error()),
            Some((first, "")) => (number(first)?, None),
            Some(("", last)) => (1, Some(number(last)?)),
            Some((first, last)) => (number(first)?, Some(number(last)?)),
            None => (number(text)?, Some(number(text)?)),
        };
        let limit = match last {
            Some(last) if last < first => return Err("the last line comes before the first".to_owned()),
            Some(last) => (last - first).saturating_add(1),
            None => 0,
        };
        Ok(Self { offset: first - 1, limit })
    }
}

/// One side of a copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file or directory of this machine.
    Local(PathBuf),
    /// A file or directory of a sandbox, written `sb_…:path`.
    Remote {
        /// The text before the colon.
        sandbox_id: String,
        /// Absolute, or from the workspace; `.` if nothing was written.
        path: String,
    },
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some((id, path)) if id.starts_with("sb_") && !id.contains('/') => {
                let path = if path.is_empty() { "." } else { path };
                Ok(Self::Remote { sandbox_id: id.to_owned(), path: path.to_owned() })
            }
            _ if text.is_empty() => Err("expected a path, or ID:path".to_owned()),
            _ => Ok(Self::Local(PathBuf::from(text))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_binary_units_and_may_have_a_fraction() {
        for (text, size) in
            [("0", 0), ("4096", 4096), ("512M", 512 << 20), ("1.5G", 3 << 29), ("2KiB", 2048), ("1kb", 1024)]
        {
            assert_eq!(bytes(text), Ok(size), "{text}");
        }
        for text in ["", "M", "-1", "1i", "1bb", "1X", "1.2.3M", "1 M", "99999999999T", "99999999999.5T"] {
            assert!(bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_pair_splits_at_its_first_equals_sign() {
        assert_eq!(pair("A=b=c"), Ok(("A".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("A="), Ok(("A".to_owned(), String::new())));
        assert!(pair("A").is_err());
        assert!(pair("=b").is_err());
    }

    #[test]
    fn a_duration_needs_a_unit_unless_it_is_zero() {
        assert_eq!(duration("0"), Ok(prost_types::Duration { seconds: 0, nanos: 0 }));
        assert_eq!(duration("1m 30s"), Ok(prost_types::Duration { seconds: 90, nanos: 0 }));
        assert_eq!(duration("500ms"), Ok(prost_types::Duration { seconds: 0, nanos: 500_000_000 }));
        assert!(duration("30").is_err());
        assert!(duration("-1s").is_err());
    }

    #[test]
    fn a_mode_is_octal_and_has_twelve_bits() {
        assert_eq!(mode("644"), Ok(0o644));
        assert_eq!(mode("07777"), Ok(0o7777));
        for text in ["", "888", "10000", "rwx"] {
            assert!(mode(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_signal_has_a_name_or_a_number() {
        for text in ["TERM", "SIGTERM", "term", "15"] {
            assert_eq!(signal(text), Ok(15), "{text}");
        }
        for text in ["", "0", "65", "NOPE", "-9"] {
            assert!(signal(text).is_err(), "{text}");
        }
    }

    #[test]
    fn lines_count_from_one_and_include_the_last() {
        for (text, offset, limit) in [("10:20", 9, 11), ("10:", 9, 0), (":20", 0, 20), ("7", 6, 1), ("1:1", 0, 1)] {
            assert_eq!(text.parse(), Ok(Lines { offset, limit }), "{text}");
        }
        for text in ["", ":", "0:3", "3:2", "a", "1:2:3", "-1:2"] {
            assert!(text.parse::<Lines>().is_err(), "{text}");
        }
    }

    #[test]
    fn only_a_sandbox_before_the_colon_makes_a_place_remote() {
        let remote = |path: &str| Place::Remote { sandbox_id: "sb_x".to_owned(), path: path.to_owned() };
        assert_eq!("sb_x:/etc/hosts".parse(), Ok(remote("/etc/hosts")));
        assert_eq!("sb_x:a:b".parse(), Ok(remote("a:b")));
        assert_eq!("sb_x:".parse(), Ok(remote(".")));
        for text in ["a:b", "./sb_x:a", "sb_x", "sb_/x:a"] {
            assert_eq!(text.parse(), Ok(Place::Local(text.into())), "{text}");
        }
        assert!("".parse::<Place>().is_err());
    }
}
