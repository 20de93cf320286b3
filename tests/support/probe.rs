//! HTTP as plain as it gets: a GET, and what comes back.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The code and the body of a GET.
pub async fn get(address: &str, path: &str) -> (u16, String) {
    get_over(TcpStream::connect(address).await.expect("it listens"), address, path).await
}

/// The same over a connection that there is already.
pub async fn get_over(mut stream: TcpStream, address: &str, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut reply = String::new();
    stream.read_to_string(&mut reply).await.expect("it answers in text");
    let (head, body) = reply.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split_whitespace().nth(1).and_then(|code| code.parse().ok()).expect("a code");
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    (code, if is_chunked { joined(body) } else { body.to_owned() })
}

/// The chunks of a body as one.
fn joined(mut body: &str) -> String {
    let mut whole = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length.trim(), 16).expect("a length");
        whole.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    whole
}
