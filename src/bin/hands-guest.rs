//! PID 1 of a sandbox; see `handsd::guest::agent`. The daemon starts it with the descriptor of a bound unix socket.

use std::os::fd::{FromRawFd, OwnedFd};
use std::process::ExitCode;

/// The descriptor that the daemon leaves open for us.
const LISTENER: i32 = 3;

fn main() -> ExitCode {
    // SAFETY: whoever starts us passes a socket here, and nothing else in this process has touched it.
    let listener = unsafe { OwnedFd::from_raw_fd(LISTENER) };
    let error = handsd::guest::agent::serve(listener);
    eprintln!("hands-guest: {error}");
    ExitCode::FAILURE
}
