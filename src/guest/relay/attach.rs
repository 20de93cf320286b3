//! Attaching to a container: one request of Docker's API, after which its connection is the container's stdin and stdout.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long Docker may take to answer.
const DEADLINE: Duration = Duration::from_secs(30);

/// Most bytes of the head of its answer.
const MAX_HEAD: usize = 16 << 10;

/// What ends a head.
const END: &[u8] = b"\r\n\r\n";

/// The stream, and what of it came with the head of the answer.
#[derive(Debug)]
pub struct Attached {
    /// The connection.
    pub socket: UnixStream,
    /// The first bytes that came.
    pub rest: Vec<u8>,
}

/// Attaches to a container, which need not run yet.
///
/// # Errors
/// Those of the socket; `Other` with Docker's words if it refuses.
pub fn attach(docker: &Path, container: &str) -> io::Result<Attached> {
    let mut socket = UnixStream::connect(docker)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    write!(
        socket,
        "POST /containers/{container}/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\n\
         Upgrade: tcp\r\nContent-Length: 0\r\n\r\n"
    )?;
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    let end = loop {
        if let Some(at) = answer.windows(END.len()).position(|window| window == END) {
            break at + END.len();
        }
        match socket.read(&mut chunk)? {
            count if count > 0 && answer.len() < MAX_HEAD => answer.extend_from_slice(&chunk[..count]),
            _ => return Err(refused(&answer)),
        }
    };
    let rest = answer.split_off(end);
    // Docker answers 200 to who does not ask for an upgrade, and 101 to who does.
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        return Err(refused(&[answer, rest].concat()));
    }
    socket.set_read_timeout(None)?;
    socket.set_write_timeout(None)?;
    Ok(Attached { socket, rest })
}

fn refused(answer: &[u8]) -> io::Error {
    io::Error::other(format!("Docker does not attach: {}", String::from_utf8_lossy(answer).trim()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    fn answered(answer: &'static [u8]) -> io::Result<Attached> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("d");
        let listener = UnixListener::bind(&path).unwrap();
        let docker = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = [0; 4096];
            let count = socket.read(&mut request).unwrap();
            assert!(request[..count].starts_with(b"POST /containers/c/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\n"));
            socket.write_all(answer).unwrap();
        });
        let attached = attach(&path, "c");
        docker.join().unwrap();
        attached
    }

    #[test]
    fn what_comes_with_the_head_is_kept() {
        let attached = answered(b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\n\r\nfirst").unwrap();
        assert_eq!(attached.rest, b"first");
    }

    #[test]
    fn a_refusal_is_told_in_dockers_words() {
        let error = answered(b"HTTP/1.1 404 Not Found\r\n\r\n{\"message\":\"No such container: c\"}").unwrap_err();
        assert!(error.to_string().contains("No such container"), "{error}");
        assert!(answered(b"HTTP/1.1 101 ").is_err());
    }
}
