//! PID 1 of a sandbox; see `handsd::guest::agent`.
//!
//! Whoever starts it either leaves it the descriptor of a bound unix socket, or names the place of one in its arguments.
//! As `hands-guest script` it is a brain instead; see `handsd::guest::script`. As `hands-guest relay` it runs on the node;
//! see `handsd::guest::relay`.

use std::process::ExitCode;

use handsd::guest::{agent, relay, script};

fn main() -> ExitCode {
    if std::env::args_os().nth(1).is_some_and(|argument| argument == "script") {
        return match script::run() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hands-guest script: {error}");
                ExitCode::FAILURE
            }
        };
    }
    if std::env::args_os().nth(1).is_some_and(|argument| argument == relay::COMMAND) {
        return match relay::run(std::env::args_os().skip(2)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("hands-guest relay: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let error = match agent::Options::parse(std::env::args_os().skip(1)) {
        Ok(options) => agent::start(&options),
        Err(error) => error,
    };
    eprintln!("hands-guest: {error}");
    ExitCode::FAILURE
}
