//! Messages: in order, once each, in the middle of turns and between them.

use handsd::api::proto::CreateSessionRequest;
use tonic::Code;

use crate::support::session::{of_kind, text, wish};
use crate::support::{Daemon, Session, refusal};

#[tokio::test(flavor = "multi_thread")]
async fn a_message_in_the_middle_of_a_turn_is_part_of_it() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "say first\nbash while [ ! -e go ]; do sleep 0.02; done").await;
    session.until("tool.call", 1).await;
    session.send("say steered").await;
    // The brain has it before its command ends.
    session.send("write unused x").await;
    let hands = session.get().await.hands_sandbox_id;
    touch(&daemon, &hands).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed");
    let said: Vec<_> = of_kind(&events, "agent.message").iter().map(|event| text(event, "text")).collect();
    assert_eq!(said, ["first", "steered"]);
    assert_eq!(session.get().await.turns, 1);
}

async fn touch(daemon: &Daemon, sandbox: &str) {
    let request = handsd::api::proto::BashRequest {
        sandbox_id: sandbox.to_owned(),
        command: Some("touch go".to_owned()),
        ..Default::default()
    };
    let mut events = daemon.hands().bash(request).await.expect("it runs").into_inner();
    while events.message().await.expect("it ends well").is_some() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_come_all_at_once_are_all_taken_in_their_order() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "say 0").await;
    for number in 1..=30 {
        session.send(&format!("say {number}")).await;
    }
    let expected: Vec<String> = (0..=30).map(|number| number.to_string()).collect();
    crate::support::eventually(crate::support::SOON, || async {
        let events = session.events().await;
        let said: Vec<_> = of_kind(&events, "agent.message").iter().map(|event| text(event, "text")).collect();
        crate::support::expect(said == expected, format!("{said:?}"))
    })
    .await;
}

/// 44
#[tokio::test(flavor = "multi_thread")]
async fn a_message_with_the_same_key_is_the_same_message() {
    let Some(daemon) = Daemon::start().await else { return };
    let session = Session::create(&daemon, "say hello").await;
    session.turns(1).await;
    let first = session.try_send("say again", "k").await.expect("it is taken");
    let second = session.try_send("say again", "k").await.expect("it is found");
    assert_eq!((first.seq, first.replayed), (second.seq, false));
    assert!(second.replayed);
    let other = refusal(session.try_send("say other", "k").await);
    assert_eq!(other, (Code::AlreadyExists, "IDEMPOTENCY_CONFLICT".to_owned()));
    session.turns(2).await;
    assert_eq!(of_kind(&session.events().await, "user.message").len(), 2);
}

/// 44
#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_the_same_key_is_the_same_session() {
    let Some(daemon) = Daemon::start().await else { return };
    let keyed = |input: &str| CreateSessionRequest { key: "ticket-7".to_owned(), ..wish(input) };
    let first = Session::create_with(&daemon, keyed("say one")).await;
    let second = Session::create_with(&daemon, keyed("say one")).await;
    assert_eq!(first.id, second.id);
    let other = daemon.sessions().create(keyed("say two")).await;
    assert_eq!(refusal(other), (Code::AlreadyExists, "IDEMPOTENCY_CONFLICT".to_owned()));

    let retried = |input: &str| CreateSessionRequest { idempotency_key: "r".to_owned(), ..wish(input) };
    let first = Session::create_with(&daemon, retried("say one")).await;
    let second = Session::create_with(&daemon, retried("say one")).await;
    assert_eq!(first.id, second.id);
    first.turns(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_message_is_cut_in_the_log_and_whole_for_the_brain() {
    let Some(daemon) = Daemon::start().await else { return };
    let long = "x".repeat(100_000);
    let session =
        Session::create(&daemon, &format!("write long.txt {long}\nbash wc -c < long.txt\nexpect 100000")).await;
    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "completed");
    let message = of_kind(&events, "user.message")[0];
    assert!(message.content_bytes > 100_000, "{}", message.content_bytes);
    assert!(text(message, "text").len() < 5_000);
}
