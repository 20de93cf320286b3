//! Output: no byte lost, none doubled, none waited for by those who do not need it.

use std::time::Duration;

use handsd::api::proto::run_event::Event;
use handsd::api::proto::{BashRequest, ErrorReason};
use sha2::{Digest as _, Sha256};
use tonic::Code;

use crate::support::run::code;
use crate::support::{
    Daemon, SOON, Sandbox, argv, duration, eventually, expect, fault, field, process, refusal, shell,
};

/// Resident memory that a daemon of a few runs stays far below, whatever they write. In KiB.
const MEMORY_BOUND: u64 = 200 << 10;

/// 64 MiB of lines that are all different.
const LINES: &str = "seq 1 10000000 | head -c 64M";

fn hex(sha256: Sha256) -> String {
    sha256.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The checksum of what a line writes, as the sandbox makes it.
async fn sum_inside(sandbox: &Sandbox, line: &str) -> String {
    let sum = sandbox.read(&format!("{line} | sha256sum")).await;
    sum.split(' ').next().unwrap().to_owned()
}

// 12
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_drops_and_comes_back_has_every_byte_once() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell(&format!("{LINES}; sleep 0.2; echo end; exit 6"))).await.unwrap();
    let id = run.id().to_owned();
    let mut sha256 = Sha256::new();
    let mut cursor = 0;
    // Each time a connection of its own is cut, with more on its way than was read.
    for pieces in 1..8 {
        sha256.update(run.read_bytes(pieces * 700_000).await.unwrap());
        cursor = run.cursor();
        drop(run);
        run = sandbox.attach(&id, cursor).await.unwrap();
        assert_eq!(run.id(), id);
    }
    assert!(cursor > 0);
    let exited = run.finish_into(&mut sha256).await.unwrap();
    assert_eq!((code(&exited), exited.output_bytes), (Some(6), (64 << 20) + 4));
    let expected = sum_inside(&sandbox, &format!("({LINES}; echo end)")).await;
    assert_eq!(hex(sha256), expected);
}

// 12
#[tokio::test(flavor = "multi_thread")]
async fn endless_output_that_nobody_reads_takes_no_memory_and_goes_on() {
    let Some(daemon) = Daemon::start_configured("[run]\noutput_cap = \"4MiB\"\n").await else { return };
    let sandbox = daemon.sandbox().await;
    // One reader has left, one stalls.
    let left = sandbox.start(shell("yes left")).await.unwrap();
    let stalled = sandbox.start(shell("yes stalled")).await.unwrap();
    let (left_id, stalled_id) = (left.id().to_owned(), stalled.id().to_owned());
    drop(left);
    let mut written = 0;
    for goal in [100 << 20, 200 << 20] {
        for id in [&left_id, &stalled_id] {
            written = eventually(SOON * 2, || async {
                let bytes = sandbox.get_run(id).await.unwrap().output_bytes;
                expect(bytes > goal, format!("{bytes} bytes")).map(|()| bytes)
            })
            .await;
        }
        let resident = process::resident_kib(daemon.pid());
        assert!(resident < MEMORY_BOUND, "{resident} KiB at {goal} bytes of output");
    }
    assert!(written > 200 << 20);
    assert!(disk_usage(&daemon, &sandbox) < 32 << 20);
    sandbox.kill(&left_id, 0).await.unwrap();
    sandbox.kill(&stalled_id, 0).await.unwrap();
    let mut late = sandbox.attach(&left_id, 0).await.unwrap();
    assert!(late.read_bytes(5).await.unwrap().starts_with(b"left\n"));
    drop(stalled);
}

/// Bytes on the disk that the outputs of a sandbox take.
fn disk_usage(daemon: &Daemon, sandbox: &Sandbox) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    let runs = std::fs::read_dir(daemon.state().join("runs").join(&sandbox.id)).unwrap().flatten();
    let files = runs.flat_map(|run| std::fs::read_dir(run.path()).into_iter().flatten().flatten());
    files.map(|file| file.metadata().map_or(0, |metadata| metadata.blocks() * 512)).sum()
}

// 13
#[tokio::test(flavor = "multi_thread")]
async fn a_finished_run_is_replayed_until_its_retention_is_over() {
    let Some(daemon) = Daemon::start_configured("[run]\nretention = \"2s\"\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("printf out; sleep 0.05; printf err >&2; exit 9").await;
    let id = &outcome.started.run_id;
    let replay = sandbox.attach(id, 0).await.unwrap().finish().await.unwrap();
    assert_eq!((&replay.started, &replay.exited), (&outcome.started, &outcome.exited));
    assert_eq!((&replay.stdout, &replay.stderr), (&outcome.stdout, &outcome.stderr));
    let from_the_middle = sandbox.attach(id, 2).await.unwrap().finish().await.unwrap();
    assert_eq!((from_the_middle.stdout_text().as_str(), from_the_middle.stderr_text().as_str()), ("t", "err"));
    let from_the_end = sandbox.attach(id, 6).await.unwrap().finish().await.unwrap();
    assert!(from_the_end.events.is_empty());
    let beyond = sandbox.attach(id, 7).await.unwrap_err();
    assert_eq!((beyond.code(), field(&beyond).as_str()), (Code::InvalidArgument, "cursor"));
    eventually(SOON, || async { expect(sandbox.attach(id, 0).await.is_err(), "it can still be attached to") }).await;
    let not_found = fault(Code::NotFound, ErrorReason::RunNotFound);
    assert_eq!(refusal(sandbox.attach(id, 0).await.map(|run| run.started)), not_found);
    assert_eq!(refusal(sandbox.get_run(id).await), not_found);
    assert!(sandbox.runs().await.is_empty());
    eventually(SOON, || async { expect(sandbox.spools(&daemon).is_empty(), "its files are there") }).await;
}

// 13
#[tokio::test(flavor = "multi_thread")]
async fn only_the_latest_finished_runs_are_kept() {
    let Some(daemon) = Daemon::start_configured("[run]\nretained_runs = 3\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(sandbox.bash(&format!("echo {n}")).await.started.run_id);
    }
    eventually(SOON, || async {
        let kept: Vec<_> = sandbox.runs().await.into_iter().map(|run| run.run_id).collect();
        expect(kept == ids[7..], format!("{kept:?} of {ids:?}"))
    })
    .await;
    let last = sandbox.attach(&ids[9], 0).await.unwrap().finish().await.unwrap();
    assert_eq!(last.stdout_text(), "9\n");
}

// 14
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_reader_slows_neither_the_process_nor_another_reader() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let request = BashRequest { timeout: duration(Duration::from_secs(60)), ..shell(LINES) };
    let stalled = sandbox.start(request).await.unwrap();
    let other = sandbox.attach(stalled.id(), 0).await.unwrap();
    let mut sha256 = Sha256::new();
    let exited = other.finish_into(&mut sha256).await.unwrap();
    assert_eq!((code(&exited), exited.output_bytes), (Some(0), 64 << 20));
    // And the stalled one has missed nothing.
    let mut late = Sha256::new();
    assert_eq!(stalled.finish_into(&mut late).await.unwrap(), exited);
    assert_eq!(hex(late), hex(sha256));
}

// 15, 16
#[tokio::test(flavor = "multi_thread")]
async fn a_gibibyte_with_a_cap_of_one_mebibyte_keeps_head_and_tail() {
    let Some(daemon) = Daemon::start_configured("[run]\noutput_cap = \"1MiB\"\n").await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(shell("printf head; head -c 1G /dev/zero; printf tail; exit 7")).await.unwrap();
    let id = run.id().to_owned();
    drop(run);
    let total = (1 << 30) + 8;
    let exited = eventually(SOON * 4, || async {
        let run = sandbox.get_run(&id).await.unwrap();
        run.exited.ok_or_else(|| format!("{} bytes", run.output_bytes))
    })
    .await;
    assert_eq!((code(&exited), exited.output_bytes), (Some(7), total));
    let resident = process::resident_kib(daemon.pid());
    assert!(resident < MEMORY_BOUND, "{resident} KiB");
    let disk = disk_usage(&daemon, &sandbox);
    assert!(disk < 4 << 20, "{disk} bytes on the disk");
    let kept = sandbox.attach(&id, 0).await.unwrap().finish().await.unwrap();
    assert_eq!(kept.gaps.len(), 1, "{:?}", kept.gaps);
    assert!(kept.stdout.starts_with(b"head\0") && kept.stdout.ends_with(b"\0tail"));
    let (from, to) = kept.gaps[0];
    assert_eq!(from + (total - to), kept.stdout.len() as u64);
    // The disk gives back whole pages only.
    assert!((512 << 10..=(1 << 20) + 4096).contains(&kept.stdout.len()), "{} bytes are kept", kept.stdout.len());
    // Attached within what is gone: the gap from there, then on.
    let inside = sandbox.attach(&id, from + 1000).await.unwrap().finish().await.unwrap();
    assert_eq!(inside.gaps, [(from + 1000, to)]);
    assert_eq!(inside.stdout.len() as u64, total - to);
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_are_bytes() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let every = "for n in $(seq 0 255); do printf \"\\\\x$(printf %02x $n)\"; done";
    let outcome = sandbox.bash(every).await;
    assert_eq!(outcome.stdout, (0..=255).collect::<Vec<u8>>());
    let outcome = sandbox.bash(&format!("({every}) >&2; printf '\\xff\\xfe'")).await;
    assert_eq!((outcome.stderr.len(), outcome.stdout.as_slice()), (256, &b"\xff\xfe"[..]));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_while_the_command_runs() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    // No newline, no end: it comes all the same, and in the order of time.
    let line = "printf a; while [ ! -e go ]; do sleep 0.01; done; printf b >&2; sleep 1000";
    let mut run = sandbox.start(shell(line)).await.unwrap();
    assert_eq!(run.read_bytes(1).await.unwrap(), b"a");
    sandbox.run(argv(&["touch", "go"])).await.unwrap();
    assert!(matches!(run.next().await.unwrap(), Event::Output(output) if output.cursor == 1 && output.data == "b"));
    let mut second = sandbox.attach(run.id(), 0).await.unwrap();
    assert_eq!(second.read_bytes(2).await.unwrap(), b"ab");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_over_tcp_sees_the_same() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let address = format!("http://{}", daemon.tcp_address()).parse().unwrap();
    let channel = handsd::client::connect(&address).await.unwrap();
    let request = BashRequest { sandbox_id: sandbox.id.clone(), ..shell(LINES) };
    let stream = handsd::client::hands(channel).bash(request).await.unwrap().into_inner();
    let mut sha256 = Sha256::new();
    let exited = crate::support::Running::begin(stream, 0).await.unwrap().finish_into(&mut sha256).await.unwrap();
    assert_eq!(code(&exited), Some(0));
    assert_eq!(hex(sha256), sum_inside(&sandbox, LINES).await);
}
