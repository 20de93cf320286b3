//! A whole conversation.

use handsd::api::proto::session::Status;
use handsd::api::proto::session_event::Level;

use crate::support::session::{kinds, number, of_kind, text};
use crate::support::{Daemon, Session};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_runs_a_failing_test_asks_is_answered_and_says_what_it_did() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "\
write src/sum.sh echo $(($1 - $2))\\n
bash test \"$(sh src/sum.sh 2 2)\" = 4 || { echo 2 and 2 is $(sh src/sum.sh 2 2); exit 1; }
expect 2 and 2 is 0
ask The test fails: shall I repair it?
write src/sum.sh echo $(($1 + $2))\\n
bash test \"$(sh src/sum.sh 2 2)\" = 4
expect exit 0
say The sum is right now.";
    let session = Session::create(&daemon, script).await;

    let (reason, events) = session.turns(1).await;
    assert_eq!(reason, "needs_input");
    let wanted = ["user.message", "turn.started", "tool.call", "exec.completed", "agent.message", "turn.completed"];
    let expected =
        ["user.message", "turn.started", "tool.call", "tool.call", "exec.completed", "agent.message", "turn.completed"];
    assert_eq!(kinds(&events, &wanted), expected);
    let completed = of_kind(&events, "exec.completed")[0];
    assert_eq!(number(completed, "exit_code"), Some(1.0));
    let question = of_kind(&events, "agent.message")[0];
    assert_eq!((question.level(), text(question, "text")), (Level::User, "The test fails: shall I repair it?".into()));
    assert_eq!(session.status().await, Status::AwaitingInput);

    session.send("Yes, please.").await;
    let (reason, events) = session.turns(2).await;
    assert_eq!(reason, "completed");
    assert_eq!(number(of_kind(&events, "exec.completed")[1], "exit_code"), Some(0.0));
    assert_eq!(session.status().await, Status::Idle);
    assert_eq!(session.result().await.as_deref(), Some("The sum is right now."));
}
