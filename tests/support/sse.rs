//! A session's event stream over a plain connection: a thousand of these cost a test little.

use std::net::SocketAddr;

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpSocket, TcpStream};

use super::http::Http;

/// The stream.
pub struct Sse {
    stream: BufReader<TcpStream>,
    line: Vec<u8>,
    /// Where it comes from.
    pub local: SocketAddr,
}

impl Sse {
    /// Follows the whole log of a session behind a `seq`, as a browser that reconnects asks for it.
    pub async fn open(http: &Http, session: &str, last: u64) -> Self {
        Self::open_with(http, session, last, None).await
    }

    /// The same with so small a buffer that the daemon soon notices when nobody reads.
    pub async fn open_with(http: &Http, session: &str, last: u64, buffer: Option<u32>) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket");
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes).expect("a size");
        }
        let address: SocketAddr = http.address.parse().expect("an address");
        let mut stream = socket.connect(address).await.expect("the daemon takes connections");
        let request = format!(
            "GET /v3/sessions/{session}/events?stream=sse&level=output HTTP/1.1\r\nHost: {}\r\n\
             Authorization: Bearer {}\r\nLast-Event-ID: {last}\r\n\r\n",
            http.address, http.key
        );
        stream.write_all(request.as_bytes()).await.expect("the daemon reads");
        let local = stream.local_addr().expect("it is connected");
        Self { stream: BufReader::with_capacity(4 << 10, stream), line: Vec::new(), local }
    }

    /// The `seq` of the next event, and its data; `None` once the connection is gone.
    pub async fn next(&mut self) -> Option<(u64, String)> {
        let mut id = None;
        loop {
            self.line.clear();
            // Chunks begin with frames, so that no line of a frame is cut; their heads are no lines of one.
            match self.stream.read_until(b'\n', &mut self.line).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
            let line = String::from_utf8_lossy(&self.line).trim_end().to_owned();
            if let Some(text) = line.strip_prefix("id: ") {
                id = Some(text.parse().expect("a seq"));
            } else if let (Some(id), Some(data)) = (id, line.strip_prefix("data: ")) {
                return Some((id, data.to_owned()));
            }
        }
    }

    /// Whether anything, such as a comment, comes before the connection ends.
    pub async fn next_comment(&mut self) -> bool {
        loop {
            self.line.clear();
            match self.stream.read_until(b'\n', &mut self.line).await {
                Ok(0) | Err(_) => return false,
                Ok(_) if self.line.starts_with(b":") => return true,
                Ok(_) => {}
            }
        }
    }

    /// Reads whatever is left until the connection ends.
    pub async fn drain(mut self) -> Vec<u64> {
        let mut seqs = Vec::new();
        while let Some((seq, _)) = self.next().await {
            seqs.push(seq);
        }
        let _ = self.stream.read_to_end(&mut Vec::new()).await;
        seqs
    }
}
