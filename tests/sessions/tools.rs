//! What the brain's tools answer.

use handsd::api::proto::session_event::Level;

use crate::support::session::{number, of_kind, summary, text};
use crate::support::{Daemon, Options, Session};

/// Follows a script to its end, which has to be a good one.
async fn follow(daemon: &Daemon, script: &str) -> Vec<handsd::api::proto::SessionEvent> {
    let (reason, events) = Session::create(daemon, script).await.turns(1).await;
    assert_eq!(reason, "completed", "{:#?}", summary(&events));
    events
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_written_read_and_listed() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "\
write notes/a.txt one\\ntwo\\nthree\\n
expect wrote 14 bytes
read notes/a.txt
expect two
tool read {\"path\":\"notes/a.txt\",\"offset\":1,\"limit\":1}
expect two
expect read it with offset 2
ls notes
expect notes/a.txt (14 bytes)
read missing
expect missing
tool read {}
expect path: a text is needed
tool read {\"path\":7}
expect path: a text is needed
tool dance {}
expect there is no tool \"dance\"";
    follow(&daemon, script).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn long_output_is_cut_in_its_middle_and_the_rest_can_be_read() {
    let Some(daemon) = Daemon::start().await else { return };
    let events = follow(&daemon, "bash seq 1 20000\nexpect bytes are left out\nexpect \"offset\": 20480").await;
    let completed = of_kind(&events, "exec.completed")[0];
    assert_eq!(number(completed, "bytes"), Some(108_894.0));
    let script = format!("tool read {{\"run\":\"{}\",\"offset\":20480}}\nexpect no run", text(completed, "run_id"));
    // Another session's hands do not have that run.
    follow(&daemon, &script).await;
}

/// 46
#[tokio::test(flavor = "multi_thread")]
async fn what_a_command_writes_is_in_the_log_while_it_runs_and_before_its_end() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "bash for i in 1 2 3; do echo line $i; sleep 0.4; done; echo err >&2; exit 3\nexpect exit 3";
    let events = follow(&daemon, script).await;
    let output = of_kind(&events, "exec.output");
    assert!(output.len() >= 3, "{:#?}", summary(&events));
    assert!(output.iter().all(|event| event.level() == Level::Output));
    let all: String = output.iter().map(|event| text(event, "text")).collect();
    assert_eq!(all, "line 1\nline 2\nline 3\nerr\n");
    let cursors: Vec<_> = output.iter().map(|event| (number(event, "from"), number(event, "to"))).collect();
    assert!(cursors.windows(2).all(|pair| pair[0].1 == pair[1].0), "{cursors:?}");
    let completed = of_kind(&events, "exec.completed")[0];
    let call = of_kind(&events, "tool.call")[0];
    assert!(call.seq < output[0].seq && output.last().map(|event| event.seq) < Some(completed.seq));
    assert_eq!((number(completed, "exit_code"), text(completed, "reason")), (Some(3.0), "exited".to_owned()));
    assert_eq!(number(completed, "bytes"), cursors.last().and_then(|range| range.1));
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_edited_and_found_by_name_and_by_what_is_in_them() {
    let Some(daemon) = Daemon::start().await else { return };
    let script = "\
write src/a.txt one\\ntwo\\ntwo\\n
write src/deep/b.md Two wheels\\n
tool edit {\"path\":\"src/a.txt\",\"old\":\"two\",\"new\":\"2\"}
expect holds the old text 2 times
tool edit {\"path\":\"src/a.txt\",\"old\":\"two\",\"new\":\"2\",\"all\":true}
expect replaced 2
tool edit {\"path\":\"src/a.txt\",\"old\":\"three\",\"new\":\"3\"}
expect does not hold
read src/a.txt
expect one\n2\n2
tool glob {\"pattern\":\"*.md\"}
expect /workspace/src/deep/b.md
tool glob {\"pattern\":\"*.rs\"}
expect nothing was found
tool grep {\"pattern\":\"^t.o\",\"ignore_case\":true}
expect /workspace/src/deep/b.md:1: Two wheels
tool grep {\"pattern\":\"2\",\"glob\":\"*.txt\"}
expect /workspace/src/a.txt:2: 2
tool grep {\"pattern\":\"(\"}
expect pattern: regex parse error";
    follow(&daemon, &script.replace("one\n2\n2", "one")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_a_server_of_the_agent_is_seen_is_told_once() {
    if !std::path::Path::new("/usr/bin/python3").exists() {
        println!("skipped: there is no /usr/bin/python3 to write a server in");
        return;
    }
    let Some(mut daemon) = Daemon::start_with(Options { http: true, ..Options::default() }).await else { return };
    let session = Session::create(&daemon, "bash nohup python3 -m http.server 8123 > server.log 2>&1 &").await;
    let events = session.until("preview.url", 1).await;
    let told = of_kind(&events, "preview.url")[0];
    assert_eq!((number(told, "port"), told.level()), (Some(8123.0), Level::User));
    let (url, sandbox) = (text(told, "url"), text(told, "sandbox_id"));
    assert!(url.starts_with(&format!("http://8123-{sandbox}.localhost:")) && url.contains("hands_token="), "{url}");
    session.turns(1).await;
    daemon.kill_and_restart().await;
    let session = session.again(&daemon);
    session.send("bash sleep 2; cat server.log").await;
    let (_, events) = session.turns(2).await;
    assert_eq!(of_kind(&events, "preview.url").len(), 1, "{:#?}", summary(&events));
}
