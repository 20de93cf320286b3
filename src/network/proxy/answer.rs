//! What a client hears when nothing was connected. Pure.

use std::io;

use serde_json::json;

use super::Denied;
use crate::network::outside::OutsideError;
use crate::telemetry::chain;

/// A whole HTTP response: JSON with a reason that stays and a message for people.
pub fn http(denied: &Denied) -> Vec<u8> {
    let (status, reason) = match denied {
        Denied::Bad(_) => ("400 Bad Request", "PROXY_REQUEST_INVALID"),
        Denied::NotListed(_) => ("403 Forbidden", "NETWORK_NAME_NOT_LISTED"),
        Denied::Outside { source: OutsideError::Refused { .. }, .. } => ("403 Forbidden", "NETWORK_ADDRESS_REFUSED"),
        Denied::Outside { source: OutsideError::Lookup(_), .. } => ("502 Bad Gateway", "NETWORK_NAME_UNRESOLVED"),
        Denied::Outside { source: OutsideError::Connect { .. }, .. } => ("502 Bad Gateway", "NETWORK_UNREACHABLE"),
        Denied::Tls { .. } => ("502 Bad Gateway", "NETWORK_TLS_FAILED"),
    };
    let body = json!({ "error": { "reason": reason, "message": chain(denied).to_string() } }).to_string() + "\n";
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
    .into_bytes()
}

/// A SOCKS5 reply (RFC 1928, section 6) with no address.
pub fn socks(denied: &Denied) -> [u8; 10] {
    let code = match denied {
        Denied::Bad(_) => 7,
        Denied::NotListed(_) | Denied::Outside { source: OutsideError::Refused { .. }, .. } => 2,
        Denied::Outside { source: OutsideError::Lookup(_), .. } => 4,
        Denied::Tls { .. } => 1,
        Denied::Outside { source: OutsideError::Connect { source, .. }, .. } => match source.kind() {
            io::ErrorKind::ConnectionRefused => 5,
            io::ErrorKind::TimedOut => 6,
            _ => 3,
        },
    };
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

#[cfg(test)]
mod tests {
    use super::super::BadRequest;
    use super::*;

    #[test]
    fn a_refusal_names_what_was_asked_for_and_is_as_long_as_it_says() {
        let text = String::from_utf8(http(&Denied::NotListed("a.com:443".parse().unwrap()))).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 403 ") && head.contains(&format!("Content-Length: {}\r\n", body.len())));
        assert!(body.contains("NETWORK_NAME_NOT_LISTED") && body.contains("a.com:443"), "{body}");
    }

    #[test]
    fn each_failure_has_its_own_code() {
        let target = || "a.com:443".parse().unwrap();
        let connect = |kind: io::ErrorKind| Denied::Outside {
            target: target(),
            source: OutsideError::Connect { address: ([1, 1, 1, 1], 1).into(), source: kind.into() },
        };
        let lookup = Denied::Outside { target: target(), source: OutsideError::Lookup(io::ErrorKind::NotFound.into()) };
        let codes = [
            Denied::Bad(BadRequest::Unsupported),
            Denied::NotListed(target()),
            lookup,
            connect(io::ErrorKind::ConnectionRefused),
            connect(io::ErrorKind::TimedOut),
            connect(io::ErrorKind::NetworkUnreachable),
        ]
        .map(|denied| socks(&denied)[1]);
        assert_eq!(codes, [7, 2, 4, 5, 6, 3]);
    }
}
