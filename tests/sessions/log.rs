//! The log of a session while its daemon is killed again and again (42).
//!
//! `HANDS_APPENDS=10000 HANDS_KILLS=20 cargo test --test sessions log` for as many as that.

use std::time::Duration;

use handsd::api::proto::{EventsRequest, SessionEvent, session_event::Level};
use tokio::time::timeout;

use crate::support::session::{of_kind, text};
use crate::support::{Daemon, Session, eventually, expect};

/// What a turn says.
const LINES: usize = 50;
/// How long all of it may take for each turn: the daemon is killed in the middle of some, and is up within seconds.
const EACH: Duration = Duration::from_secs(60);

fn count(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|count| count.parse().ok()).unwrap_or(default)
}

/// The events behind a `seq`, as they are read in one go.
async fn behind(daemon: &Daemon, session: &Session, after: u64) -> Vec<SessionEvent> {
    let request =
        EventsRequest { session_id: session.id.clone(), after, level: Level::Output.into(), ..Default::default() };
    let mut stream = daemon.sessions().events(request).await.expect("it is there").into_inner();
    let mut events = Vec::new();
    while let Some(event) = stream.message().await.expect("the log can be read") {
        events.push(event);
    }
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_has_neither_gap_nor_double_however_often_the_daemon_is_killed() {
    let Some(mut daemon) = Daemon::start().await else { return };
    let (appends, kills) = (count("HANDS_APPENDS", 600), count("HANDS_KILLS", 4));
    let mut session = Session::create(&daemon, "").await;
    let (mut turns, mut killed, mut head) = (0, 0, 0);
    while head < appends as u64 || killed < kills {
        let script: String = (0..LINES).map(|line| format!("say {turns}.{line}\n")).collect();
        session.send(&script).await;
        turns += 1;
        if killed < kills {
            // Each time at another place of the turn.
            let seen = head + 3 + (killed as u64 * 7) % LINES as u64;
            eventually(EACH, || async {
                let head = session.get().await.head;
                expect(head >= seen, format!("{head} events"))
            })
            .await;
            daemon.kill_and_restart().await;
            session = session.again(&daemon);
            killed += 1;
        }
        let ended = timeout(EACH, session.turns(turns)).await.expect("the turn ends");
        assert_eq!(ended.0, "completed");
        head = session.get().await.head;
    }
    // Holds each event to its seq.
    let events = session.events().await;
    assert_eq!(events.len() as u64, head);
    let said: Vec<String> = of_kind(&events, "agent.message").iter().map(|event| text(event, "text")).collect();
    let expected: Vec<String> =
        (0..turns).flat_map(|turn| (0..LINES).map(move |line| format!("{turn}.{line}"))).collect();
    assert_eq!(said, expected, "each was said once, in order");
    for after in [0, 1, head / 2, head - 1, head, head + 1] {
        let rest = behind(&daemon, &session, after).await;
        assert_eq!(rest, events[usize::try_from(after.min(head)).unwrap()..], "behind {after}");
    }
    println!("{head} events in {turns} turns, {killed} kills");
}
