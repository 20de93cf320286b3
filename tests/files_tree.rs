//! Directories and paths: `Ls`, `Stat`, `Mkdir`, `Remove`, `Rename`, and where paths lead.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;

use handsd::api::proto::{ErrorReason, FileType, LsRequest, MkdirRequest};
use support::{Daemon, Files, errno, fault, refusal, shell};
use tonic::Code;

mod support;

/// A daemon with one sandbox, and its files.
macro_rules! begin {
    ($daemon:ident, $sandbox:ident, $files:ident) => {
        let Some($daemon) = Daemon::start().await else { return };
        let $sandbox = $daemon.sandbox().await;
        let $files = Files::of(&$daemon, &$sandbox);
    };
}

fn ls(path: &str, depth: u32) -> LsRequest {
    LsRequest { path: path.to_owned(), depth: Some(depth), ..LsRequest::default() }
}

fn mkdir(path: &str) -> MkdirRequest {
    MkdirRequest { path: path.to_owned(), ..MkdirRequest::default() }
}

async fn paths(files: &Files, request: LsRequest) -> Vec<String> {
    let page = files.ls(request).await.unwrap();
    assert_eq!(page.next_page_token, "");
    page.entries.into_iter().map(|entry| entry.path).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listing_is_sorted_and_as_deep_as_asked() {
    begin!(_daemon, sandbox, files);
    sandbox.read("mkdir -p d/b/c d.x d/.h; touch d/b/z d/a d/B d/.h/f 'd/é' d/b/c/deep; ln -s /etc d/l").await;
    assert_eq!(paths(&files, ls("d", 0)).await, ["/workspace/d"]);
    let below = |names: &[&str]| names.iter().map(|name| format!("/workspace/d/{name}")).collect::<Vec<_>>();
    assert_eq!(paths(&files, ls("d", 1)).await, below(&["B", "a", "b", "l", "é"]));
    let default = LsRequest { path: "d".to_owned(), ..LsRequest::default() };
    assert_eq!(paths(&files, default).await, below(&["B", "a", "b", "l", "é"]));
    assert_eq!(paths(&files, ls("d", 2)).await, below(&["B", "a", "b", "b/c", "b/z", "l", "é"]));
    let all = LsRequest { hidden: true, ..ls("d", 64) };
    assert_eq!(paths(&files, all).await, below(&[".h", ".h/f", "B", "a", "b", "b/c", "b/c/deep", "b/z", "l", "é"]));
    assert_eq!(paths(&files, ls("", 1)).await, ["/workspace/d", "/workspace/d.x"], "the workspace");
    assert_eq!(paths(&files, ls("d/b/c/..", 1)).await.len(), 2);
    let (code, reason) = refusal(files.ls(ls("d", 65)).await);
    assert_eq!((code, reason.as_str()), (Code::InvalidArgument, "ARGUMENT_INVALID"));
    assert_eq!(refusal(files.ls(ls("d/a", 1)).await), fault(Code::FailedPrecondition, ErrorReason::NotDirectory));
    assert_eq!(refusal(files.ls(ls("none", 1)).await), fault(Code::NotFound, ErrorReason::FileNotFound));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlink_is_shown_and_only_the_path_itself_is_followed() {
    begin!(_daemon, sandbox, files);
    sandbox.read("mkdir d; echo 12345 > d/f; ln -s d link; ln -s gone broken; ln -s f d/again").await;
    let page = files.ls(ls("", 2)).await.unwrap();
    let shown: Vec<_> =
        page.entries.iter().map(|entry| (entry.name.as_str(), entry.r#type(), entry.target.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("broken", FileType::Symlink, "gone"),
            ("d", FileType::Directory, ""),
            ("again", FileType::Symlink, "f"),
            ("f", FileType::File, ""),
            ("link", FileType::Symlink, "d"),
        ]
    );
    assert_eq!(paths(&files, ls("link", 1)).await, ["/workspace/link/again", "/workspace/link/f"]);
    assert_eq!(files.stat("link").await.unwrap().r#type(), FileType::Symlink);
    assert_eq!(files.stat_target("link").await.unwrap().r#type(), FileType::Directory);
    assert_eq!(files.stat_target("link/again").await.unwrap().size, 6);
    assert_eq!(refusal(files.stat_target("broken").await), fault(Code::NotFound, ErrorReason::FileNotFound));
    assert_eq!(files.stat("broken").await.unwrap().target, "gone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_entries_come_in_pages_each_once() {
    begin!(daemon, sandbox, files);
    sandbox.read("mkdir many && cd many && seq -f %06g 0 99999 | xargs touch").await;
    let (mut seen, mut pages, mut token) = (0_u32, 0, String::new());
    loop {
        let request = LsRequest { page_size: 10_000, page_token: token, ..ls("many", 1) };
        let page = files.ls(request).await.unwrap();
        for entry in &page.entries {
            assert_eq!(entry.name, format!("{seen:06}"));
            seen += 1;
        }
        pages += 1;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!((seen, pages), (100_000, 10));
    let first = files.ls(ls("many", 1)).await.unwrap();
    assert_eq!(first.entries.len(), 1000, "the default");
    let of_another = LsRequest { page_token: first.next_page_token, ..ls("", 1) };
    let refused = files.ls(of_another).await.unwrap_err();
    assert_eq!((refused.code(), support::field(&refused).as_str()), (Code::InvalidArgument, "page_token"));
    let resident = support::process::resident_kib(daemon.pid());
    assert!(resident < 200 << 10, "{resident} KiB are resident");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stat_says_what_stat_says() {
    begin!(_daemon, sandbox, files);
    sandbox.read("echo hello > f; chown 1000:2000 f; chmod 4640 f; touch -d @1234567890.5 f; mkfifo p").await;
    let info = files.stat("f").await.unwrap();
    assert_eq!((info.name.as_str(), info.path.as_str(), info.r#type()), ("f", "/workspace/f", FileType::File));
    assert_eq!((info.size, info.mode, info.uid, info.gid), (6, 0o4640, 1000, 2000));
    assert_eq!(info.mtime, Some(prost_types::Timestamp { seconds: 1_234_567_890, nanos: 500_000_000 }));
    assert_eq!(files.stat("p").await.unwrap().r#type(), FileType::Fifo);
    assert_eq!(files.stat("/dev/null").await.unwrap().r#type(), FileType::CharDevice);
    assert_eq!(files.stat("/").await.unwrap().r#type(), FileType::Directory);
    let missing = files.stat("none").await.unwrap_err();
    assert_eq!(errno(&missing), "ENOENT");
    assert_eq!(refusal(files.stat("f/x").await), fault(Code::FailedPrecondition, ErrorReason::NotDirectory));
    assert_eq!(refusal(files.stat(&"a/".repeat(3000)).await), fault(Code::InvalidArgument, ErrorReason::PathInvalid));
    assert_eq!(refusal(files.stat(&"a".repeat(300)).await), fault(Code::InvalidArgument, ErrorReason::PathInvalid));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_are_made_removed_and_renamed_or_the_reason_is_told() {
    begin!(_daemon, sandbox, files);
    let exists = fault(Code::AlreadyExists, ErrorReason::FileExists);
    let missing = fault(Code::NotFound, ErrorReason::FileNotFound);
    let not_empty = fault(Code::FailedPrecondition, ErrorReason::DirectoryNotEmpty);
    let not_directory = fault(Code::FailedPrecondition, ErrorReason::NotDirectory);
    assert_eq!(files.mkdir(mkdir("d")).await.unwrap().mode, 0o755);
    assert_eq!(files.mkdir(MkdirRequest { mode: Some(0o1777), ..mkdir("sticky") }).await.unwrap().mode, 0o1777);
    assert_eq!(refusal(files.mkdir(mkdir("d")).await), exists);
    assert_eq!(refusal(files.mkdir(mkdir("/")).await), exists);
    assert_eq!(refusal(files.mkdir(mkdir("a/b")).await), missing);
    let parents = |path| MkdirRequest { parents: true, ..mkdir(path) };
    files.mkdir(parents("a/b")).await.unwrap();
    files.mkdir(parents("a/b")).await.unwrap();
    files.write("f", b"1").await.unwrap();
    assert_eq!(refusal(files.mkdir(mkdir("f/x")).await), not_directory);
    assert!([&exists, &not_directory].contains(&&refusal(files.mkdir(parents("f")).await)));

    files.write("d/f", b"2").await.unwrap();
    assert_eq!(refusal(files.remove("none").await), missing);
    assert_eq!(refusal(files.remove("d").await), not_empty);
    assert_eq!(refusal(files.remove_all("none").await), missing);
    sandbox.read("mkdir -p keep; touch keep/f; ln -s ../keep d/link; chmod 0 d/f").await;
    files.remove_all("d").await.unwrap();
    files.remove("a/b").await.unwrap();
    assert_eq!(sandbox.read("ls -A . keep").await, ".:\na\nf\nkeep\nsticky\n\nkeep:\nf", "links are not followed");
    assert!(files.remove_all("/").await.is_err());
    let invalid = fault(Code::InvalidArgument, ErrorReason::PathInvalid);
    assert_eq!(refusal(files.remove_all(".").await), invalid);
    assert_eq!(refusal(files.rename("./.", "elsewhere").await), invalid);

    assert_eq!(refusal(files.rename("none", "x").await), missing);
    assert_eq!(refusal(files.rename("f", "none/x").await), missing);
    assert_eq!(refusal(files.rename("f", "keep").await), exists);
    assert_eq!(refusal(files.rename_over("a", "keep").await), not_empty);
    assert_eq!(files.rename("f", "g").await.unwrap().path, "/workspace/g");
    files.write("h", b"3").await.unwrap();
    assert_eq!(refusal(files.rename("g", "h").await), exists);
    files.rename_over("g", "h").await.unwrap();
    assert_eq!(sandbox.read("cat h; ls").await, "1a\nh\nkeep\nsticky");
    // A directory cannot go below itself, nor take the place of a file.
    assert!(files.rename("keep", "keep/below").await.is_err());
    assert!(files.rename_over("keep", "h").await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_path_leads_out_of_the_sandbox() {
    begin!(daemon, sandbox, files);
    // The same place on the node and in the sandbox, with other content.
    let secret = daemon.scratch().join("secret");
    fs::write(&secret, "node").unwrap();
    let secret = secret.display();
    let up = "../".repeat(40);
    sandbox
        .read(&format!("ln -s /etc/passwd p; ln -s {secret} s; ln -s / root; ln -s {up} up; mkdir /workspace2"))
        .await;
    let own = sandbox.read("cat /etc/passwd").await;
    assert_ne!(own, fs::read_to_string("/etc/passwd").unwrap().trim(), "the two must differ to be told apart");
    for path in ["/etc/passwd", "p", "../etc/passwd", "root/etc/passwd", "up/etc/passwd", &format!("{up}etc/passwd")] {
        assert_eq!(String::from_utf8(files.read(path).await.unwrap()).unwrap().trim(), own, "{path}");
    }
    for path in [format!("{secret}"), "s".to_owned(), format!("up{secret}"), format!("{up}{secret}")] {
        assert_eq!(refusal(files.read(&path).await), fault(Code::NotFound, ErrorReason::FileNotFound), "{path}");
    }
    for path in ["/proc/1/root/etc/passwd", "/proc/self/root/etc/passwd", "/proc/self/cwd/f", "/proc/self/fd/0"] {
        assert!(files.read(path).await.is_err(), "{path}: magic links are not followed");
        assert!(files.write(path, b"x").await.is_err(), "{path}: magic links are not followed");
    }
    // Writing lands inside as well.
    files.write("/workspace2/f", b"beside").await.unwrap();
    files.write("up/marker", b"x").await.unwrap();
    assert_eq!(sandbox.read("cat /workspace2/f; ls /marker; ls /workspace").await, "beside/marker\np\nroot\ns\nup");
    assert_eq!(refusal(files.write("s", b"x").await), fault(Code::NotFound, ErrorReason::FileNotFound));
    assert_eq!(fs::read_to_string(daemon.scratch().join("secret")).unwrap(), "node");
    assert!(!std::path::Path::new("/marker").exists() && !std::path::Path::new("/workspace2").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_symlink_that_changes_under_the_feet_leads_nowhere_else() {
    begin!(daemon, sandbox, files);
    let place = daemon.scratch().join("place");
    fs::create_dir(&place).unwrap();
    fs::write(place.join("f"), "node").unwrap();
    let outside = place.display();
    let swap = format!(
        "mkdir real; echo sandbox > real/f; ln -s {outside} evil; ln -s ../../../../../../..{outside} worse; echo up
         while :; do ln -sfn real d; mv -fT d x; ln -sfn evil d; mv -fT d x; ln -sfn worse d; mv -fT d x; done"
    );
    let mut swapping = sandbox.start(shell(&swap)).await.unwrap();
    swapping.read_until("up").await.unwrap();
    let mut read = 0;
    for round in 0..300 {
        match files.read("x/f").await {
            Ok(content) => {
                assert!(content == b"sandbox\n" || content.starts_with(b"round"), "{content:?}");
                read += 1;
            }
            Err(status) => assert_eq!(status.code(), Code::NotFound, "{status:?}"),
        }
        // These may or may not meet a directory; they must never meet the node's.
        let _ = files.write("x/f", format!("round {round}").as_bytes()).await;
        let _ = files.write("x/new", b"new").await;
        let _ = files.rename_over("x/new", "x/newer").await;
        let _ = files.remove("x/newer").await;
    }
    assert!(read > 0, "the race was run");
    let names: Vec<_> = fs::read_dir(&place).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["f"]);
    assert_eq!(fs::read_to_string(place.join("f")).unwrap(), "node");
}
