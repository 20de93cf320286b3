//! Networks and ports.

use super::quoted;
use crate::api::proto;
use crate::api::proto::network::Mode;
use crate::api::status::Fault;
use crate::network::policy::{Allow, AllowError, Policy};
use crate::network::secrets::{Binding, BindingError, MAX_SECRETS, Place};
use crate::network::{Port, Usage};
use crate::telemetry::chain;

/// What a sandbox is to reach; `None` is for the node to say.
///
/// # Errors
/// The first bad field.
pub fn network(network: Option<proto::Network>) -> Result<Option<Policy>, Fault> {
    let proto::Network { mode, allow } = network.unwrap_or_default();
    let mode = Mode::try_from(mode).map_err(|_| Fault::argument("network.mode", "is not a mode of this version"))?;
    let policy = match mode {
        Mode::Proxy => return Ok(Some(Policy::Proxy(allowlist(&allow)?))),
        Mode::Unspecified => None,
        Mode::None => Some(Policy::None),
        Mode::Nat => Some(Policy::Nat),
        Mode::Host => Some(Policy::Host),
    };
    if allow.is_empty() { Ok(policy) } else { Err(Fault::argument("network.allow", "is of mode PROXY only")) }
}

fn allowlist(rules: &[String]) -> Result<Allow, Fault> {
    Allow::parse(rules).map_err(|error| {
        let message = match &error {
            AllowError::Rule { rule, source } => format!("{}: {source}", quoted(rule)),
            AllowError::TooMany { .. } => chain(&error).to_string(),
        };
        Fault::argument("network.allow", message)
    })
}

/// What a sandbox may reach.
#[must_use]
pub fn network_message(policy: &Policy) -> proto::Network {
    let (mode, rules) = match policy {
        Policy::None => (Mode::None, &[][..]),
        Policy::Proxy(allow) => (Mode::Proxy, allow.rules()),
        Policy::Nat => (Mode::Nat, &[][..]),
        Policy::Host => (Mode::Host, &[][..]),
    };
    proto::Network { mode: mode.into(), allow: rules.iter().map(ToString::to_string).collect() }
}

/// Secrets of a request.
///
/// # Errors
/// The first bad one. What it holds is not told.
pub fn secrets(secrets: Vec<proto::BoundSecret>) -> Result<Vec<Binding>, Fault> {
    let binding = |secret: proto::BoundSecret| {
        let proto::BoundSecret { name, header, value, plain } = secret;
        let parsed = Binding::parse(&name, &header, value).map(|binding| Binding { plain, ..binding });
        parsed.map_err(|error| {
            let field = match error {
                BindingError::Name(_) | BindingError::Everybody => "secrets.name",
                BindingError::Header => "secrets.header",
                BindingError::Value => "secrets.value",
            };
            Fault::argument(field, format!("expected {}", chain(&error)))
        })
    };
    if secrets.len() > MAX_SECRETS {
        return Err(Fault::argument(
            "secrets",
            format!("has {} entries, at most {MAX_SECRETS} are allowed", secrets.len()),
        ));
    }
    secrets.into_iter().map(binding).collect()
}

/// Where a secret goes; its value is told to nobody.
pub(super) fn secret_message(place: &Place) -> proto::BoundSecret {
    let Place { rule, header, plain } = place;
    let (name, header) = (rule.to_string(), header.as_str().to_owned());
    proto::BoundSecret { name, header, value: String::new(), plain: *plain }
}

/// What has gone out.
#[must_use]
pub fn network_usage(usage: Usage) -> proto::NetworkUsage {
    let Usage { connected, refused, sent, received } = usage;
    proto::NetworkUsage { connected, refused, sent_bytes: sent, received_bytes: received }
}

/// The number of a port.
///
/// # Errors
/// It is none.
pub fn port(number: u32) -> Result<u16, Fault> {
    let port = u16::try_from(number).ok().filter(|port| *port > 0);
    port.ok_or_else(|| Fault::argument("port", format!("is {number}, and ports are 1 to 65535")))
}

/// The ports that are listened on.
#[must_use]
pub fn ports(ports: &[Port]) -> proto::PortsResponse {
    proto::PortsResponse { ports: ports.iter().map(port_message).collect() }
}

/// One of them.
pub(super) fn port_message(port: &Port) -> proto::Port {
    proto::Port { port: port.port.into(), address: port.address.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(mode: Mode, allow: &[&str]) -> Result<Option<Policy>, Fault> {
        let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
        network(Some(proto::Network { mode: mode.into(), allow }))
    }

    #[test]
    fn a_network_reads_back() {
        for (mode, allow) in [(Mode::None, &[][..]), (Mode::Proxy, &["*.a.com:443", "[::1]:80", "*"]), (Mode::Nat, &[])]
        {
            let policy = asked(mode, allow).unwrap().unwrap();
            let message = network_message(&policy);
            assert_eq!((message.mode(), message.allow.len()), (mode, allow.len()));
            assert_eq!(network(Some(message)), Ok(Some(policy)));
        }
        assert_eq!(network(None), Ok(None));
    }

    #[test]
    fn names_are_of_the_proxy_only_and_are_names() {
        assert!(asked(Mode::Nat, &["a.com"]).is_err());
        assert!(asked(Mode::Proxy, &["a b"]).is_err());
        assert!(network(Some(proto::Network { mode: 99, allow: Vec::new() })).is_err());
    }

    #[test]
    fn a_port_has_sixteen_bits_and_is_not_zero() {
        assert_eq!(port(65_535), Ok(65_535));
        for number in [0, 65_536, u32::MAX] {
            assert!(port(number).is_err(), "{number}");
        }
    }
}
