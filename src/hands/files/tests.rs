use std::collections::BTreeSet;
use std::fs;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use tempfile::TempDir;

use super::*;
use crate::guest::agent::files::serve_beneath;
use crate::guest::wire::{Hello, Purpose, Receiver, Welcome};

/// A guest without a sandbox: its root is a directory.
struct Guest {
    directory: TempDir,
    listener: UnixListener,
    thread: Option<JoinHandle<()>>,
    files: Files,
}

impl Guest {
    /// `None`, said aloud, where the guest could not take on a user.
    fn start() -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: needs root");
            return None;
        }
        Some(Self::answering(|root, socket, receiver| serve_beneath(&root, &socket, receiver)))
    }

    fn answering(answer: impl Fn(PathBuf, OwnedFd, Receiver) + Clone + Send + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("root");
        fs::create_dir_all(root.join("workspace")).unwrap();
        let socket = directory.path().join("guest.sock");
        let listener = UnixListener::bind(&socket).unwrap();
        let accepting = listener.try_clone().unwrap();
        let thread = thread::spawn(move || {
            let mut connections = Vec::new();
            while let Ok((stream, _)) = accepting.accept() {
                let (root, answer) = (root.clone(), answer.clone());
                connections
                    .push(thread::spawn(move || greet(&stream, |receiver| answer(root, stream_fd(&stream), receiver))));
            }
            for connection in connections {
                connection.join().unwrap();
            }
        });
        let files = Files::new(socket, String::new(), "/workspace".into());
        Self { directory, listener, thread: Some(thread), files }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join("root/workspace").join(name)
    }

    fn names(&self) -> BTreeSet<String> {
        fs::read_dir(self.path("")).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    async fn write(&self, options: WriteOptions, content: &[u8]) -> Result<Written, FileError> {
        let mut writing = self.files.write(options).await?;
        for chunk in content.chunks(100_000) {
            writing.push(Bytes::copy_from_slice(chunk)).await?;
        }
        writing.finish().await
    }

    async fn read(&self, path: &str, range: ReadRange) -> Result<(Vec<u8>, ReadEnd), FileError> {
        let mut reading = self.files.read(path, range).await?;
        let (mut content, mut end) = (Vec::new(), None);
        while let Some(part) = reading.next().await? {
            assert_eq!(end, None, "nothing follows the end");
            match part {
                ReadPart::Data(data) => {
                    assert!(!data.is_empty() && data.len() <= 1 << 20);
                    content.extend_from_slice(&data);
                }
                ReadPart::End(last) => end = Some(last),
            }
        }
        Ok((content, end.expect("the end is said")))
    }

    /// Waits until the guest is through with every connection.
    fn stop(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Lets accept(2) fail, so that the thread ends once the connections have.
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both).unwrap();
        let result = thread.join();
        assert!(result.is_ok() || thread::panicking());
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.stop();
    }
}

fn stream_fd(stream: &UnixStream) -> OwnedFd {
    stream.as_fd().try_clone_to_owned().unwrap()
}

/// What the guest does before it serves files on a connection.
fn greet(stream: &UnixStream, answer: impl FnOnce(Receiver)) {
    let mut receiver = Receiver::default();
    let hello: Hello = receiver.wait(stream.as_fd()).unwrap().unwrap();
    assert_eq!(hello.purpose(), Purpose::Files);
    let welcome = wire::frame(&Welcome { version: wire::VERSION }).unwrap();
    wire::send_all(stream.as_fd(), &welcome, &[]).unwrap();
    answer(receiver);
    let _ = stream.shutdown(Shutdown::Both);
}

fn to(path: &str) -> WriteOptions {
    WriteOptions { path: path.to_owned(), ..WriteOptions::default() }
}

const ALL: ReadRange = ReadRange::Bytes { offset: 0, limit: None };

/// Bytes without a period that divides a chunk.
fn content(length: usize) -> Vec<u8> {
    (0..length).map(|index| u8::try_from(index % 251).unwrap()).collect()
}

#[tokio::test]
async fn what_is_written_is_read_whatever_its_size() {
    let Some(guest) = Guest::start() else { return };
    for size in [0, 1, 65_535, 65_536, 65_537, (4 << 20) - 1, 4 << 20, (4 << 20) + 1] {
        let content = content(size);
        let written = guest.write(to("f"), &content).await.unwrap();
        assert_eq!(written.size, size as u64);
        let (read, end) = guest.read("f", ALL).await.unwrap();
        assert!(read == content, "{size} bytes");
        assert_eq!(end, ReadEnd { eof: true, next_offset: size as u64 });
        let again = WriteOptions { expected_sha256: Some(written.sha256), ..to("f") };
        assert_eq!(guest.write(again, &content).await.unwrap(), written);
    }
    assert_eq!(guest.write(to("f"), b"abc").await.unwrap().sha256.to_string(), ABC);
}

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[tokio::test]
async fn a_range_across_chunks_is_exact_and_its_end_leads_on() {
    let Some(guest) = Guest::start() else { return };
    let content = content(3 << 20);
    fs::write(guest.path("f"), &content).unwrap();
    let (mut whole, mut offset) = (Vec::new(), 0);
    loop {
        let (part, end) = guest.read("f", ReadRange::Bytes { offset, limit: Some(1_234_567) }).await.unwrap();
        whole.extend(part);
        assert_eq!(end.next_offset, whole.len() as u64);
        if end.eof {
            break;
        }
        offset = end.next_offset;
    }
    assert!(whole == content);
}

#[tokio::test]
async fn lines_are_read_across_chunks() {
    let Some(guest) = Guest::start() else { return };
    let content: String = (0..400_000).map(|line| format!("line {line}\n")).collect();
    fs::write(guest.path("f"), &content).unwrap();
    let (lines, end) = guest.read("f", ReadRange::Lines { skip: 300_000, limit: Some(2) }).await.unwrap();
    assert_eq!(String::from_utf8(lines).unwrap(), "line 300000\nline 300001\n");
    assert!(content[..usize::try_from(end.next_offset).unwrap()].ends_with("line 300001\n"));
    assert!(!end.eof);
}

#[tokio::test]
async fn a_writer_that_is_dropped_leaves_the_old_file_and_no_litter() {
    let Some(mut guest) = Guest::start() else { return };
    fs::write(guest.path("f"), "old").unwrap();
    for pushes in [0, 1, 5] {
        let mut writing = guest.files.write(to("f")).await.unwrap();
        for _ in 0..pushes {
            writing.push(Bytes::from(content(300_000))).await.unwrap();
        }
        drop(writing);
    }
    guest.stop();
    assert_eq!(guest.names(), BTreeSet::from(["f".to_owned()]));
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"old");
}

#[tokio::test]
async fn another_checksum_than_announced_changes_nothing() {
    let Some(guest) = Guest::start() else { return };
    fs::write(guest.path("f"), "old").unwrap();
    let options = || WriteOptions { expected_sha256: Some(ABC.parse().unwrap()), ..to("f") };
    let error = guest.write(options(), b"abd").await.unwrap_err();
    assert!(matches!(error, FileError::ChecksumMismatch { ref path } if path == "/workspace/f"), "{error}");
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"old");
    let append = WriteOptions { append: true, ..options() };
    assert_eq!(guest.write(append, b"abc").await.unwrap().size, 6);
    assert_eq!(fs::read(guest.path("f")).unwrap(), b"oldabc");
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_old_file_stays() {
    let Some(guest) = Guest::start() else { return };
    let mount = guest.path("small");
    fs::create_dir(&mount).unwrap();
    let flags = nix::mount::MsFlags::empty();
    if let Err(errno) = nix::mount::mount(Some("tmpfs"), &mount, Some("tmpfs"), flags, Some("size=1m")) {
        eprintln!("skipped: no tmpfs can be mounted: {errno}");
        return;
    }
    fs::write(mount.join("f"), "old").unwrap();
    let result = guest.write(to("small/f"), &content(3 << 20)).await;
    let kept = fs::read(mount.join("f"));
    // The file that has no name yet is gone only with its descriptors.
    nix::mount::umount2(&mount, nix::mount::MntFlags::MNT_DETACH).unwrap();
    assert!(matches!(result, Err(FileError::DiskFull { .. })), "{result:?}");
    assert_eq!(kept.unwrap(), b"old");
}

#[tokio::test]
async fn a_listing_goes_on_page_by_page() {
    let Some(guest) = Guest::start() else { return };
    fs::create_dir_all(guest.path("a/b")).unwrap();
    fs::write(guest.path("a/b/c"), "123").unwrap();
    fs::write(guest.path("d"), "").unwrap();
    let mut options = ListOptions { depth: 3, limit: 1, ..ListOptions::default() };
    let mut paths = Vec::new();
    loop {
        let page = guest.files.list(options.clone()).await.unwrap();
        paths.extend(page.entries.iter().map(|entry| String::from_utf8(entry.path.clone()).unwrap()));
        let Some(token) = page.next_page_token else { break };
        options.page_token = token;
    }
    assert_eq!(paths, ["/workspace/a", "/workspace/a/b", "/workspace/a/b/c", "/workspace/d"]);
    options.path = "/".to_owned();
    assert!(matches!(guest.files.list(options).await, Err(FileError::PageTokenInvalid { .. })));
    let itself = ListOptions { path: "/workspace/d".to_owned(), limit: 1, ..ListOptions::default() };
    let page = guest.files.list(itself).await.unwrap();
    assert_eq!((page.entries[0].name(), page.entries[0].kind), (&b"d"[..], FileKind::File));
}

#[tokio::test]
async fn directories_are_made_renamed_and_removed() {
    let Some(guest) = Guest::start() else { return };
    let files = &guest.files;
    assert!(matches!(files.mkdir("a/b", 0o700).await, Err(FileError::NotFound { .. })));
    assert_eq!(files.mkdir_all("a/b", 0o700).await.unwrap().mode, 0o700);
    assert!(matches!(files.mkdir("a", 0o700).await, Err(FileError::Exists { .. })));
    guest.write(to("a/f"), b"x").await.unwrap();
    guest.write(to("g"), b"y").await.unwrap();
    assert!(matches!(files.rename("a/f", "g").await, Err(FileError::Exists { .. })));
    assert_eq!(files.rename_over("a/f", "g").await.unwrap().path, b"/workspace/g");
    assert_eq!(fs::read(guest.path("g")).unwrap(), b"x");
    assert!(matches!(files.remove("a").await, Err(FileError::NotEmpty { .. })));
    files.remove_all("a").await.unwrap();
    std::os::unix::fs::symlink("g", guest.path("link")).unwrap();
    assert_eq!(files.stat("link").await.unwrap().kind, FileKind::Symlink);
    assert_eq!(files.stat_target("link").await.unwrap().kind, FileKind::File);
    files.remove("link").await.unwrap();
    assert!(matches!(files.stat("link").await, Err(FileError::NotFound { errno: nix::libc::ENOENT, .. })));
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_with_its_reason() {
    let Some(guest) = Guest::start() else { return };
    nix::unistd::mkfifo(&guest.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert!(matches!(guest.read("fifo", ALL).await, Err(FileError::NotRegular { .. })));
    assert!(matches!(guest.read(".", ALL).await, Err(FileError::IsDirectory { .. })));
    assert!(matches!(guest.write(to("."), b"").await, Err(FileError::IsDirectory { .. })));
    assert!(matches!(guest.read("missing", ALL).await, Err(FileError::NotFound { .. })));
    assert!(matches!(guest.read("a\0", ALL).await, Err(FileError::PathInvalid { .. })));
    let as_nobody_known = Files::new(guest.directory.path().join("guest.sock"), "nobody-known".into(), "/".into());
    assert!(matches!(as_nobody_known.stat("/").await, Err(FileError::UserNotFound { .. })));
}

#[tokio::test]
async fn fifty_writers_at_once_all_get_their_turn() {
    let Some(guest) = Guest::start() else { return };
    let writes = (0..50).map(|index| {
        let guest = &guest;
        async move { guest.write(to(&format!("f{index}")), b"x").await.unwrap() }
    });
    assert_eq!(futures_util::future::join_all(writes).await.len(), 50);
    assert_eq!(guest.names().len(), 50);
}

#[tokio::test]
async fn a_guest_that_hangs_up_is_lost() {
    let guest = Guest::answering(|_, _, _| ());
    assert!(matches!(guest.files.stat("f").await, Err(FileError::Lost { .. })));
    let nowhere = Files::new(guest.directory.path().join("missing"), String::new(), "/".into());
    assert!(matches!(nowhere.stat("f").await, Err(FileError::Lost { .. })));
}

#[tokio::test]
async fn a_guest_that_hands_over_no_regular_file_is_not_trusted() {
    let guest = Guest::answering(|_, socket, mut receiver| {
        let _request: wire::FileRequest = receiver.wait(socket.as_fd()).unwrap().unwrap();
        let (read, _write) = nix::unistd::pipe().unwrap();
        let reply = wire::FileReply { body: Some(file_reply::Body::Opened(wire::FileInfo::default())) };
        wire::send_all(socket.as_fd(), &wire::frame(&reply).unwrap(), &[read.as_raw_fd()]).unwrap();
    });
    assert!(matches!(guest.read("f", ALL).await, Err(FileError::Lost { .. })));
}

#[tokio::test]
async fn a_guest_that_lists_more_than_was_asked_for_is_not_trusted() {
    let guest = Guest::answering(|_, socket, mut receiver| {
        let _request: wire::FileRequest = receiver.wait(socket.as_fd()).unwrap().unwrap();
        let listing = wire::Listing { entries: vec![0; wire::MAX_FRAME - 100], more: true };
        let reply = wire::FileReply { body: Some(file_reply::Body::Listing(listing)) };
        wire::send_all(socket.as_fd(), &wire::frame(&reply).unwrap(), &[]).unwrap();
    });
    let options = ListOptions { depth: 1, limit: 10, ..ListOptions::default() };
    assert!(matches!(guest.files.list(options).await, Err(FileError::Lost { .. })));
}
