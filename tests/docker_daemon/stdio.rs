//! Guests that are reached by the stdin and stdout of their containers. Any runtime can be asked to do without sockets, so
//! that Docker's own stands for those that have to.

use std::process::Command;
use std::time::Instant;

use handsd::api::proto::input_request::Input;
use handsd::api::proto::network::Mode;
use handsd::api::proto::{BashRequest, Eof, Network, Pty, Resize};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use super::inside::{Forward, ports};
use super::support::duration;
use super::support::engine::STDIO;
use super::*;

/// 112.5 MB, every line another.
const BIG: &str = "seq 10000000 22499999";
const BIG_SIZE: usize = 112_500_000;

async fn reached_by_stdio() -> Option<(Arc<Dockerd>, Daemon)> {
    start_configured(&[], STDIO).await
}

fn on_terminal(line: &str) -> BashRequest {
    BashRequest { pty: Some(Pty { rows: 24, cols: 80, ..Pty::default() }), ..shell(line) }
}

async fn type_in(sandbox: &Sandbox, run: &str, text: &str) {
    sandbox.input(run, vec![Input::Data(text.as_bytes().to_vec().into())]).await.unwrap();
}

/// The sum of what it writes.
fn big() -> Vec<u8> {
    let written = Command::new("sh").args(["-c", BIG]).output().unwrap().stdout;
    assert_eq!(written.len(), BIG_SIZE);
    Sha256::digest(written).to_vec()
}

/// The process that stands for a sandbox's guest.
fn relay(daemon: &Daemon, sandbox: &Sandbox) -> u32 {
    let note = daemon.state().join("sandboxes").join(&sandbox.id).join("relay");
    fs::read_to_string(note).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn runs_files_and_input_work_without_a_socket() {
    let Some((dockerd, daemon)) = reached_by_stdio().await else { return };
    assert_eq!(daemon.node().info(NodeInfoRequest {}).await.unwrap().into_inner().guest_passage, "stdio");
    let sandbox = daemon.sandbox().await;
    let outcome = sandbox.bash("printf out; printf err >&2; exit 7").await;
    assert_eq!((outcome.stdout_text(), outcome.stderr_text(), outcome.code()), ("out".into(), "err".into(), Some(7)));
    let missing = refusal(sandbox.run(argv(&["/missing"])).await.map(|outcome| outcome.code()));
    assert_eq!(missing, fault(Code::NotFound, ErrorReason::ProgramNotFound));

    let run = sandbox.start(BashRequest { stdin: true, ..shell("cat; echo end") }).await.unwrap();
    let sent = vec![Input::Data(vec![b'x'; 300_000].into()), Input::Eof(Eof {})];
    sandbox.input(run.id(), sent).await.unwrap();
    let outcome = run.finish().await.unwrap();
    assert_eq!((outcome.stdout.len(), outcome.code()), (300_000 + "end\n".len(), Some(0)));

    let files = Files::of(&daemon, &sandbox);
    for size in [0, 1, (4 << 20) + 1] {
        let content: Vec<u8> = (0..size).map(|at: u32| at.to_le_bytes()[1] ^ at.to_le_bytes()[0]).collect();
        files.write("file", &content).await.unwrap();
        assert!(files.read("file").await.unwrap() == content, "{size}");
    }
    assert_eq!(sandbox.read("stat -c %s file; ls | wc -l").await, "4194305\n1");

    let relay = relay(&daemon, &sandbox);
    sandbox.destroy().await.unwrap();
    eventually(SOON, || async { expect(!process::is_alive(relay), "the relay lives") }).await;
    assert_eq!(daemon.leftovers(), Vec::<String>::new());
    assert_eq!(dockerd.json("/containers/json?all=1").as_array().map(Vec::len), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn output_comes_whole_and_a_deadline_ends_those_that_escape() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut sum = Sha256::new();
    let exited = sandbox.start(shell(BIG)).await.unwrap().finish_into(&mut sum).await.unwrap();
    assert_eq!((exited.output_bytes, sum.finalize().to_vec()), (BIG_SIZE as u64, big()));
    assert!(exited.degraded, "{exited:?}");

    let escape = "echo partial; setsid nohup sleep 4763 >/dev/null 2>&1 & sh -c 'sleep 4763 &' & sleep 4763";
    let timed = BashRequest { timeout: duration(Duration::from_secs(1)), ..shell(escape) };
    let began = Instant::now();
    let outcome = sandbox.run(timed).await.unwrap();
    assert_eq!((outcome.reason(), outcome.stdout_text().as_str()), (Reason::TimedOut, "partial\n"));
    assert!(began.elapsed() < SOON);
    assert_eq!(sandbox.bash("pgrep sleep || echo none").await.stdout_text(), "none\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_without_a_cgroup_of_its_own_that_is_killed_for_want_of_memory_says_so() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let limits = Some(Limits { memory_bytes: 32 << 20, ..Limits::default() });
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { limits, ..Default::default() }).await.unwrap();
    let outcome = sandbox.run(argv(&["tail", "/dev/zero"])).await.unwrap();
    assert_eq!((outcome.reason(), outcome.exited.degraded), (Reason::OomKilled, true));
    let killed = sandbox.bash("kill -9 $$").await;
    assert_eq!((killed.reason(), killed.signal()), (Reason::Signaled, Some(libc::SIGKILL)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_daemon_costs_no_byte_of_a_sandbox_without_a_socket() {
    let Some((_dockerd, mut daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let (init, relay) = (daemon.init(&sandbox), relay(&daemon, &sandbox));
    let mut run = sandbox.start(BashRequest { stdin: true, ..shell(&format!("{BIG}; cat; exit 3")) }).await.unwrap();
    run.read_bytes(10_000_000).await.unwrap();
    let ended = sandbox.start(shell("echo short; exit 4")).await.unwrap();
    for _ in 0..2 {
        daemon.kill_and_restart().await;
        assert_eq!(daemon.init(&sandbox.through(&daemon)), init);
    }
    let sandbox = sandbox.through(&daemon);
    let sent = vec![Input::Data(b"input\n".to_vec().into()), Input::Eof(Eof {})];
    sandbox.input(run.id(), sent).await.unwrap();
    let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    let (big_part, tail) = outcome.stdout.split_at(BIG_SIZE);
    assert_eq!((Sha256::digest(big_part).to_vec(), tail), (big(), b"input\n".as_slice()));
    assert_eq!(outcome.code(), Some(3));
    let short = sandbox.attach(ended.id(), 0).await.unwrap().finish().await.unwrap();
    assert_eq!((short.stdout_text().as_str(), short.code()), ("short\n", Some(4)));
    assert!(process::is_alive(relay));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_without_a_socket_sleeps_and_wakes_and_is_started_again_when_its_relay_dies() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let mut run = sandbox.start(shell("i=0; while :; do i=$((i+1)); echo $i; sleep 0.01; done")).await.unwrap();
    run.read_until("10\n").await.unwrap();
    sandbox.kill(run.id(), libc::SIGKILL.unsigned_abs()).await.unwrap();
    // Until it is over, it keeps the sandbox awake.
    assert_eq!(run.finish().await.unwrap().signal(), Some(libc::SIGKILL));
    sandbox.bash("echo kept > file").await;
    for tier in [Tier::Frozen, Tier::Stopped] {
        let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
        daemon.sandboxes().hibernate(request).await.unwrap();
        assert_eq!(sandbox.read("cat file").await, "kept", "{tier:?}");
    }
    process::kill(relay(&daemon, &sandbox));
    eventually(SOON, || async {
        let read = sandbox.run(shell("cat file")).await.map_err(|status| status.to_string())?;
        expect(read.stdout_text() == "kept\n", "not yet")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_is_typed_in_and_resized_and_goes_on_when_its_daemon_dies() {
    let Some((_dockerd, mut daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let line = "stty size; tty; trap 'stty size' WINCH; echo ready; \
                while ! read line; do :; done; echo \"<$line>\"; (sleep 0.2; echo late) & exit 3";
    let mut run = sandbox.start(on_terminal(line)).await.unwrap();
    let said = run.read_until("ready\r\n").await.unwrap();
    assert!(said.starts_with("24 80\r\n/dev/pts/"), "{said:?}");
    sandbox.input(run.id(), vec![Input::Resize(Resize { rows: 30, cols: 100 })]).await.unwrap();
    // The shell hears of it when its read is over.
    type_in(&sandbox, run.id(), "\x04").await;
    run.read_until("30 100\r\n").await.unwrap();
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    type_in(&sandbox, run.id(), "hello\n").await;
    let outcome = sandbox.attach(run.id(), 0).await.unwrap().finish().await.unwrap();
    assert!(outcome.stdout_text().contains("hello\r\n<hello>\r\n"), "{:?}", outcome.stdout_text());
    assert_eq!((outcome.code(), outcome.stderr.len()), (Some(3), 0));

    let mut shell = sandbox.start(on_terminal("exec bash --norc --noprofile -i")).await.unwrap();
    type_in(&sandbox, shell.id(), "PS1=; echo up$((1 + 1)); sleep 1000\n").await;
    shell.read_until("up2\r\n").await.unwrap();
    eventually(SOON, || async {
        let processes = sandbox.processes().await;
        expect(processes.iter().any(|line| line == "sleep 1000"), format!("{processes:?}"))
    })
    .await;
    type_in(&sandbox, shell.id(), "\x03").await;
    type_in(&sandbox, shell.id(), "echo code$?\n").await;
    shell.read_until("code130\r\n").await.unwrap();
    // In words: the end of input is lost on a terminal whose shell is about to take it out of its line mode.
    type_in(&sandbox, shell.id(), "exit 0\n").await;
    assert_eq!(shell.finish().await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_output_of_a_terminal_comes_whole_and_what_nobody_reads_of_the_input_is_no_loss() {
    let Some((_dockerd, daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let run = sandbox.start(on_terminal("stty -onlcr -echo; echo ready; sleep 0.2; seq 200000")).await.unwrap();
    type_in(&sandbox, run.id(), "nobody reads it\n").await;
    let outcome = run.finish().await.unwrap();
    let written = Command::new("seq").arg("200000").output().unwrap().stdout;
    assert!(outcome.stdout.ends_with(&written), "{} bytes", outcome.stdout.len());
    assert_eq!((outcome.code(), outcome.reason()), (Some(0), Reason::Exited));
}

#[tokio::test(flavor = "multi_thread")]
async fn ports_inside_are_reached_without_a_socket_and_each_direction_has_its_own_end() {
    let Some((_dockerd, mut daemon)) = reached_by_stdio().await else { return };
    let sandbox = daemon.sandbox().await;
    let closed = Forward::open(&daemon, &sandbox, 3000).await.err().unwrap();
    assert_eq!((closed.code(), reason(&closed).as_str()), (Code::FailedPrecondition, "PORT_CLOSED"));
    sandbox.bash("busybox nc -ll -p 3000 -e sh -c 'cat; echo bye' >/dev/null 2>&1 &").await;
    eventually(SOON, || async {
        let open = ports(&daemon, &sandbox).await;
        expect(open.iter().any(|(port, _)| *port == 3000), format!("{open:?}"))
    })
    .await;
    let forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    forward.goes_both_ways(1_000_000, b"bye\n").await;

    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    let open: Vec<_> = futures_util::future::join_all((0..20).map(|_| Forward::open(&daemon, &sandbox, 3000))).await;
    for (number, forward) in open.into_iter().enumerate() {
        let (mut forward, word) = (forward.unwrap(), format!("word {number}"));
        forward.send(word.as_bytes()).await;
        assert_eq!(forward.read(word.len()).await, word.as_bytes());
    }
}

/// A server of the world, which answers every request with a word; its port. It ends with the tasks.
async fn world(tasks: &mut JoinSet<()>, word: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut head = [0; 4096];
            let _ = client.read(&mut head).await;
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{word}", word.len());
            let _ = client.write_all(head.as_bytes()).await;
        }
    });
    port
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_is_reached_from_inside_without_a_socket_and_holds_the_sandbox_to_its_list() {
    let mut tasks = JoinSet::new();
    let (listed, other) = (world(&mut tasks, "listed").await, world(&mut tasks, "other").await);
    let config = format!("[network]\nreachable = ['127.0.0.0/8']\n{STDIO}");
    let Some((_dockerd, mut daemon)) = start_configured(&[], &config).await else { return };
    let network = Some(Network { mode: Mode::Proxy.into(), allow: vec![format!("localhost:{listed}")] });
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { network, ..Default::default() }).await.unwrap();
    let get = |port: u16| format!("busybox wget -q -O - http://localhost:{port}/ 2>&1");
    assert_eq!(sandbox.read(&get(listed)).await, "listed");
    let refused = sandbox.bash(&get(other)).await;
    assert!(refused.code() != Some(0) && !refused.stdout_text().contains("other"), "{refused:?}");
    assert_eq!(ports(&daemon, &sandbox).await, [], "the proxy's own is not told");
    daemon.kill_and_restart().await;
    assert_eq!(sandbox.through(&daemon).read(&get(listed)).await, "listed");
}
