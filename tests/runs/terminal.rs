//! Runs with a terminal.

use bytes::Bytes;
use handsd::api::proto::exited::Reason;
use handsd::api::proto::input_request::Input;
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{BashRequest, Eof, ErrorReason, OutputStream, Pty, Resize};
use tonic::Code;

use crate::support::{Daemon, Running, Sandbox, argv, fault, refusal, shell};

fn on_terminal(rows: u32, cols: u32, request: BashRequest) -> BashRequest {
    BashRequest { pty: Some(Pty { rows, cols, term: String::new() }), ..request }
}

async fn type_in(sandbox: &Sandbox, run: &Running, text: &str) {
    let data = Input::Data(Bytes::copy_from_slice(text.as_bytes()));
    sandbox.input(run.id(), vec![data]).await.unwrap();
}

// 18
#[tokio::test(flavor = "multi_thread")]
async fn the_terminal_has_the_size_that_was_asked_for() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.run(on_terminal(24, 80, argv(&["stty", "size"]))).await.unwrap();
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("24 80\r\n", Some(0)));
    let outcome = sandbox.run(on_terminal(0, 0, argv(&["stty", "size"]))).await.unwrap();
    assert_eq!(outcome.stdout_text(), "24 80\r\n");
    let outcome =
        sandbox.run(on_terminal(50, 132, shell("stty size; echo $TERM; tty >&2; tty < /dev/tty"))).await.unwrap();
    let text = outcome.stdout_text();
    assert!(text.starts_with("50 132\r\nxterm-256color\r\n/dev/pts/"), "{text:?}");
    // All output is the terminal's.
    assert!(outcome.stderr.is_empty());
    let stream = |event: &Event| matches!(event, Event::Output(output) if output.stream() == OutputStream::Stdout);
    assert!(outcome.events.iter().all(stream));
    let dumb = Pty { term: "dumb".to_owned(), ..Pty::default() };
    let outcome = sandbox.run(BashRequest { pty: Some(dumb), ..shell("echo $TERM") }).await.unwrap();
    assert_eq!(outcome.stdout_text(), "dumb\r\n");
}

// 18
#[tokio::test(flavor = "multi_thread")]
async fn a_resize_is_seen_and_told() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let line = "trap 'stty size' WINCH; echo ready; while :; do sleep 0.01; done";
    let mut run = sandbox.start(on_terminal(24, 80, shell(line))).await.unwrap();
    run.read_until("ready").await.unwrap();
    sandbox.input(run.id(), vec![Input::Resize(Resize { rows: 30, cols: 100 })]).await.unwrap();
    run.read_until("30 100\r\n").await.unwrap();
    for (rows, cols) in [(0, 80), (24, 0), (65_536, 80)] {
        let bad = sandbox.input(run.id(), vec![Input::Resize(Resize { rows, cols })]).await;
        assert_eq!(refusal(bad), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
    }
    assert!(sandbox.get_run(run.id()).await.unwrap().pty);
}

// 18
#[tokio::test(flavor = "multi_thread")]
async fn a_resize_without_a_terminal_is_refused() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    for stdin in [false, true] {
        let run = sandbox.start(BashRequest { stdin, ..argv(&["sleep", "1000"]) }).await.unwrap();
        let resize = sandbox.input(run.id(), vec![Input::Resize(Resize { rows: 30, cols: 100 })]).await;
        assert_eq!(refusal(resize), fault(Code::FailedPrecondition, ErrorReason::NoPty), "stdin: {stdin}");
    }
}

// 18
#[tokio::test(flavor = "multi_thread")]
async fn ctrl_c_ends_the_foreground_job_and_the_shell_lives() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let interactive = argv(&["bash", "--norc", "--noprofile", "-i"]);
    let mut run = sandbox.start(on_terminal(24, 80, interactive)).await.unwrap();
    type_in(&sandbox, &run, "PS1='[$?] '; echo up$((1 + 1)); sleep 1000\n").await;
    run.read_until("up2\r\n").await.unwrap();
    crate::support::eventually(crate::support::SOON, || async {
        let processes = sandbox.processes().await;
        crate::support::expect(processes.iter().any(|line| line == "sleep 1000"), format!("{processes:?}"))
    })
    .await;
    type_in(&sandbox, &run, "\x03").await;
    // With its prompt, the shell has taken the terminal out of its line mode, in which an end of input would be lost.
    run.read_until("[130] ").await.unwrap();
    assert!(sandbox.processes().await.iter().all(|line| line != "sleep 1000"));
    // And its end of input ends the shell.
    sandbox.input(run.id(), vec![Input::Eof(Eof {})]).await.unwrap();
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.code(), outcome.reason()), (Some(130), Reason::Exited));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_typed_is_read_and_echoed() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(on_terminal(24, 80, shell("read line; echo \"<$line>\""))).await.unwrap();
    type_in(&sandbox, &run, "hello\n").await;
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("hello\r\n<hello>\r\n", Some(0)));
}
