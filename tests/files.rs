//! Content of files, in and out: `Read` and `Write`.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::net::UnixListener;

use futures_util::{StreamExt as _, stream};
use handsd::api::proto::{ErrorReason, FileType, ReadRequest, WriteHeader, WriteRequest};
use handsd::client::Address;
use sha2::{Digest as _, Sha256};
use support::files::{Files, data, header};
use support::{Daemon, SOON, errno, eventually, expect, fault, field, reason, refusal, shell};
use tonic::Code;

mod support;

const MIB: usize = 1 << 20;

/// Bytes that differ from place to place.
fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|at| (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect()
}

fn hex(digest: impl AsRef<[u8]>) -> String {
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn at(path: &str) -> WriteHeader {
    WriteHeader { path: path.to_owned(), ..WriteHeader::default() }
}

/// A daemon with one sandbox, and its files.
macro_rules! begin {
    ($daemon:ident, $sandbox:ident, $files:ident) => {
        let Some($daemon) = Daemon::start().await else { return };
        let $sandbox = $daemon.sandbox().await;
        let $files = Files::of(&$daemon, &$sandbox);
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_read_back_by_the_api_and_by_a_command() {
    begin!(daemon, sandbox, files);
    for length in [0, 1, 4 * MIB - 1, 4 * MIB, 4 * MIB + 1] {
        let content = content(length);
        let sum = hex(Sha256::digest(&content));
        let written = files.write("f", &content).await.unwrap();
        assert_eq!((written.size, written.sha256.as_str()), (length as u64, sum.as_str()));
        let read = files.read_range(ReadRequest { path: "f".to_owned(), ..ReadRequest::default() }).await.unwrap();
        assert!(read.data == content, "{length} bytes come back as they were");
        assert_eq!((read.end.eof, read.end.next_offset), (true, length as u64));
        assert_eq!((read.stat.path.as_str(), read.stat.size), ("/workspace/f", length as u64));
        assert_eq!(sandbox.read("sha256sum < f").await, format!("{sum}  -"));
        sandbox.read("cp f g").await;
        assert!(files.read("/workspace/g").await.unwrap() == content, "{length} bytes that a command wrote");
    }
    assert_eq!(sandbox.read("ls -A").await, "f\ng", "no litter");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_goes_in_and_out_without_the_daemon_holding_it() {
    begin!(daemon, _sandbox, files);
    let chunk = bytes::Bytes::from(content(MIB));
    let mut sent = Sha256::new();
    (0..1024).for_each(|_| sent.update(&chunk));
    let sum = hex(sent.finalize());
    let messages = stream::iter(0..1024).map(move |_| data(chunk.clone()));
    let wish = WriteHeader { expected_sha256: sum.clone(), ..at("big") };
    let written = files.write_stream(wish, messages).await.unwrap();
    assert_eq!((written.size, &written.sha256), (1 << 30, &sum));
    let mut reader = files.open(ReadRequest { path: "big".to_owned(), ..ReadRequest::default() }).await.unwrap();
    let mut received = Sha256::new();
    let end = loop {
        match reader.next().await.unwrap() {
            Ok(bytes) => received.update(&bytes),
            Err(end) => break end,
        }
    };
    assert_eq!((hex(received.finalize()), end.next_offset, end.eof), (sum, 1 << 30, true));
    let resident = support::process::resident_kib(daemon.pid());
    assert!(resident < 200 << 10, "{resident} KiB are resident");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_beside_a_writer_sees_one_file_or_the_other() {
    begin!(_daemon, sandbox, files);
    let versions = [b'a', b'b'].map(|letter| vec![letter; MIB]);
    files.write("f", &versions[0]).await.unwrap();
    let writer = tokio::spawn({
        let (files, versions) = (files.clone(), versions.clone());
        async move {
            for round in 1..60 {
                files.write("f", &versions[round % 2]).await.unwrap();
            }
        }
    });
    // A process of the sandbox looks too, for as long as the file "stop" is not there.
    let look = "n=0; while [ ! -e stop ]; do tr -d a < f > a & tr -d b < f > b; wait; \
                for s in a b; do l=$(stat -c %s $s); [ $l = 0 ] || [ $l = 1048576 ] || exit 1; done; n=$((n+1)); done; echo $n";
    let looking = sandbox.start(shell(look)).await.unwrap();
    let (mut seen, mut reads) = ([0, 0], 0);
    while !writer.is_finished() || reads < 20 {
        let read = files.read("f").await.unwrap();
        let version = versions.iter().position(|version| *version == read).expect("a whole version");
        seen[version] += 1;
        reads += 1;
    }
    writer.await.unwrap();
    files.write("stop", b"").await.unwrap();
    let outcome = looking.finish().await.unwrap();
    assert_eq!((outcome.code(), outcome.stderr_text().as_str()), (Some(0), ""));
    assert!(seen.iter().sum::<u32>() >= 20);
}

/// What a client sends that stops in the middle: the header and 8 MiB, and then nothing for as long as the sender is kept.
async fn send_half(files: Files, path: &'static str) -> tokio::sync::mpsc::Sender<WriteRequest> {
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    let messages = stream::unfold(receiver, |mut receiver| async { Some((receiver.recv().await?, receiver)) });
    tokio::spawn(async move { files.write_stream(at(path), messages).await });
    for _ in 0..8 {
        sender.send(data(vec![b'x'; MIB])).await.unwrap();
    }
    sender
}

/// A daemon holds a file that has no name: one that is being written.
fn is_writing(daemon: &Daemon) -> bool {
    let files = support::process::descriptors(daemon.pid());
    files.iter().any(|file| file.to_string_lossy().starts_with("/workspace/"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_breaks_off_leaves_the_old_file_and_no_litter() {
    begin!(daemon, sandbox, files);
    files.write("f", b"old").await.unwrap();
    for path in ["f", "new"] {
        // The client has a runtime of its own, with which its connection goes away in the middle, without a word.
        let client = tokio::runtime::Runtime::new().unwrap();
        let address = Address::Unix(daemon.socket());
        let id = sandbox.id.clone();
        let begun = client.spawn(async move {
            let channel = handsd::client::connect(&address).await.unwrap();
            send_half(Files::new(handsd::client::hands(channel), &id), path).await
        });
        let sender = begun.await.unwrap();
        eventually(SOON, || async { expect(is_writing(&daemon), "nothing is being written") }).await;
        client.shutdown_background();
        eventually(SOON, || async { expect(!is_writing(&daemon), "the file is still held") }).await;
        drop(sender);
    }
    assert_eq!(files.read("f").await.unwrap(), b"old");
    assert_eq!(sandbox.read("ls -A").await, "f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_is_cancelled_leaves_the_old_file_and_no_litter() {
    begin!(daemon, sandbox, files);
    files.write("f", b"old").await.unwrap();
    for path in ["f", "new"] {
        let call = tokio::spawn({
            let (files, messages) = (files.clone(), stream::iter([data(vec![b'x'; MIB])]).chain(stream::pending()));
            async move { files.write_stream(at(path), messages).await }
        });
        eventually(SOON, || async { expect(is_writing(&daemon), "nothing is being written") }).await;
        // The connection stays: all that the daemon hears is that the caller wants this call no more.
        call.abort();
        eventually(SOON, || async { expect(!is_writing(&daemon), "the file is still held") }).await;
    }
    assert_eq!(files.read("f").await.unwrap(), b"old");
    assert_eq!(sandbox.read("ls -A").await, "f");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_while_it_writes_leaves_the_old_file_and_no_litter() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let files = Files::of(&daemon, &sandbox);
    files.write("f", b"old").await.unwrap();
    let _senders = [send_half(files.clone(), "f").await, send_half(files, "new").await];
    eventually(SOON, || async { expect(is_writing(&daemon), "nothing is being written") }).await;
    daemon.kill();
    let upper = daemon.upper(&sandbox).join("workspace");
    let names: Vec<_> = fs::read_dir(&upper).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    assert_eq!(fs::read(upper.join("f")).unwrap(), b"old");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_range_of_bytes_or_lines_is_what_was_asked_for() {
    begin!(_daemon, _sandbox, files);
    files.write("f", b"one\ntwo\n\nfour").await.unwrap();
    let request = || ReadRequest { path: "f".to_owned(), ..ReadRequest::default() };
    let bytes = |offset, limit| ReadRequest { offset, limit, ..request() };
    let lines = |skip, limit| ReadRequest { line_offset: skip, line_limit: limit, ..request() };
    let table = [
        (bytes(0, 0), "one\ntwo\n\nfour", true, 13),
        (bytes(4, 3), "two", false, 7),
        (bytes(9, 4), "four", true, 13),
        (bytes(9, 100), "four", true, 13),
        (bytes(13, 0), "", true, 13),
        (bytes(1 << 40, 5), "", true, 1 << 40),
        (lines(Some(1), Some(1)), "two\n", false, 8),
        (lines(Some(2), None), "\nfour", true, 13),
        (lines(None, Some(2)), "one\ntwo\n", false, 8),
        (lines(Some(3), Some(0)), "four", true, 13),
        (lines(Some(99), Some(1)), "", true, 13),
    ];
    for (request, data, eof, next_offset) in table {
        let read = files.read_range(request.clone()).await.unwrap();
        let found = (String::from_utf8_lossy(&read.data).into_owned(), read.end.eof, read.end.next_offset);
        assert_eq!(found, (data.to_owned(), eof, next_offset), "{request:?}");
    }
    let both = ReadRequest { offset: 1, ..lines(Some(1), None) };
    assert_eq!(files.read_range(both).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_regular_file_is_refused_at_once() {
    begin!(daemon, sandbox, files);
    sandbox.read("mkdir d; touch f; mkfifo fifo; ln -s fifo link; ln -s /dev/zero zero; ln -s loop loop").await;
    let _socket = UnixListener::bind(format!("/proc/{}/root/workspace/socket", daemon.init(&sandbox))).unwrap();
    let precondition = |reason| fault(Code::FailedPrecondition, reason);
    let argument = |reason| fault(Code::InvalidArgument, reason);
    let table = [
        ("d", precondition(ErrorReason::IsDirectory)),
        ("/", precondition(ErrorReason::IsDirectory)),
        ("fifo", precondition(ErrorReason::NotRegular)),
        ("link", precondition(ErrorReason::NotRegular)),
        ("socket", precondition(ErrorReason::NotRegular)),
        ("/dev/null", precondition(ErrorReason::NotRegular)),
        ("zero", precondition(ErrorReason::NotRegular)),
        ("f/x", precondition(ErrorReason::NotDirectory)),
        ("loop", argument(ErrorReason::PathInvalid)),
        ("a\0b", argument(ErrorReason::PathInvalid)),
        ("", argument(ErrorReason::ArgumentInvalid)),
    ];
    for (path, expected) in table {
        let started = std::time::Instant::now();
        assert_eq!(refusal(files.read(path).await), expected, "read {path:?}");
        assert_eq!(refusal(files.write(path, b"x").await), expected, "write {path:?}");
        assert!(started.elapsed() < SOON / 6, "{path:?} took {:?}", started.elapsed());
    }
    let missing = files.read("missing").await.unwrap_err();
    assert_eq!((reason(&missing).as_str(), errno(&missing).as_str()), ("FILE_NOT_FOUND", "ENOENT"));
    // The FIFO still is one, and nobody has opened it.
    assert_eq!(sandbox.read("cat fifo & echo x > fifo; wait").await, "x");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mode_is_kept_or_set_and_what_a_link_points_to_is_replaced() {
    begin!(_daemon, sandbox, files);
    files.write("plain", b"1").await.unwrap();
    files.write_as(WriteHeader { mode: Some(0o4751), ..at("set") }, b"1").await.unwrap();
    sandbox.read("umask 0; echo old > kept; chmod 0741 kept; ln -s kept link; chmod u+s kept").await;
    files.write("link", b"new").await.unwrap();
    assert_eq!(sandbox.read("stat -c '%a %F' plain set kept link").await, {
        "644 regular file\n4751 regular file\n741 regular file\n777 symbolic link"
    });
    assert_eq!(sandbox.read("cat kept; readlink link").await, "newkept");
    // Root may give files away, and does not keep one that was another's.
    sandbox.read("chown 7:8 kept; chmod 640 kept").await;
    files.write("kept", b"newer").await.unwrap();
    assert_eq!(sandbox.read("stat -c '%u:%g %a' kept").await, "7:8 640");
    let bad = files.write_as(WriteHeader { mode: Some(0o10000), ..at("f") }, b"").await.unwrap_err();
    assert_eq!((bad.code(), field(&bad).as_str()), (Code::InvalidArgument, "mode"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn appending_and_parents_are_as_asked() {
    begin!(_daemon, sandbox, files);
    let append = |path: &str| WriteHeader { append: true, ..at(path) };
    let written = files.write_as(append("log"), b"one ").await.unwrap();
    assert_eq!(written.size, 4);
    let sum = hex(Sha256::digest(b"two"));
    let written = files.write_as(WriteHeader { expected_sha256: sum.clone(), ..append("log") }, b"two").await.unwrap();
    assert_eq!((written.size, written.sha256), (7, sum), "the sum is of what was sent");
    assert_eq!(files.read("log").await.unwrap(), b"one two");
    let missing = refusal(files.write("a/b/c", b"x").await);
    assert_eq!(missing, fault(Code::NotFound, ErrorReason::FileNotFound));
    files.write_as(WriteHeader { create_parents: true, ..at("a/b/c") }, b"x").await.unwrap();
    assert_eq!(sandbox.read("stat -c %a a a/b; cat a/b/c").await, "755\n755\nx");
    let below_a_file = files.write_as(WriteHeader { create_parents: true, ..at("log/x") }, b"x").await;
    assert_eq!(refusal(below_a_file), fault(Code::FailedPrecondition, ErrorReason::NotDirectory));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_checksum_changes_nothing() {
    begin!(_daemon, sandbox, files);
    files.write("f", b"old").await.unwrap();
    for path in ["f", "new"] {
        let wish = WriteHeader { expected_sha256: hex(Sha256::digest(b"other")), ..at(path) };
        let refused = refusal(files.write_as(wish, b"new").await);
        assert_eq!(refused, fault(Code::FailedPrecondition, ErrorReason::ChecksumMismatch));
    }
    let malformed = WriteHeader { expected_sha256: "abc".to_owned(), ..at("f") };
    let malformed = files.write_as(malformed, b"new").await.unwrap_err();
    assert_eq!((malformed.code(), field(&malformed).as_str()), (Code::InvalidArgument, "expected_sha256"));
    assert_eq!(sandbox.read("ls -A; cat f").await, "f\nold");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_out_of_order_or_too_long_are_refused() {
    begin!(_daemon, sandbox, files);
    files.write("f", b"old").await.unwrap();
    let first = || header(WriteHeader { sandbox_id: sandbox.id.clone(), ..at("f") });
    let table = [
        (vec![], Code::InvalidArgument, "header"),
        (vec![data(vec![1])], Code::InvalidArgument, "header"),
        (vec![data(vec![1]), first()], Code::InvalidArgument, "header"),
        (vec![first(), data(vec![1]), first()], Code::InvalidArgument, "header"),
        (vec![first(), data(vec![1; MIB + 1])], Code::InvalidArgument, "data"),
        (vec![header(at("f"))], Code::InvalidArgument, "sandbox_id"),
    ];
    for (number, (messages, code, name)) in table.into_iter().enumerate() {
        let status = files.send(stream::iter(messages)).await.unwrap_err();
        assert_eq!((status.code(), field(&status).as_str()), (code, name), "case {number}: {status:?}");
    }
    // Longer than any message may be: gRPC itself refuses it, and the daemon goes on.
    let mut hands = sandbox_client(&_daemon);
    let oversized = stream::iter([first(), data(vec![1; 9 * MIB])]);
    let status = hands.write(oversized).await.unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted), "{status:?}");
    files.write_stream(at("g"), stream::iter([data(vec![1; MIB])])).await.unwrap();
    assert_eq!(files.read("f").await.unwrap(), b"old");
    assert_eq!(sandbox.read("ls -A").await, "f\ng");
}

/// A client that would send messages longer than the daemon takes.
fn sandbox_client(daemon: &Daemon) -> handsd::api::proto::hands_client::HandsClient<handsd::client::Channel> {
    daemon.hands().max_encoding_message_size(64 * MIB)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file_tools_act_as_the_sandboxs_user() {
    let Some(daemon) = Daemon::start().await else { return };
    let request = handsd::api::proto::CreateSandboxRequest { user: "nobody".to_owned(), ..Default::default() };
    let sandbox = support::Sandbox::create(&daemon, request).await.unwrap();
    let files = Files::of(&daemon, &sandbox);
    let as_root = |line: &str| handsd::api::proto::BashRequest { user: "root".to_owned(), ..shell(line) };
    files.write("mine", b"x").await.unwrap();
    let made = "umask 077; echo secret > /root/f; mkdir shared closed; echo s > shared/f; chmod 755 shared";
    assert_eq!(sandbox.run(as_root(made)).await.unwrap().code(), Some(0));
    let denied = fault(Code::PermissionDenied, ErrorReason::FilePermission);
    assert_eq!(refusal(files.read("/root/f").await), denied);
    assert_eq!(refusal(files.read("shared/f").await), denied);
    assert_eq!(refusal(files.write("shared/f", b"x").await), denied);
    assert_eq!(refusal(files.write("shared/new", b"x").await), denied);
    assert_eq!(refusal(files.write("/etc/passwd", b"x").await), denied);
    assert_eq!(
        refusal(files.ls(handsd::api::proto::LsRequest { path: "closed".to_owned(), ..Default::default() }).await),
        denied
    );
    assert_eq!(refusal(files.remove("shared/f").await), denied);
    assert_eq!(refusal(files.remove_all("shared").await), denied);
    assert_eq!(refusal(files.rename("shared/f", "f").await), denied);
    assert_eq!(refusal(files.rename("mine", "shared/mine").await), denied);
    let mkdir = handsd::api::proto::MkdirRequest { path: "shared/d".to_owned(), ..Default::default() };
    assert_eq!(refusal(files.mkdir(mkdir).await), denied);
    assert_eq!(files.stat("shared/f").await.unwrap().r#type(), FileType::File, "looking is allowed");
    let nobody = sandbox.read("id -u").await;
    assert_eq!(files.stat("mine").await.unwrap().uid.to_string(), nobody);
    assert_ne!(nobody, "0");
}
