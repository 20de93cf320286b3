//! The daemon's process.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::node_client::NodeClient;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::client::{self, Address, Channel};

use super::sandbox::Sandbox;
use super::{Engine, LOOK_AGAIN, SOON, eventually, leftovers, process};

/// How long a daemon may take to end: it removes its sandboxes, and cuts off calls after five seconds.
const STOP_BOUND: Duration = Duration::from_secs(60);

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Its configuration file.
    pub config: String,
    /// As nobody instead of root.
    pub rootless: bool,
    /// Its sandboxes are left to the next daemon when it is told to end.
    pub durable: bool,
    /// Where its directory is made, if not where temporary files are.
    pub place: Option<PathBuf>,
    /// The command that executes it, if it is not started directly.
    pub wrapper: Vec<String>,
    /// With the HTTP surface.
    pub http: bool,
    /// The point of [`handsd::crash`] where it dies; those that are started after it live on.
    pub crash_at: Option<&'static str>,
    /// Its engine, if not the one that all tests are run on.
    pub engine: Option<Engine>,
    /// A daemon of another build, if not this one's.
    pub program: Option<PathBuf>,
}

/// A daemon. When it is dropped it is told to end, and has to end well and leave nothing; after a panic it is killed, and
/// its log is printed. Needs a runtime of several threads: a daemon that ends waits for its clients to see it.
pub struct Daemon {
    process: Child,
    options: Options,
    channel: Channel,
    directory: tempfile::TempDir,
    /// The processes below it when it was told to end, by id and start time.
    descendants: Vec<(u32, String)>,
    /// Ends last.
    engine: Engine,
}

impl Daemon {
    /// Starts one with the default configuration; `None` without root.
    pub async fn start() -> Option<Self> {
        Self::start_with(Options::default()).await
    }

    /// Starts one with this configuration file; `None` without root.
    pub async fn start_configured(config: &str) -> Option<Self> {
        Self::start_with(Options { config: config.to_owned(), ..Options::default() }).await
    }

    /// Starts one; `None` without root.
    pub async fn start_with(options: Options) -> Option<Self> {
        if !super::is_root() {
            return None;
        }
        let engine = match &options.engine {
            Some(engine) => engine.clone(),
            None => Engine::chosen().await?,
        };
        let directory = tempfile::Builder::new()
            .prefix("handsd-test-")
            .tempdir_in(options.place.clone().unwrap_or_else(std::env::temp_dir));
        let directory = directory.expect("a temporary directory");
        let config = super::engine::configuration(&options.config);
        fs::write(directory.path().join("handsd.toml"), config).expect("the configuration");
        if options.rootless {
            for path in [directory.path().to_owned(), directory.path().join("handsd.toml")] {
                std::os::unix::fs::chown(path, Some(65534), Some(65534)).expect("root gives files away");
            }
        }
        let process = spawn(directory.path(), &options, &engine);
        // In a shell of its own until there is a connection, so that a panic on the way cleans up too.
        let mut starting = Starting { process: Some(process), directory: Some(directory) };
        let channel = starting.connect().await;
        let (process, directory) = starting.finish();
        Some(Self { process, options, channel, directory, descendants: Vec::new(), engine })
    }

    /// Where its state is.
    pub fn state(&self) -> PathBuf {
        state(self.directory.path())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        socket(self.directory.path())
    }

    /// Its address as a client takes it.
    pub fn address(&self) -> String {
        format!("unix:{}", self.socket().display())
    }

    /// The TCP address that it chose, as `127.0.0.1:port`.
    pub fn tcp_address(&self) -> String {
        self.address_after("serving gRPC address=127")
    }

    /// What the daemon says of an address, which ends these words. It says so once all listen, which may be after its
    /// socket does.
    fn address_after(&self, words: &str) -> String {
        let until = Instant::now() + SOON;
        loop {
            let log = self.log().replace("\x1b[0m", "").replace("\x1b[2m", "").replace("\x1b[3m", "");
            if let Some((_, rest)) = log.rsplit_once(words).filter(|(_, rest)| rest.contains('\n')) {
                return format!("127{}", rest.split_whitespace().next().unwrap_or_default());
            }
            assert!(Instant::now() < until, "it does not say where it listens:\n{log}");
            std::thread::park_timeout(LOOK_AGAIN);
        }
    }

    /// Where its HTTP surface is, as `127.0.0.1:port`.
    pub async fn http_address(&self) -> String {
        eventually(SOON, || async {
            let log = self.log();
            let line = log.lines().rfind(|line| line.contains("serving HTTP")).ok_or("it does not serve HTTP yet")?;
            let start = line.find("127.0.0.1:").ok_or("it says where")?;
            Ok(line[start..].split(|c: char| c.is_whitespace() || c == '\x1b').next().unwrap_or_default().to_owned())
        })
        .await
    }

    /// The key of its HTTP surface.
    pub fn key(&self) -> String {
        fs::read_to_string(self.state().join("api.key")).expect("it has made a key").trim().to_owned()
    }

    /// Another command of the same program, on the same state.
    pub fn handsd(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_handsd"));
        command.args(arguments).arg("--state-dir").arg(self.state());
        self.engine.configure(&mut command);
        command
    }

    /// A directory for the test's own files; removed with the daemon.
    pub fn scratch(&self) -> &Path {
        self.directory.path()
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Its helper that makes sandboxes, if its engine has one.
    pub fn zygote(&self) -> Option<u32> {
        let children = process::children(self.pid());
        children.into_iter().find(|pid| process::command_line(*pid).ends_with(" zygote"))
    }

    /// All it has said so far.
    pub fn log(&self) -> String {
        fs::read_to_string(log(self.directory.path())).unwrap_or_default()
    }

    /// What there is of sandboxes and runs; see [`leftovers::find`].
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = leftovers::find(&self.state());
        found.extend(self.engine.containers(&self.state()).iter().map(|name| format!("container {name}")));
        found
    }

    /// Its cgroup directories, one in each hierarchy.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        leftovers::cgroups(&self.state())
    }

    /// The cgroup of a sandbox that holds those of its runs.
    pub fn cgroup(&self, sandbox: &Sandbox) -> PathBuf {
        let unified = self.cgroups().into_iter().find(|path| path.join("cgroup.controllers").exists());
        unified.expect("a cgroup2 tree").join(&sandbox.id)
    }

    /// The first process of a sandbox, on the node.
    pub fn init(&self, sandbox: &Sandbox) -> u32 {
        self.engine.init(&self.state(), sandbox).expect("a running sandbox has a first process")
    }

    /// Where what a sandbox has written is on the node.
    pub fn upper(&self, sandbox: &Sandbox) -> PathBuf {
        self.engine.upper(&self.state(), sandbox)
    }

    /// Commands and files.
    pub fn hands(&self) -> HandsClient<Channel> {
        client::hands(self.channel.clone())
    }

    /// Sandboxes.
    pub fn sandboxes(&self) -> SandboxesClient<Channel> {
        client::sandboxes(self.channel.clone())
    }

    /// Agents and sessions.
    pub fn sessions(&self) -> SessionsClient<Channel> {
        client::sessions(self.channel.clone())
    }

    /// The node.
    pub fn node(&self) -> NodeClient<Channel> {
        client::node(self.channel.clone())
    }

    /// The same clients over a connection of their own.
    pub async fn connect(&self) -> Channel {
        client::connect(&Address::Unix(self.socket())).await.expect("the daemon serves")
    }

    /// A sandbox with the defaults.
    pub async fn sandbox(&self) -> Sandbox {
        Sandbox::create(self, Default::default()).await.expect("a sandbox")
    }

    /// Writes another configuration and has it read; what the daemon says to it.
    pub async fn reconfigure(&self, config: &str) -> String {
        fs::write(self.directory.path().join("handsd.toml"), config).expect("the configuration");
        let before = self.log().len();
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("process ids are small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("it is ours");
        eventually(SOON, || async {
            let log = self.log();
            let said = log[before..].lines().find(|line| line.contains("the configuration "));
            said.map(str::to_owned).ok_or_else(|| "it says nothing".to_owned())
        })
        .await
    }

    /// Kills it at once, with nothing said.
    pub fn kill(&mut self) {
        self.process.kill().expect("it is ours");
        self.process.wait().expect("it is ours");
    }

    /// Waits until it has died where it was to; see [`Options::crash_at`].
    pub async fn has_crashed(&mut self) {
        let point = self.options.crash_at.take().expect("it was to die");
        eventually(SOON, || {
            let status = self.process.try_wait().expect("it is ours");
            let is_killed = status.is_some_and(|status| status.signal() == Some(9));
            std::future::ready(super::expect(is_killed, format!("it did not die at {point}: {status:?}")))
        })
        .await;
    }

    /// Kills it and starts it again on the same state.
    pub async fn kill_and_restart(&mut self) {
        self.kill();
        self.restart().await;
    }

    /// Starts one of another build after [`Daemon::kill`]; of this one for `None`.
    pub async fn restart_as(&mut self, program: Option<PathBuf>) {
        self.options.program = program;
        self.restart().await;
    }

    /// Tells it to end, and starts another on the same state, which removes all at its end.
    pub async fn replace(&mut self) {
        assert!(self.options.durable && self.stop().success(), "{}", self.log());
        self.options.durable = false;
        self.restart().await;
    }

    /// The same of one that ends by itself.
    pub async fn replace_ended(&mut self) {
        eventually(SOON, || {
            let status = self.process.try_wait().expect("it is ours");
            std::future::ready(super::expect(status.is_some_and(|status| status.success()), format!("{status:?}")))
        })
        .await;
        self.options.durable = false;
        self.restart().await;
    }

    /// Takes all sandboxes off its record, after [`Daemon::kill`].
    pub fn forget_sandboxes(&self) {
        let store = rusqlite::Connection::open(self.state().join("store.db")).expect("it has made a store");
        store.execute("DELETE FROM sandboxes", []).expect("the store has a table of them");
    }

    /// Starts it again after [`Daemon::kill`].
    pub async fn restart(&mut self) {
        self.process = spawn(self.directory.path(), &self.options, &self.engine);
        let socket = self.socket();
        let process = &mut self.process;
        self.channel = wait_for_connection(process, &socket, self.directory.path()).await;
    }

    /// Tells it to end, and waits until it has.
    pub fn stop(&mut self) -> ExitStatus {
        self.descendants = process::descendants(self.pid());
        let pid = nix::unistd::Pid::from_raw(i32::try_from(self.pid()).expect("process ids are small"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it is ours");
        let until = Instant::now() + STOP_BOUND;
        loop {
            match self.process.try_wait().expect("it is ours") {
                Some(status) => return status,
                None if Instant::now() > until => panic!("the daemon does not end:\n{}", self.log()),
                None => std::thread::park_timeout(LOOK_AGAIN),
            }
        }
    }

    fn check_end(&mut self) -> Result<(), String> {
        let status = match self.process.try_wait().expect("it is ours") {
            Some(status) => status,
            None => self.stop(),
        };
        // A test that killed it does so to see what then happens to what it left.
        if status.signal() == Some(9) {
            return Ok(());
        }
        super::expect(status.success(), format!("it ended with {status}"))?;
        // Its zygote sees that it is gone a moment later.
        let until = Instant::now() + SOON;
        let mut left = self.left_after_end();
        while !left.is_empty() && Instant::now() < until {
            std::thread::park_timeout(LOOK_AGAIN);
            left = self.left_after_end();
        }
        super::expect(left.is_empty(), format!("it left {left:#?}"))?;
        super::expect(!self.log().contains("panicked at"), "it panicked")
    }

    fn left_after_end(&self) -> Vec<String> {
        let mut left = self.leftovers();
        let alive = self.descendants.iter().filter(|(pid, began)| process::start_time(*pid).as_ref() == Some(began));
        left.extend(alive.map(|(pid, _)| format!("process {pid} ({})", process::command_line(*pid))));
        left
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let verdict = if std::thread::panicking() { Ok(()) } else { self.check_end() };
        if std::thread::panicking() || verdict.is_err() {
            println!("---- the daemon's log\n{}", self.log());
        }
        clean(&mut self.process, self.directory.path());
        self.engine.remove(&self.state());
        if let Err(fault) = verdict {
            panic!("the daemon: {fault}");
        }
    }
}

/// A daemon that nobody has reached yet.
struct Starting {
    process: Option<Child>,
    directory: Option<tempfile::TempDir>,
}

impl Starting {
    async fn connect(&mut self) -> Channel {
        let directory = self.directory.as_ref().expect("not finished").path();
        wait_for_connection(self.process.as_mut().expect("not finished"), &socket(directory), directory).await
    }

    fn finish(mut self) -> (Child, tempfile::TempDir) {
        (self.process.take().expect("not finished"), self.directory.take().expect("not finished"))
    }
}

impl Drop for Starting {
    fn drop(&mut self) {
        if let (Some(process), Some(directory)) = (&mut self.process, &self.directory) {
            clean(process, directory.path());
        }
    }
}

fn clean(process: &mut Child, directory: &Path) {
    // It may have ended; then there is nothing to kill, and its status is known.
    let _ = process.kill();
    let _ = process.wait();
    leftovers::remove(&state(directory));
}

fn spawn(directory: &Path, options: &Options, engine: &Engine) -> Child {
    let program = options.program.as_deref().unwrap_or_else(|| Path::new(env!("CARGO_BIN_EXE_handsd")));
    let mut command = if options.rootless {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups"]).arg(program);
        command
    } else if let Some((wrapper, arguments)) = options.wrapper.split_first() {
        let mut command = Command::new(wrapper);
        command.args(arguments).arg(program);
        command
    } else {
        Command::new(program)
    };
    let output = fs::File::options().create(true).append(true).open(log(directory)).expect("the log");
    if let Some(point) = options.crash_at {
        command.env(handsd::crash::VARIABLE, point);
    }
    let http = if options.http { "127.0.0.1:0" } else { "off" };
    command.args(["serve", "--http", http, "--grpc", "127.0.0.1:0"]);
    command.args((!options.durable).then_some("--ephemeral"));
    command.arg("--grpc").arg(format!("unix:{}", socket(directory).display()));
    command.arg("--state-dir").arg(state(directory)).arg("--config").arg(directory.join("handsd.toml"));
    engine.configure(&mut command);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(output).spawn().expect("the daemon's binary")
}

async fn wait_for_connection(process: &mut Child, socket: &Path, directory: &Path) -> Channel {
    let address = Address::Unix(socket.to_owned());
    let process = std::cell::RefCell::new(process);
    eventually(SOON, || async {
        if let Some(status) = process.borrow_mut().try_wait().expect("it is ours") {
            let said = fs::read_to_string(log(directory)).unwrap_or_default();
            panic!("the daemon ended with {status}:\n{said}");
        }
        client::connect(&address).await.map_err(|error| error.to_string())
    })
    .await
}

fn state(directory: &Path) -> PathBuf {
    directory.join("state")
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("h.sock")
}

fn log(directory: &Path) -> PathBuf {
    directory.join("log")
}
