//! Many sessions while brains, hands and daemons are killed at random. Every session ends as its script says, every log is
//! gapless, no call runs twice, and none is lost.
//!
//! `HANDS_SOAK=50 cargo test --test sessions soak` for as many sessions as that.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handsd::api::proto::{BashRequest, SessionEvent, run_event, session::Status};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::support::session::{of_kind, summary, text};
use crate::support::{Daemon, Session, process};

/// Calls of each session.
const CALLS: usize = 16;
/// How often the daemon is killed.
const DAEMONS: usize = 5;
/// Brains that are killed of one session at most: one more is given up within the window.
const BRAINS: usize = 3;
/// How long all of it may take: what the kills take, and what each session does on a machine that is busy with others.
const BOUND: Duration = Duration::from_secs(150);
const BOUND_EACH: Duration = Duration::from_secs(10);

/// Numbers that look random, the same for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // The multiplier of MMIX.
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).expect("31 bits") % sides
    }
}

fn script() -> String {
    let calls = (1..=CALLS).map(|number| format!("bash echo n{number} >> log; sleep 0.3; echo did {number}\n"));
    calls.collect::<String>() + "bash cat log\nsay done"
}

/// Ends the processes of a sandbox that have a word in their command line; `init` ends all of it.
fn strike(daemon: &Daemon, sandbox: &str, word: Option<&str>) -> bool {
    let record = daemon.state().join("sandboxes").join(sandbox).join("init.json");
    let Ok(record) = std::fs::read(record) else { return false };
    let Ok(record) = serde_json::from_slice::<serde_json::Value>(&record) else { return false };
    let Some(init) = record["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()) else { return false };
    let end = |pid: u32| kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).is_ok();
    match word {
        None => process::command_line(init).starts_with("hands-guest") && end(init),
        Some(word) => process::descendants(init)
            .into_iter()
            .filter(|(pid, _)| process::command_line(*pid).contains(word))
            .any(|(pid, _)| end(pid)),
    }
}

/// What the commands of a session left in its files: the last command's output may be lost with its sandbox.
async fn kept(daemon: &Daemon, session: &Session) -> String {
    let sandbox_id = session.get().await.hands_sandbox_id;
    let request = BashRequest { sandbox_id, command: Some("cat log".to_owned()), ..Default::default() };
    let mut stream = daemon.hands().bash(request).await.expect("its files are there").into_inner();
    let mut text = Vec::new();
    while let Some(event) = stream.message().await.expect("it is read to its end") {
        if let Some(run_event::Event::Output(output)) = event.event {
            text.extend_from_slice(&output.data);
        }
    }
    String::from_utf8(text).expect("text")
}

/// What must be true of a log whatever was killed.
fn check(id: &str, events: &[SessionEvent], kept: &str) {
    let story = || format!("{id}: {:#?}", summary(events));
    let called: Vec<String> = of_kind(events, "tool.call").iter().map(|event| text(event, "call_id")).collect();
    assert_eq!(called.len(), called.iter().collect::<BTreeSet<_>>().len(), "a call was made twice: {}", story());
    assert_eq!(called.len(), CALLS + 1, "{}", story());
    let mut ended: BTreeMap<String, usize> = BTreeMap::new();
    for event in of_kind(events, "exec.completed").into_iter().chain(of_kind(events, "tool.completed")) {
        *ended.entry(text(event, "call_id")).or_default() += 1;
    }
    assert!(called.iter().all(|id| ended.get(id) == Some(&1)), "a call has no end, or two: {}", story());
    let last = called.last().expect("there are calls");
    let done: Vec<&str> = kept.lines().collect();
    assert_eq!(done.len(), done.iter().collect::<BTreeSet<_>>().len(), "a command ran twice: {done:?} {}", story());
    // What is not in it was cut short, and the brain was told so.
    let certain = of_kind(events, "exec.completed").into_iter().filter(|event| text(event, "reason") == "exited");
    for event in certain.filter(|event| text(event, "call_id") != *last) {
        let number = text(event, "command").split_whitespace().nth(1).map(str::to_owned).unwrap_or_default();
        assert!(done.contains(&number.as_str()), "{number} is lost: {done:?} {}", story());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_as_their_scripts_say_whatever_is_killed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let count = std::env::var("HANDS_SOAK").ok().and_then(|count| count.parse().ok()).unwrap_or(8);
    let seed = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(1, |since| since.as_secs());
    println!("seed {seed}");
    let mut dice = Dice(seed);
    let mut sessions = Vec::new();
    for _ in 0..count {
        sessions.push(Session::create(&daemon, &script()).await);
    }
    let (mut brains, mut hands, mut daemons) = (vec![0; count], vec![false; count], 0);
    let (began, bound) = (Instant::now(), BOUND + BOUND_EACH * u32::try_from(count).expect("few"));
    loop {
        for _ in 0..=count / 4 {
            let place = dice.roll(count);
            let session = sessions[place].get().await;
            match dice.roll(2) {
                0 if brains[place] < BRAINS => {
                    let is_struck = strike(&daemon, &session.brain_sandbox_id, Some("guest script"));
                    brains[place] += usize::from(is_struck);
                }
                1 if !hands[place] => hands[place] = strike(&daemon, &session.hands_sandbox_id, None),
                _ => {}
            }
        }
        if daemons < DAEMONS && dice.roll(2) == 0 {
            daemons += 1;
            daemon.kill_and_restart().await;
            sessions = sessions.iter().map(|session| session.again(&daemon)).collect();
        }
        let mut busy = 0;
        for session in &sessions {
            busy += usize::from(!matches!(session.status().await, Status::Idle | Status::Failed));
        }
        if busy == 0 {
            break;
        }
        assert!(began.elapsed() < bound, "{busy} sessions do not end; seed {seed}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let killed: usize = brains.iter().sum();
    let lost = hands.iter().filter(|is_lost| **is_lost).count();
    println!("{count} sessions, {killed} brains, {lost} hands, {daemons} daemons killed in {:?}", began.elapsed());
    for session in &sessions {
        let events = session.events().await;
        assert_eq!(session.status().await, Status::Idle, "seed {seed}: {:#?}", summary(&events));
        assert_eq!(session.result().await.as_deref(), Some("done"), "seed {seed}");
        check(&session.id, &events, &kept(&daemon, session).await);
    }
}
