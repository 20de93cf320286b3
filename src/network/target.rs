//! What a connection is for: a name or an address, and a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Most bytes of a name, and of one of its labels (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// Where a connection goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// To whom.
    pub host: Host,
    /// To which port.
    pub port: u16,
}

/// A name or an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// In lower case, without a dot at its end.
    Name(String),
    /// An IPv4 address that is written as one of IPv6 is one of IPv4.
    Address(IpAddr),
}

/// Why a text is no target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// The host is no name.
    #[error("a name has labels of letters, digits, dashes and underscores, and does not end in a number")]
    Name,
    /// The port is none.
    #[error("a port is 1 to 65535")]
    Port,
    /// There is no port where one is needed.
    #[error("there is no port")]
    NoPort,
}

impl Target {
    /// The host, and the port if there is one, else another.
    ///
    /// # Errors
    /// It is none.
    pub fn parse(text: &str, default_port: u16) -> Result<Self, TargetError> {
        let (host, port) = split(text)?;
        Ok(Self { host: host.parse()?, port: port.unwrap_or(default_port) })
    }
}

/// The host and the port of a text. An IPv6 address with a port is in brackets.
pub(super) fn split(text: &str) -> Result<(&str, Option<u16>), TargetError> {
    let port = |text: &str| text.parse().ok().filter(|port| *port > 0).ok_or(TargetError::Port);
    if let Some(rest) = text.strip_prefix('[') {
        let (address, rest) = rest.split_once(']').ok_or(TargetError::Name)?;
        address.parse::<Ipv6Addr>().map_err(|_| TargetError::Name)?;
        return match rest.strip_prefix(':') {
            Some(text) => Ok((address, Some(port(text)?))),
            None if rest.is_empty() => Ok((address, None)),
            None => Err(TargetError::Port),
        };
    }
    match text.split_once(':') {
        // More than one colon: an address of IPv6.
        Some((_, rest)) if rest.contains(':') => Ok((text, None)),
        Some((host, text)) => Ok((host, Some(port(text)?))),
        None => Ok((text, None)),
    }
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        let (host, port) = split(text)?;
        Ok(Self { host: host.parse()?, port: port.ok_or(TargetError::NoPort)? })
    }
}

impl FromStr for Host {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Address(address.to_canonical()));
        }
        let name = text.strip_suffix('.').unwrap_or(text);
        let is_label = |label: &str| {
            (1..=MAX_LABEL).contains(&label.len())
                && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        };
        // Resolvers take "127.1" and "0x7f000001" for addresses, so that these are no names (URL Standard, "ends in a
        // number").
        let last = name.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
        let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
            || last.strip_prefix("0x").is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
        if name.len() <= MAX_NAME && name.split('.').all(is_label) && !is_number {
            Ok(Self::Name(name.to_ascii_lowercase()))
        } else {
            Err(TargetError::Name)
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(formatter, "[{address}]:{}", self.port),
            host => write!(formatter, "{host}:{}", self.port),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => formatter.write_str(name),
            Self::Address(address) => address.fmt(formatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_in_disguise_are_no_names() {
        for text in ["127.1", "0x7f.1", "2130706433", "0x7f000001", "a.1", "a.0x1", "1.2.3.4.5", "0X"] {
            assert_eq!(text.parse::<Host>(), Err(TargetError::Name), "{text}");
        }
        for text in ["a1", "1a.com", "0xyz", "x-0x1"] {
            assert!(matches!(text.parse(), Ok(Host::Name(_))), "{text}");
        }
    }

    #[test]
    fn an_address_of_ipv4_in_ipv6_is_one_of_ipv4() {
        assert_eq!("::ffff:10.0.0.1".parse(), Ok(Host::Address([10, 0, 0, 1].into())));
    }

    #[test]
    fn a_target_has_a_host_and_a_port() {
        for (text, shown) in [("A.com:80", "a.com:80"), ("[::1]:80", "[::1]:80"), ("10.0.0.1:1", "10.0.0.1:1")] {
            assert_eq!(text.parse::<Target>().unwrap().to_string(), shown);
        }
        for text in
            ["a.com", "a.com:", "a.com:x", ":80", "[::1]", "[::1]80", "[a]:80", "::1:80", "a.com:80:80", "a/b:1"]
        {
            assert!(text.parse::<Target>().is_err(), "{text}");
        }
        assert_eq!(Target::parse("a.com", 80).unwrap().port, 80);
    }

    #[test]
    fn long_names_are_none() {
        assert!("a".repeat(64).parse::<Host>().is_err());
        assert!(vec!["a".repeat(63); 4].join(".").parse::<Host>().is_err());
    }
}
