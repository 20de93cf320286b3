//! Ports.

use crate::api::proto;
use crate::api::status::Fault;
use crate::network::Port;

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
    let message = |port: &Port| proto::Port { port: port.port.into(), address: port.address.to_string() };
    proto::PortsResponse { ports: ports.iter().map(message).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_sixteen_bits_and_is_not_zero() {
        assert_eq!(port(65_535), Ok(65_535));
        for number in [0, 65_536, u32::MAX] {
            assert!(port(number).is_err(), "{number}");
        }
    }
}
