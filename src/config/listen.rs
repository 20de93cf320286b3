//! Where the daemon listens.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// The kernel's room for the path of a unix socket (unix(7)), without the NUL behind it.
const MAX_SOCKET_PATH: usize = 107;

/// Where gRPC is served.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddress {
    /// A unix socket, by its absolute path.
    Unix(PathBuf),
    /// A port: of a loopback address, or of any where there is TLS.
    Tcp(SocketAddr),
}

/// Where HTTP is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpAddress {
    /// Nowhere.
    Off,
    /// A port: of a loopback address, or of any where there is TLS.
    At(SocketAddr),
}

/// The text is no address that the daemon may listen on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no address for gRPC.
    #[error("expected \"unix:\" and an absolute path, or an address like \"127.0.0.1:7420\"")]
    Grpc,
    /// It is no address for HTTP.
    #[error("expected \"off\" or an address like \"127.0.0.1:7421\"")]
    Http,
    /// The kernel has no room for the socket's path.
    #[error("expected a path of at most {MAX_SOCKET_PATH} bytes, which is all a unix socket's name can hold")]
    LongSocketPath,
}

impl ListenAddress {
    /// A unix socket at an absolute path.
    ///
    /// # Errors
    /// The path is relative, too long or none that a socket can have.
    pub fn unix(path: &Path) -> Result<Self, AddressError> {
        let bytes = path.as_os_str().as_encoded_bytes();
        if !path.is_absolute() || bytes.contains(&0) {
            return Err(AddressError::Grpc);
        }
        if bytes.len() > MAX_SOCKET_PATH {
            return Err(AddressError::LongSocketPath);
        }
        Ok(Self::Unix(path.to_owned()))
    }
}

impl FromStr for ListenAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some(path) => Self::unix(Path::new(path)),
            None => text.parse().map(Self::Tcp).map_err(|_| AddressError::Grpc),
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(formatter),
        }
    }
}

impl FromStr for HttpAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text == "off" {
            return Ok(Self::Off);
        }
        text.parse().map(Self::At).map_err(|_| AddressError::Http)
    }
}

impl From<HttpAddress> for Option<SocketAddr> {
    fn from(address: HttpAddress) -> Self {
        match address {
            HttpAddress::Off => None,
            HttpAddress::At(address) => Some(address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back_as_it_is_shown() {
        for text in ["unix:/run/handsd/handsd.sock", "127.0.0.1:7420", "[::1]:7420"] {
            assert_eq!(text.parse::<ListenAddress>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for text in ["", "unix:", "unix:handsd.sock", "unix:/a\0b", "localhost:7420", "127.0.0.1", "off", ":7420"] {
            assert_eq!(text.parse::<ListenAddress>(), Err(AddressError::Grpc), "{text}");
        }
        assert_eq!("OFF".parse::<HttpAddress>(), Err(AddressError::Http));
    }

    #[test]
    fn a_socket_path_that_the_kernel_has_no_room_for_is_refused() {
        let longest = format!("unix:/{}", "x".repeat(MAX_SOCKET_PATH - 1));
        assert!(longest.parse::<ListenAddress>().is_ok());
        assert_eq!(format!("{longest}x").parse::<ListenAddress>(), Err(AddressError::LongSocketPath));
    }
}
