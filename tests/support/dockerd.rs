//! A Docker engine of a test's own: its socket, its data, its containerd. It touches no other on the machine.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;

use super::rootfs;

/// How long it may take to answer, or to end.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// A running engine. All that belongs to it ends with it.
#[derive(Debug)]
pub struct Dockerd {
    process: Mutex<Child>,
    arguments: Vec<String>,
    image: OnceLock<PathBuf>,
    directory: tempfile::TempDir,
}

/// The engine that the tests of a process share for as long as one of them uses it. `None`, and why is printed, where
/// there can be none.
pub fn shared() -> Option<Arc<Dockerd>> {
    static SHARED: Mutex<Weak<Dockerd>> = Mutex::new(Weak::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(engine) = shared.upgrade() {
        return Some(engine);
    }
    let engine = Arc::new(Dockerd::start(&[])?);
    *shared = Arc::downgrade(&engine);
    Some(engine)
}

impl Dockerd {
    /// Starts one with further arguments. `None`, and why is printed, where there can be none.
    pub fn start(arguments: &[&str]) -> Option<Self> {
        Self::start_in(Path::new("/tmp"), arguments)
    }

    /// The same, with all that it keeps below a directory.
    pub fn start_in(place: &Path, arguments: &[&str]) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: dockerd needs root");
            return None;
        }
        if Command::new("dockerd").arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_err() {
            eprintln!("skipped: dockerd is not installed");
            return None;
        }
        // Short: the sockets of containerd and its shims are below it.
        let directory = tempfile::Builder::new().prefix("dk").tempdir_in(place).expect("a temporary directory");
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let process = Mutex::new(spawn(directory.path(), &arguments));
        let engine = Self { process, arguments, image: OnceLock::new(), directory };
        engine.wait_ready();
        Some(engine)
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// A directory for the test's own files; removed with it.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// The tar of a small Linux, to make images of.
    pub fn image(&self) -> &Path {
        self.image.get_or_init(|| rootfs::write_tar(self.directory.path()))
    }

    /// Kills it without a word. Its containers go on.
    pub fn kill(&self) {
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        process.kill().expect("kill dockerd");
        process.wait().expect("wait for dockerd");
    }

    /// Stops it in its tracks: it takes connections and answers nothing.
    pub fn suspend(&self) {
        let pid = self.signal(Signal::SIGSTOP);
        // Its threads stop one after another, and the last of them may still answer.
        waitpid(pid, Some(WaitPidFlag::WUNTRACED)).expect("dockerd is our child");
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// Starts it again after [`Dockerd::kill`].
    pub fn restart(&self) {
        // The kernel has killed its containerd with it. Where nobody reaps that, both would be taken for running.
        for file in ["pid", "exec/containerd/containerd.pid"] {
            let _ = fs::remove_file(self.directory.path().join(file));
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = spawn(self.directory.path(), &self.arguments);
        self.wait_ready();
    }

    /// What it answers to a GET.
    pub fn get(&self, path: &str) -> String {
        get(&self.socket(), path).unwrap_or_default()
    }

    /// The same as JSON; null if it does not answer with any.
    pub fn json(&self, path: &str) -> Value {
        let answer = self.get(path);
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        serde_json::from_str(body).unwrap_or_default()
    }

    /// The containers of a daemon, by their names.
    pub fn containers(&self, instance: &str) -> Vec<String> {
        let filters = format!("%7B%22label%22:%5B%22dev.handsd.instance={instance}%22%5D%7D");
        let listed = self.json(&format!("/containers/json?all=1&filters={filters}"));
        let names = listed.as_array().into_iter().flatten().filter_map(|container| container["Names"][0].as_str());
        names.map(|name| name.trim_start_matches('/').to_owned()).collect()
    }

    /// How a container was made and how it stands.
    pub fn inspect(&self, container: &str) -> Value {
        self.json(&format!("/containers/{container}/json"))
    }

    /// Ends a container and removes it.
    pub fn remove(&self, container: &str) {
        // What is not there any more is as it should be.
        let _ = ask(&self.socket(), "DELETE", &format!("/containers/{container}?force=1&v=1"), "", "");
    }

    /// Does to a container what the command line does: "kill", "pause", "unpause".
    pub fn order(&self, container: &str, order: &str) {
        let answer = self.post(&format!("/containers/{container}/{order}"), "");
        assert!(answer.contains(" 204 "), "{order} {container}: {answer}");
    }

    /// What it answers to a POST of JSON.
    pub fn post(&self, path: &str, body: &str) -> String {
        ask(&self.socket(), "POST", path, "", body).unwrap_or_default()
    }

    /// Gives an image to a registry, as one of its names says, for who has proved to be somebody.
    pub fn push(&self, repository: &str, tag: &str, user: &str, password: &str) {
        use base64::Engine as _;
        let who = serde_json::json!({ "username": user, "password": password }).to_string();
        let header = format!("X-Registry-Auth: {}\r\n", base64::engine::general_purpose::URL_SAFE.encode(who));
        let path = format!("/images/{repository}/push?tag={tag}");
        let answer = ask(&self.socket(), "POST", &path, &header, "").unwrap_or_default();
        assert!(answer.contains("sha256:") && !answer.contains("\"error\""), "push {repository}: {answer}");
    }

    /// Takes a name from an image.
    pub fn untag(&self, name: &str) {
        let answer = ask(&self.socket(), "DELETE", &format!("/images/{name}"), "", "").unwrap_or_default();
        assert!(answer.contains(" 200 "), "untag {name}: {answer}");
    }

    /// Gives an image another name.
    pub fn tag(&self, image: &str, repository: &str, tag: &str) {
        let answer = self.post(&format!("/images/{image}/tag?repo={repository}&tag={tag}"), "");
        assert!(answer.contains(" 201 "), "tag {image}: {answer}");
    }

    fn signal(&self, signal: Signal) -> Pid {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = Pid::from_raw(process.id().cast_signed());
        kill(pid, signal).expect("signal dockerd");
        pid
    }

    #[track_caller]
    fn wait_ready(&self) {
        let socket = self.socket();
        if !eventually(|| get(&socket, "/_ping").is_some_and(|answer| answer.ends_with("OK"))) {
            panic!("dockerd does not answer:\n{}", self.log());
        }
    }

    /// The last it said.
    fn log(&self) -> String {
        let log = fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
        let start = log.lines().count().saturating_sub(20);
        log.lines().skip(start).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Dockerd {
    fn drop(&mut self) {
        self.signal(Signal::SIGCONT);
        self.signal(Signal::SIGTERM);
        let mut process = self.process.lock().unwrap_or_else(PoisonError::into_inner);
        if !eventually(|| matches!(process.try_wait(), Ok(Some(_)))) {
            let _ = process.kill();
            let _ = process.wait();
        }
        // A killed one leaves its containerd, the shims of its containers, and what is in those.
        let directory = self.directory.path().to_string_lossy().into_owned();
        for pid in processes_of(&directory) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        eventually(|| processes_of(&directory).is_empty());
        for mount in mounts_below(&directory) {
            let _ = umount2(mount.as_path(), MntFlags::MNT_DETACH);
        }
    }
}

/// The argument that has it map users; who is mapped, its wrapper says.
pub const REMAPPED: &str = "--userns-remap=nobody:nogroup";

/// The ids that they are mapped to.
pub const REMAPPED_ROOT: u32 = 231_072;

/// What executes it: for one that maps users, with tables of its own, in a mount namespace of its own.
fn program(directory: &Path, arguments: &[String]) -> Command {
    if !arguments.iter().any(|argument| argument == REMAPPED) {
        return Command::new("dockerd");
    }
    let table = directory.join("subids");
    let lines = ["nobody", "nogroup"].map(|name| format!("{name}:{REMAPPED_ROOT}:65536\n")).concat();
    fs::write(&table, lines).expect("the ids");
    let line = "for file in /etc/subuid /etc/subgid; do mount --bind $0 $file || exit; done; exec dockerd \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "slave", "sh", "-c", line]).arg(table);
    command
}

fn spawn(directory: &Path, arguments: &[String]) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).expect("dockerd's log");
    let place = |name: &str| directory.join(name);
    program(directory, arguments)
        .args(["--iptables=false", "--bridge=none", "-H"])
        .arg(format!("unix://{}", socket(directory).display()))
        .arg("--data-root")
        .arg(place("data"))
        .arg("--exec-root")
        .arg(place("exec"))
        .arg("--pidfile")
        .arg(place("pid"))
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("dockerd's log"))
        .stderr(log)
        .spawn()
        .expect("dockerd starts")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("docker.sock")
}

fn get(socket: &Path, path: &str) -> Option<String> {
    ask(socket, "GET", path, "", "")
}

/// What it answers; a line of `headers` ends as HTTP wants it.
fn ask(socket: &Path, method: &str, path: &str, headers: &str, body: &str) -> Option<String> {
    let mut stream = UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let length = body.len();
    let head = format!("Host: docker\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{headers}");
    write!(stream, "{method} {path} HTTP/1.0\r\n{head}\r\n{body}").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

fn eventually(mut condition: impl FnMut() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while Instant::now() < until {
        if condition() {
            return true;
        }
        #[expect(clippy::disallowed_methods, reason = "nobody announces it, and there is no runtime here")]
        std::thread::sleep(LOOK_AGAIN);
    }
    false
}

/// The processes that name a directory in their command line, or whose root file system is kept below it.
fn processes_of(directory: &str) -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let belongs = |pid: &i32| {
        let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
        let mounts = String::from_utf8_lossy(&read("mountinfo")).into_owned();
        let is_root = |line: &&str| line.split(' ').nth(4) == Some("/");
        String::from_utf8_lossy(&read("cmdline")).contains(directory)
            || mounts.lines().filter(is_root).any(|root| root.contains(directory))
    };
    pids.filter(|pid| *pid != std::process::id().cast_signed()).filter(belongs).collect()
}

/// The deepest first.
fn mounts_below(path: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(1));
    points.filter(|point| point.starts_with(path)).map(PathBuf::from).rev().collect()
}
