//! A daemon that is killed between two steps of what it does to a sandbox: the next one finishes or undoes it, whichever
//! step that was. Nothing leaks, and nothing that anybody had is lost.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use futures_util::{StreamExt as _, stream};
use handsd::api::proto::{
    CreateSandboxRequest, HibernateSandboxRequest, ListSandboxesRequest, Phase, Tier, WakeSandboxRequest,
};
use handsd::crash::{NATIVE_POINTS, POINTS};

use support::{Daemon, Options, SOON, Sandbox, eventually, expect, only_native, process};

mod support;

const NOTHING: Vec<String> = Vec::new();

/// Daemons at once: most of the time of each is spent waiting.
const AT_ONCE: usize = 4;

/// What is being done when the daemon dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transition {
    Create,
    Freeze,
    Thaw,
    Stop,
    /// A wake from the files.
    Start,
    /// Its first process ends.
    Crash,
    /// A wake of what has crashed.
    Restart,
    Destroy,
}

/// The transitions on whose way a point is.
fn transitions(point: &str) -> &'static [Transition] {
    match point.split('.').next().unwrap() {
        "create" | "make" => &[Transition::Create],
        "freeze" => &[Transition::Freeze],
        "thaw" => &[Transition::Thaw],
        "stop" | "end" => &[Transition::Stop],
        "start" => &[Transition::Start, Transition::Restart],
        "crash" => &[Transition::Crash],
        "destroy" | "remove" => &[Transition::Destroy],
        // See tests/runtime.rs.
        "runtime" => &[],
        other => panic!("nothing is known of {other}"),
    }
}

impl Transition {
    /// What ran in the sandbox runs on afterwards.
    fn keeps_processes(self) -> bool {
        matches!(self, Self::Freeze | Self::Thaw)
    }

    /// Brings a sandbox to where it begins.
    async fn prepare(self, daemon: &Daemon, sandbox: &Sandbox) {
        match self {
            Self::Thaw => hibernate(daemon, sandbox, Tier::Frozen).await.unwrap(),
            Self::Start => hibernate(daemon, sandbox, Tier::Stopped).await.unwrap(),
            Self::Restart => {
                process::kill(daemon.init(sandbox));
                eventually(SOON, || async {
                    let phase = sandbox.get().await.unwrap().phase();
                    expect(phase == Phase::Crashed, format!("{phase:?}"))
                })
                .await;
            }
            Self::Create | Self::Freeze | Self::Stop | Self::Crash | Self::Destroy => {}
        }
    }

    /// Makes it happen. Whoever asked for it hears no answer, or the right one at the last moment.
    async fn begin(self, daemon: &Daemon, sandbox: &Sandbox) {
        let _ = match self {
            Self::Create => panic!("there is no sandbox yet"),
            Self::Freeze => hibernate(daemon, sandbox, Tier::Frozen).await,
            Self::Stop => hibernate(daemon, sandbox, Tier::Stopped).await,
            Self::Thaw | Self::Start | Self::Restart => {
                let request = WakeSandboxRequest { sandbox_id: sandbox.id.clone() };
                daemon.sandboxes().wake(request).await.map(drop)
            }
            Self::Crash => {
                process::kill(daemon.init(sandbox));
                Ok(())
            }
            Self::Destroy => sandbox.destroy().await,
        };
    }
}

async fn hibernate(daemon: &Daemon, sandbox: &Sandbox, tier: Tier) -> Result<(), tonic::Status> {
    let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
    daemon.sandboxes().hibernate(request).await.map(drop)
}

async fn listed(daemon: &Daemon) -> Vec<String> {
    let listed = daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap().into_inner();
    listed.sandboxes.into_iter().map(|sandbox| sandbox.id).collect()
}

/// The maker tries again with the same key, and has one sandbox in the end.
async fn dies_while_creating(point: &'static str) {
    let options = Options { crash_at: Some(point), ..Options::default() };
    let Some(mut daemon) = Daemon::start_with(options).await else { return };
    let request = CreateSandboxRequest { idempotency_key: "key".to_owned(), ..Default::default() };
    let answer = Sandbox::create(&daemon, request.clone()).await;
    daemon.has_crashed().await;
    daemon.restart().await;
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    assert_eq!(sandbox.read("echo works").await, "works", "{point}");
    if let Ok(first) = answer {
        assert_eq!(first.id, sandbox.id, "{point}: whoever was told of it still has it");
    }
    eventually(SOON, || async {
        let all = listed(&daemon).await;
        expect(all == [sandbox.id.clone()], format!("{point}: {all:?}"))
    })
    .await;
    sandbox.destroy().await.unwrap();
    eventually(SOON, || async { expect(daemon.leftovers() == NOTHING, format!("{point}: {:#?}", daemon.leftovers())) })
        .await;
}

/// The sandbox is there with all its files, and with its processes if they were not to end; or it is gone, if it was to go.
async fn dies_while(transition: Transition, point: &'static str) {
    let options = Options { crash_at: Some(point), ..Options::default() };
    let Some(mut daemon) = Daemon::start_with(options).await else { return };
    let sandbox = daemon.sandbox().await;
    sandbox.bash("head -c 1M /dev/urandom > data; sha256sum data > sum; setsid sleep 1000 &").await;
    transition.prepare(&daemon, &sandbox).await;
    transition.begin(&daemon, &sandbox).await;
    daemon.has_crashed().await;
    daemon.restart().await;
    let sandbox = sandbox.through(&daemon);
    if transition == Transition::Destroy {
        eventually(SOON, || async { expect(listed(&daemon).await.is_empty(), format!("{point}: it is there")) }).await;
    } else {
        assert_eq!(listed(&daemon).await, std::slice::from_ref(&sandbox.id), "{transition:?} {point}");
        let (sum, asleep) = (sandbox.read("sha256sum -c sum").await, sandbox.bash("pgrep -c sleep").await);
        assert_eq!(sum, "data: OK", "{transition:?} {point}");
        if transition.keeps_processes() {
            assert_eq!(asleep.stdout_text(), "1\n", "{transition:?} {point}");
        }
        assert_eq!(sandbox.get().await.unwrap().phase(), Phase::Running);
        sandbox.destroy().await.unwrap();
    }
    eventually(SOON, || async {
        expect(daemon.leftovers() == NOTHING, format!("{transition:?} {point}: {:#?}", daemon.leftovers()))
    })
    .await;
}

async fn walk(points: impl Iterator<Item = &'static str>) {
    let ways = points.flat_map(|point| transitions(point).iter().map(move |transition| (*transition, point)));
    let walked = stream::iter(ways).for_each_concurrent(AT_ONCE, |(transition, point)| async move {
        println!("{transition:?}, killed at {point}");
        match transition {
            Transition::Create => dies_while_creating(point).await,
            _ => dies_while(transition, point).await,
        }
    });
    walked.await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_that_is_killed_at_any_step_is_followed_by_one_that_makes_it_whole() {
    let of_native: &[&str] = if only_native("points inside the engine") { &NATIVE_POINTS } else { &[] };
    walk(POINTS.iter().chain(of_native).copied()).await;
}
