//! A daemon to talk to: the real binary, with a state directory and sockets of its own.
//!
//! | file | holds |
//! |---|---|
//! | `daemon` | [`Daemon`]: starts it, stops it, looks whether it left anything |
//! | `sandbox` | [`Sandbox`]: a sandbox in it, and commands in that |
//! | `run` | [`Running`], [`Outcome`]: a run's events, which are held to their contract as they come |
//! | `certificates` | an authority and what it signs |
//! | `disk` | [`Disk`]: a small disk of its own |
//! | `dockerd` | a Docker engine of the tests' own, and the image that is run in it |
//! | `engine` | [`Engine`]: what the daemon of a test makes its sandboxes with |
//! | `files` | [`Files`]: the files of a sandbox |
//! | `http` | [`http::Http`]: a daemon with the HTTP surface, and a client of it |
//! | `probe` | a GET without a key, and what comes back |
//! | `registry` | [`registry::Registry`]: a registry of images |
//! | `leftovers` | what a daemon can leave behind, and how it is removed |
//! | `model` | [`Model`]: a model that says what a test wants, to programs that take it for a provider's |
//! | `session` | [`Session`]: a session of a scripted agent, whose log is held to its contract as it is read |
//! | `sse` | a session's event stream over a plain connection |
//! | `process` | what /proc says of a process |
#![allow(dead_code, unused_imports, reason = "each test binary uses a part of it")]

use std::time::Duration;

use handsd::api::proto::ErrorReason;
use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

pub use daemon::{Daemon, Options};
pub use disk::Disk;
pub use engine::{Engine, only_native};
pub use files::Files;
pub use model::{Model, Step};
pub use run::{Outcome, Running};
pub use sandbox::{Sandbox, argv, shell};
pub use session::Session;

pub mod certificates;
mod daemon;
mod disk;
pub mod dockerd;
pub mod engine;
pub mod files;
pub mod http;
pub mod leftovers;
mod model;
pub mod probe;
pub mod process;
pub mod registry;
pub mod rootfs;
pub mod run;
mod sandbox;
pub mod session;
pub mod sse;

/// Long enough for what takes milliseconds on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(30);

/// Between two looks at a condition that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits until the condition holds and answers what it found; what it said last is in the panic if it never does.
#[track_caller]
pub fn eventually<T, C, F>(bound: Duration, mut condition: C) -> impl Future<Output = T>
where
    C: FnMut() -> F,
    F: Future<Output = Result<T, String>>,
{
    let place = std::panic::Location::caller();
    async move {
        let until = Instant::now() + bound;
        loop {
            match condition().await {
                Ok(found) => return found,
                Err(status) if Instant::now() > until => panic!("{place}: not within {bound:?}: {status}"),
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }
}

/// `Ok` if it holds, else what is the matter instead.
pub fn expect(holds: bool, status: impl Into<String>) -> Result<(), String> {
    if holds { Ok(()) } else { Err(status.into()) }
}

/// The files below a directory that hold a text.
pub fn holders(directory: &std::path::Path, text: &[u8]) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let Ok(kind) = entry.file_type() else { continue };
        if kind.is_dir() {
            found.extend(holders(&path, text));
        } else if kind.is_file()
            && std::fs::read(&path).unwrap_or_default().windows(text.len()).any(|part| part == text)
        {
            found.push(path.display().to_string());
        }
    }
    found
}

/// The reason of an error, such as `RUN_NOT_FOUND`; empty if it has none.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// The kernel's name of an error, such as `ENOENT`; empty if it has none.
pub fn errno(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.and_then(|info| info.metadata.get("errno").cloned()).unwrap_or_default()
}

/// The field that an error is about; empty if it names none.
pub fn field(status: &Status) -> String {
    let request = status.get_details_bad_request();
    request.and_then(|request| request.field_violations.into_iter().next()).map(|it| it.field).unwrap_or_default()
}

/// Code and reason of an answer that has to be an error.
#[track_caller]
pub fn refusal<T: std::fmt::Debug>(answer: Result<T, Status>) -> (Code, String) {
    let status = answer.expect_err("it should have been refused");
    (status.code(), reason(&status))
}

/// A code and a reason as [`refusal`] answers them.
pub fn fault(code: Code, reason: ErrorReason) -> (Code, String) {
    (code, reason.as_str_name().to_owned())
}

/// A duration for a request.
pub fn duration(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration::try_from(duration).expect("a duration of a test is short"))
}

/// Whether this is root, which most sandboxes need; says so if it is not.
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        println!("skipped: needs root");
    }
    is_root
}
