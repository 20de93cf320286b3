//! PID 1 of a sandbox; see `handsd::guest::agent`.
//!
//! Whoever starts it either leaves it the descriptor of a bound unix socket, or names the place of one in its arguments.

use std::process::ExitCode;

use handsd::guest::agent;

fn main() -> ExitCode {
    let error = match agent::Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => agent::start(&options),
        Err(error) => error,
    };
    eprintln!("hands-guest: {error}");
    ExitCode::FAILURE
}
