use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc as std_mpsc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tokio::task::JoinSet;

use super::*;
use crate::ids::SandboxId;

fn store() -> (TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("store.db")).unwrap();
    (directory, store)
}

async fn reopened(directory: &TempDir, store: Store) -> Store {
    store.close().await.unwrap();
    Store::open(&directory.path().join("store.db")).unwrap()
}

fn event(body: &str) -> NewEvent {
    NewEvent { at: UNIX_EPOCH, kind: "test".to_owned(), body: body.to_owned() }
}

async fn append(store: &Store, body: &str) -> Result<u64, StoreError> {
    store.append_event(event(body)).await
}

/// Everything that is kept, page by page.
async fn bodies(store: &Store) -> Vec<(u64, String)> {
    let mut found: Vec<(u64, String)> = Vec::new();
    loop {
        let after = found.last().map_or(0, |(seq, _)| *seq);
        let page = store.events(after, 1000).await.unwrap();
        if page.is_empty() {
            return found;
        }
        found.extend(page.into_iter().map(|event| (event.seq, event.body)));
    }
}

#[tokio::test]
async fn sandboxes_keep_their_order_and_their_newest_record_over_a_restart() {
    let (directory, store) = store();
    let ids: Vec<SandboxId> = (0..3).map(|_| SandboxId::random()).collect();
    for id in &ids {
        store.put_sandbox(id, "created".to_owned(), event("")).await.unwrap();
    }
    store.put_sandbox(&ids[0], "running".to_owned(), event("")).await.unwrap();
    store.remove_sandbox(&ids[1], event("")).await.unwrap();
    let store = reopened(&directory, store).await;
    let expected = vec![(ids[0].clone(), "running".to_owned()), (ids[2].clone(), "created".to_owned())];
    assert_eq!(store.sandboxes().await.unwrap(), expected);
}

#[tokio::test]
async fn each_change_of_a_sandbox_brings_its_event() {
    let (_directory, store) = store();
    let sandbox = SandboxId::random();
    store.put_sandbox(&sandbox, "creating".to_owned(), event("creating")).await.unwrap();
    store.hand_over_sandbox(&sandbox, "running".to_owned(), event("running")).await.unwrap();
    store.remove_sandbox(&sandbox, event("gone")).await.unwrap();
    assert_eq!(store.sandboxes().await.unwrap(), []);
    let events = store.events(0, 10).await.unwrap();
    assert!(events.iter().all(|event| event.sandbox.as_ref() == Some(&sandbox)));
    let bodies: Vec<&str> = events.iter().map(|event| event.body.as_str()).collect();
    assert_eq!(bodies, ["creating", "running", "gone"]);
}

#[tokio::test]
async fn an_event_comes_back_as_it_was_appended() {
    let (directory, store) = store();
    let (sandbox, at) = (SandboxId::random(), SystemTime::now());
    let crash = NewEvent { at, kind: "crashed".to_owned(), body: "{\"signal\":9}".to_owned() };
    store.put_sandbox(&sandbox, String::new(), crash).await.unwrap();
    let before_1970 = UNIX_EPOCH - Duration::from_secs(1);
    let drain = NewEvent { at: before_1970, kind: "drained".to_owned(), body: String::new() };
    assert_eq!(store.append_event(drain).await.unwrap(), 2);
    let store = reopened(&directory, store).await;
    assert_eq!(*store.newest().borrow(), 2);
    let crashed = StoredEvent {
        seq: 1,
        at,
        sandbox: Some(sandbox),
        kind: "crashed".to_owned(),
        body: "{\"signal\":9}".to_owned(),
    };
    let drained =
        StoredEvent { seq: 2, at: UNIX_EPOCH, sandbox: None, kind: "drained".to_owned(), body: String::new() };
    assert_eq!(store.events(0, 10).await.unwrap(), [crashed, drained]);
}

#[tokio::test]
async fn seq_goes_on_after_all_was_trimmed_and_the_store_opened_again() {
    let (directory, store) = store();
    for body in ["a", "b", "c"] {
        append(&store, body).await.unwrap();
    }
    store.trim_events(0).await.unwrap();
    let store = reopened(&directory, store).await;
    assert_eq!(*store.newest().borrow(), 3);
    assert!(matches!(store.events(2, 10).await, Err(StoreError::Expired { oldest: 4 })));
    assert_eq!(append(&store, "d").await.unwrap(), 4);
    assert_eq!(store.events(3, 10).await.unwrap().len(), 1);
    assert!(matches!(store.events(5, 10).await, Err(StoreError::Ahead { newest: 4 })));
}

#[tokio::test]
async fn a_page_of_large_events_ends_early() {
    let (_directory, store) = store();
    let body = "x".repeat(TEXT_LIMIT);
    for _ in 0..6 {
        append(&store, &body).await.unwrap();
    }
    assert_eq!(store.events(0, 100).await.unwrap().len(), 4);
    assert_eq!(store.events(4, 100).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_text_that_is_too_long_is_refused_by_name() {
    let (_directory, store) = store();
    let (sandbox, text) = (SandboxId::random(), "x".repeat(TEXT_LIMIT + 1));
    let field = |refused: Result<(), StoreError>| match refused {
        Err(StoreError::TooLarge { field, len }) if len == TEXT_LIMIT + 1 => field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(store.put_sandbox(&sandbox, text.clone(), event("")).await), "record");
    let kind = NewEvent { kind: text.clone(), ..event("") };
    assert_eq!(field(store.append_event(kind).await.map(drop)), "kind");
    assert_eq!(field(append(&store, &text).await.map(drop)), "body");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_appends_keep_the_order_of_each_caller() {
    let (_directory, store) = store();
    let mut callers = JoinSet::new();
    for caller in 0..16 {
        let store = store.clone();
        callers.spawn(async move {
            for number in 0..40 {
                let seq = append(&store, &format!("{caller} {number}")).await.unwrap();
                // Append before publish: whoever has the answer can read it, and followers were told.
                assert!(*store.newest().borrow() >= seq);
                assert_eq!(store.events(seq - 1, 1).await.unwrap()[0].body, format!("{caller} {number}"));
            }
        });
    }
    callers.join_all().await;
    let mut next = BTreeMap::new();
    for (place, (seq, body)) in bodies(&store).await.into_iter().enumerate() {
        assert_eq!(seq, place as u64 + 1);
        let (caller, number) = body.split_once(' ').unwrap();
        let next = next.entry(caller.to_owned()).or_insert(0);
        assert_eq!(number, next.to_string());
        *next += 1;
    }
    assert!(next.len() == 16 && next.values().all(|count| *count == 40), "{next:?}");
}

/// Has the writer wait in a transaction until the sender is used or dropped.
async fn hold(store: &Store) -> (std_mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), StoreError>>) {
    let (release, held) = std_mpsc::channel();
    let (entered, entering) = tokio::sync::oneshot::channel();
    let store = store.clone();
    let holding = tokio::task::spawn(async move {
        let wait = move |_: &Connection| {
            entered.send(()).unwrap();
            let _ = held.recv();
            Ok(())
        };
        store.write(wait).await
    });
    entering.await.unwrap();
    (release, holding)
}

/// Sends appends that then wait for the writer, which is held.
async fn queue(store: &Store, count: usize) -> JoinSet<Result<u64, StoreError>> {
    let mut appends = JoinSet::new();
    for number in 0..count {
        let store = store.clone();
        appends.spawn(async move { append(&store, &number.to_string()).await });
    }
    while store.shared.requests.capacity() + count > store.shared.requests.max_capacity() {
        tokio::task::yield_now().await;
    }
    appends
}

#[tokio::test]
async fn writes_that_wait_share_a_transaction() {
    let (_directory, store) = store();
    let (release, holding) = hold(&store).await;
    let mut appends = queue(&store, 100).await;
    let newest = store.newest();
    assert_eq!(*newest.borrow(), 0);
    drop(release);
    holding.await.unwrap().unwrap();
    appends.join_next().await.unwrap().unwrap().unwrap();
    // The first answer came after the commit of them all.
    assert_eq!(*newest.borrow(), 100);
    assert_eq!(bodies(&store).await.len(), 100);
    appends.join_all().await;
}

#[tokio::test]
async fn a_caller_that_stops_waiting_does_not_take_its_write_back() {
    let (_directory, store) = store();
    let (release, holding) = hold(&store).await;
    let mut appends = queue(&store, 1).await;
    appends.shutdown().await;
    drop(release);
    holding.await.unwrap().unwrap();
    let mut newest = store.newest();
    assert_eq!(*newest.wait_for(|newest| *newest > 0).await.unwrap(), 1);
}

#[tokio::test]
async fn a_follower_gets_each_event_once_by_reading_and_waiting() {
    let (_directory, store) = store();
    let mut callers = JoinSet::new();
    for caller in 0..4 {
        let store = store.clone();
        callers.spawn(async move {
            for number in 0..50 {
                append(&store, &format!("{caller} {number}")).await.unwrap();
            }
        });
    }
    let (mut newest, mut cursor) = (store.newest(), 0);
    while cursor < 200 {
        newest.wait_for(|newest| *newest > cursor).await.unwrap();
        for event in store.events(cursor, 7).await.unwrap() {
            assert_eq!(event.seq, cursor + 1);
            cursor = event.seq;
        }
    }
    callers.join_all().await;
}

#[tokio::test]
async fn a_store_that_closes_finishes_what_it_was_given_and_refuses_the_rest() {
    let (directory, store) = store();
    let (release, holding) = hold(&store).await;
    let appends = queue(&store, 20).await;
    let (other, mut newest) = (store.clone(), store.newest());
    drop(release);
    store.close().await.unwrap();
    holding.await.unwrap().unwrap();
    assert!(appends.join_all().await.iter().all(Result::is_ok));
    assert_eq!(*newest.borrow_and_update(), 20);
    assert!(newest.changed().await.is_err());
    assert!(matches!(append(&other, "late").await, Err(StoreError::Gone)));
    assert!(matches!(other.sandboxes().await, Err(StoreError::Gone)));
    other.close().await.unwrap();
    // All of it is in the one file: nothing is left to be recovered.
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    let store = Store::open(&directory.path().join("store.db")).unwrap();
    assert_eq!(bodies(&store).await.len(), 20);
}

#[tokio::test]
async fn the_writer_ends_when_the_last_handle_is_dropped() {
    let (_directory, store) = store();
    let (other, mut newest) = (store.clone(), store.newest());
    drop(store);
    append(&other, "still open").await.unwrap();
    newest.borrow_and_update();
    drop(other);
    assert!(newest.changed().await.is_err());
}

#[tokio::test]
async fn a_writer_that_died_is_told_to_everyone() {
    let (_directory, store) = store();
    append(&store, "before").await.unwrap();
    let died = store.write::<(), _>(|_| panic!("of this test")).await;
    assert!(matches!(died, Err(StoreError::Gone)));
    assert!(matches!(append(&store, "after").await, Err(StoreError::Gone)));
    assert!(store.newest().wait_for(|newest| *newest > 1).await.is_err());
    assert!(matches!(store.close().await, Err(StoreError::Gone)));
}

/// Appends until the disk is full. Gives how many events are acknowledged.
async fn fill(store: &Store, body: &str) -> u64 {
    let mut acknowledged = 0;
    loop {
        match append(store, body).await {
            Ok(seq) => acknowledged = seq,
            Err(StoreError::Full { .. }) => return acknowledged,
            Err(error) => panic!("{error:?}"),
        }
    }
}

async fn goes_on_after(store: &Store, acknowledged: u64) {
    assert_eq!(*store.newest().borrow(), acknowledged);
    assert_eq!(append(store, "there is room again").await.unwrap(), acknowledged + 1);
    let kept: Vec<u64> = bodies(store).await.into_iter().map(|(seq, _)| seq).collect();
    assert_eq!(kept, (1..=acknowledged + 1).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_database_that_may_not_grow_fails_its_writes_until_it_may() {
    let (_directory, store) = store();
    let bound = |pages: u32| move |connection: &Connection| connection.pragma_update(None, "max_page_count", pages);
    store.write(bound(64)).await.unwrap();
    let acknowledged = fill(&store, &"x".repeat(10_000)).await;
    assert!(acknowledged > 0);
    store.write(bound(1_000_000)).await.unwrap();
    goes_on_after(&store, acknowledged).await;
}

#[test]
fn a_full_disk_fails_writes_until_there_is_room() {
    let directory = tempfile::tempdir().unwrap();
    let disk: PathBuf = directory.path().to_owned();
    // A thread of its own, whose mounts nobody else sees and which take their end with it.
    let full = move || {
        let none = None::<&str>;
        let mounted = unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .and_then(|()| mount(Some("none"), &disk, Some("tmpfs"), MsFlags::empty(), Some("size=4m")));
        if let Err(errno) = mounted {
            println!("skipped: a small disk cannot be mounted here: {errno}");
            return;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let store = Store::open(&disk.join("store.db")).unwrap();
            fs::write(disk.join("ballast"), vec![0; 2 << 20]).unwrap();
            let acknowledged = fill(&store, &"x".repeat(50_000)).await;
            assert!(acknowledged > 0);
            assert_eq!(bodies(&store).await.len() as u64, acknowledged);
            fs::remove_file(disk.join("ballast")).unwrap();
            goes_on_after(&store, acknowledged).await;
            store.close().await.unwrap();
        });
    };
    std::thread::spawn(full).join().unwrap();
}

#[tokio::test]
async fn what_is_no_database_or_a_broken_one_is_refused_as_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    fs::write(&path, "no database, but long enough to have its header here".repeat(100)).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));

    fs::remove_file(&path).unwrap();
    Store::open(&path).unwrap().close().await.unwrap();
    let mut bytes = fs::read(&path).unwrap();
    bytes[4096..].fill(0xff);
    fs::write(&path, bytes).unwrap();
    assert!(matches!(Store::open(&path), Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn a_row_that_this_program_never_wrote_is_damage() {
    let (_directory, store) = store();
    let foreign =
        |connection: &Connection| connection.execute("INSERT INTO sandboxes (id, record) VALUES ('x', '')", []);
    store.write(foreign).await.unwrap();
    assert!(matches!(store.sandboxes().await, Err(StoreError::Damaged { .. })));
}

#[tokio::test]
async fn a_database_that_another_program_holds_is_refused_as_locked() {
    let (directory, store) = store();
    let path = directory.path().join("store.db");
    let other = Connection::open(&path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    assert!(matches!(append(&store, "").await, Err(StoreError::Locked { .. })));
    assert!(matches!(Store::open(&path), Err(StoreError::Locked { .. })));
    assert_eq!(bodies(&store).await, []);
    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(append(&store, "").await.unwrap(), 1);
}

#[test]
fn a_missing_directory_is_told_by_its_path() {
    let error = Store::open(Path::new("/nowhere/store.db")).unwrap_err();
    assert_eq!(error.to_string(), "making /nowhere/store.db");
}

#[test]
fn a_new_database_is_for_its_owner_only() {
    use std::os::unix::fs::PermissionsExt;
    let (directory, _store) = store();
    for file in fs::read_dir(directory.path()).unwrap() {
        assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }
}

/// Where [`an_appender_to_be_killed`] finds its store.
const VICTIM_STORE: &str = "HANDSD_TEST_STORE";

/// How many tasks of it append at a time.
const APPENDERS: usize = 8;

#[tokio::test]
async fn an_acknowledged_event_outlives_a_kill_at_any_moment() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store.db");
    let mut acknowledged = BTreeMap::new();
    for _ in 0..20 {
        let mut victim = Command::new(std::env::current_exe().unwrap())
            .args(["--ignored", "--exact", "--nocapture", "store::tests::an_appender_to_be_killed"])
            .env(VICTIM_STORE, &path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut random = [0; 2];
        getrandom::fill(&mut random).unwrap();
        let lines_until_kill = usize::from(u16::from_ne_bytes(random) % 300);
        let lines = BufReader::new(victim.stderr.take().unwrap()).lines();
        if lines_until_kill == 0 {
            victim.kill().unwrap();
        }
        for (number, line) in lines.enumerate() {
            if number + 1 == lines_until_kill {
                victim.kill().unwrap();
            }
            let line = line.unwrap();
            let (seq, body) = line.split_once(' ').expect("the victim says nothing else");
            assert_eq!(acknowledged.insert(seq.parse::<u64>().unwrap(), body.to_owned()), None, "{line}");
        }
        victim.wait().unwrap();
    }
    assert!(acknowledged.len() > 500, "{} acknowledged", acknowledged.len());

    let store = Store::open(&path).unwrap();
    let kept = bodies(&store).await;
    assert!(kept.iter().map(|(seq, _)| *seq).eq(1..=kept.len() as u64), "seq has a gap");
    let unique: BTreeSet<&String> = kept.iter().map(|(_, body)| body).collect();
    assert_eq!(unique.len(), kept.len(), "an event is doubled");
    for (seq, body) in acknowledged {
        assert_eq!(kept.get(usize::try_from(seq).unwrap() - 1), Some(&(seq, body)));
    }
}

/// Appends events that are all different, and says which are acknowledged, until it is killed.
#[test]
#[ignore = "another test runs it, to kill it"]
fn an_appender_to_be_killed() {
    let Some(path) = std::env::var_os(VICTIM_STORE) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        let store = Store::open(Path::new(&path)).unwrap();
        let mut appenders = JoinSet::new();
        for appender in 0..APPENDERS {
            let store = store.clone();
            appenders.spawn(async move {
                for number in 0.. {
                    let body = format!("{} {appender} {number}", std::process::id());
                    let seq = append(&store, &body).await.unwrap();
                    // In one write(2), so that a kill does not cut it.
                    std::io::stderr().write_all(format!("{seq} {body}\n").as_bytes()).unwrap();
                }
            });
        }
        appenders.join_all().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures, in a release build on an idle machine"]
async fn how_many_durable_appends_a_second() {
    let body = "x".repeat(300);
    for (callers, each) in [(1_u32, 5_000), (64, 5_000)] {
        let (_directory, store) = store();
        let begun = Instant::now();
        let mut tasks = JoinSet::new();
        for _ in 0..callers {
            let (store, body) = (store.clone(), body.clone());
            tasks.spawn(async move {
                for _ in 0..each {
                    append(&store, &body).await.unwrap();
                }
            });
        }
        tasks.join_all().await;
        let total = callers * each;
        println!("{callers} callers: {:.0} durable appends/s", f64::from(total) / begun.elapsed().as_secs_f64());
        assert_eq!(*store.newest().borrow(), u64::from(total));
    }
}
