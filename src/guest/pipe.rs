//! Pipes between a run and who keeps its output.

use std::io;
use std::os::fd::OwnedFd;

use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::pipe2;

/// A pipe's read end and its write end. Whoever made it owns it, and that is nobody of a sandbox with users of its own; so
/// that commands can open `/dev/stdin`, `/dev/stdout` and `/dev/stderr` there, its mode lets everybody in. There is no way
/// to it but by `/proc/PID/fd` of a process that holds it, which the kernel guards.
///
/// # Errors
/// Those of pipe(2) and fchmod(2).
pub fn of_run() -> io::Result<(OwnedFd, OwnedFd)> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
    fchmod(&read, Mode::from_bits_truncate(0o666))?;
    Ok((read, write))
}
