//! What is left of runs when their daemon is killed, and how the next one takes them over: here the test itself, as it
//! talks to the guest as a daemon does.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::PathBuf;
use std::process::Command;

use handsd::api::proto::{BashRequest, Pty};
use handsd::guest::client::{ExitStatus, Guest, HeldOutput, HeldRun};
use handsd::guest::terminal;
use handsd::guest::wire::PtySize;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{read, write};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use support::{Daemon, Running, SOON, Sandbox, eventually, expect, process, shell};

mod support;

/// Runs whose processes the guest has to find itself.
const WITHOUT_CGROUPS: &str = "[engine]\ncgroup = 'off'\n";

/// A connection to the guest of a sandbox whose daemon is dead.
struct NextDaemon {
    guest: Guest,
    connection: JoinHandle<()>,
}

impl NextDaemon {
    async fn connect(daemon: &Daemon, sandbox: &Sandbox) -> Self {
        let socket = sandbox.directory(daemon).join("guest.sock");
        let (guest, connection) = Guest::connect(&socket, daemon.init(sandbox)).await.unwrap();
        Self { guest, connection: tokio::spawn(connection.serve()) }
    }

    async fn takeover(&self) -> HashMap<String, HeldRun> {
        let held = self.guest.takeover().await.unwrap();
        held.into_iter().map(|held| (held.run.to_string(), held)).collect()
    }

    async fn take_one(&self, run: &Running) -> HeldRun {
        let mut all = self.takeover().await;
        let held = all.remove(run.id()).expect("the run is kept");
        assert!(all.is_empty(), "{all:?}");
        held
    }
}

impl Drop for NextDaemon {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A file in the sandbox, as the node sees it.
fn file(daemon: &Daemon, sandbox: &Sandbox, name: &str) -> PathBuf {
    format!("/proc/{}/root/tmp/{name}", daemon.init(sandbox)).into()
}

/// Waits for the next bytes; `None` at the end.
fn next_bytes(source: BorrowedFd<'_>) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        match read(source, &mut bytes) {
            Ok(0) | Err(Errno::EIO) => return None,
            Ok(count) => {
                bytes.truncate(count);
                return Some(bytes);
            }
            Err(Errno::EAGAIN) => {
                let wait = PollTimeout::try_from(SOON).unwrap();
                let ready = poll(&mut [PollFd::new(source, PollFlags::POLLIN)], wait).unwrap();
                assert_ne!(ready, 0, "there is neither output nor an end");
            }
            Err(errno) => panic!("{errno}"),
        }
    }
}

fn rest(source: BorrowedFd<'_>) -> Vec<u8> {
    std::iter::from_fn(|| next_bytes(source)).flatten().collect()
}

fn read_until(source: BorrowedFd<'_>, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let bytes = next_bytes(source).unwrap_or_else(|| panic!("the end instead of {text:?} after {seen:?}"));
        seen += &String::from_utf8_lossy(&bytes);
    }
    seen
}

fn pipes(output: &HeldOutput) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
    match output {
        HeldOutput::Pipes { stdout, stderr } => (stdout.as_fd(), stderr.as_fd()),
        HeldOutput::Terminal(_) => panic!("it has pipes"),
    }
}

async fn exit(held: HeldRun) -> ExitStatus {
    timeout(SOON, held.exit).await.expect("it ends").expect("its end is told")
}

// 38
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_is_lost_or_doubled_when_the_daemon_is_killed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let count = "trap end=1 TERM; i=0; while [ -z \"$end\" ]; do i=$((i+1)); echo $i; done; echo end >&2";
    let mut run = sandbox.start(shell(count)).await.unwrap();
    run.read_until("\n1000\n").await.unwrap();
    daemon.kill();

    let next = NextDaemon::connect(&daemon, &sandbox).await;
    let held = next.take_one(&run).await;
    assert_eq!((held.pid, held.status), (run.started.pid, None));
    assert!(held.stdin.is_none() && !held.has_keeper);
    next.guest.signal(&held.run, libc::SIGTERM).await.unwrap();
    let spool = daemon.state().join("runs").join(&sandbox.id).join(run.id()).join("data");
    let mut stdout = fs::read(spool).unwrap();
    let (out, err) = pipes(&held.output);
    stdout.extend(rest(out));
    assert_eq!(rest(err), b"end\n");
    let lines: Vec<u64> = str::from_utf8(&stdout).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert!(lines.len() >= 1000);
    assert!(lines.iter().copied().eq(1..=lines.len() as u64), "the lines are not 1 to {}", lines.len());
    assert_eq!(exit(held).await, ExitStatus::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exit_that_no_daemon_heard_of_is_told_until_the_run_is_released() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("mkfifo /tmp/go; echo ready; read < /tmp/go; exit 7")).await.unwrap();
    run.read_until("ready").await.unwrap();
    let procs = daemon.cgroup(&sandbox).join(run.id()).join("cgroup.procs");
    daemon.kill();
    fs::write(file(&daemon, &sandbox, "go"), "\n").unwrap();
    eventually(SOON, || async {
        let left = fs::read_to_string(&procs).unwrap();
        expect(left.is_empty(), left)
    })
    .await;

    // It is told to each daemon that comes.
    for _ in 0..2 {
        let next = NextDaemon::connect(&daemon, &sandbox).await;
        let held = next.take_one(&run).await;
        assert_eq!(held.pid, run.started.pid);
        assert_eq!(exit(held).await, ExitStatus::Code(7));
    }
    let next = NextDaemon::connect(&daemon, &sandbox).await;
    let held = next.take_one(&run).await;
    assert_eq!(held.status, Some(ExitStatus::Code(7)));
    next.guest.release(&held.run).await.unwrap();
    next.guest.release(&held.run).await.unwrap();
    assert!(next.takeover().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_still_answers_after_its_daemon_was_killed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let pty = Some(Pty { rows: 24, cols: 80, ..Pty::default() });
    let line = "echo ready; read line; stty size; echo \"<$line>\"; cat";
    let mut run = sandbox.start(BashRequest { pty, ..shell(line) }).await.unwrap();
    run.read_until("ready").await.unwrap();
    daemon.kill();

    let next = NextDaemon::connect(&daemon, &sandbox).await;
    let held = next.take_one(&run).await;
    let HeldOutput::Terminal(master) = &held.output else { panic!("it has a terminal") };
    assert!(held.stdin.is_none());
    terminal::resize(master.as_fd(), PtySize { rows: 50, cols: 132 }).unwrap();
    write(master, b"hello\n").unwrap();
    let seen = read_until(master.as_fd(), "<hello>");
    assert!(seen.contains("50 132"), "{seen:?}");
    write(master, b"\x04").unwrap();
    rest(master.as_fd());
    assert_eq!(exit(held).await, ExitStatus::Code(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn input_goes_on_and_ends_after_its_daemon_was_killed() {
    for config in ["", WITHOUT_CGROUPS] {
        let Some(mut daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let mut run = sandbox.start(BashRequest { stdin: true, ..shell("echo ready; cat; exit 3") }).await.unwrap();
        run.read_until("ready").await.unwrap();
        // Begun later, so that whatever it has from the guest, the ends of the other's pipes may be among it.
        let mut other = sandbox.start(shell("echo ready; exec sleep 1000")).await.unwrap();
        other.read_until("ready").await.unwrap();
        daemon.kill();

        let next = NextDaemon::connect(&daemon, &sandbox).await;
        let mut held = next.takeover().await.remove(run.id()).unwrap();
        assert_eq!(held.has_keeper, config == WITHOUT_CGROUPS);
        let stdin = held.stdin.take().expect("its stdin is open");
        write(&stdin, b"hello\n").unwrap();
        let (out, _) = pipes(&held.output);
        assert_eq!(read_until(out, "\n"), "hello\n");
        drop(stdin);
        next.guest.close_input(&held.run).await.unwrap();
        assert_eq!(rest(out), b"");
        let again = NextDaemon::connect(&daemon, &sandbox).await;
        assert!(again.takeover().await[run.id()].stdin.is_none());
        let held = again.takeover().await.remove(run.id()).unwrap();
        assert_eq!(exit(held).await, ExitStatus::Code(3));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keeper_of_a_run_goes_on_without_a_daemon() {
    let Some(mut daemon) = Daemon::start_configured(WITHOUT_CGROUPS).await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("setsid bash -c 'echo ready; exec sleep 1000' & wait")).await.unwrap();
    run.read_until("ready").await.unwrap();
    daemon.kill();

    let next = NextDaemon::connect(&daemon, &sandbox).await;
    let held = next.take_one(&run).await;
    assert!(held.has_keeper);
    let swept = next.guest.sweep(&held.run, libc::SIGKILL).await.unwrap();
    let is_leader = |pid: i32| pid.cast_unsigned() == held.pid;
    assert!(swept.iter().any(|it| is_leader(it.pid)) && swept.iter().any(|it| !is_leader(it.pid)), "{swept:?}");
    let (out, _) = pipes(&held.output);
    rest(out);
    let run = held.run.clone();
    assert_eq!(exit(held).await, ExitStatus::Signal(libc::SIGKILL));
    eventually(SOON, || async {
        let left = next.guest.sweep(&run, 0).await.unwrap();
        expect(left.is_empty(), format!("{left:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_run_left_behind_may_write_after_the_daemon_was_killed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let line = "mkfifo /tmp/go; (read < /tmp/go; echo more; echo alive > /tmp/alive) & exit 4";
    let run = sandbox.start(shell(line)).await.unwrap();
    let id = run.id().to_owned();
    assert_eq!(run.finish().await.unwrap().code(), Some(4));
    daemon.kill();
    fs::write(file(&daemon, &sandbox, "go"), "\n").unwrap();
    let alive = file(&daemon, &sandbox, "alive");
    eventually(SOON, || async { expect(fs::read(&alive).is_ok_and(|it| it == b"alive\n"), "it is dead") }).await;

    let next = NextDaemon::connect(&daemon, &sandbox).await;
    let held = next.takeover().await.remove(&id).unwrap();
    assert_eq!(held.status, Some(ExitStatus::Code(4)));
    assert_eq!(rest(pipes(&held.output).0), b"more\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_is_over_leaves_nothing_open_in_the_guest() {
    for config in ["", WITHOUT_CGROUPS] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        let init = daemon.init(&sandbox);
        let before = process::descriptors(init).len();
        // A spawn that is refused brings descriptors too; the next one does not get them.
        let refused = BashRequest { user: "nobody-here".to_owned(), ..shell("echo never") };
        sandbox.start(refused).await.unwrap_err();
        let pty = Some(Pty { rows: 24, cols: 80, ..Pty::default() });
        for request in [shell("echo hello"), BashRequest { pty, ..shell("echo hello") }] {
            let outcome = sandbox.run(request).await.unwrap();
            assert_eq!(outcome.stdout_text().trim(), "hello");
        }
        eventually(SOON, || async {
            let open = process::descriptors(init);
            expect(open.len() == before, format!("{before} before, and now {open:?}"))
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guest_may_have_more_files_open_than_runs_may() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let limit = |limits: &str| {
        let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap().to_owned();
        line.split_whitespace().skip(3).take(2).map(str::to_owned).collect::<Vec<_>>()
    };
    let guest = limit(&fs::read_to_string(format!("/proc/{}/limits", daemon.init(&sandbox))).unwrap());
    let daemon = limit(&fs::read_to_string(format!("/proc/{}/limits", daemon.pid())).unwrap());
    assert_eq!(guest, [daemon[1].clone(), daemon[1].clone()]);
    assert_eq!(limit(&sandbox.read("cat /proc/self/limits").await), daemon);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_removed_keeps_no_daemon_from_starting() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: without root nothing can be mounted");
        return;
    }
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    daemon.kill();
    // As a killed daemon leaves a sandbox that it was about to make, but for the mount, which nobody can remove.
    let left = daemon.state().join("sandboxes/sb_00000000000000000000");
    let stuck = left.join("1");
    fs::create_dir_all(&stuck).unwrap();
    let mount = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).arg(&stuck).status().unwrap();
    assert!(mount("mount", &["-t", "tmpfs", "stuck"]).success());
    daemon.restart().await;
    let said = sandbox.through(&daemon).read("echo on").await;
    let is_left = left.exists();
    assert!(mount("umount", &[]).success());
    assert_eq!((said.as_str(), is_left), ("on", true));
    daemon.kill_and_restart().await;
    assert!(!left.exists());
}
