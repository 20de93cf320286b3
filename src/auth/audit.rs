//! The audit log: who called what, on which sandbox, and how it ended; one JSON object a line.
//!
//! A line is written when a call ends, so that it can say how; a stream that stays open is written down when it closes. A
//! call that was refused is there as well. What a call carried (commands, files, environments) never is.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// One call.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// When it ended, in RFC 3339, UTC.
    pub time: String,
    /// Who; nobody if they were not known.
    pub client: Option<&'a str>,
    /// Their role.
    pub role: Option<String>,
    /// Where from: "unix uid 0", "loopback", or "tls" with the names of the certificate.
    pub peer: String,
    /// What: the path of the RPC.
    pub rpc: &'a str,
    /// On which sandbox, if it is about one that the caller may know of.
    pub sandbox_id: Option<&'a str>,
    /// Of this request, as in the logs.
    pub request_id: &'a str,
    /// How it ended: a gRPC code, such as "ok" or "permission denied"; "canceled" if the caller hung up.
    pub outcome: &'a str,
    /// How long it took, in milliseconds.
    pub duration_ms: u64,
}

/// A file that lines are appended to.
#[derive(Debug)]
pub struct Audit {
    file: Mutex<File>,
}

impl Audit {
    /// Opens the log, and makes it if it is not there, for its owner only.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::options().create(true).append(true).mode(0o600).open(path)?;
        Ok(Self { file: Mutex::new(file) })
    }

    /// Appends a line. It is written at once and not synced: what must survive a crash of the machine is shipped off it.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, record: &Record<'_>) -> io::Result<()> {
        let mut line = serde_json::to_vec(record)?;
        line.push(b'\n');
        // A line is one write, so that no other can come between its parts.
        self.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(&line)
    }
}
