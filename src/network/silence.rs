//! Peers that have vanished: the machine is off, or the way to it is gone, and no end of the connection was ever told.
//!
//! The kernel asks a silent peer whether it is there, and waits for the acknowledgement of what it was sent. Whoever answers
//! neither for as long as is bounded here is gone: reading from the connection then fails with `TimedOut`.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{KeepAlive, TcpKeepIdle, TcpKeepInterval, TcpUserTimeout};

/// A peer is asked after half of the bound, and then so often that a few questions may be lost.
const IDLE_PART: u32 = 2;
const INTERVAL_PART: u32 = 10;

/// Bounds how long the peer of a TCP connection may be silent when it is asked; set on a listener, that of all its
/// connections. A peer that leaves unread what it is sent counts as silent too.
///
/// # Errors
/// Those of setsockopt(2).
pub fn bound(socket: &impl AsFd, silence: Duration) -> io::Result<()> {
    let seconds = |part: u32| u32::try_from((silence / part).as_secs()).unwrap_or(u32::MAX).max(1);
    // With it, the kernel counts the time and not the questions (tcp(7)).
    setsockopt(socket, TcpUserTimeout, &u32::try_from(silence.as_millis()).unwrap_or(u32::MAX))?;
    setsockopt(socket, TcpKeepIdle, &seconds(IDLE_PART))?;
    setsockopt(socket, TcpKeepInterval, &seconds(INTERVAL_PART))?;
    Ok(setsockopt(socket, KeepAlive, &true)?)
}
