//! A daemon that is killed again and again at moments that nobody chose, while runs write what is known: every byte of
//! every run is there in the end, no run is lost, and none ran twice.
//!
//! `HANDSD_SOAK_KILLS` says how often it is killed, and `HANDSD_SOAK_SEED` repeats what a failure printed.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handsd::api::proto::exited::Reason;
use handsd::api::proto::{BashRequest, ListSandboxesRequest, Phase};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use support::{Daemon, Options, SOON, Sandbox, eventually, expect, run, shell};

mod support;

/// How often it is killed, if the environment does not say.
const KILLS: u64 = 30;

/// Sandboxes, and runs that are begun in each round.
const SANDBOXES: u64 = 3;
const RUNS: u64 = 2;

/// The longest that a daemon lives, in milliseconds.
const LIFE: u64 = 300;

/// Numbers that are the same for the same seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// A run, as it was asked for.
#[derive(Debug, Clone)]
struct Asked {
    /// Its idempotency key, which is also a word of each line that it writes.
    key: String,
    sandbox: usize,
    lines: u64,
    code: u64,
}

impl Asked {
    /// Leaves a mark when it begins, and writes lines in bursts, so that it is often cut in the middle of one.
    fn request(&self) -> BashRequest {
        let Self { key, lines, code, .. } = self;
        let line = format!(
            "echo {key} >> begun; i=0; while [ $i -lt {lines} ]; do i=$((i+1)); echo {key} $i; \
             [ $((i % 100)) -eq 0 ] && sleep 0.01; done; exit {code}"
        );
        BashRequest { idempotency_key: key.clone(), ..shell(&line) }
    }

    /// What it writes.
    fn sha256(&self) -> Vec<u8> {
        let mut sha256 = Sha256::new();
        (1..=self.lines).for_each(|line| sha256.update(format!("{} {line}\n", self.key)));
        sha256.finalize().to_vec()
    }
}

fn from_environment(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is a number")))
}

/// Asks for a run until a daemon lives long enough to say that it has begun.
async fn asked_for(asked: Asked, sandboxes: &[Sandbox]) -> Option<String> {
    let running = sandboxes[asked.sandbox].start(asked.request()).await.ok()?;
    Some(running.id().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn no_byte_and_no_run_is_lost_or_doubled_however_often_the_daemon_is_killed() {
    let kills = from_environment("HANDSD_SOAK_KILLS", KILLS);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let seed = from_environment("HANDSD_SOAK_SEED", u64::from(now.subsec_nanos()));
    println!("HANDSD_SOAK_SEED={seed} HANDSD_SOAK_KILLS={kills}");
    let mut chance = Chance(seed);
    // All runs are kept to the end.
    let config = "[run]\nretained_runs = 65536\nretention = '1day'\n";
    let Some(mut daemon) = Daemon::start_with(Options { config: config.to_owned(), ..Options::default() }).await else {
        return;
    };
    let mut sandboxes = Vec::new();
    for _ in 0..SANDBOXES {
        sandboxes.push(daemon.sandbox().await);
    }
    let mut runs: BTreeMap<String, (Asked, Option<String>)> = BTreeMap::new();
    for round in 0..kills {
        for number in 0..RUNS {
            let key = format!("r{round}n{number}");
            let sandbox = usize::try_from(chance.below(SANDBOXES)).unwrap();
            let asked = Asked { key: key.clone(), sandbox, lines: 1 + chance.below(5000), code: chance.below(100) };
            runs.insert(key, (asked, None));
        }
        // Those of which no daemon has said that they have begun are asked for again, with the same key.
        let life = Duration::from_millis(chance.below(LIFE));
        let mut asking = JoinSet::new();
        for (asked, _) in runs.values().filter(|(_, id)| id.is_none()) {
            let (asked, sandboxes) = (asked.clone(), sandboxes.clone());
            asking.spawn(async move { (asked.key.clone(), asked_for(asked, &sandboxes).await) });
        }
        let killed = tokio::time::Instant::now() + life;
        while let Ok(Some(told)) = tokio::time::timeout_at(killed, asking.join_next()).await {
            let (key, id) = told.unwrap();
            runs.get_mut(&key).unwrap().1 = id;
        }
        tokio::time::sleep_until(killed).await;
        daemon.kill();
        // What was on its way back still counts.
        while let Some(told) = asking.join_next().await {
            let (key, id) = told.unwrap();
            runs.get_mut(&key).unwrap().1 = id;
        }
        daemon.restart().await;
        sandboxes = sandboxes.iter().map(|sandbox| sandbox.through(&daemon)).collect();
    }
    for (asked, id) in runs.values_mut().filter(|(_, id)| id.is_none()) {
        *id = asked_for(asked.clone(), &sandboxes).await;
    }
    check(&daemon, &sandboxes, &runs).await;
}

async fn check(daemon: &Daemon, sandboxes: &[Sandbox], runs: &BTreeMap<String, (Asked, Option<String>)>) {
    let listed = daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap().into_inner().sandboxes;
    assert_eq!(listed.len(), sandboxes.len());
    assert!(listed.iter().all(|sandbox| sandbox.phase() == Phase::Running), "{listed:?}");
    for (asked, id) in runs.values() {
        let sandbox = &sandboxes[asked.sandbox];
        let id = id.as_ref().unwrap_or_else(|| panic!("{} could not be started", asked.key));
        let mut sha256 = Sha256::new();
        let exited = sandbox.attach(id, 0).await.unwrap().finish_into(&mut sha256).await.unwrap();
        let code = i32::try_from(asked.code).unwrap();
        assert_eq!((exited.reason(), run::code(&exited)), (Reason::Exited, Some(code)), "{asked:?} {exited:?}");
        assert_eq!(sha256.finalize().to_vec(), asked.sha256(), "the output of {asked:?}");
    }
    for (number, sandbox) in sandboxes.iter().enumerate() {
        let mut begun: Vec<String> = sandbox.read("touch begun; cat begun").await.lines().map(str::to_owned).collect();
        begun.sort();
        let asked = runs.values().filter(|(asked, _)| asked.sandbox == number);
        let asked: Vec<String> = asked.map(|(asked, _)| asked.key.clone()).collect();
        assert_eq!(begun, asked, "each has begun once");
        eventually(SOON, || async {
            let listed = sandbox.runs().await.into_iter().filter(|run| run.exited.is_some()).count();
            // The look at what has begun is one too.
            expect(listed == asked.len() + 1, format!("{listed} runs of {}", asked.len()))
        })
        .await;
    }
}
