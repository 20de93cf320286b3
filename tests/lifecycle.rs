//! The lives of sandboxes and of the daemon, and that nothing is left of either.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;

use handsd::api::proto::{
    CreateSandboxRequest, DestroySandboxRequest, ErrorReason, Limits, ListSandboxesRequest, ListSandboxesResponse,
    NodeInfoRequest, Phase, WatchSandboxRequest,
};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;
use tonic::Code;

use support::{
    Daemon, SOON, Sandbox, argv, eventually, expect, fault, leftovers, only_native, process, refusal, shell,
};

mod support;

const NOTHING: Vec<String> = Vec::new();

/// Descriptors that come and go: connections, files of runs that are just ending.
const DESCRIPTOR_NOISE: usize = 8;

/// What an allocator keeps after it was busy. In KiB.
const MEMORY_NOISE: u64 = 20 << 10;

fn labelled(labels: &[(&str, &str)]) -> CreateSandboxRequest {
    let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    CreateSandboxRequest { labels, ..Default::default() }
}

fn keyed(key: &str) -> CreateSandboxRequest {
    CreateSandboxRequest { idempotency_key: key.to_owned(), ..Default::default() }
}

async fn destroy(daemon: &Daemon, id: &str) -> Result<(), tonic::Status> {
    daemon.sandboxes().destroy(DestroySandboxRequest { sandbox_id: id.to_owned() }).await.map(|_| ())
}

/// Nothing of a sandbox is to be seen from the zygote either, where there is one.
fn assert_unmounted(daemon: &Daemon, sandbox: &Sandbox) {
    for pid in std::iter::once(daemon.pid()).chain(daemon.zygote()) {
        assert!(!process::mounts(pid).contains(&sandbox.id), "{}", process::mounts(pid));
    }
}

// 36
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_left_of_a_sandbox_with_runs_and_a_second_destroy_is_fine() {
    for config in ["", "[engine]\ncgroup = \"off\"\n"] {
        let Some(daemon) = Daemon::start_configured(config).await else { return };
        let sandbox = daemon.sandbox().await;
        sandbox.bash("head -c 1M /dev/urandom > file; mkfifo fifo; ln -s / link; setsid sleep 1000 &").await;
        let run = sandbox.start(shell("echo out; trap '' TERM; while :; do sleep 0.01; done")).await.unwrap();
        let inside = process::descendants(daemon.init(&sandbox));
        assert!(inside.len() >= 2, "{inside:?}");
        assert_ne!(daemon.leftovers(), NOTHING);
        let (first, second) = tokio::join!(sandbox.destroy(), sandbox.destroy());
        first.unwrap();
        second.unwrap();
        assert_eq!(daemon.leftovers(), NOTHING);
        assert_unmounted(&daemon, &sandbox);
        assert!(inside.iter().all(|(pid, began)| process::start_time(*pid).as_ref() != Some(began)));
        sandbox.destroy().await.unwrap();
        assert_eq!(refusal(sandbox.get().await), fault(Code::NotFound, ErrorReason::SandboxNotFound));
        let after = sandbox.run(argv(&["true"])).await;
        assert_eq!(refusal(after), fault(Code::NotFound, ErrorReason::SandboxNotFound));
        drop(run);
    }
}

// 36
#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_is_being_made_can_be_destroyed() {
    let Some(daemon) = Daemon::start().await else { return };
    for n in 0..10 {
        let request = labelled(&[("n", &n.to_string())]);
        let mut sandboxes = daemon.sandboxes();
        let mut creating = JoinSet::new();
        creating.spawn(async move { sandboxes.create(request).await });
        let labels = BTreeMap::from([("n".to_owned(), n.to_string())]);
        let id = eventually(SOON, || async {
            let request = ListSandboxesRequest { labels: labels.clone(), ..Default::default() };
            let listed = daemon.sandboxes().list(request).await.unwrap().into_inner().sandboxes;
            listed.into_iter().next().map(|sandbox| sandbox.id).ok_or_else(|| "it is not listed yet".to_owned())
        })
        .await;
        destroy(&daemon, &id).await.unwrap();
        assert_eq!(daemon.leftovers(), NOTHING);
        // Who asked for it has heard that it was made, or that it is going.
        let _ = creating.join_next().await.unwrap().unwrap();
    }
}

// 36
#[tokio::test(flavor = "multi_thread")]
async fn a_crashed_sandbox_and_an_unknown_one_can_be_destroyed() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    process::kill(daemon.init(&sandbox));
    eventually(SOON, || async {
        let phase = sandbox.get().await.unwrap().phase();
        expect(phase == Phase::Crashed, format!("{phase:?}"))
    })
    .await;
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), NOTHING);
    destroy(&daemon, "sb_00000000000000000000").await.unwrap();
    destroy(&daemon, "nonsense").await.unwrap();
    let missing = destroy(&daemon, "").await;
    assert_eq!(refusal(missing), fault(Code::InvalidArgument, ErrorReason::ArgumentInvalid));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_fails_leaves_nothing() {
    let Some(daemon) = Daemon::start().await else { return };
    let cases = [
        ("tar:/no/such/file", Code::NotFound, ErrorReason::ImageNotFound),
        ("dir:relative", Code::InvalidArgument, ErrorReason::ArgumentInvalid),
    ];
    for (image, code, reason) in cases {
        let request = CreateSandboxRequest { image: image.to_owned(), ..Default::default() };
        let made = Sandbox::create(&daemon, request).await;
        assert_eq!(refusal(made), fault(code, reason), "{image}");
    }
    // An image in which nothing can run gets as far as its first process.
    let empty = daemon.scratch().join("empty.tar");
    std::fs::write(&empty, [0; 1024]).unwrap();
    let image = format!("tar:{}", empty.display());
    if let Ok(sandbox) = Sandbox::create(&daemon, CreateSandboxRequest { image, ..Default::default() }).await {
        assert!(sandbox.run(argv(&["/bin/true"])).await.is_err());
        sandbox.destroy().await.unwrap();
    }
    eventually(SOON, || async { expect(daemon.leftovers() == NOTHING, format!("{:?}", daemon.leftovers())) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_is_not_there_is_no_image() {
    if !only_native("it makes no images of directories") {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let request = CreateSandboxRequest { image: "dir:/no/such/directory".to_owned(), ..Default::default() };
    let made = Sandbox::create(&daemon, request).await;
    assert_eq!(refusal(made), fault(Code::NotFound, ErrorReason::ImageNotFound));
    assert_eq!(daemon.leftovers(), NOTHING);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_is_the_same_sandbox_as_long_as_it_lives() {
    let Some(daemon) = Daemon::start().await else { return };
    let (first, second) = tokio::join!(Sandbox::create(&daemon, keyed("k")), Sandbox::create(&daemon, keyed("k")));
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!(first.id, second.id);
    let other = CreateSandboxRequest { user: "nobody".to_owned(), ..keyed("k") };
    assert_eq!(
        refusal(Sandbox::create(&daemon, other).await),
        fault(Code::AlreadyExists, ErrorReason::IdempotencyConflict)
    );
    first.destroy().await.unwrap();
    let third =
        eventually(SOON, || async { Sandbox::create(&daemon, keyed("k")).await.map_err(|status| status.to_string()) });
    assert_ne!(third.await.id, first.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_are_listed_in_pages_and_by_labels() {
    let Some(daemon) = Daemon::start().await else { return };
    let mut ids = Vec::new();
    for n in 0..7 {
        let parity = if n % 2 == 0 { "even" } else { "odd" };
        let request = labelled(&[("parity", parity), ("n", &n.to_string())]);
        ids.push(Sandbox::create(&daemon, request).await.unwrap().id);
    }
    ids.sort_unstable();
    let mut seen = Vec::new();
    let mut token = String::new();
    for expected in [3, 3, 1] {
        let request = ListSandboxesRequest { page_size: 3, page_token: token, ..Default::default() };
        let ListSandboxesResponse { sandboxes, next_page_token } =
            daemon.sandboxes().list(request).await.unwrap().into_inner();
        assert_eq!(sandboxes.len(), expected);
        seen.extend(sandboxes.into_iter().map(|sandbox| sandbox.id));
        token = next_page_token;
    }
    assert_eq!((seen, token.as_str()), (ids, ""));
    for (labels, count) in
        [(vec![("parity", "odd")], 3), (vec![("parity", "even"), ("n", "2")], 1), (vec![("x", "")], 0)]
    {
        let labels = labelled(&labels).labels;
        let request = ListSandboxesRequest { labels: labels.clone(), ..Default::default() };
        let listed = daemon.sandboxes().list(request).await.unwrap().into_inner().sandboxes;
        assert_eq!(listed.len(), count, "{labels:?}");
    }
    let info = daemon.node().info(NodeInfoRequest {}).await.unwrap().into_inner();
    assert_eq!((info.sandboxes, info.running), (7, 0));
    let bad = ListSandboxesRequest { page_token: "nonsense".to_owned(), ..Default::default() };
    assert_eq!(daemon.sandboxes().list(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_watches_sees_generations_grow_to_the_end() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let request = WatchSandboxRequest { sandbox_id: sandbox.id.clone(), after_generation: 0 };
    let mut watch = daemon.sandboxes().watch(request).await.unwrap().into_inner();
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!((first.phase(), first.id.as_str()), (Phase::Running, sandbox.id.as_str()));
    sandbox.destroy().await.unwrap();
    let (mut generation, mut phase) = (first.generation, first.phase());
    while let Some(next) = watch.message().await.unwrap() {
        assert!(next.generation > generation && phase != Phase::Destroyed);
        (generation, phase) = (next.generation, next.phase());
    }
    assert_eq!(phase, Phase::Destroyed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_sandboxes_and_a_thousand_runs_leave_the_daemon_as_it_was() {
    if !only_native("it takes minutes") {
        return;
    }
    let Some(daemon) = Daemon::start_configured("[run]\nretained_runs = 4\n").await else { return };
    churn(&daemon, 20).await;
    let settled = || async {
        expect(daemon.leftovers() == NOTHING, format!("{:?}", daemon.leftovers()))?;
        Ok((process::descriptors(daemon.pid()).len(), process::resident_kib(daemon.pid())))
    };
    let (descriptors, memory) = eventually(SOON, settled).await;
    churn(&daemon, 100).await;
    eventually(SOON, settled).await;
    eventually(SOON, || async {
        let now = process::descriptors(daemon.pid());
        expect(now.len() <= descriptors + DESCRIPTOR_NOISE, format!("{descriptors} descriptors before, now {now:?}"))
    })
    .await;
    let now = process::resident_kib(daemon.pid());
    assert!(now < memory + MEMORY_NOISE, "{memory} KiB before, {now} KiB after");
}

/// Makes and destroys sandboxes, four at a time, each with ten runs.
async fn churn(daemon: &Daemon, count: usize) {
    for _ in 0..count.div_ceil(4) {
        let mut lives = JoinSet::new();
        for _ in 0..4 {
            let sandbox = daemon.sandbox().await;
            lives.spawn(async move {
                for _ in 0..10 {
                    assert_eq!(sandbox.run(argv(&["echo", "x"])).await.unwrap().stdout_text(), "x\n");
                }
                sandbox.destroy().await.unwrap();
            });
        }
        lives.join_all().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_attaches_leave_the_daemon_as_it_was() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("echo some output; sleep 1000")).await.unwrap();
    run.read_until("output\n").await.unwrap();
    attach_and_leave(&sandbox, run.id(), 500).await;
    let (descriptors, memory) = (process::descriptors(daemon.pid()).len(), process::resident_kib(daemon.pid()));
    attach_and_leave(&sandbox, run.id(), 9_500).await;
    eventually(SOON, || async {
        let now = process::descriptors(daemon.pid());
        expect(now.len() <= descriptors + DESCRIPTOR_NOISE, format!("{descriptors} descriptors before, now {now:?}"))
    })
    .await;
    let now = process::resident_kib(daemon.pid());
    assert!(now < memory + MEMORY_NOISE, "{memory} KiB before, {now} KiB after");
    assert!(sandbox.get_run(run.id()).await.unwrap().exited.is_none());
}

async fn attach_and_leave(sandbox: &Sandbox, run: &str, count: usize) {
    for _ in 0..count {
        let mut attached = sandbox.attach(run, 5).await.unwrap();
        assert_eq!(attached.read_bytes(7).await.unwrap(), b"output\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_told_to_end_ends_well_with_all_it_has() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("setsid sleep 1000 &").await;
    let run = sandbox.start(shell("trap '' TERM; while :; do sleep 0.01; done")).await.unwrap();
    let reader = tokio::time::timeout(SOON, run.finish());
    // That nothing is left is looked at when the daemon is dropped.
    assert!(daemon.stop().success());
    assert!(!daemon.socket().exists());
    // The reader hears that the sandbox went, or that the daemon did; nobody invents an exit.
    if let Ok(outcome) = reader.await.unwrap() {
        assert_eq!(outcome.exited.status, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_record_names_is_removed_by_the_next_daemon() {
    for config in ["", "[engine]\ncgroup = \"off\"\n"] {
        let Some(mut daemon) = Daemon::start_configured(config).await else { return };
        let sandboxes = [daemon.sandbox().await, daemon.sandbox().await];
        sandboxes[0].bash("setsid sleep 1000 & echo x > file").await;
        let run = sandboxes[1].start(argv(&["sleep", "1000"])).await.unwrap();
        let pids = sandboxes.each_ref().map(|sandbox| daemon.init(sandbox));
        drop(run);
        daemon.kill();
        daemon.forget_sandboxes();
        daemon.restart().await;
        assert_eq!(daemon.leftovers(), NOTHING);
        eventually(SOON, || async {
            let alive: Vec<_> = pids.iter().filter(|pid| process::is_alive(**pid)).collect();
            expect(alive.is_empty(), format!("{alive:?}"))
        })
        .await;
        let listed = daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap();
        assert!(listed.into_inner().sandboxes.is_empty());
        assert_eq!(daemon.sandbox().await.read("echo again").await, "again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_whose_record_is_lost_are_not_taken_for_nobodys() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("echo precious > file").await;
    daemon.kill();
    let moved = |from: &str, to: &str| {
        for part in ["", "-wal", "-shm"] {
            let (from, to) = (format!("store.db{part}{from}"), format!("store.db{part}{to}"));
            std::fs::rename(daemon.state().join(from), daemon.state().join(to)).unwrap();
        }
    };
    moved("", ".lost");
    let listed = daemon.handsd(&["gc", "--dry-run"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&listed.stdout).trim_end(), sandbox.id);
    let refused = daemon.handsd(&["serve", "--http", "off"]).output().unwrap();
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && told.contains("store.db is gone, and "), "{told}");
    // An empty file is no record either.
    std::fs::write(daemon.state().join("store.db"), "").unwrap();
    let refused = daemon.handsd(&["serve", "--http", "off"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("store.db is gone, and "), "{refused:?}");
    moved(".lost", "");
    daemon.restart().await;
    assert_eq!(sandbox.through(&daemon).read("cat file").await, "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zygote_that_is_killed_is_replaced_and_takes_no_sandbox_with_it() {
    if !only_native("it has no zygote") {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(shell("while [ ! -e go ]; do sleep 0.01; done; echo went")).await.unwrap();
    let zygote = daemon.zygote().unwrap();
    process::kill(zygote);
    let second = daemon.sandbox().await;
    assert_ne!(daemon.zygote(), Some(zygote));
    assert_eq!(second.read("echo second").await, "second");
    assert_eq!(sandbox.bash("touch go").await.code(), Some(0));
    assert_eq!(run.finish().await.unwrap().stdout_text(), "went\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_only_so_many_sandboxes() {
    let Some(daemon) = Daemon::start_configured("[sandbox]\nmax_sandboxes = 2\n").await else { return };
    let first = daemon.sandbox().await;
    let _second = daemon.sandbox().await;
    let third = Sandbox::create(&daemon, Default::default()).await;
    assert_eq!(refusal(third), fault(Code::ResourceExhausted, ErrorReason::TooManyRequests));
    first.destroy().await.unwrap();
    eventually(SOON, || async {
        Sandbox::create(&daemon, Default::default()).await.map_err(|status| status.to_string())
    })
    .await;
}

/// The sandbox that is in reserve, once there is one that `known` does not name.
async fn in_reserve(daemon: &Daemon, known: &str) -> String {
    eventually(SOON, async || {
        let log = daemon.log();
        let made = log.lines().filter(|line| line.contains("made in reserve"));
        let mut ids = made.filter_map(|line| line.split_once("sandbox.id=")).map(|(_, id)| id.trim());
        ids.find(|id| !known.contains(*id)).map(str::to_owned).ok_or_else(|| log.clone())
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_takes_what_was_made_before_it_and_another_is_made() {
    if !only_native("it looks into the engine's directory") {
        return;
    }
    let config = "[sandbox]\nreserve = 1\n[log]\nfilter = \"info,handsd::sandbox::reserve=debug\"\n";
    let Some(mut daemon) = Daemon::start_configured(config).await else { return };
    let first = in_reserve(&daemon, "").await;
    let listed = daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap().into_inner();
    assert!(listed.sandboxes.is_empty(), "nobody has asked for it: {listed:?}");
    let env = [("A".to_owned(), "b".to_owned())].into();
    let limits = Some(Limits { pids: 50, ..Default::default() });
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { env, limits, ..Default::default() }).await.unwrap();
    assert_eq!(sandbox.id, first);
    assert_eq!(sandbox.read("echo $A; pwd").await, "b\n/workspace");
    let cgroups = daemon.cgroups().into_iter().map(|tree| tree.join(&sandbox.id).join("pids.max"));
    for bound in cgroups.filter_map(|path| std::fs::read_to_string(path).ok()) {
        assert_eq!(bound, "50\n");
    }

    // One that is of something else is made for who asks.
    let second = in_reserve(&daemon, &first).await;
    let elsewhere = CreateSandboxRequest { workspace: "/elsewhere".to_owned(), ..Default::default() };
    let other = Sandbox::create(&daemon, elsewhere).await.unwrap();
    assert_ne!(other.id, second);

    // What has died in reserve is made anew, and the next daemon has its own.
    let init = leftovers::init(&daemon.state().join("sandboxes").join(&second)).unwrap();
    kill(Pid::from_raw(init.cast_signed()), Signal::SIGKILL).unwrap();
    assert_eq!(daemon.sandbox().await.read("echo ok").await, "ok");
    daemon.kill();
    let known = daemon.log();
    daemon.restart().await;
    let third = in_reserve(&daemon, &known).await;
    assert_eq!(Sandbox::create(&daemon, CreateSandboxRequest::default()).await.unwrap().id, third);
}
