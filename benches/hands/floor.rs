//! The same work without the daemon.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use handsd::engine::cgroup;
use handsd::guest::client::{ExitStatus, Guest};
use handsd::guest::wire::Spawn;
use handsd::ids::RunId;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::unistd::pipe2;
use tokio::task::JoinSet;

use crate::node::Node;

/// Bytes of a file that are read or written at a time.
const FILE_CHUNK: usize = 1 << 20;
/// Bytes of output that are read at a time: as many as an event of the daemon's holds at most.
const OUTPUT_CHUNK: usize = 256 << 10;

/// posix_spawn(3) and wait: what a command costs on the node itself.
pub fn spawn(argv: &[&str]) -> Result<Duration> {
    let begin = Instant::now();
    let mut child = Command::new(argv[0]).args(&argv[1..]).stdin(Stdio::null()).spawn().context("spawn")?;
    let status = child.wait().context("wait")?;
    ensure!(status.success(), "{argv:?}: {status}");
    Ok(begin.elapsed())
}

/// What new namespaces cost on the node itself: unshare(1) of those that a sandbox has, `true` and its end. `None` where
/// there is no such program.
pub fn unshare() -> Option<Duration> {
    let flags = ["--user", "--map-root-user", "--mount", "--pid", "--net", "--ipc", "--uts", "--fork"];
    spawn(&[&["unshare"], &flags[..], &["/bin/true"]].concat()).ok()
}

/// A pipe read to its end: bytes a second.
pub fn output(bytes: u64) -> Result<f64> {
    let begin = Instant::now();
    let mut child =
        Command::new("head").args(["-c", &bytes.to_string(), "/dev/zero"]).stdout(Stdio::piped()).spawn()?;
    let mut pipe = child.stdout.take().context("a pipe was asked for")?;
    let mut chunk = vec![0; OUTPUT_CHUNK];
    let mut total = 0;
    loop {
        match pipe.read(&mut chunk)? {
            0 => break,
            count => total += count as u64,
        }
    }
    child.wait()?;
    ensure!(total == bytes, "{total} bytes instead of {bytes}");
    Ok(bytes as f64 / begin.elapsed().as_secs_f64())
}

/// A file written, then read: bytes a second of both.
pub fn file(directory: &Path, bytes: usize) -> Result<(f64, f64)> {
    let path = directory.join("plain");
    let mut chunk = vec![7; FILE_CHUNK];
    let begin = Instant::now();
    let mut file = File::create(&path)?;
    for _ in 0..bytes / FILE_CHUNK {
        file.write_all(&chunk)?;
    }
    drop(file);
    let written = bytes as f64 / begin.elapsed().as_secs_f64();
    let begin = Instant::now();
    let mut file = File::open(&path)?;
    while file.read(&mut chunk)? > 0 {}
    let read = bytes as f64 / begin.elapsed().as_secs_f64();
    fs::remove_file(path)?;
    Ok((written, read))
}

/// The guest of a sandbox, spoken to without the daemon: what a command costs inside, without gRPC, cgroup or spool.
pub struct Wire {
    sandbox: String,
    guest: Guest,
    cgroup: Option<OwnedFd>,
    /// The connection.
    _task: JoinSet<()>,
}

impl Wire {
    /// Makes a sandbox and takes its guest over. The daemon takes it for crashed from then on. `None` if the sandbox
    /// cannot be reached this way: with an engine that keeps it elsewhere.
    pub async fn open(node: &mut Node) -> Result<Option<Self>> {
        let sandbox = node.create().await?;
        let directory = node.sandbox_directory(&sandbox);
        let Ok(record) = fs::read(directory.join("init.json")) else {
            node.destroy(sandbox).await?;
            return Ok(None);
        };
        let record: serde_json::Value = serde_json::from_slice(&record)?;
        let pid = u32::try_from(record["pid"].as_u64().context("a record without a pid")?)?;
        let (guest, connection) = Guest::connect(&directory.join("guest.sock"), pid).await?;
        let mut task = JoinSet::new();
        task.spawn(connection.serve());
        Ok(Some(Self { sandbox, guest, cgroup: open_cgroup(pid)?, _task: task }))
    }

    /// Starts a program and waits for its end.
    pub async fn spawn(&mut self, argv: &[&str]) -> Result<Duration> {
        let run = RunId::random();
        let begin = Instant::now();
        // As every run has them, the guest's ends and ours; what they would bring is not looked at.
        let (stdout, stdout_write) = pipe2(OFlag::O_CLOEXEC)?;
        let (stderr, stderr_write) = pipe2(OFlag::O_CLOEXEC)?;
        let mut fds = vec![stdout_write, stderr_write, stdout, stderr];
        fds.extend(self.cgroup.as_ref().map(OwnedFd::try_clone).transpose()?);
        let spawn = Spawn {
            run: run.to_string(),
            argv: argv.iter().map(|argument| argument.as_bytes().to_vec()).collect(),
            cwd: b"/".to_vec(),
            cgroup: self.cgroup.is_some(),
            ..Spawn::default()
        };
        let status = self.guest.spawn(spawn, fds).await?.exit.await?;
        let elapsed = begin.elapsed();
        self.guest.release(&run).await?;
        match status {
            ExitStatus::Code(0) => Ok(elapsed),
            status => bail!("{argv:?}: {status:?}"),
        }
    }

    /// Lets the guest go, and removes the sandbox.
    pub async fn close(self, node: &mut Node) -> Result<()> {
        node.destroy(self.sandbox).await
    }
}

/// The cgroup of the guest itself.
fn open_cgroup(pid: u32) -> Result<Option<OwnedFd>> {
    let host = cgroup::Host::probe()?;
    let places = fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let place = places.lines().find_map(|line| line.strip_prefix("0::/")).filter(|place| !place.is_empty());
    let Some((mount, place)) = host.unified().zip(place) else { return Ok(None) };
    let path: PathBuf = mount.join(place);
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    Ok(Some(nix::fcntl::open(&path, flags, Mode::empty())?))
}
