//! When there is no room: nothing that was there is harmed, and it is said.

use std::fs;

use handsd::api::proto::input_request::Input;
use handsd::api::proto::{BashRequest, CreateSandboxRequest, Eof, ErrorReason, Limits, WriteHeader};
use support::{Daemon, Disk, Files, Options, Sandbox, errno, fault, field, reason, refusal, shell};
use tonic::Code;

mod support;

const MIB: usize = 1 << 20;

/// A daemon whose state is on this disk.
async fn daemon_on(disk: &Disk) -> Option<Daemon> {
    Daemon::start_with(Options { place: Some(disk.root()), ..Options::default() }).await
}

fn limited(bytes: u64) -> CreateSandboxRequest {
    let limits = Limits { disk_bytes: bytes, ..Limits::default() };
    CreateSandboxRequest { limits: Some(limits), ..CreateSandboxRequest::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sandbox_cannot_write_beyond_its_bound_and_its_neighbour_can() {
    let Some(disk) = Disk::with_quotas(256 << 20) else { return };
    let Some(daemon) = daemon_on(&disk).await else { return };
    let sandbox = Sandbox::create(&daemon, limited(8 << 20)).await.unwrap();
    let neighbour = Sandbox::create(&daemon, limited(64 << 20)).await.unwrap();
    let files = Files::of(&daemon, &sandbox);
    files.write("f", b"old").await.unwrap();
    let full = fault(Code::ResourceExhausted, ErrorReason::DiskFull);
    let status = files.write("f", &vec![1; 16 * MIB]).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), full);
    assert_eq!(errno(&status), "EDQUOT");
    // A process meets the same bound, as root, and cannot leave the project that is counted.
    let fill = sandbox.bash("head -c 16M /dev/zero > fill; echo $?; stat -c %s fill").await.stdout_text();
    let (code, size) = fill.trim().split_once('\n').unwrap();
    assert!(code != "0" && size.parse::<usize>().unwrap() <= 8 * MIB, "{fill}");
    assert_eq!(refusal(files.write_as(append("f"), &vec![1; MIB]).await), full);
    assert_eq!(files.read("f").await.unwrap(), b"old");
    let leave = "import fcntl, struct, os
for path in ['.', 'fill', 'f']:
    fd = os.open(path, os.O_RDONLY)
    data = bytearray(fcntl.ioctl(fd, 0x801c581f, bytes(28)))
    assert struct.unpack_from('I', data, 12)[0] != 0, path
    struct.pack_into('I', data, 12, 0)
    for change in [data, bytes(28)]:
        try: fcntl.ioctl(fd, 0x401c5820, bytes(change)); print('left', path)
        except OSError: pass";
    assert_eq!(sandbox.read(&format!("python3 -c \"{leave}\"")).await, "");
    // Neither is the neighbour hindered, nor what the daemon keeps.
    Files::of(&daemon, &neighbour).write("f", &vec![1; 16 * MIB]).await.unwrap();
    assert_eq!(sandbox.read("rm fill; seq 1000000 | tail -n 1").await, "1000000");
    files.write("f", &vec![1; MIB]).await.unwrap();
    // What a sandbox took is free again when it is gone.
    Files::of(&daemon, &neighbour).write("g", &vec![1; 32 * MIB]).await.unwrap();
    neighbour.destroy().await.unwrap();
    sandbox.destroy().await.unwrap();
    Sandbox::create(&daemon, limited(8 << 20)).await.unwrap();
}

fn append(path: &str) -> WriteHeader {
    WriteHeader { path: path.to_owned(), append: true, ..WriteHeader::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bound_that_nobody_keeps_is_refused() {
    let Some(disk) = Disk::plain(128 << 20) else { return };
    let Some(daemon) = daemon_on(&disk).await else { return };
    let refused = Sandbox::create(&daemon, limited(8 << 20)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), fault(Code::FailedPrecondition, ErrorReason::LimitUnsupported));
    assert!(refused.message().contains("disk_bytes"), "{refused:?}");
    let small = Sandbox::create(&daemon, limited(1)).await.unwrap_err();
    assert_eq!((small.code(), field(&small).as_str()), (Code::InvalidArgument, "limits.disk_bytes"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_full_disk_old_files_are_whole_and_runs_go_on_without_their_output() {
    let Some(disk) = Disk::plain(128 << 20) else { return };
    let Some(daemon) = daemon_on(&disk).await else { return };
    let [sandbox, neighbour] = [daemon.sandbox().await, daemon.sandbox().await];
    let files = Files::of(&daemon, &sandbox);
    files.write("f", b"old").await.unwrap();
    let talk = BashRequest { stdin: true, ..shell("echo up; read -r; head -c 1000000 /dev/zero; echo end; exit 7") };
    let mut talking = neighbour.start(talk).await.unwrap();
    talking.read_until("up").await.unwrap();
    assert_ne!(sandbox.bash("cat /dev/zero > fill").await.code(), Some(0));
    let full = fault(Code::ResourceExhausted, ErrorReason::DiskFull);
    for path in ["f", "new"] {
        let status = files.write(path, &vec![1; 4 * MIB]).await.unwrap_err();
        assert_eq!((status.code(), reason(&status), errno(&status)), (full.0, full.1.clone(), "ENOSPC".to_owned()));
    }
    assert_eq!(files.read("f").await.unwrap(), b"old");
    // A run that was under way ends as it wants to, and the output that there is no room for is a gap.
    let input = vec![Input::Data(b"\n".to_vec().into()), Input::Eof(Eof {})];
    neighbour.input(talking.id(), input).await.unwrap();
    let outcome = talking.finish().await.unwrap();
    assert_eq!((outcome.code(), outcome.exited.output_bytes), (Some(7), 1_000_007));
    assert!(!outcome.gaps.is_empty(), "{} bytes were kept", outcome.stdout.len());
    // A new run either runs or says why not.
    let new = neighbour.run(shell("exit 7")).await;
    match &new {
        Ok(outcome) => assert_eq!(outcome.code(), Some(7)),
        Err(status) => assert_eq!((status.code(), reason(status)), full),
    }
    println!("a new run: {:?}", new.map(|outcome| outcome.exited));
    // It all passes when there is room again.
    files.remove("fill").await.unwrap();
    assert_eq!(neighbour.read("echo room").await, "room");
    files.write("f", b"new").await.unwrap();
    let upper = daemon.upper(&sandbox).join("workspace");
    assert_eq!(fs::read_dir(upper).unwrap().count(), 1, "no litter");
}
