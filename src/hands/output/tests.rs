use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::mount::{MsFlags, mount, umount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const STEP: u64 = 128 * KIB;

/// A pipe that is non-blocking where it is read.
fn pipe() -> (OwnedFd, File) {
    let (read, write) = nix::unistd::pipe2(OFlag::O_CLOEXEC).unwrap();
    fcntl(&read, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    (read, write.into())
}

/// A spool in a directory of its own.
pub(super) fn spool(cap: u64) -> (TempDir, SpoolWriter, Spool) {
    let directory = tempfile::tempdir().unwrap();
    let (writer, spool) = SpoolWriter::create(&directory.path().join("run"), cap);
    (directory, writer, spool)
}

/// The byte at a cursor; never 0, which is what a hole reads as.
fn byte_at(cursor: u64) -> u8 {
    (cursor.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8 | 1
}

pub(super) fn bytes_at(cursor: u64, count: u64) -> Vec<u8> {
    (cursor..cursor + count).map(byte_at).collect()
}

/// Puts bytes through a pipe into the spool.
pub(super) fn put(writer: &mut SpoolWriter, stream: Stream, bytes: &[u8]) {
    let (read, mut write) = pipe();
    for part in bytes.chunks(64 << 10) {
        write.write_all(part).unwrap();
        assert_eq!(writer.drain(stream, read.as_fd(), part.len()).unwrap(), Drained::More);
    }
}

/// Pumps until both are at their end, and closes.
async fn pump_all(writer: SpoolWriter, sources: Sources) {
    let pumped = pump(writer, sources, &CancellationToken::new()).await.unwrap();
    assert!(pumped.sources.ended());
    pumped.writer.close();
}

/// All chunks from a cursor to the end, those that continue each other joined.
async fn read_all(spool: &Spool, from: u64) -> Vec<Chunk> {
    let mut reader = spool.read_from(from).unwrap();
    let mut chunks: Vec<Chunk> = Vec::new();
    loop {
        let cursor = reader.cursor();
        let chunk = reader.next().await.unwrap();
        match &chunk {
            Chunk::Output { cursor: start, data, .. } => {
                assert_eq!(*start, cursor);
                assert!(!data.is_empty() && data.len() <= 256 << 10);
            }
            Chunk::Gap { from, to } => assert!(*from == cursor && to > from),
            Chunk::End => return chunks,
        }
        match (chunks.last_mut(), &chunk) {
            (Some(Chunk::Output { stream: last, data: all, .. }), Chunk::Output { stream, data, .. })
                if last == stream =>
            {
                *all = [&all[..], data].concat().into()
            }
            (Some(Chunk::Gap { to: end, .. }), Chunk::Gap { to, .. }) => *end = *to,
            _ => chunks.push(chunk),
        }
    }
}

fn output(stream: Stream, cursor: u64, data: impl AsRef<[u8]>) -> Chunk {
    Chunk::Output { stream, cursor, data: Bytes::copy_from_slice(data.as_ref()) }
}

fn disk(directory: &Path) -> u64 {
    ["data", "index"].map(|name| fs::metadata(directory.join(name)).unwrap().blocks() * 512).iter().sum()
}

#[tokio::test]
async fn two_streams_come_out_as_they_went_in() {
    let (directory, writer, spool) = spool(64 * MIB);
    let (stdout, out) = pipe();
    let (stderr, err) = pipe();
    let write = |mut file: File, seed: u64| {
        thread::spawn(move || {
            let mut hash = Sha256::new();
            for number in 0..4000_u64 {
                let bytes = bytes_at(seed + number, byte_at(number * seed).into());
                file.write_all(&bytes).unwrap();
                hash.update(&bytes);
            }
            hash.finalize()
        })
    };
    let writing = [write(out, 1), write(err, 1 << 40)];
    let pumping = tokio::spawn(pump_all(writer, Sources::pipes(stdout, stderr).unwrap()));
    let (live, late_and_live) = tokio::join!(read_all(&spool, 0), read_all(&spool, 0));
    pumping.await.unwrap();
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(live, late_and_live);
    assert_eq!(live, read_all(&spool, 0).await, "the open files outlive their directory");
    let hashes = [Stream::Stdout, Stream::Stderr].map(|wanted| {
        let mut hash = Sha256::new();
        for chunk in &live {
            match chunk {
                Chunk::Output { stream, data, .. } if *stream == wanted => hash.update(data),
                Chunk::Output { .. } => {}
                Chunk::Gap { .. } | Chunk::End => panic!("{chunk:?}"),
            }
        }
        hash.finalize()
    });
    assert_eq!(hashes, writing.map(|thread| thread.join().unwrap()));
}

#[tokio::test]
async fn a_short_output_has_no_record_of_streams() {
    let (directory, writer, spool) = spool(MIB);
    let (stdout, mut out) = pipe();
    let (stderr, err) = pipe();
    out.write_all(b"hi\n").unwrap();
    drop((out, err));
    pump_all(writer, Sources::pipes(stdout, stderr).unwrap()).await;
    assert_eq!(read_all(&spool, 0).await, [output(Stream::Stdout, 0, "hi\n")]);
    assert_eq!(fs::metadata(directory.path().join("run/index")).unwrap().len(), 24);
}

#[tokio::test]
async fn beyond_its_cap_a_spool_keeps_head_and_tail() {
    let (directory, writer, spool) = spool(MIB);
    let total = 64 * MIB;
    let (stdout, mut out) = pipe();
    let (stderr, _) = pipe();
    let writing = thread::spawn(move || {
        for cursor in (0..total).step_by(64 << 10) {
            out.write_all(&bytes_at(cursor, 64 * KIB)).unwrap();
        }
    });
    pump_all(writer, Sources::pipes(stdout, stderr).unwrap()).await;
    writing.join().unwrap();
    let chunks = read_all(&spool, 0).await;
    let [Chunk::Output { data: head, .. }, Chunk::Gap { from, to }, Chunk::Output { data: tail, .. }] = &chunks[..]
    else {
        panic!("{} chunks", chunks.len());
    };
    assert_eq!(*from, MIB / 4);
    assert_eq!(head[..], bytes_at(0, *from));
    assert_eq!(tail[..], bytes_at(*to, total - to));
    assert!((MIB * 3 / 4 - 4 * KIB..=MIB * 3 / 4 + STEP).contains(&(total - to)), "a tail of {}", total - to);
    let disk = disk(&directory.path().join("run"));
    assert!(disk <= MIB + STEP + 8 * KIB, "{disk} bytes on disk");
    assert_eq!(read_all(&spool, MIB / 2).await, [Chunk::Gap { from: MIB / 2, to: *to }, chunks[2].clone()]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_beside_a_fast_writer_never_see_wrong_bytes() {
    let (_directory, mut writer, spool) = spool(64 * KIB);
    let total = 32 * MIB;
    let reading: Vec<_> = (0..4_u64)
        .map(|number| {
            let spool = spool.clone();
            tokio::spawn(async move {
                let (mut end, mut bytes) = (false, 0);
                let mut round = number;
                while !end {
                    // Some begin at the start, and so meet the head before and after it is followed by a hole; the others
                    // somewhere, often just where the next hole is made.
                    let from =
                        if round % 3 == 0 { 0 } else { spool.len() - spool.len().min(round * 7919 % (96 * KIB)) };
                    let mut reader = spool.read_from(from).unwrap();
                    for _ in 0..20 {
                        match reader.next().await.unwrap() {
                            Chunk::Output { cursor, data, .. } => {
                                assert_eq!(data, bytes_at(cursor, data.len() as u64));
                                bytes += data.len();
                            }
                            Chunk::Gap { .. } => {}
                            Chunk::End => {
                                end = true;
                                break;
                            }
                        }
                    }
                    round += 1;
                }
                bytes
            })
        })
        .collect();
    let writing = thread::spawn(move || {
        for cursor in (0..total).step_by(16 << 10) {
            put(&mut writer, Stream::Stdout, &bytes_at(cursor, 16 * KIB));
        }
        writer.close();
    });
    for reading in reading {
        assert!(reading.await.unwrap() > 0);
    }
    writing.join().unwrap();
}

#[tokio::test]
async fn streams_that_alternate_byte_by_byte_stay_below_the_cap() {
    let (directory, mut writer, spool) = spool(64 * KIB);
    let pipes = [(Stream::Stdout, pipe()), (Stream::Stderr, pipe())];
    for number in 0..6000_usize {
        let (stream, (read, write)) = &pipes[number % 2];
        (&*write).write_all(&[byte_at(number as u64)]).unwrap();
        assert_eq!(writer.drain(*stream, read.as_fd(), 1).unwrap(), Drained::More);
    }
    writer.close();
    let chunks = read_all(&spool, 0).await;
    assert_eq!(chunks[..2], [output(Stream::Stdout, 0, [byte_at(0)]), output(Stream::Stderr, 1, [byte_at(1)])]);
    let Some(Chunk::Output { stream: Stream::Stdout, cursor, data }) = chunks.last() else { panic!("no merged end") };
    assert_eq!(data[..], bytes_at(*cursor, 6000 - cursor));
    assert!(fs::metadata(directory.path().join("run/index")).unwrap().len() <= 16 * KIB);
}

#[test]
fn a_drain_says_whether_there_is_more() {
    let (_directory, mut writer, _spool) = spool(MIB);
    for stream in [Stream::Stdout, Stream::Stderr] {
        let (read, mut write) = pipe();
        assert_eq!(writer.drain(stream, read.as_fd(), 10).unwrap(), Drained::Empty);
        write.write_all(&[1; 15]).unwrap();
        assert_eq!(writer.drain(stream, read.as_fd(), 10).unwrap(), Drained::More);
        assert_eq!(writer.drain(stream, read.as_fd(), 10).unwrap(), Drained::Empty);
        drop(write);
        assert_eq!(writer.drain(stream, read.as_fd(), 10).unwrap(), Drained::End);
    }
    assert_eq!(writer.len(), 30);
}

#[tokio::test]
async fn a_spool_whose_writer_was_killed_goes_on_where_it_was_left() {
    let (directory, mut writer, _) = spool(MIB);
    let run = directory.path().join("run");
    let stdout = pipe();
    let stderr = pipe();
    (&stdout.1).write_all(b"one").unwrap();
    (&stderr.1).write_all(b"two").unwrap();
    writer.drain(Stream::Stdout, stdout.0.as_fd(), 100).unwrap();
    writer.drain(Stream::Stderr, stderr.0.as_fd(), 2).unwrap();
    drop(writer);
    (&stdout.1).write_all(b"three").unwrap();
    let (mut writer, spool) = SpoolWriter::open(&run).unwrap();
    assert_eq!(writer.len(), 5);
    writer.drain(Stream::Stderr, stderr.0.as_fd(), 100).unwrap();
    writer.drain(Stream::Stdout, stdout.0.as_fd(), 100).unwrap();
    writer.close();
    let expected =
        [output(Stream::Stdout, 0, "one"), output(Stream::Stderr, 3, "two"), output(Stream::Stdout, 6, "three")];
    assert_eq!(read_all(&spool, 0).await, expected);
    let (writer, spool) = SpoolWriter::open(&run).unwrap();
    writer.close();
    assert_eq!(read_all(&spool, 3).await, expected[1..]);
}

#[tokio::test]
async fn a_record_that_a_kill_left_without_a_byte_counts_for_nothing() {
    let (directory, mut writer, _) = spool(MIB);
    let run = directory.path().join("run");
    put(&mut writer, Stream::Stdout, b"out");
    drop(writer);
    // The switch to stderr at cursor 3; and half of another word, which a kernel does not leave but a power cut may.
    let index = OpenOptions::new().write(true).open(run.join("index")).unwrap();
    index.write_all_at(&(3_u64 << 1 | 1).to_le_bytes(), 24).unwrap();
    index.write_all_at(&[7; 4], 32).unwrap();
    for text in [&b"put"[..], b", more"] {
        let (mut writer, _) = SpoolWriter::open(&run).unwrap();
        put(&mut writer, Stream::Stdout, text);
    }
    let (mut writer, spool) = SpoolWriter::open(&run).unwrap();
    put(&mut writer, Stream::Stderr, b"err");
    writer.close();
    let expected = [output(Stream::Stdout, 0, "output, more"), output(Stream::Stderr, 12, "err")];
    assert_eq!(read_all(&spool, 0).await, expected);
}

/// Where [`a_writer_to_be_killed`] finds its spool.
const VICTIM_DIRECTORY: &str = "HANDSD_TEST_SPOOL";

#[tokio::test]
async fn a_writer_killed_at_any_moment_neither_loses_nor_doubles_a_byte() {
    let directory = tempfile::tempdir().unwrap();
    let run = directory.path().join("run");
    let (mut writer, _) = SpoolWriter::create(&run, 1024 * MIB);
    put(&mut writer, Stream::Stdout, &bytes_at(0, 4 * KIB));
    drop(writer);
    let (read, mut write) = pipe();
    let total = 16 * MIB;
    let writing = thread::spawn(move || {
        for cursor in (4 * KIB..total).step_by(4 << 10) {
            write.write_all(&bytes_at(cursor, 4 * KIB)).unwrap();
        }
    });
    let mut kills = 0;
    loop {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "hands::output::tests::a_writer_to_be_killed"])
            .env(VICTIM_DIRECTORY, &run)
            .stdin(read.try_clone().unwrap())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let len = || fs::metadata(run.join("data")).unwrap().len();
        let enough = len() + MIB / 2 + kills * 12_345;
        let ended = loop {
            if let Some(status) = victim.try_wait().unwrap() {
                assert!(status.success());
                break true;
            }
            if len() >= enough {
                break false;
            }
            thread::yield_now();
        };
        if ended {
            break;
        }
        victim.kill().unwrap();
        victim.wait().unwrap();
        kills += 1;
    }
    writing.join().unwrap();
    assert!(kills > 5, "{kills} kills");
    let (writer, spool) = SpoolWriter::open(&run).unwrap();
    writer.close();
    let (mut cursor, mut switches) = (0, 0);
    for chunk in read_all(&spool, 0).await {
        let Chunk::Output { data, .. } = chunk else { panic!("{chunk:?}") };
        assert_eq!(data, bytes_at(cursor, data.len() as u64));
        cursor += data.len() as u64;
        switches += 1;
    }
    assert_eq!(cursor, total);
    assert!(switches > 100, "{switches} switches");
}

/// Spools its stdin, now as one stream and now as the other, until it ends or is killed.
#[test]
#[ignore = "another test runs it, to kill it"]
fn a_writer_to_be_killed() {
    let Some(run) = std::env::var_os(VICTIM_DIRECTORY) else { return };
    let (mut writer, _spool) = SpoolWriter::open(Path::new(&run)).unwrap();
    let stdin = std::io::stdin();
    loop {
        for stream in [Stream::Stdout, Stream::Stderr] {
            match writer.drain(stream, stdin.as_fd(), 5000).unwrap() {
                Drained::More => {}
                Drained::Empty => {
                    poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE).unwrap();
                }
                Drained::End => return,
            }
        }
    }
}

#[tokio::test]
async fn a_capped_spool_that_is_opened_again_knows_its_hole() {
    let (directory, mut writer, _) = spool(64 * KIB);
    put(&mut writer, Stream::Stdout, &bytes_at(0, 300 * KIB));
    drop(writer);
    let (mut writer, spool) = SpoolWriter::open(&directory.path().join("run")).unwrap();
    put(&mut writer, Stream::Stdout, &bytes_at(300 * KIB, 50 * KIB));
    writer.close();
    let chunks = read_all(&spool, 0).await;
    let [head, Chunk::Gap { from, to }, tail] = &chunks[..] else { panic!("{} chunks", chunks.len()) };
    assert_eq!(*head, output(Stream::Stdout, 0, bytes_at(0, *from)));
    assert_eq!(*tail, output(Stream::Stdout, *to, bytes_at(*to, 350 * KIB - to)));
}

#[tokio::test]
async fn a_silent_run_leaves_no_files() {
    let (directory, writer, spool) = spool(MIB);
    let (stdout, stderr) = (pipe().0, pipe().0);
    pump_all(writer, Sources::pipes(stdout, stderr).unwrap()).await;
    assert_eq!(read_all(&spool, 0).await, [Chunk::End; 0]);
    assert!(!directory.path().join("run").exists());
}

#[tokio::test]
async fn a_spool_is_neither_made_over_another_nor_opened_without_its_header() {
    let (directory, mut first, _) = spool(MIB);
    put(&mut first, Stream::Stdout, b"first");
    let run = directory.path().join("run");
    let (mut second, spool) = SpoolWriter::create(&run, MIB);
    put(&mut second, Stream::Stdout, b"second");
    second.close();
    assert_eq!(read_all(&spool, 0).await, [Chunk::Gap { from: 0, to: 6 }]);
    assert_eq!(fs::read(run.join("data")).unwrap(), b"first");
    OpenOptions::new().write(true).open(run.join("index")).unwrap().set_len(20).unwrap();
    assert!(matches!(SpoolWriter::open(&run), Err(SpoolError::File { .. })));
    fs::remove_file(run.join("index")).unwrap();
    assert!(matches!(SpoolWriter::open(&run), Err(SpoolError::File { action: "opening", .. })));
}

#[tokio::test]
async fn files_whose_maker_was_killed_are_made_anew() {
    for (data, index) in [(true, None), (true, Some(0)), (true, Some(20)), (false, Some(8))] {
        let directory = tempfile::tempdir().unwrap();
        if data {
            fs::write(directory.path().join("data"), "").unwrap();
        }
        if let Some(len) = index {
            fs::write(directory.path().join("index"), vec![1; len]).unwrap();
        }
        let missing = SpoolWriter::open(directory.path()).unwrap_err();
        let SpoolError::File { source, .. } = missing else { panic!("{missing:?}") };
        assert_eq!(source.kind(), std::io::ErrorKind::NotFound);
        let (mut writer, spool) = SpoolWriter::create(directory.path(), MIB);
        put(&mut writer, Stream::Stdout, b"kept");
        writer.close();
        assert_eq!(read_all(&spool, 0).await, [output(Stream::Stdout, 0, b"kept")]);
    }
}

#[tokio::test]
async fn a_late_reader_of_much_gets_all_of_it() {
    let (_directory, mut writer, spool) = spool(64 * MIB);
    for cursor in (0..20 * MIB).step_by(1 << 20) {
        put(&mut writer, Stream::Stderr, &bytes_at(cursor, MIB));
    }
    writer.close();
    assert_eq!(read_all(&spool, 100).await, [output(Stream::Stderr, 100, bytes_at(100, 20 * MIB - 100))]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_on_one_stream_does_not_hold_up_the_other() {
    let (_directory, writer, spool) = spool(1024 * MIB);
    let (stdout, mut out) = pipe();
    let (stderr, mut err) = pipe();
    // Ends when the pipe is closed.
    let flooding = thread::spawn(move || while out.write_all(&[b'x'; 64 << 10]).is_ok() {});
    let stop = CancellationToken::new();
    let pumping = tokio::spawn({
        let (sources, stop) = (Sources::pipes(stdout, stderr).unwrap(), stop.clone());
        async move { pump(writer, sources, &stop).await.map(|pumped| pumped.writer.close()) }
    });
    let mut reader = spool.read_from(0).unwrap();
    for word in 0..20_u8 {
        err.write_all(&[word]).unwrap();
        loop {
            match reader.next().await.unwrap() {
                Chunk::Output { stream: Stream::Stderr, data, .. } => break assert_eq!(data, [word][..]),
                Chunk::Output { .. } => {}
                chunk @ (Chunk::Gap { .. } | Chunk::End) => panic!("{chunk:?}"),
            }
        }
    }
    stop.cancel();
    pumping.await.unwrap().unwrap();
    flooding.join().unwrap();
}

#[tokio::test]
async fn a_cursor_beyond_the_output_is_refused() {
    let (_directory, mut writer, spool) = spool(MIB);
    put(&mut writer, Stream::Stdout, b"abc");
    assert!(matches!(spool.read_from(4), Err(SpoolError::CursorBeyond { cursor: 4, len: 3 })));
    let mut reader = spool.read_from(3).unwrap();
    writer.close();
    assert_eq!(reader.next().await.unwrap(), Chunk::End);
    assert_eq!(reader.next().await.unwrap(), Chunk::End);
}

#[tokio::test]
async fn a_writer_that_vanishes_is_no_end() {
    let (_directory, mut writer, spool) = spool(MIB);
    let mut reader = spool.read_from(0).unwrap();
    put(&mut writer, Stream::Stdout, b"abc");
    drop(writer);
    assert_eq!(reader.next().await.unwrap(), output(Stream::Stdout, 0, "abc"));
    assert!(matches!(reader.next().await, Err(SpoolError::Abandoned)));
}

#[tokio::test]
async fn a_read_that_is_cancelled_has_taken_nothing() {
    let (_directory, mut writer, spool) = spool(MIB);
    let mut reader = spool.read_from(0).unwrap();
    let cancelled = tokio::time::timeout(Duration::ZERO, reader.next()).await;
    assert!(cancelled.is_err());
    put(&mut writer, Stream::Stderr, b"abc");
    assert_eq!(reader.next().await.unwrap(), output(Stream::Stderr, 0, "abc"));
}

#[tokio::test]
async fn a_stopped_pump_has_moved_what_was_written_before() {
    let (_directory, writer, spool) = spool(64 * MIB);
    let (stdout, mut out) = pipe();
    let (stderr, err) = pipe();
    fcntl(&out, FcntlArg::F_SETPIPE_SZ(1 << 20)).unwrap();
    out.write_all(&bytes_at(0, MIB)).unwrap();
    let stop = CancellationToken::new();
    stop.cancel();
    let pumped = pump(writer, Sources::pipes(stdout, stderr).unwrap(), &stop).await.unwrap();
    assert!(!pumped.sources.ended(), "both write ends are open");
    assert_eq!(pumped.writer.len(), MIB);
    out.write_all(b"later").unwrap();
    drop((out, err));
    pump_all(pumped.writer, pumped.sources).await;
    assert_eq!(spool.len(), MIB + 5);
}

#[tokio::test]
async fn the_output_of_a_terminal_is_stdout() {
    let terminal = nix::pty::openpty(None, None).unwrap();
    let (_directory, writer, spool) = spool(MIB);
    let sources = Sources::terminal(terminal.master).unwrap();
    let mut slave = File::from(terminal.slave);
    let writing = thread::spawn(move || {
        for number in 0..1000 {
            writeln!(slave, "line {number}").unwrap();
        }
    });
    pump_all(writer, sources).await;
    writing.join().unwrap();
    let lines: String = (0..1000).map(|number| format!("line {number}\r\n")).collect();
    assert_eq!(read_all(&spool, 0).await, [output(Stream::Stdout, 0, lines)]);
}

/// A file system of few bytes, for as long as this lives.
struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not mount.
    fn mount(bytes: u64) -> Option<SmallDisk> {
        let directory = tempfile::tempdir().unwrap();
        let options = format!("size={bytes}");
        mount(Some("spool"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(&options[..])).ok()?;
        Some(SmallDisk(directory))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        umount(self.0.path()).unwrap();
    }
}

#[tokio::test]
async fn what_a_full_disk_does_not_take_is_counted_and_dropped() {
    let Some(disk) = SmallDisk::mount(MIB) else {
        return eprintln!("skipped: only root can make a small disk");
    };
    let run = disk.0.path().join("run");
    let total = 16 * MIB;
    let kept = {
        let (writer, spool) = SpoolWriter::create(&run, 64 * MIB);
        let (stdout, mut out) = pipe();
        let (stderr, _) = pipe();
        let writing = thread::spawn(move || {
            for cursor in (0..total).step_by(64 << 10) {
                out.write_all(&bytes_at(cursor, 64 * KIB)).unwrap();
            }
        });
        pump_all(writer, Sources::pipes(stdout, stderr).unwrap()).await;
        writing.join().unwrap();
        let chunks = read_all(&spool, 0).await;
        let [head, Chunk::Gap { from, to }] = &chunks[..] else { panic!("{} chunks", chunks.len()) };
        assert_eq!(*to, total);
        assert!((MIB / 2..MIB).contains(from), "kept {from} bytes");
        assert_eq!(*head, output(Stream::Stdout, 0, bytes_at(0, *from)));
        *from
    };
    let (mut writer, spool) = SpoolWriter::open(&run).unwrap();
    put(&mut writer, Stream::Stderr, b"not even after a restart");
    writer.close();
    assert_eq!(read_all(&spool, kept).await, [Chunk::Gap { from: kept, to: total + 24 }]);
}

#[tokio::test]
async fn a_terminal_goes_on_when_the_disk_is_full() {
    let Some(disk) = SmallDisk::mount(64 * KIB) else {
        return eprintln!("skipped: only root can make a small disk");
    };
    let (mut writer, spool) = SpoolWriter::create(&disk.0.path().join("run"), MIB);
    let terminal = nix::pty::openpty(None, None).unwrap();
    fcntl(&terminal.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).unwrap();
    let mut slave = File::from(terminal.slave);
    for _ in 0..100 {
        slave.write_all(&[b'x'; 1000]).unwrap();
        while writer.drain_terminal(terminal.master.as_fd(), 10_000).unwrap() == Drained::More {}
    }
    drop(slave);
    while writer.drain_terminal(terminal.master.as_fd(), 10_000).unwrap() != Drained::End {}
    writer.close();
    let chunks = read_all(&spool, 0).await;
    assert!(matches!(&chunks[..], [Chunk::Output { .. }, Chunk::Gap { to: 100_000, .. }]), "{} chunks", chunks.len());
}

/// Prints how fast one run with one reader is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
async fn how_fast_one_run_is() {
    let total = 2048 * MIB;
    for cap in [1, 16, 64, 64, 1024] {
        let (_directory, writer, spool) = spool(cap * MIB);
        let (stdout, out) = pipe();
        let (stderr, _) = pipe();
        let start = Instant::now();
        // The command holds the write end, so it must not outlive this statement.
        let mut producer = std::process::Command::new("dd")
            .args(["if=/dev/zero", "bs=256K", "status=none", &format!("count={}", total >> 18)])
            .stdout(out)
            .spawn()
            .unwrap();
        let pumping = tokio::spawn(pump_all(writer, Sources::pipes(stdout, stderr).unwrap()));
        let mut reader = spool.read_from(0).unwrap();
        let (mut read, mut missed) = (0, 0);
        loop {
            match reader.next().await.unwrap() {
                Chunk::Output { data, .. } => read += data.len() as u64,
                Chunk::Gap { from, to } => missed += to - from,
                Chunk::End => break,
            }
        }
        pumping.await.unwrap();
        producer.wait().unwrap();
        assert_eq!(read + missed, total);
        let speed = total as f64 / start.elapsed().as_secs_f64() / 1e9;
        eprintln!("cap {cap:5} MiB: {speed:.2} GB/s, {:.1} % missed", missed as f64 * 100.0 / total as f64);
    }
}
