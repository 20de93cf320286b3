//! SOCKS5 (RFC 1928): connections only, and nobody has to say who they are, because only the sandbox can connect.

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::request::{Asked, BadRequest};
use crate::network::target::{Host, Target, TargetError};

/// The first byte of everything a client says.
pub const VERSION: u8 = 5;

/// The reply once a host is connected. What its address is, is not the client's to know.
pub const CONNECTED: &[u8] = &[VERSION, 0, 0, IPV4, 0, 0, 0, 0, 0, 0];

const NO_AUTHENTICATION: u8 = 0;
const NO_METHOD: u8 = 0xff;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;

/// Agrees on the method and reads the request.
///
/// # Errors
/// Those of the connection; the inner one for a request that cannot be served.
pub async fn read(client: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<Result<Asked, BadRequest>> {
    let mut greeting = [0; 2];
    client.read_exact(&mut greeting).await?;
    let mut methods = vec![0; greeting[1].into()];
    client.read_exact(&mut methods).await?;
    if !methods.contains(&NO_AUTHENTICATION) {
        client.write_all(&[VERSION, NO_METHOD]).await?;
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the client wants to authenticate"));
    }
    client.write_all(&[VERSION, NO_AUTHENTICATION]).await?;
    let mut request = [0; 4];
    client.read_exact(&mut request).await?;
    let [version, command, _, kind] = request;
    if version != VERSION {
        return Ok(Err(BadRequest::Malformed));
    }
    let host = match kind {
        IPV4 => {
            let mut octets = [0; 4];
            client.read_exact(&mut octets).await?;
            Ok(Host::Address(octets.into()))
        }
        IPV6 => {
            let mut octets = [0; 16];
            client.read_exact(&mut octets).await?;
            Ok(Host::Address(IpAddr::from(octets).to_canonical()))
        }
        NAME => {
            let mut name = vec![0; client.read_u8().await?.into()];
            client.read_exact(&mut name).await?;
            str::from_utf8(&name).map_err(|_| TargetError::Name).and_then(str::parse)
        }
        _ => return Ok(Err(BadRequest::Malformed)),
    };
    let port = client.read_u16().await?;
    Ok(match host {
        _ if command != CONNECT => Err(BadRequest::Unsupported),
        _ if port == 0 => Err(BadRequest::Target(TargetError::Port)),
        Ok(host) => Ok(Asked::tunnel(Target { host, port }, Vec::new())),
        Err(error) => Err(BadRequest::Target(error)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(bytes: &[u8]) -> io::Result<Result<String, BadRequest>> {
        let (mut client, mut proxy) = tokio::io::duplex(1024);
        client.write_all(bytes).await.unwrap();
        client.shutdown().await.unwrap();
        Ok(read(&mut proxy).await?.map(|asked| asked.target.to_string()))
    }

    #[tokio::test]
    async fn names_and_addresses_are_read() {
        let name = [&[5, 1, 0, 5, 1, 0, 3, 5][..], b"A.com", &[1, 187]].concat();
        assert_eq!(ask(&name).await.unwrap(), Ok("a.com:443".to_owned()));
        assert_eq!(ask(&[5, 2, 2, 0, 5, 1, 0, 1, 10, 0, 0, 1, 0, 80]).await.unwrap(), Ok("10.0.0.1:80".to_owned()));
        let mapped = [&[5, 1, 0, 5, 1, 0, 4][..], &[0; 10], &[255, 255, 10, 0, 0, 1, 0, 80]].concat();
        assert_eq!(ask(&mapped).await.unwrap(), Ok("10.0.0.1:80".to_owned()));
    }

    #[tokio::test]
    async fn what_is_no_connection_is_refused() {
        let bind = [5, 1, 0, 5, 2, 0, 1, 10, 0, 0, 1, 0, 80];
        assert_eq!(ask(&bind).await.unwrap(), Err(BadRequest::Unsupported));
        assert_eq!(ask(&[5, 1, 0, 5, 1, 0, 9, 0]).await.unwrap(), Err(BadRequest::Malformed));
        assert_eq!(ask(&[5, 1, 0, 4, 1, 0, 1, 0]).await.unwrap(), Err(BadRequest::Malformed));
        let address = [&[5, 1, 0, 5, 1, 0, 3, 5][..], b"127.1", &[0, 80]].concat();
        assert_eq!(ask(&address).await.unwrap(), Err(BadRequest::Target(TargetError::Name)));
        assert!(ask(&[5, 1, 2]).await.is_err(), "only passwords");
        assert!(ask(&[5, 1, 0, 5, 1]).await.is_err(), "cut off");
    }
}
