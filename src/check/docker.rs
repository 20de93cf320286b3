//! Whether a Docker engine answers, without a client of it: one request by hand, and a second to answer it.

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Where Docker listens unless it was told otherwise.
const SOCKET: &str = "/var/run/docker.sock";

/// A healthy engine answers a ping in under a millisecond; one that takes longer than this is of no use.
const PATIENCE: Duration = Duration::from_secs(1);

/// The answer is twelve short headers and "OK"; what is longer is not read.
const MAX_ANSWER: usize = 8 << 10;

/// What there is of a Docker engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Docker {
    /// No socket.
    Absent,
    /// `DOCKER_HOST` points to something else than a unix socket, which was left alone.
    Elsewhere {
        /// As in the environment.
        host: String,
    },
    /// A socket, and nobody who answers.
    Silent {
        /// Where.
        socket: PathBuf,
        /// What went wrong.
        reason: String,
    },
    /// An engine.
    Answers {
        /// Where.
        socket: PathBuf,
        /// What it calls itself, like "Docker/20.10.24 (linux)".
        server: Option<String>,
        /// Version of its API, like "1.41".
        api: Option<String>,
    },
}

/// Looks for the engine that `docker_host`, the value of `DOCKER_HOST`, names, or else for the one at the usual place.
pub(super) fn find(docker_host: Option<&str>) -> Docker {
    let socket = match docker_host.filter(|host| !host.is_empty()) {
        None => PathBuf::from(SOCKET),
        Some(host) => match host.strip_prefix("unix://") {
            Some(path) => PathBuf::from(path),
            None => return Docker::Elsewhere { host: printable(host) },
        },
    };
    match ping(&socket, PATIENCE) {
        Ok(answer) => judge(socket, &answer),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Docker::Absent,
        Err(error) => Docker::Silent { socket, reason: error.to_string() },
    }
}

/// The answer's status line and headers.
fn ping(path: &Path, patience: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + patience;
    // A blocking connect waits for as long as the engine's queue is full, and cannot be given a time.
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    connect(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    let mut stream = UnixStream::from(socket);
    stream.set_nonblocking(false)?;
    stream.set_write_timeout(Some(patience))?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut chunk = [0; 1024];
    while answer.len() < MAX_ANSWER && !answer.windows(4).any(|bytes| bytes == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(length) => answer.extend_from_slice(&chunk[..length]),
            // What the kernel says when a receive timeout passes.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(answer)
}

fn judge(socket: PathBuf, answer: &[u8]) -> Docker {
    let answer = String::from_utf8_lossy(answer);
    let mut lines = answer.lines();
    let status = lines.next().unwrap_or_default();
    if !(status.starts_with("HTTP/1.") && status.split(' ').nth(1) == Some("200")) {
        return Docker::Silent { socket, reason: format!("it answers {:?} to a ping", printable(status)) };
    }
    let header = |name: &str| {
        let mut headers = lines.clone().take_while(|line| !line.is_empty()).filter_map(|line| line.split_once(':'));
        headers.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| printable(value.trim()))
    };
    Docker::Answers { socket, server: header("Server"), api: header("Api-Version") }
}

/// Of foreign text, what is safe and short enough to show.
fn printable(text: &str) -> String {
    text.chars().filter(|letter| letter.is_ascii_graphic() || *letter == ' ').take(100).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Something that takes one connection and gives `answer` to the first request on it.
    fn answering(answer: &'static [u8]) -> (tempfile::TempDir, PathBuf, thread::JoinHandle<Vec<u8>>) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = vec![0; 512];
            let length = stream.read(&mut request).unwrap();
            stream.write_all(answer).unwrap();
            request.truncate(length);
            request
        });
        (directory, path, server)
    }

    #[test]
    fn an_engine_says_its_version() {
        let (_directory, path, server) =
            answering(b"HTTP/1.1 200 OK\r\nApi-Version: 1.41\r\nserver: Docker/20.10.24 (linux)\r\n\r\nOK");
        let found = find(Some(&format!("unix://{}", path.display())));
        let server_name = Some("Docker/20.10.24 (linux)".to_owned());
        assert_eq!(found, Docker::Answers { socket: path, server: server_name, api: Some("1.41".to_owned()) });
        assert!(server.join().unwrap().starts_with(b"GET /_ping HTTP/1.1\r\n"));
    }

    #[test]
    fn what_is_no_engine_is_silent_and_shown_without_escape_sequences() {
        let (_directory, path, _server) = answering(b"\x1b[31mSSH-2.0\r\n\r\n");
        let Docker::Silent { reason, .. } = find(Some(&format!("unix://{}", path.display()))) else { panic!() };
        assert_eq!(reason, "it answers \"[31mSSH-2.0\" to a ping");
    }

    #[test]
    fn one_that_never_answers_is_given_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let error = ping(&path, Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }

    #[test]
    fn one_whose_queue_is_full_does_not_hold_us_up() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        let listener = UnixListener::bind(&path).unwrap();
        nix::sys::socket::listen(&listener, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
        let _queued = UnixStream::connect(&path).unwrap();
        assert_eq!(ping(&path, PATIENCE).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_missing_socket_and_another_transport_are_told_apart() {
        assert_eq!(find(Some("unix:///nonexistent/docker.sock")), Docker::Absent);
        assert_eq!(find(Some("tcp://10.0.0.1:2375")), Docker::Elsewhere { host: "tcp://10.0.0.1:2375".to_owned() });
    }

    #[test]
    fn a_dead_engines_socket_is_silent() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("docker.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(matches!(find(Some(&format!("unix://{}", path.display()))), Docker::Silent { .. }));
    }

    #[test]
    fn headers_behind_the_empty_line_are_none() {
        let answer = b"HTTP/1.1 200 OK\r\n\r\nServer: body\r\n";
        assert!(matches!(judge("/s".into(), answer), Docker::Answers { server: None, api: None, .. }));
        assert!(matches!(judge("/s".into(), b""), Docker::Silent { .. }));
        assert!(matches!(judge("/s".into(), b"HTTP/1.1 500 no\r\n\r\n"), Docker::Silent { .. }));
    }
}
