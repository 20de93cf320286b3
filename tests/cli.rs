//! The command line client, end to end.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use support::Daemon;

mod support;

/// `hands` against a daemon. It blocks, which the daemon does not mind.
struct Hands<'a>(&'a Daemon);

impl Hands<'_> {
    fn run(&self, arguments: &[&str], stdin: &[u8]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
        command.args(arguments).env("HANDS_ADDR", self.0.address());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // A command that does not read its input may have ended by now.
        let _ = child.stdin.take().unwrap().write_all(stdin);
        child.wait_with_output().unwrap()
    }

    /// Exit code, stdout and stderr.
    fn told(&self, arguments: &[&str]) -> (i32, String, String) {
        let Output { status, stdout, stderr } = self.run(arguments, b"");
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    }

    /// What a command that has to succeed in silence prints, without the newline at its end.
    #[track_caller]
    fn get(&self, arguments: &[&str]) -> String {
        let (code, stdout, stderr) = self.told(arguments);
        assert_eq!((code, stderr.as_str()), (0, ""), "{arguments:?}");
        stdout.trim_end_matches('\n').to_owned()
    }

    /// The same as JSON, one value a line.
    #[track_caller]
    fn json(&self, arguments: &[&str]) -> Vec<Value> {
        let text = self.get(&[&["--json"], arguments].concat());
        match serde_json::from_str(&text) {
            Ok(value) => vec![value],
            Err(_) => text.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_has_its_own_streams_and_exit_code() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let id = hands.get(&["create"]);
    assert!(id.starts_with("sb_") && id.len() == 23, "{id}");
    let told = |arguments: &[&str]| hands.told(&[&["bash", &id], arguments].concat());
    let said = |code, stdout: &str, stderr: &str| (code, stdout.to_owned(), stderr.to_owned());
    assert_eq!(told(&["echo out; echo err >&2; exit 7"]), said(7, "out\n", "err\n"));
    assert_eq!(told(&["--", "printf", "%s|", "a b", "$HOME"]), said(0, "a b|$HOME|", ""));
    assert_eq!(told(&["-e", "A=b c", "--cwd", "/tmp", "pwd; echo $A"]), said(0, "/tmp\nb c\n", ""));
    assert_eq!(told(&["kill -TERM $$"]).0, 128 + 15);
    assert_eq!(told(&["--timeout", "300ms", "printf partial; sleep 1000"]).0, 124);
    for (code, words) in
        [(127, ["--", "no-such-program"]), (126, ["--", "/etc/passwd"]), (125, ["--cwd=/nowhere", "true"])]
    {
        let (status, stdout, stderr) = told(&words);
        assert_eq!((status, stdout.as_str()), (code, ""), "{words:?}");
        assert_eq!(stderr.lines().count(), 1, "{stderr}");
    }
    assert_eq!(hands.told(&["bash", "sb_00000000000000000000", "true"]).0, 125);
}

#[tokio::test(flavor = "multi_thread")]
async fn stdin_goes_to_the_command_where_that_is_asked_for() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let id = hands.get(&["create"]);
    let every: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    assert!(hands.run(&["bash", "-i", &id, "cat"], &every).stdout == every, "cat gives back other bytes");
    assert_eq!(hands.run(&["bash", &id, "cat"], b"unheard").stdout, b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_detached_run_is_listed_attached_to_and_killed() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let id = hands.get(&["create"]);
    let run =
        hands.get(&["bash", "--detach", &id, "echo begun; while [ ! -e go ]; do sleep 0.01; done; echo went; exit 3"]);
    assert!(run.starts_with("run_"), "{run}");
    let runs = hands.json(&["runs", &id]);
    assert!(runs[0].to_string().contains(&run), "{runs:?}");
    hands.get(&["bash", &id, "touch go"]);
    assert_eq!(hands.told(&["attach", &id, &run]), (3, "begun\nwent\n".to_owned(), String::new()));
    assert_eq!(hands.told(&["attach", &id, &run, "--from", "6"]).1, "went\n");
    let endless = hands.get(&["bash", "-d", &id, "sleep 1000"]);
    assert!(hands.get(&["runs", &id]).contains(&endless));
    hands.get(&["kill", &id, &endless]);
    let (code, _, stderr) = hands.told(&["kill", &id, &endless]);
    assert_eq!(code, 125);
    assert!(stderr.contains("RUN_NOT_FOUND"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_and_listed() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let id = hands.get(&["create"]);
    let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    assert!(hands.run(&["write", "--parents", "--mode", "640", &id, "a/b/file"], &bytes).status.success());
    assert!(hands.run(&["read", &id, "a/b/file"], b"").stdout == bytes, "other bytes come back");
    assert_eq!(hands.run(&["read", &id, "a/b/file", "--offset", "65", "--limit", "3"], b"").stdout, b"ABC");
    assert_eq!(hands.get(&["bash", &id, "stat -c %a a/b/file"]), "640");
    assert!(hands.run(&["write", "--append", &id, "lines"], b"one\ntwo\n").status.success());
    assert!(hands.run(&["write", "--append", &id, "lines"], b"three\n").status.success());
    assert_eq!(hands.get(&["read", &id, "lines", "--lines", "2:3"]), "two\nthree");
    let listed = hands.get(&["ls", &id]);
    assert!(listed.contains('a') && listed.contains("lines"), "{listed}");
    assert_eq!(hands.json(&["ls", &id]).len(), 2);
    let (code, _, stderr) = hands.told(&["read", &id, "none"]);
    assert_eq!(code, 125);
    assert!(stderr.contains("FILE_NOT_FOUND"), "{stderr}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_copied_both_ways() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let id = hands.get(&["create"]);
    let source = daemon.scratch().join("source");
    fs::create_dir_all(source.join("deep/er")).unwrap();
    fs::write(source.join("top"), "top\n").unwrap();
    fs::write(source.join("deep/er/large"), vec![7; 3 << 20]).unwrap();
    fs::write(source.join("empty"), "").unwrap();
    let copied = hands.run(&["cp", "-r", source.to_str().unwrap(), &format!("{id}:there")], b"");
    assert!(copied.status.success(), "{copied:?}");
    assert_eq!(
        hands.get(&["bash", &id, "cat there/top; stat -c %s there/deep/er/large there/empty"]),
        "top\n3145728\n0"
    );
    hands.get(&["bash", &id, "echo new > there/new"]);
    let back = daemon.scratch().join("back");
    let copied = hands.run(&["cp", "-r", &format!("{id}:there"), back.to_str().unwrap()], b"");
    assert!(copied.status.success(), "{copied:?}");
    assert_eq!(fs::read(back.join("deep/er/large")).unwrap(), vec![7; 3 << 20]);
    assert_eq!(fs::read_to_string(back.join("new")).unwrap(), "new\n");
    assert_eq!(fs::read(back.join("empty")).unwrap(), b"");
    assert_eq!(hands.told(&["cp", source.to_str().unwrap(), &format!("{id}:")]).0, 125, "a directory without -r");
}

#[tokio::test(flavor = "multi_thread")]
async fn json_is_json() {
    let Some(daemon) = Daemon::start().await else { return };
    let hands = Hands(&daemon);
    let made = hands.json(&["create", "--label", "owner=ann"]);
    let id = made[0]["id"].as_str().unwrap();
    assert_eq!(made[0]["labels"]["owner"], "ann");
    let events = hands.json(&["bash", id, "printf hello"]);
    let names: Vec<_> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["started", "output", "exited"]);
    assert_eq!((&events[1]["data"], &events[2]["code"]), (&Value::from("hello"), &Value::from(0)));
    assert_eq!(hands.json(&["get", id])[0]["id"], id);
    assert!(hands.json(&["list"])[0].to_string().contains(id));
    let info = &hands.json(&["info"])[0];
    assert_eq!(info["version"], env!("CARGO_PKG_VERSION"));
    hands.get(&["destroy", id]);
    assert_eq!(hands.told(&["get", id]).0, 125);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_no_daemon_does_not_ask_for_one() {
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
        let Output { status, stdout, stderr } =
            output_of(command.args(arguments).env("HANDS_ADDR", "unix:/nowhere/h.sock"));
        (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
    };
    for shell in ["bash", "zsh", "fish"] {
        let (code, script, _) = run(&["completion", shell]);
        assert!(code == 0 && script.contains("hands"), "{shell}");
    }
    let (code, help, _) = run(&["--help"]);
    assert!(code == 0 && help.contains("Usage: hands"));
    let (code, _, stderr) = run(&["list"]);
    assert_eq!(code, 125);
    assert!(stderr.contains("/nowhere/h.sock") && stderr.contains("is handsd running?"), "{stderr}");
    assert_eq!(run(&["no-such-command"]).0, 125);
}

fn output_of(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}
