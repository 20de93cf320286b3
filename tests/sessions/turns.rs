//! How turns end.

use std::time::{Duration, Instant};

use handsd::api::proto::session::Status;
use handsd::api::proto::{CancelSessionRequest, SessionLimits, TurnsRequest};

use crate::support::session::{kinds, of_kind, text, wish};
use crate::support::{Daemon, Session};

async fn cancel(daemon: &Daemon, session: &Session) {
    let request = CancelSessionRequest { session_id: session.id.clone() };
    daemon.sessions().cancel(request).await.expect("it is there");
}

fn limits(turn_seconds: u64, turns: u64, tokens: u64) -> SessionLimits {
    SessionLimits { turns, turn_seconds, tokens }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_is_canceled_stops_its_command_and_the_session_goes_on() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "bash sleep 600\nsay never").await;
    session.until("tool.call", 1).await;
    cancel(&daemon, &session).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "canceled");
    // The command ended, and that is in the log, before the turn did.
    assert_eq!(kinds(&events, &["exec.completed", "turn.completed"]), ["exec.completed", "turn.completed"]);
    assert_eq!(text(of_kind(&events, "exec.completed")[0], "reason"), "canceled");

    session.send("say still here").await;
    assert_eq!(session.turns(2).await.0, "completed");
    assert_eq!(session.result().await.as_deref(), Some("still here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_of_an_idle_session_does_nothing() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "say done").await;
    let (_, events) = session.turns(1).await;
    cancel(&daemon, &session).await;
    assert_eq!(session.events().await.len(), events.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_before_the_deadline_of_its_turn_and_tells_what_it_wrote() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash echo partial; sleep 600\nexpect partial\nexpect did not end within\nsleep 600";
    let session = Session::create_limited(&daemon, script, limits(3, 0, 0)).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "deadline_exceeded");
    assert_eq!(text(of_kind(&events, "exec.completed")[0], "reason"), "timed_out");
    assert!(of_kind(&events, "error.task").is_empty(), "{events:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brain_that_hangs_is_killed_and_the_session_stays_usable() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create_limited(&daemon, "hang", limits(1, 0, 0)).await;
    let began = Instant::now();
    assert_eq!(session.turns(1).await.0, "deadline_exceeded");
    assert!(began.elapsed() > Duration::from_secs(1));
    assert_eq!(session.status().await, Status::Idle);
    session.send("say back").await;
    assert_eq!(session.turns(2).await.0, "completed");
    assert_eq!(session.result().await.as_deref(), Some("back"));
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_during_a_turn_and_before_the_next() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "tokens 60 10\nsay cheap\ntokens 30 5\nsleep 600";
    let session = Session::create_limited(&daemon, script, limits(0, 0, 100)).await;
    let (reason, _) = session.turns(1).await;
    assert_eq!(reason, "budget_exceeded");
    let usage = session.get().await.usage.expect("it has used tokens");
    assert_eq!((usage.input_tokens, usage.output_tokens, usage.tokens), (90, 15, 105));

    session.send("say more").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "budget_exceeded");
    assert_eq!(of_kind(&events, "agent.message").len(), 1, "the second turn did not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_has_had_its_turns_gets_no_more() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create_limited(&daemon, "say one", limits(0, 1, 0)).await;
    assert_eq!(session.turns(1).await.0, "completed");
    session.send("say two").await;
    assert_eq!(session.turns(2).await.0, "max_turns");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_turn_that_fails_tells_why_and_the_session_stays_usable() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "fail no more paper").await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "error");
    let error = of_kind(&events, "error.task")[0];
    assert_eq!((text(error, "code"), text(error, "message")), ("script_failed".into(), "no more paper".into()));
    session.send("say again").await;
    assert_eq!(session.turns(2).await.0, "completed");

    let request = TurnsRequest { session_id: session.id.clone(), ..Default::default() };
    let turns = daemon.sessions().turns(request).await.expect("they can be listed").into_inner().turns;
    let reasons: Vec<_> = turns.iter().map(|turn| (turn.number, turn.yield_reason.as_str())).collect();
    assert_eq!(reasons, [(2, "completed"), (1, "error")]);
    assert_eq!(turns[1].failure.as_ref().map(|failure| failure.message.as_str()), Some("no more paper"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archived_session_can_only_be_read_and_its_sandboxes_are_gone() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create_with(&daemon, wish("bash sleep 600")).await;
    session.until("tool.call", 1).await;
    let request = handsd::api::proto::ArchiveSessionRequest { session_id: session.id.clone() };
    daemon.sessions().archive(request).await.expect("it is there");
    assert_eq!(session.turns(1).await.0, "canceled");
    assert_eq!(session.status().await, Status::Archived);
    let refused = session.try_send("say x", "").await.expect_err("it is archived");
    assert_eq!(crate::support::reason(&refused), "SESSION_ARCHIVED");
    crate::support::eventually(crate::support::SOON, || async {
        let session = session.get().await;
        crate::support::expect(session.hands_sandbox_id.is_empty(), format!("{session:?}"))
    })
    .await;
    let listed = daemon.sandboxes().list(handsd::api::proto::ListSandboxesRequest::default()).await;
    assert_eq!(listed.expect("they can be listed").into_inner().sandboxes, []);
}
