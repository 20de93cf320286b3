//! `handsd demo` as a person runs it: the tour, its end by Ctrl-C, its failure, and that none of them leaves anything.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::park_timeout;
use std::time::{Duration, Instant};

use handsd::check::{self, State};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

const HANDSD: &str = env!("CARGO_BIN_EXE_handsd");

/// Nobody's ids; every system has them.
const NOBODY: &str = "65534";

/// How long processes that were told to end may take.
const END_DEADLINE: Duration = Duration::from_secs(10);

/// Steps in their order, as they stand at the beginning of a line after its time.
const STEPS: [&str; 12] =
    ["start", "create", "bash", "write", "read", "ls", "drop", "deadline", "attach", "session", "destroy", "stop"];

/// A place for the demo's temporary directory, to see that it is empty afterwards.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = tempfile::tempdir().expect("a temporary directory");
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o777)).expect("it is ours");
        Self(place)
    }

    /// The demo in a session of its own, by which its processes are known afterwards. `prefix` is a program that executes
    /// another, with its arguments.
    fn command(&self, prefix: &[&str], handsd: &Path) -> Command {
        let mut command = Command::new("setsid");
        command.args(prefix).arg(handsd).arg("demo").env("TMPDIR", self.0.path()).env_remove("NO_COLOR");
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn run(&self, prefix: &[&str], handsd: &Path) -> (u32, Output) {
        let child = self.command(prefix, handsd).spawn().expect("setsid starts");
        (child.id(), child.wait_with_output().expect("it ends"))
    }

    #[track_caller]
    fn assert_nothing_left(&self, session: u32, stdout: &str) {
        let left: Vec<_> = fs::read_dir(self.0.path()).expect("it is there").collect();
        assert!(left.is_empty(), "{left:?}");
        let until = Instant::now() + END_DEADLINE;
        while let Some(process) = process_of(session) {
            assert!(Instant::now() < until, "left: {process}");
            park_timeout(Duration::from_millis(10));
        }
        if let Some(state) = stdout.lines().next().and_then(|line| line.split(" in ").nth(1)) {
            let left = cgroups_of(Path::new(state));
            assert!(left.is_empty(), "{left:?}");
        }
    }
}

/// A process of a session: field 6 of proc_pid_stat(5).
fn process_of(session: u32) -> Option<String> {
    let stats = fs::read_dir("/proc")
        .expect("/proc is mounted")
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats.into_iter().find(|stat| {
        let fields = stat.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
        fields.split_whitespace().nth(3) == Some(session.to_string().as_str())
    })
}

/// The cgroups of the daemon that kept its state there.
fn cgroups_of(state: &Path) -> Vec<PathBuf> {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    let name: String = digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo").expect("/proc is mounted");
    let mounts = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let ours = mounts.filter_map(|line| Some(Path::new(line.split(' ').nth(4)?).join("handsd").join(&name)));
    ours.filter(|path| path.exists()).collect()
}

/// Why no sandbox can be made here, if that is so.
fn obstacle() -> Option<String> {
    const NEEDED: [&str; 4] = ["kernel", "user", "user namespaces", "overlayfs"];
    let findings = check::report(&check::probe(&std::env::temp_dir(), None));
    let lacking =
        findings.into_iter().find(|finding| finding.state == State::Lacking && NEEDED.contains(&finding.name));
    lacking.map(|finding| finding.detail)
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

#[track_caller]
fn assert_toured(output: &Output) {
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{stdout}{stderr}", output.status);
    let mut seen: Vec<&str> = stdout.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    seen.dedup();
    assert_eq!(seen, STEPS, "{stdout}");
    let says = |step: &str, what: &str| {
        stdout.lines().any(|line| line.split_whitespace().nth(2) == Some(step) && line.contains(what))
    };
    assert!(says("bash", "stdout | line 3"), "{stdout}");
    assert!(says("bash", "stderr | to stderr"), "{stdout}");
    assert!(says("bash", "exit code 7"), "{stdout}");
    assert!(says("deadline", "TIMED_OUT"), "{stdout}");
    assert!(says("deadline", "none of them is left"), "{stdout}");
    assert!(says("attach", "no byte is lost"), "{stdout}");
    assert!(says("session", "exit 1"), "{stdout}");
    assert!(says("session", "no process of it is left"), "{stdout}");
    assert!(says("session", "runtime.resumed"), "{stdout}");
    assert!(says("session", "result: The sum is right now."), "{stdout}");
    assert!(!stdout.contains('\x1b'), "colours are for terminals");
    let time = |line: &str| line.split_whitespace().next().and_then(|time| time.parse::<u64>().ok());
    let times: Vec<_> = stdout.lines().map(time).collect();
    assert!(times.iter().all(Option::is_some), "{stdout}");
    assert!(times.is_sorted(), "{stdout}");
}

#[test]
fn the_demo_shows_every_step_in_order_and_leaves_nothing() {
    if let Some(obstacle) = obstacle() {
        return eprintln!("skipped: {obstacle}");
    }
    let place = Place::new();
    let (session, output) = place.run(&[], Path::new(HANDSD));
    assert_toured(&output);
    place.assert_nothing_left(session, text(&output.stdout));
}

#[test]
fn without_root_the_demo_is_the_same() {
    if !is_root() {
        return eprintln!("skipped: needs root, to become somebody else; the other tests run without it here");
    }
    // The directory of the build may be closed to others.
    let place = Place::new();
    let home = tempfile::tempdir().unwrap();
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let handsd = home.path().join("handsd");
    fs::copy(HANDSD, &handsd).unwrap();
    let prefix = ["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"];
    let check = Command::new(prefix[0]).args(&prefix[1..]).arg(&handsd).arg("check").output().unwrap();
    let check = text(&check.stdout);
    if let Some(line) = check.lines().find(|line| line.starts_with("lacking  user namespaces")) {
        return eprintln!("skipped: {line}");
    }
    let (session, output) = place.run(&prefix, &handsd);
    assert_toured(&output);
    place.assert_nothing_left(session, text(&output.stdout));
}

#[test]
fn ctrl_c_ends_the_demo_and_leaves_nothing() {
    if let Some(obstacle) = obstacle() {
        return eprintln!("skipped: {obstacle}");
    }
    let place = Place::new();
    let mut child = place.command(&[], Path::new(HANDSD)).spawn().expect("setsid starts");
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut seen = String::new();
    while !seen.contains("two have escaped\n") {
        assert_ne!(stdout.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    // As a terminal does: to all of the foreground group.
    killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGINT).unwrap();
    stdout.read_to_string(&mut seen).unwrap();
    let session = child.id();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{seen}{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("interrupted"), "{}", text(&output.stderr));
    place.assert_nothing_left(session, &seen);
}

#[test]
fn a_host_that_cannot_is_told_what_it_lacks() {
    if !is_root() {
        return eprintln!("skipped: needs root, to give up a part of it");
    }
    let place = Place::new();
    let (session, output) = place.run(&["setpriv", "--bounding-set=-sys_admin"], Path::new(HANDSD));
    let stderr = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(stderr.contains("handsd: the demo failed: "), "{stderr}");
    assert!(stderr.contains("This is root without CAP_SYS_ADMIN"), "{stderr}");
    place.assert_nothing_left(session, text(&output.stdout));
}
