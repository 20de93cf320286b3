//! Event streams of sessions: many, and slow ones.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::support::http::Http;
use crate::support::sse::Sse;
use crate::support::{SOON, eventually, expect, process};

/// Streams that are open at once.
const STREAMS: usize = 1_000;
/// Memory that a stream may cost the daemon while it is served: its connection, its task, and its part of the log.
const KIB_EACH: u64 = 256;
/// For what a thousand of them take together on a machine that is busy with other things.
const LONG: Duration = Duration::from_secs(120);

async fn session(http: &Http) -> String {
    let agent = json!({ "name": "s", "runtime": "script" });
    assert!(http.post("/v3/agents", agent).await.status().is_success());
    let made: Value = http.post("/v3/sessions", json!({ "agent": "s" })).await.json().await.unwrap();
    made["session"]["id"].as_str().unwrap().to_owned()
}

async fn say(http: &Http, session: &str, text: &str) {
    let sent = http.post(&format!("/v3/sessions/{session}/messages"), json!({ "text": text })).await;
    assert_eq!(sent.status(), 202);
}

/// Waits until nothing is to be done any more, and answers how long the log is.
async fn head(http: &Http, session: &str) -> u64 {
    let path = format!("/v3/sessions/{session}");
    eventually(LONG, || async {
        let found = http.get(&path).await;
        expect(found["status"] == "idle", found.to_string())?;
        Ok(found["head"].as_u64().unwrap())
    })
    .await
}

/// Takes events up to a `seq`, which have no gap.
async fn follow(stream: &mut Sse, from: u64, to: u64) {
    for expected in from + 1..=to {
        let (seq, _) = stream.next().await.expect("the stream goes on");
        assert_eq!(seq, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_have_every_event_once_and_cost_little_memory() {
    let Some(http) = Http::start().await else { return };
    let id = session(&http).await;
    say(&http, &id, "say hello").await;
    let before = head(&http, &id).await;
    let pid = http.daemon.pid();
    let memory = process::resident_kib(pid);
    let mut streams = join_all((0..STREAMS).map(|_| Sse::open(&http, &id, 0))).await;
    // What is there already, then what comes.
    timeout(LONG, join_all(streams.iter_mut().map(|stream| follow(stream, 0, before)))).await.expect("a replay");
    let following = join_all(streams.iter_mut().map(|stream| follow(stream, before, before + 20)));
    let saying = async {
        for number in 0..10 {
            say(&http, &id, &format!("say {number}")).await;
        }
    };
    timeout(LONG, async { tokio::join!(following, saying) }).await.expect("what comes reaches all of them");
    let grown = process::resident_kib(pid).saturating_sub(memory);
    assert!(grown < STREAMS as u64 * KIB_EACH, "{grown} KiB for {STREAMS} streams");
    drop(streams);
    // The daemon notices that they are gone, and goes on.
    say(&http, &id, "say bye").await;
    head(&http, &id).await;
    eventually(SOON, || async {
        let open = process::descriptors(pid).len();
        expect(open < STREAMS / 2, format!("{open} descriptors"))
    })
    .await;
}

/// Whether the daemon's end of a connection is there, as /proc/net/tcp says.
fn is_connected(http: &Http, stream: &Sse) -> bool {
    let port = |address: &str| address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    let ends = format!(":{:04X} 0100007F:{:04X} 01 ", port(&http.address), stream.local.port());
    std::fs::read_to_string("/proc/net/tcp").unwrap().contains(&ends)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_read_is_cut_off_and_resumes_without_loss() {
    let Some(http) = Http::configured("http.unread_timeout = '1s'").await else { return };
    let id = session(&http).await;
    let slow = Sse::open_with(&http, &id, 0, Some(4 << 10)).await;
    let mut fast = Sse::open(&http, &id, 0).await;
    assert!(is_connected(&http, &slow));
    let long = "x".repeat(24 << 10);
    let saying = async {
        for _ in 0..8 {
            say(&http, &id, &format!("say {long}")).await;
        }
        say(&http, &id, "say the end").await;
    };
    // It reads all the while, so that nothing is left unread for long.
    let reading = async {
        let mut last = 0;
        loop {
            let (seq, data) = fast.next().await.expect("the stream goes on");
            assert_eq!(seq, last + 1);
            last = seq;
            let event: Value = serde_json::from_str(&data).unwrap();
            if event["type"] == "agent.message" && event["body"]["text"] == "the end" {
                return last;
            }
        }
    };
    let (_, read) = timeout(LONG, async { tokio::join!(saying, reading) }).await.expect("nobody is held up");
    let head = head(&http, &id).await;
    timeout(SOON, follow(&mut fast, read, head)).await.expect("another reader is not held up");
    eventually(LONG, || async { expect(!is_connected(&http, &slow), "it is not cut off") }).await;
    assert!(is_connected(&http, &fast), "who reads stays");
    let had = slow.drain().await;
    assert!((had.len() as u64) < head, "{} of {head} events were in its buffer", had.len());
    let last = had.last().copied().unwrap_or(0);
    assert_eq!(had, (1..=last).collect::<Vec<_>>());
    let mut again = Sse::open(&http, &id, last).await;
    timeout(SOON, follow(&mut again, last, head)).await.expect("it goes on where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quiet_stream_is_kept_alive_by_comments() {
    let Some(http) = Http::start().await else { return };
    let id = session(&http).await;
    let mut stream = Sse::open(&http, &id, 0).await;
    assert!(timeout(SOON, stream.next_comment()).await.expect("a comment comes"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_comes_in_pages_from_any_place_and_filtered() {
    let Some(http) = Http::start().await else { return };
    let id = session(&http).await;
    say(&http, &id, "say one").await;
    say(&http, &id, "bash echo two").await;
    let head = head(&http, &id).await;
    let events = format!("/v3/sessions/{id}/events");
    let seqs = |page: &Value| -> Vec<u64> {
        page["data"].as_array().unwrap().iter().map(|event| event["seq"].as_u64().unwrap()).collect()
    };
    let mut all = Vec::new();
    let mut after = "0".to_owned();
    loop {
        let page = http.get(&format!("{events}?level=output&limit=3&after={after}")).await;
        all.extend(seqs(&page));
        match page["next_cursor"].as_str() {
            Some(next) => after = next.to_owned(),
            None => break,
        }
    }
    assert_eq!(all, (1..=head).collect::<Vec<_>>());
    let user = http.get(&format!("{events}?level=user")).await;
    assert!(user["data"].as_array().unwrap().iter().all(|event| event["level"] == "user"), "{user}");
    let turns = http.get(&format!("{events}?type=turn.*")).await;
    assert!(turns["data"].as_array().unwrap().iter().all(|it| it["type"].as_str().unwrap().starts_with("turn.")));
    let missing = http.request(Method::GET, "/v3/sessions/ses_00000000000000000000/events").send().await.unwrap();
    assert_eq!(missing.status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_destination_leaves_no_session_behind() {
    let Some(http) = Http::start().await else { return };
    session(&http).await;
    let sessions = async || http.get("/v3/sessions").await["data"].as_array().unwrap().len();
    assert_eq!(sessions().await, 1);
    let good = json!({ "url": "https://hooks.example/x", "secret": "s" });
    for (bad, param) in [
        (json!({}), "destinations[1].url"),
        (json!({ "url": "http://127.0.0.1/" }), "destinations[1].url"),
        (json!({ "url": "https://hooks.example/x", "level": "loud" }), "destinations[1].level"),
    ] {
        let wish = json!({ "agent": "s", "input": "say x", "destinations": [good, bad] });
        let refused = http.post("/v3/sessions", wish).await;
        assert_eq!(refused.status(), 400);
        let problem: Value = refused.json().await.unwrap();
        assert_eq!(problem["error"]["param"], param, "{problem}");
        assert_eq!(sessions().await, 1);
    }
    let made: Value =
        http.post("/v3/sessions", json!({ "agent": "s", "destinations": [good] })).await.json().await.unwrap();
    let path = format!("/v3/sessions/{}/destinations", made["session"]["id"].as_str().unwrap());
    let destinations = http.get(&path).await;
    assert_eq!(destinations["data"][0]["has_secret"], true, "{destinations}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_token_reads_its_log_with_a_query_too_until_it_is_revoked() {
    let Some(http) = Http::start().await else { return };
    let id = session(&http).await;
    let tokens = format!("/v3/sessions/{id}/client-tokens");
    let made: Value = http.post(&tokens, json!({ "scopes": ["read"], "ttl": 60 })).await.json().await.unwrap();
    let (token, name) = (made["token"].as_str().unwrap(), made["id"].as_str().unwrap());
    let events = format!("/v3/sessions/{id}/events");
    let read = async |path: &str| http.anonymous(Method::GET, path).bearer_auth(token).send().await.unwrap().status();
    assert_eq!(read(&events).await, 200);
    assert_eq!(read(&format!("/v3/sessions/{id}")).await, 403);
    let in_query = http.anonymous(Method::GET, &format!("{events}?token={token}")).send().await.unwrap();
    assert_eq!(in_query.status(), 200);
    let send = http.anonymous(Method::POST, &format!("/v3/sessions/{id}/messages")).bearer_auth(token);
    assert_eq!(send.json(&json!({ "text": "say no" })).send().await.unwrap().status(), 403);
    let revoked = http.request(Method::DELETE, &format!("{tokens}/{name}")).send().await.unwrap();
    assert_eq!(revoked.status(), 204);
    assert_eq!(read(&events).await, 401);
}
