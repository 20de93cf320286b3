//! Reaching a guest through its socket.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::{OFlag, open};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, sockopt};
use nix::sys::stat::Mode;
use nix::sys::time::TimeVal;

/// Longest wait for a place in the guest's backlog. A guest that lives accepts at once.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Connects to a guest's socket. Blocks for 5 seconds at most, which stays the stream's write timeout.
///
/// The socket itself is opened first and then named by its descriptor: the path may be longer than the 108 bytes of an
/// address, and the sandbox may have put a symlink in its place.
///
/// # Errors
/// Those of open(2) and connect(2); `WouldBlock` if the guest does not accept.
pub fn connect(path: &Path) -> io::Result<UnixStream> {
    let stream = new_socket(SockFlag::empty())?;
    setsockopt(&stream, sockopt::SendTimeout, &TimeVal::new(CONNECT_WAIT.as_secs().cast_signed(), 0))?;
    connect_to(&stream, path)?;
    Ok(UnixStream::from(stream))
}

/// The same for who must not wait.
///
/// # Errors
/// As there; `WouldBlock` if there is no place in the backlog now.
pub fn try_connect(path: &Path) -> io::Result<OwnedFd> {
    let stream = new_socket(SockFlag::SOCK_NONBLOCK)?;
    connect_to(&stream, path)?;
    Ok(stream)
}

fn new_socket(flags: SockFlag) -> io::Result<OwnedFd> {
    Ok(socket::socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC | flags, None)?)
}

fn connect_to(stream: &OwnedFd, path: &Path) -> io::Result<()> {
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let target = open(path, flags, Mode::empty())?;
    let address = UnixAddr::new(format!("/proc/self/fd/{}", target.as_raw_fd()).as_str())?;
    Ok(socket::connect(stream.as_raw_fd(), &address)?)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_socket_far_below_is_reached_and_a_symlink_to_it_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let below = directory.path().join("d".repeat(120));
        fs::create_dir(&below).unwrap();
        let _listener = UnixListener::bind(directory.path().join("s")).unwrap();
        fs::rename(directory.path().join("s"), below.join("s")).unwrap();
        symlink("s", below.join("link")).unwrap();
        assert!(connect(&below.join("s")).is_ok());
        assert!(connect(&below.join("link")).is_err());
        assert_eq!(connect(&below.join("missing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
