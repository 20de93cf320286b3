//! Pseudo-terminals. The guest opens them in the sandbox's own devpts; the daemon resizes them.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use super::wire::PtySize;

/// Both ends of a terminal.
pub struct Terminal {
    /// The daemon's end.
    pub master: OwnedFd,
    /// The run's end.
    pub slave: OwnedFd,
}

/// Opens a terminal of a size; `owner` gets it, so that programs can chmod and reopen it.
///
/// # Errors
/// Those of open(2) and ioctl_tty(2).
pub fn open_terminal(size: PtySize, owner: u32) -> nix::Result<Terminal> {
    let master = open("/dev/pts/ptmx", OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC, Mode::empty())?;
    let unlock: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int through the pointer, which outlives the call.
    Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlock) })?;
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags by value and returns a new descriptor (ioctl_tty(2)).
    let peer = Errno::result(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) })?;
    // SAFETY: the ioctl has just made this descriptor, and nobody else knows of it.
    let slave = unsafe { OwnedFd::from_raw_fd(peer) };
    resize(slave.as_fd(), size)?;
    nix::unistd::fchown(&slave, Some(owner.into()), None)?;
    Ok(Terminal { master, slave })
}

/// Tells a terminal, by either end, another size; its foreground processes hear SIGWINCH.
///
/// # Errors
/// Those of ioctl_tty(2).
pub fn resize(terminal: BorrowedFd<'_>, size: PtySize) -> nix::Result<()> {
    let clamp = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let size = libc::winsize { ws_row: clamp(size.rows), ws_col: clamp(size.cols), ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize through the pointer, which outlives the call.
    Errno::result(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) })?;
    Ok(())
}
