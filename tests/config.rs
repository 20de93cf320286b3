//! The configuration and the host check as the command line shows them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

use handsd::config::{Config, Environment};

fn handsd(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_handsd")).args(arguments).env("NO_COLOR", "1").output().expect("handsd starts")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it prints text")
}

fn write(directory: &Path, content: &str) -> String {
    let file = directory.join("handsd.toml");
    fs::write(&file, content).expect("it can be written");
    file.to_str().expect("temporary directories have plain names").to_owned()
}

#[test]
fn what_print_config_prints_is_read_back_to_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(
        directory.path(),
        "\
state_dir = \"/srv/hands \\\"quoted\\\"\"
grpc = [\"unix:/run/h.sock\", \"127.0.0.1:9\"]
http.listen = \"off\"
[sandbox]
memory = \"1536MiB\"
cpus = 0.5
pids = \"unlimited\"
[run]
timeout = \"90s\"
[image]
plain_http = [\"localhost:5000\"]
[engine]
cgroup = \"off\"
",
    );
    let first = handsd(&["serve", "--config", &file, "--print-config"]);
    assert!(first.status.success(), "{}", text(&first.stderr));
    let file = write(directory.path(), text(&first.stdout));
    let second = handsd(&["serve", "--config", &file, "--print-config"]);
    assert_eq!(text(&first.stdout), text(&second.stdout));
    let config = Config::parse(text(&first.stdout), &Environment::default()).unwrap();
    assert_eq!((config.sandbox.memory, config.sandbox.cpus, config.sandbox.pids), (Some(1536 << 20), Some(0.5), None));
    assert_eq!(config.http.listen, None);
}

#[test]
fn flags_win_over_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let file = write(directory.path(), "state_dir = \"/srv/file\"\n");
    let output = handsd(&["serve", "--config", &file, "--state-dir", "/srv/flag", "--print-config"]);
    assert!(text(&output.stdout).contains("state_dir = \"/srv/flag\"\n"), "{}", text(&output.stdout));
}

#[test]
fn all_faults_are_told_with_their_lines_before_anything_is_made() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    let file = write(
        directory.path(),
        &format!(
            "\
state_dir = \"{}\"
grpc = [\"0.0.0.0:7420\"]
[run]
time_out = \"5m\"
kill_grace = \"soon\"
max_runs = 0
[sandbox]
cpus = -1
",
            state.display()
        ),
    );
    let output = handsd(&["serve", "--config", &file]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    let told = |line: usize, key: &str, what: &str| {
        stderr.lines().any(|told| {
            let place = format!("{file}:{line}:");
            told.contains(&place) && told.contains(&format!(" {key}")) && told.contains(what)
        })
    };
    assert!(told(2, "grpc", "loopback"), "{stderr}");
    assert!(told(4, "run.time_out", "unknown key; did you mean \"timeout\"?"), "{stderr}");
    assert!(told(5, "run.kill_grace", "soon"), "{stderr}");
    assert!(told(6, "run.max_runs", ""), "{stderr}");
    assert!(told(8, "sandbox.cpus", ""), "{stderr}");
    assert_eq!(stderr.lines().count(), 5, "{stderr}");
    assert!(!state.exists(), "the state directory was made");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let output = handsd(&["serve", "--config", "/nowhere/handsd.toml"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(text(&output.stderr), "handsd: reading /nowhere/handsd.toml: No such file or directory (os error 2)\n");
}

/// What `handsd serve` says when it cannot start, in a directory that holds what it needs.
fn refusal_to_serve(directory: &Path) -> String {
    let state = directory.join("state").display().to_string();
    let socket = format!("unix:{}", directory.join("socket").display());
    let output = handsd(&["serve", "--http", "off", "--grpc", &socket, "--state-dir", &state]);
    assert_eq!(output.status.code(), Some(1));
    text(&output.stderr).to_owned()
}

#[test]
fn a_store_that_is_damaged_is_named() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("state")).unwrap();
    fs::write(directory.path().join("state/store.db"), [b'x'; 8192]).unwrap();
    let refusal = refusal_to_serve(directory.path());
    let name = format!("the store {}: ", directory.path().join("state/store.db").display());
    assert!(refusal.contains(&name) && refusal.contains("damaged"), "{refusal}");
}

#[test]
fn what_is_no_socket_is_not_taken_for_one_that_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("socket");
    fs::write(&file, "somebody's").unwrap();
    let refusal = refusal_to_serve(directory.path());
    assert!(refusal.contains("something that is no socket is there"), "{refusal}");
    assert_eq!(fs::read(&file).unwrap(), b"somebody's");
}

#[test]
fn the_state_directory_of_another_user_is_refused_and_others_may_not_write_to_ones_own() {
    let directory = tempfile::tempdir().unwrap();
    let state = directory.path().join("state");
    fs::create_dir(&state).unwrap();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o777)).unwrap();
    // Damaged, so that the daemon goes no further.
    fs::write(state.join("store.db"), [b'x'; 8192]).unwrap();
    refusal_to_serve(directory.path());
    assert_eq!(fs::metadata(&state).unwrap().permissions().mode() & 0o777, 0o755);
    if let Err(error) = std::os::unix::fs::chown(&state, Some(12_345), None) {
        return eprintln!("skipped: needs root, to give a directory away: {error}");
    }
    let refusal = refusal_to_serve(directory.path());
    assert!(refusal.contains("belongs to user 12345, and the daemon runs as another"), "{refusal}");
}

#[test]
fn the_check_prints_a_line_for_everything_and_a_fix_for_what_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let output = handsd(&["check", "--state-dir", directory.path().to_str().unwrap()]);
    let stdout = text(&output.stdout);
    for name in ["kernel", "user namespaces", "overlayfs", "seccomp", "cgroups", "state directory", "free disk"] {
        let has = |line: &str| {
            ["ok", "lacking", "warning"].contains(&line.split_whitespace().next().unwrap_or(""))
                && line[9..].starts_with(name)
        };
        assert!(stdout.lines().any(has), "{name}\n{stdout}");
    }
    let lacks = stdout.lines().filter(|line| line.starts_with("lacking")).count();
    let fixes = stdout.lines().filter(|line| line.trim_start().starts_with("fix: ")).count();
    assert!(fixes >= lacks, "{stdout}");
    assert_eq!(output.status.code(), Some(i32::from(lacks > 0)), "{stdout}");
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "the check left something");
}
