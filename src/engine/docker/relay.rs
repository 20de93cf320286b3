//! The relay of a sandbox that no unix socket leads into: a process of its own, which outlives the daemon. See
//! [`crate::guest::relay`].

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::guest::relay::{ATTACHED, COMMAND, CONTAINER, DOCKER, LISTEN, PLACE};

/// How long it may take until it has attached: one request to Docker, which has an end of its own.
const DEADLINE: Duration = Duration::from_secs(40);

/// Most bytes of what it says of its failure.
const MAX_WORDS: u64 = 4096;

/// What a relay is started with.
#[derive(Debug)]
pub struct Parts<'a> {
    /// The program: the guest's own.
    pub program: &'a Path,
    /// Docker's socket.
    pub docker: &'a Path,
    /// The container, which does not run yet.
    pub container: &'a str,
    /// Where it listens once the guest serves.
    pub listen: &'a Path,
    /// Where its process id is noted. Beside it, it makes further sockets.
    pub note: &'a Path,
}

/// Starts a relay, and waits until it has attached.
///
/// # Errors
/// Those of starting a process; `Other` with its words if it fails, `TimedOut`.
pub async fn start(parts: &Parts<'_>) -> io::Result<()> {
    let mut command = Command::new(parts.program);
    command.args([COMMAND, CONTAINER, parts.container]);
    command.arg(DOCKER).arg(parts.docker).arg(LISTEN).arg(parts.listen);
    command.args(parts.note.parent().into_iter().flat_map(|place| [PLACE.as_ref(), place.as_os_str()]));
    // A signal to the daemon's group, as of a terminal, is not for it.
    command.env_clear().current_dir("/").process_group(0);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    match timeout(DEADLINE, attached(&mut child)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
        Ok(()) => write_note(parts.note, child.id().unwrap_or_default()),
        Err(error) => {
            // It may have ended by itself.
            let _ = child.kill().await;
            Err(error)
        }
    }
}

/// Who listens in the place of a sandbox's guest.
///
/// # Errors
/// Those of reading the note; `InvalidData` for another content.
pub fn noted(note: &Path) -> io::Result<u32> {
    fs::read_to_string(note)?.trim().parse().map_err(|_| io::ErrorKind::InvalidData.into())
}

/// The note, in a sandbox's directory.
pub fn note(directory: &Path) -> PathBuf {
    directory.join("relay")
}

async fn attached(child: &mut Child) -> io::Result<()> {
    let (Some(mut stdout), Some(stderr)) = (child.stdout.take(), child.stderr.take()) else {
        return Err(io::ErrorKind::BrokenPipe.into());
    };
    let mut said = [0; ATTACHED.len()];
    if stdout.read_exact(&mut said).await.is_ok() && said == ATTACHED.as_bytes() {
        return Ok(());
    }
    let mut words = String::new();
    stderr.take(MAX_WORDS).read_to_string(&mut words).await?;
    Err(io::Error::other(words.trim().to_owned()))
}

/// The relay is somebody's child for as long as this daemon lives, so that its id is nobody else's while it is written.
fn write_note(note: &Path, pid: u32) -> io::Result<()> {
    let unfinished = note.with_extension("new");
    fs::write(&unfinished, pid.to_string())?;
    fs::rename(unfinished, note)
}
