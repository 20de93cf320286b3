//! Between the protobufs and the domain. Pure: everything that comes in is checked and bounded here, and nowhere else.
//!
//! | file | owns |
//! |---|---|
//! | `sandboxes` | sandboxes, their limits and phases |
//! | `runs` | commands, input, events and exits |
//! | `runtime` | what sandboxes keep running |
//! | `files` | paths, ranges and file infos |
//! | `search` | edits, patterns, and what they find |
//! | `network` | networks and ports |
//! | `node` | the events of the node, and how it is emptied |
//! | [`sessions`] | agents, sessions, turns and events |
//! | [`credentials`] | keys of model providers |
//!
//! What they share is here: ids, environments, bounds.

use std::collections::BTreeMap;
use std::time::Duration;

use super::proto::ErrorReason;
use super::status::Fault;
use crate::ids::{RunId, SandboxId};

pub mod credentials;
mod files;
mod network;
mod node;
mod runs;
mod runtime;
mod sandboxes;
mod search;
pub mod sessions;

pub use files::{directory, file_info, list_options, mode, path, read_range, write_options};
pub use network::{network, port, ports, secrets};
pub use node::{drain_progress, node_event, patience};
pub use runs::{Deadlines, InputAction, MAX_CHUNK, check_chunk, command, event, exited, grace, input, run, signal};
pub use sandboxes::{idle_timeout, limits, sandbox, sandbox_page, tier, wish};
pub use search::{Edit, edit, edited, globbed, grep_options, grepped, search_limit};

/// Most entries of an environment.
const MAX_ENV: usize = 1024;
/// Most bytes of an idempotency key.
const MAX_KEY: usize = 128;
/// Most bytes of a user.
const MAX_USER: usize = 256;
/// PATH_MAX, with its NUL.
const MAX_PATH: usize = 4095;

/// A sandbox's id.
///
/// # Errors
/// An unknown id is one that no sandbox has, whatever it looks like; an empty one is a missing field.
pub fn sandbox_id(text: &str) -> Result<SandboxId, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("sandbox_id", "is missing"));
    }
    text.parse().map_err(|_| {
        Fault::new(tonic::Code::NotFound, ErrorReason::SandboxNotFound, format!("no sandbox {}", quoted(text)))
    })
}

/// A run's id.
///
/// # Errors
/// As [`sandbox_id`].
pub fn run_id(text: &str) -> Result<RunId, Fault> {
    if text.is_empty() {
        return Err(Fault::argument("run_id", "is missing"));
    }
    text.parse()
        .map_err(|_| Fault::new(tonic::Code::NotFound, ErrorReason::RunNotFound, format!("no run {}", quoted(text))))
}

/// What a caller sent, short enough for a message.
fn quoted(text: &str) -> String {
    let short: String = text.chars().take(64).collect();
    format!("{short:?}")
}

fn key(text: String) -> Result<Option<String>, Fault> {
    bounded("idempotency_key", &text, MAX_KEY)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn bounded(field: &'static str, text: &str, limit: usize) -> Result<(), Fault> {
    if text.len() > limit {
        return Err(Fault::argument(field, format!("has {} bytes, at most {limit} are allowed", text.len())));
    }
    if text.contains('\0') {
        return Err(Fault::argument(field, "holds a NUL"));
    }
    Ok(())
}

fn checked_user(text: String) -> Result<Option<String>, Fault> {
    bounded("user", &text, MAX_USER)?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

fn check_env(field: &'static str, env: &BTreeMap<String, String>, limit: usize) -> Result<usize, Fault> {
    let invalid = |message: String| Fault::argument_for(ErrorReason::EnvInvalid, field, message);
    if env.len() > MAX_ENV {
        return Err(invalid(format!("has {} entries, at most {MAX_ENV} are allowed", env.len())));
    }
    for (key, value) in env {
        if key.is_empty() || key.contains(['=', '\0']) {
            return Err(invalid(format!("key {} is empty or holds = or NUL", quoted(key))));
        }
        if value.contains('\0') {
            return Err(invalid(format!("the value of {} holds NUL", quoted(key))));
        }
    }
    let bytes = env.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
    if bytes > limit {
        return Err(invalid(format!("has {bytes} bytes, at most {limit} are allowed")));
    }
    Ok(bytes)
}

/// A span of time; `None` if it is negative or no duration. The conversion that comes with the type panics at the least one.
fn span(span: prost_types::Duration) -> Option<Duration> {
    let (seconds, nanos) = (u64::try_from(span.seconds).ok()?, u32::try_from(span.nanos).ok()?);
    Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanos.into()))
}

fn page_size(asked: u32, (default, most): (u32, u32)) -> Result<u32, Fault> {
    match asked {
        0 => Ok(default),
        asked if asked <= most => Ok(asked),
        asked => Err(Fault::argument("page_size", format!("is {asked}, at most {most} is allowed"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_not_negative_is_a_span_of_time() {
        let of = |seconds, nanos| span(prost_types::Duration { seconds, nanos });
        assert_eq!(of(1, 500_000_000), Some(Duration::from_millis(1_500)));
        assert_eq!(of(0, 0), Some(Duration::ZERO));
        assert_eq!(of(i64::MAX, i32::MAX), Some(Duration::new(i64::MAX.unsigned_abs() + 2, 147_483_647)));
        for (seconds, nanos) in [(i64::MIN, 0), (i64::MIN, i32::MIN), (-1, 0), (1, -1), (0, i32::MIN)] {
            assert_eq!(of(seconds, nanos), None, "{seconds} s {nanos} ns");
        }
    }
}
