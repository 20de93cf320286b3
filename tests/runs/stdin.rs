//! What a command reads.

use bytes::Bytes;
use handsd::api::proto::input_request::Input;
use handsd::api::proto::{BashRequest, Eof, ErrorReason, InputRequest, Resize};
use tonic::Code;

use crate::support::{Daemon, argv, fault, field, refusal, shell};

fn with_stdin(request: BashRequest) -> BashRequest {
    BashRequest { stdin: true, ..request }
}

fn data(text: &str) -> Input {
    Input::Data(Bytes::copy_from_slice(text.as_bytes()))
}

// 5
#[tokio::test(flavor = "multi_thread")]
async fn stdin_that_was_not_asked_for_is_at_its_end() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("read x; echo \"$? [$x]\"").await;
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("1 []\n", Some(0)));
    let run = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    let closed = fault(Code::FailedPrecondition, ErrorReason::StdinClosed);
    assert_eq!(refusal(sandbox.input(run.id(), vec![data("x")]).await), closed);
}

// 5
#[tokio::test(flavor = "multi_thread")]
async fn what_is_sent_is_read_to_its_end_and_nothing_can_follow() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(with_stdin(argv(&["cat"]))).await.unwrap();
    let taken = sandbox.input(run.id(), vec![data("one\n"), data("two"), Input::Eof(Eof {})]).await.unwrap();
    assert_eq!(taken.bytes, 7);
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.stdout_text().as_str(), outcome.code()), ("one\ntwo", Some(0)));
}

// 5
#[tokio::test(flavor = "multi_thread")]
async fn writing_after_the_end_is_an_error_and_the_run_lives() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(with_stdin(shell("cat; echo over; read -t 1000 < <(sleep 1000)"))).await.unwrap();
    sandbox.input(run.id(), vec![data("in"), Input::Eof(Eof {})]).await.unwrap();
    assert_eq!(run.read_until("over\n").await.unwrap(), "inover\n");
    let closed = fault(Code::FailedPrecondition, ErrorReason::StdinClosed);
    assert_eq!(refusal(sandbox.input(run.id(), vec![data("more")]).await), closed);
    assert_eq!(refusal(sandbox.input(run.id(), vec![Input::Eof(Eof {})]).await), closed);
    // That there is no terminal does not depend on it.
    let resize = sandbox.input(run.id(), vec![Input::Resize(Resize { rows: 9, cols: 9 })]).await;
    assert_eq!(refusal(resize), fault(Code::FailedPrecondition, ErrorReason::NoPty));
    assert!(sandbox.get_run(run.id()).await.unwrap().exited.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_pipe_holds_waits_until_it_is_read() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(with_stdin(shell("sleep 0.3; sha256sum"))).await.unwrap();
    let megabyte = Bytes::from(vec![b'x'; 1 << 20]);
    let mut inputs = vec![Input::Data(megabyte); 8];
    inputs.push(Input::Eof(Eof {}));
    assert_eq!(sandbox.input(run.id(), inputs).await.unwrap().bytes, 8 << 20);
    let outcome = run.finish().await.unwrap();
    let expected = sandbox.read("head -c 8M /dev/zero | tr '\\0' x | sha256sum").await;
    assert_eq!(outcome.stdout_text().trim(), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn input_of_a_run_that_reads_no_more_is_refused() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(with_stdin(shell("exec <&-; echo closed; sleep 1000"))).await.unwrap();
    run.read_until("closed").await.unwrap();
    let refused = sandbox.input(run.id(), vec![data("x")]).await;
    assert_eq!(refusal(refused), fault(Code::FailedPrecondition, ErrorReason::StdinClosed));
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_refused_by_its_field() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(with_stdin(argv(&["cat"]))).await.unwrap();
    let long = Input::Data(Bytes::from(vec![0; (1 << 20) + 1]));
    let status = sandbox.input(run.id(), vec![long]).await.unwrap_err();
    assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "data"));
    let status = sandbox.input(run.id(), vec![Input::Signal(65)]).await.unwrap_err();
    assert_eq!((status.code(), field(&status).as_str()), (Code::InvalidArgument, "signal"));
    let resize = sandbox.input(run.id(), vec![Input::Resize(Resize { rows: 10, cols: 10 })]).await;
    assert_eq!(refusal(resize), fault(Code::FailedPrecondition, ErrorReason::NoPty));
    let none = daemon.hands().input(futures_util::stream::iter(Vec::<InputRequest>::new())).await.unwrap_err();
    assert_eq!((none.code(), field(&none).as_str()), (Code::InvalidArgument, "sandbox_id"));
    let unknown = sandbox.input("run_00000000000000000000", vec![data("x")]).await;
    assert_eq!(refusal(unknown), fault(Code::NotFound, ErrorReason::RunNotFound));
    // None of that ended it.
    sandbox.input(run.id(), vec![data("still"), Input::Eof(Eof {})]).await.unwrap();
    assert_eq!(run.finish().await.unwrap().stdout_text(), "still");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_can_come_as_input() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(argv(&["sleep", "1000"])).await.unwrap();
    sandbox.input(run.id(), vec![Input::Signal(2)]).await.unwrap();
    assert_eq!(run.finish().await.unwrap().signal(), Some(2));
}
