//! The same work through Docker's API: HTTP/1.1 over its unix socket, by hand, so that nothing but the engine is measured.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

/// The image that is made of the node's own programs.
pub const IMAGE: &str = "handsd-bench:latest";
/// What is in it.
const PROGRAMS: [&str; 4] = ["/bin/true", "/bin/sh", "/usr/bin/head", "/bin/sleep"];

/// An engine that answered, with a container that waits for commands. Dropped, it takes container and image away.
pub struct Docker {
    socket: PathBuf,
    /// Kept open: only an attached exec takes its connection with it.
    connection: BufReader<UnixStream>,
    container: String,
}

/// A command that has ended.
pub struct Exec {
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Bytes of its output.
    pub bytes: u64,
}

impl Docker {
    /// Where an engine may be.
    pub fn socket() -> PathBuf {
        let host = std::env::var("DOCKER_HOST").ok();
        let path = host.as_deref().and_then(|host| host.strip_prefix("unix://"));
        PathBuf::from(path.unwrap_or("/var/run/docker.sock"))
    }

    /// Connects, makes the image and starts a container.
    pub fn open(socket: &Path) -> Result<Self> {
        let connection = BufReader::new(UnixStream::connect(socket).context("connect")?);
        let mut docker = Self { socket: socket.to_owned(), connection, container: String::new() };
        docker.call("POST", "/images/create?fromSrc=-&repo=handsd-bench&tag=latest", &image()?, "application/x-tar")?;
        docker.container = docker.create(&["/bin/sleep", "1000000"])?;
        docker.post(&format!("/containers/{}/start", docker.container), &Value::Null)?;
        Ok(docker)
    }

    /// Runs a command in the container, and asks how it ended.
    pub fn exec(&mut self, argv: &[&str]) -> Result<Exec> {
        let begin = Instant::now();
        let body = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": argv });
        let made = self.post(&format!("/containers/{}/exec", self.container), &body)?;
        let id = made["Id"].as_str().context("an exec without an id")?;
        let bytes = self.attach(id)?;
        let ended = self.call("GET", &format!("/exec/{id}/json"), &[], "application/json")?;
        let elapsed = begin.elapsed();
        ensure!(ended["ExitCode"] == 0, "{argv:?} ended with {}", ended["ExitCode"]);
        Ok(Exec { elapsed, bytes })
    }

    /// Makes a container that runs `true`, and waits for its end; takes it away after.
    pub fn create_and_run(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let container = self.create(&["/bin/true"])?;
        self.post(&format!("/containers/{container}/start"), &Value::Null)?;
        self.post(&format!("/containers/{container}/wait"), &Value::Null)?;
        let elapsed = begin.elapsed();
        self.remove(&container)?;
        Ok(elapsed)
    }

    /// Has the container stand still; answers how long that took.
    pub fn pause(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        self.post(&format!("/containers/{}/pause", self.container), &Value::Null)?;
        Ok(begin.elapsed())
    }

    /// Lets it go on and runs a command in it; answers how long that took.
    pub fn unpause_and_exec(&mut self, argv: &[&str]) -> Result<Duration> {
        let begin = Instant::now();
        self.post(&format!("/containers/{}/unpause", self.container), &Value::Null)?;
        self.exec(argv)?;
        Ok(begin.elapsed())
    }

    /// Makes a container and starts it, and waits for nothing; takes it away after.
    pub fn create_and_start(&mut self) -> Result<Duration> {
        let begin = Instant::now();
        let container = self.create(&["/bin/sleep", "1000000"])?;
        self.post(&format!("/containers/{container}/start"), &Value::Null)?;
        let elapsed = begin.elapsed();
        self.remove(&container)?;
        Ok(elapsed)
    }

    fn create(&mut self, argv: &[&str]) -> Result<String> {
        let body = json!({ "Image": IMAGE, "Cmd": argv, "HostConfig": { "NetworkMode": "none" } });
        let made = self.post("/containers/create", &body)?;
        Ok(made["Id"].as_str().context("a container without an id")?.to_owned())
    }

    fn remove(&mut self, container: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{container}?force=true"), &[], "application/json").map(drop)
    }

    /// Starts an exec on a connection of its own, and reads its output to the end.
    fn attach(&self, id: &str) -> Result<u64> {
        let mut stream = BufReader::with_capacity(256 << 10, UnixStream::connect(&self.socket)?);
        let body = json!({ "Detach": false, "Tty": false }).to_string();
        request(&mut stream, "POST", &format!("/exec/{id}/start"), body.as_bytes(), "application/json")?;
        let head = Head::read(&mut stream)?;
        ensure!(head.status == 200, "start of an exec: status {}", head.status);
        // Frames: which stream, three zeros, a big-endian length, and so many bytes.
        let (mut total, mut chunk, mut header) = (0, vec![0; 256 << 10], [0; 8]);
        while !stream.fill_buf()?.is_empty() {
            stream.read_exact(&mut header)?;
            let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            let mut left = length as usize;
            while left > 0 {
                let size = left.min(chunk.len());
                stream.read_exact(&mut chunk[..size])?;
                left -= size;
            }
            total += u64::from(length);
        }
        Ok(total)
    }

    fn post(&mut self, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.call("POST", path, body.as_bytes(), "application/json")
    }

    /// One request and its answer; null if that is no JSON.
    fn call(&mut self, method: &str, path: &str, body: &[u8], kind: &str) -> Result<Value> {
        request(&mut self.connection, method, path, body, kind)?;
        let head = Head::read(&mut self.connection)?;
        let answer = head.read_body(&mut self.connection)?;
        if head.status >= 300 {
            bail!("{method} {path}: status {}: {}", head.status, String::from_utf8_lossy(&answer));
        }
        Ok(serde_json::from_slice(&answer).unwrap_or(Value::Null))
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // An engine that is gone has taken them along or keeps them; nothing can be done about either here.
        let container = std::mem::take(&mut self.container);
        let _ = self.remove(&container);
        let _ = self.call("DELETE", &format!("/images/{IMAGE}?force=true"), &[], "application/json");
    }
}

fn request(stream: &mut BufReader<UnixStream>, method: &str, path: &str, body: &[u8], kind: &str) -> Result<()> {
    let length = body.len();
    let head =
        format!("{method} {path} HTTP/1.1\r\nHost: docker\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n");
    let stream = stream.get_mut();
    stream.write_all(&[head.as_bytes(), body].concat()).context("send a request")
}

/// What comes before the body of an answer.
struct Head {
    status: u16,
    length: Option<usize>,
    is_chunked: bool,
}

impl Head {
    fn read(stream: &mut impl BufRead) -> Result<Self> {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).and_then(|word| word.parse().ok()).context("no status line")?;
        let mut head = Self { status, length: None, is_chunked: false };
        loop {
            line.clear();
            stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else { return Ok(head) };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => head.length = value.parse().ok(),
                "transfer-encoding" => head.is_chunked = value == "chunked",
                _ => {}
            }
        }
    }

    fn read_body(&self, stream: &mut impl BufRead) -> Result<Vec<u8>> {
        let mut body = Vec::new();
        if !self.is_chunked {
            body.resize(self.length.unwrap_or(0), 0);
            stream.read_exact(&mut body)?;
            return Ok(body);
        }
        loop {
            let mut line = String::new();
            stream.read_line(&mut line)?;
            let length = usize::from_str_radix(line.trim_end(), 16).context("the length of a chunk")?;
            let begin = body.len();
            // A line end follows the bytes of every chunk.
            body.resize(begin + length + 2, 0);
            stream.read_exact(&mut body[begin..])?;
            body.truncate(begin + length);
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

/// A root file system of a few programs of the node and the libraries that they need, as a tar.
fn image() -> Result<Vec<u8>> {
    let libraries = Command::new("ldd").args(PROGRAMS).output().context("ldd")?;
    let text = String::from_utf8(libraries.stdout)?;
    let is_path = |word: &&str| word.starts_with('/') && !word.ends_with(':');
    let files: BTreeSet<&str> = text.split_whitespace().filter(is_path).chain(PROGRAMS).collect();
    let mut tar = tar::Builder::new(Vec::new());
    for path in files {
        let mut file = File::open(path).with_context(|| path.to_owned())?;
        tar.append_file(path.trim_start_matches('/'), &mut file)?;
    }
    Ok(tar.into_inner()?)
}
