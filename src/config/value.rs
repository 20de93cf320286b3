//! What single values of the file are: paths, sizes, durations, names. Pure.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net};
use toml_span::value::Value;
use tracing_subscriber::EnvFilter;

use super::listen::{AddressError, ListenAddress};
use super::{defaults, units};
use crate::image::ImageRef;
use crate::network::target::Host;

/// Longest path of a cgroup: with what is below it, it fits into a path of the kernel's.
const MAX_CGROUP: usize = 1024;

/// Yes or no.
pub(super) fn truth(value: &Value<'_>) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| "true or false".to_owned())
}

/// A cgroup, by its path from the top of the tree.
pub(super) fn cgroup_path(text: &str) -> Result<PathBuf, String> {
    let mut parts = text.split('/');
    let is_path = text.len() <= MAX_CGROUP && parts.all(|part| !part.is_empty() && !matches!(part, "." | ".."));
    let is_plain = text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_path && is_plain { Ok(PathBuf::from(text)) } else { Err("a relative path like \"handsd.slice\"".to_owned()) }
}

/// A host's name as it stands in a URL.
pub(super) fn host(text: &str) -> Result<String, String> {
    let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte));
    if usable { Ok(text.to_ascii_lowercase()) } else { Err("a host's name like \"node1.example\"".to_owned()) }
}

/// An origin as browsers write it (RFC 6454), or the word for all of them.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let usable = host.is_some_and(|host| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte))
    });
    let expected = || "an origin like \"https://app.example\", or \"*\"".to_owned();
    if usable || text == "*" { Ok(text.to_ascii_lowercase()) } else { Err(expected()) }
}

/// The addresses of sandboxes.
pub(super) fn subnet(text: &str) -> Result<Ipv4Net, String> {
    let subnet = text.parse::<Ipv4Net>().ok().filter(|subnet| defaults::SUBNET_BITS.contains(&subnet.prefix_len()));
    let (most, least) = (defaults::SUBNET_BITS.start(), defaults::SUBNET_BITS.end());
    subnet.ok_or_else(|| format!("a range of IPv4 like \"{}\", from /{most} to /{least}", defaults::SUBNET))
}

/// A name.
pub(super) fn domain(text: &str) -> Result<String, String> {
    match text.parse() {
        Ok(Host::Name(name)) => Ok(name),
        Ok(Host::Address(_)) | Err(_) => Err("a name like \"preview.example.com\"".to_owned()),
    }
}

/// A range of addresses.
pub(super) fn range(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| "a range of addresses like \"10.1.0.0/16\" or \"fd00::/64\"".to_owned())
}

/// The word "none", or a file.
pub(super) fn credentials(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "none" => Ok(None),
        path => directory(path).map(Some).map_err(|expected| format!("{expected}, or \"none\"")),
    }
}

/// As Docker names runtimes and networks.
pub(super) fn docker_name(text: &str) -> Result<String, String> {
    let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if usable { Ok(text.to_owned()) } else { Err("a name of letters, digits, dots and dashes".to_owned()) }
}

/// Bytes: a whole number, or text with a unit.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Result<u64, String> {
    move |value| {
        let written = value.as_str().and_then(units::parse_size);
        let whole = value.as_integer().and_then(|bytes| u64::try_from(bytes).ok());
        written.or(whole).filter(|bytes| bounds.contains(bytes)).ok_or_else(|| {
            let (least, most) = (units::format_size(*bounds.start()), units::format_size(*bounds.end()));
            format!("a size like \"512MiB\" or a number of bytes, from {least} to {most}")
        })
    }
}

pub(super) fn duration(bounds: RangeInclusive<Duration>) -> impl Fn(&Value<'_>) -> Result<Duration, String> {
    move |value| {
        let written = value.as_str().and_then(units::parse_duration);
        written.filter(|duration| bounds.contains(duration)).ok_or_else(|| {
            let (least, most) = (units::format_duration(*bounds.start()), units::format_duration(*bounds.end()));
            format!("a duration like \"90s\" or \"10m\", from {least} to {most}")
        })
    }
}

pub(super) fn directory(text: &str) -> Result<PathBuf, String> {
    let usable = text.starts_with('/') && !text.contains('\0');
    if usable { Ok(PathBuf::from(text)) } else { Err("an absolute path".to_owned()) }
}

pub(super) fn listen_address(text: &str) -> Result<ListenAddress, String> {
    text.parse().map_err(expected)
}

pub(super) fn filter(text: &str) -> Result<String, String> {
    match EnvFilter::builder().parse(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("log directives like \"info,handsd=debug\" ({error})")),
    }
}

pub(super) fn image_reference(text: &str) -> Result<String, String> {
    match text.parse::<ImageRef>() {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("an image ({error})")),
    }
}

/// A host, or a host and its port.
pub(super) fn registry(text: &str) -> Result<String, String> {
    let usable = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-_:[]".contains(&byte));
    if usable { Ok(text.to_owned()) } else { Err("a registry like \"registry.local:5000\"".to_owned()) }
}

/// What [`Section`](super::section::Section) puts "expected" before.
pub(super) fn expected(error: AddressError) -> String {
    error.to_string().trim_start_matches("expected ").to_owned()
}
