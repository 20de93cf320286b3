//! Images as `Create` takes them: what they bring, and what is said of those that cannot be used.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use handsd::api::proto::{BashRequest, CreateSandboxRequest, ErrorReason};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::{Daemon, SOON, Sandbox, argv, eventually, expect, fault, reason, refusal, shell};
use tonic::{Code, Status};

mod support;

/// A static busybox, to make root file systems of; `None`, with the reason printed, where there is none.
fn busybox() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|path| path.join("busybox")).find(|path| path.exists());
    if found.is_none() {
        println!("skipped: there is no busybox in PATH");
    }
    found
}

/// A root file system of a busybox, a user and a file that says what it is.
fn make_root(root: &Path, busybox: &Path) {
    for directory in ["bin", "etc", "tmp"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    for applet in ["sh", "cat", "id", "env", "touch", "ls"] {
        symlink("busybox", root.join("bin").join(applet)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\nworker:x:1234:1234::/tmp:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\nworker:x:1234:\n").unwrap();
    fs::write(root.join("etc/image"), "made by a test\n").unwrap();
}

fn make_tar(root: &Path) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_dir_all(".", root).unwrap();
    tar.into_inner().unwrap()
}

/// A `docker save` archive of one layer.
fn make_archive(path: &Path, layer: &[u8], config: serde_json::Value) {
    let diff = Sha256::digest(layer).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = json!({
        "architecture": architecture, "os": "linux", "config": config,
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{diff}")] },
    });
    let manifest = json!([{ "Config": "config.json", "RepoTags": ["tests/busybox:1"], "Layers": ["layer.tar"] }]);
    let mut tar = tar::Builder::new(File::create(path).unwrap());
    let files = [
        ("manifest.json", manifest.to_string().into_bytes()),
        ("config.json", config.to_string().into_bytes()),
        ("layer.tar", layer.to_vec()),
    ];
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

async fn create(daemon: &Daemon, image: String) -> Result<Sandbox, Status> {
    Sandbox::create(daemon, CreateSandboxRequest { image, ..CreateSandboxRequest::default() }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_a_tar_and_an_archive_become_roots() {
    let Some(busybox) = busybox() else { return };
    let Some(daemon) = Daemon::start().await else { return };
    let root = daemon.scratch().join("root");
    make_root(&root, &busybox);
    let tar = make_tar(&root);
    let [plain, archive] = ["root.tar", "image.tar"].map(|name| daemon.scratch().join(name));
    fs::write(&plain, &tar).unwrap();
    make_archive(&archive, &tar, json!({}));
    let images = [
        format!("dir:{}", root.display()),
        format!("tar:{}", plain.display()),
        format!("archive:{}", archive.display()),
        format!("archive:{}:tests/busybox:1", archive.display()),
    ];
    for image in images {
        let sandbox = create(&daemon, image.clone()).await.unwrap_or_else(|status| panic!("{image}: {status:?}"));
        assert_eq!(sandbox.made.image, image);
        assert_eq!(sandbox.read("cat /etc/image; ls /usr 2>&1; true").await.lines().next(), Some("made by a test"));
        assert_eq!(sandbox.read("id -u").await, "0");
        // What it writes goes above the image, not into it.
        sandbox.read("echo changed > /etc/image; touch /new").await;
        assert_eq!(fs::read_to_string(root.join("etc/image")).unwrap(), "made by a test\n");
        assert!(!root.join("new").exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_image_says_who_and_with_what_unless_sandbox_or_run_do() {
    let Some(busybox) = busybox() else { return };
    let Some(daemon) = Daemon::start().await else { return };
    let root = daemon.scratch().join("root");
    make_root(&root, &busybox);
    let archive = daemon.scratch().join("image.tar");
    let config = json!({ "Env": ["PATH=/bin", "FROM=image", "IMAGE=i", "SANDBOX=i", "RUN=i"], "User": "worker" });
    make_archive(&archive, &make_tar(&root), config);
    let image = format!("archive:{}", archive.display());
    let vars = |vars: &[(&str, &str)]| {
        vars.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<BTreeMap<_, _>>()
    };
    let env = vars(&[("SANDBOX", "s"), ("RUN", "s")]);
    let request = CreateSandboxRequest { image: image.clone(), env, ..CreateSandboxRequest::default() };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    let show = "echo $FROM $IMAGE $SANDBOX $RUN $PATH; id -u; id -g";
    assert_eq!(sandbox.read(show).await, "image i s s /bin\n1234\n1234");
    let run = BashRequest { env: vars(&[("RUN", "r")]), user: "root".to_owned(), ..shell(show) };
    assert_eq!(sandbox.run(run).await.unwrap().stdout_text(), "image i s r /bin\n0\n0\n");
    // The workspace is the user's.
    assert_eq!(sandbox.read("touch f && ls -n f | cat").await.split_whitespace().nth(2), Some("1234"));
    let request = CreateSandboxRequest { image, user: "0:1234".to_owned(), ..CreateSandboxRequest::default() };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    assert_eq!(sandbox.read("id -u; id -g").await, "0\n1234");
    assert_eq!(sandbox.run(argv(&["id", "-u"])).await.unwrap().stdout_text(), "0\n", "found in the image's PATH");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_cannot_be_used_says_why_and_leaves_nothing() {
    let Some(daemon) = Daemon::start().await else { return };
    let at = |name: &str| daemon.scratch().join(name);
    fs::write(at("noise.tar"), vec![0xa5; 100_000]).unwrap();
    fs::write(
        at("half.tar"),
        &make_tar(&{
            fs::create_dir(at("some")).unwrap();
            fs::write(at("some/file"), vec![1; 100_000]).unwrap();
            at("some")
        })[..50_000],
    )
    .unwrap();
    make_archive(&at("image.tar"), &[0; 1024], json!({}));
    fs::write(at("file"), "x").unwrap();
    let not_found = fault(Code::NotFound, ErrorReason::ImageNotFound);
    let invalid = fault(Code::FailedPrecondition, ErrorReason::ImageInvalid);
    let path = |scheme: &str, name: &str| format!("{scheme}:{}", at(name).display());
    let table = [
        (path("dir", "none"), not_found.clone()),
        (path("tar", "none"), not_found.clone()),
        (path("archive", "none"), not_found.clone()),
        (format!("{}:other:2", path("archive", "image.tar")), not_found),
        (path("dir", "file"), invalid.clone()),
        (path("tar", "noise.tar"), invalid.clone()),
        (path("tar", "half.tar"), invalid.clone()),
        (path("archive", "noise.tar"), invalid.clone()),
        (path("archive", "half.tar"), invalid),
        ("dir:relative".to_owned(), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid)),
        ("UPPER CASE".to_owned(), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid)),
    ];
    for (image, expected) in table {
        let status = create(&daemon, image.clone()).await.expect_err(&image);
        assert_eq!((status.code(), reason(&status)), expected, "{image}: {status:?}");
        assert_eq!(support::field(&status), "image", "{image}");
    }
    // An image without any program is one; but no command runs in it.
    fs::create_dir(at("empty")).unwrap();
    let empty = create(&daemon, path("dir", "empty")).await.unwrap();
    let refused = refusal(empty.run(shell("true")).await);
    assert_eq!(refused, fault(Code::NotFound, ErrorReason::ProgramNotFound));
    empty.destroy().await.unwrap();
    let left: Vec<_> = fs::read_dir(daemon.state().join("sandboxes")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Makes it look as if no image had been asked for in two days.
fn age_images(daemon: &Daemon) {
    let long_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 3600);
    for record in fs::read_dir(daemon.state().join("images/records")).unwrap() {
        File::options().append(true).open(record.unwrap().path()).unwrap().set_modified(long_ago).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_that_nothing_is_made_of_goes_with_its_layers() {
    let Some(busybox) = busybox() else { return };
    let Some(mut daemon) = Daemon::start().await else { return };
    let (root, path) = (daemon.scratch().join("root"), daemon.scratch().join("root.tar"));
    make_root(&root, &busybox);
    fs::write(&path, make_tar(&root)).unwrap();
    let image = format!("tar:{}", path.display());
    let request = CreateSandboxRequest { image: image.clone(), ..CreateSandboxRequest::default() };
    let sandbox = Sandbox::create(&daemon, request.clone()).await.unwrap();
    let layers = |daemon: &Daemon| fs::read_dir(daemon.state().join("images/layers")).unwrap().count();
    let listed = |daemon: &Daemon| {
        let output = daemon.handsd(&["gc", "--dry-run"]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    };
    age_images(&daemon);
    daemon.kill();
    assert_eq!((listed(&daemon).as_str(), layers(&daemon)), ("", 1), "a sandbox is made of it");
    daemon.restart().await;
    sandbox.through(&daemon).destroy().await.unwrap();
    daemon.kill();
    assert_eq!((listed(&daemon), layers(&daemon)), (format!("image {image}"), 1));
    daemon.restart().await;
    eventually(SOON, || async { expect(layers(&daemon) == 0, "it is still there") }).await;
    let again = Sandbox::create(&daemon, request).await.unwrap();
    assert_eq!(again.read("cat /etc/image").await, "made by a test");
}
