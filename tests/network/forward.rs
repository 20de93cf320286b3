//! `Sandboxes.Forward` and `Sandboxes.Ports`.

use std::time::Duration;

use handsd::api::proto::{CreateSandboxRequest, Phase, forward_request};
use tonic::Code;

use crate::inside::{ECHO, Forward, has_python, hibernate, phase, ports, serve};
use crate::support::{Daemon, SOON, Sandbox, argv, duration, eventually, expect, field, reason};

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_and_each_direction_has_its_own_end() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    let forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    forward.goes_both_ways(3_000_000, b"bye").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_and_a_bad_first_message_are_refused_by_name() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let closed = Forward::open(&daemon, &sandbox, 3000).await.err().unwrap();
    assert_eq!((closed.code(), reason(&closed).as_str()), (Code::FailedPrecondition, "PORT_CLOSED"));
    assert!(closed.message().contains(&sandbox.id) && closed.message().contains("3000"), "{}", closed.message());
    for port in [0, 65_536] {
        let none = Forward::open(&daemon, &sandbox, port).await.err().unwrap();
        assert_eq!((none.code(), field(&none).as_str()), (Code::InvalidArgument, "port"));
    }
    let data = Forward::begin(&daemon, forward_request::Part::Data("x".into())).await.err().unwrap();
    assert_eq!((data.code(), field(&data).as_str()), (Code::InvalidArgument, "open"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_listens_on_ipv6_only_is_reached_too() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "::1", 5173).await;
    let mut forward = Forward::open(&daemon, &sandbox, 5173).await.unwrap();
    forward.send(b"six").await;
    assert_eq!(forward.read(3).await, b"six");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_connection_lets_a_sandbox_sleep_and_its_next_byte_wakes_it() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    hibernate(&daemon, &sandbox).await;
    assert_eq!(ports(&daemon, &sandbox).await, [(3000, "127.0.0.1".to_owned())]);
    assert_eq!(phase(&sandbox).await, Phase::Hibernated, "looking does not wake");
    let mut forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    assert_eq!(phase(&sandbox).await, Phase::Running);
    for round in 0..3 {
        let word = format!("round {round}");
        forward.send(word.as_bytes()).await;
        assert_eq!(forward.read(word.len()).await, word.as_bytes());
        hibernate(&daemon, &sandbox).await;
    }
}

/// Answers a second after it was asked.
const SLOW: &str = r#"
import socket, sys, time
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    connection = server.accept()[0]
    connection.recv(100)
    time.sleep(1)
    connection.sendall(b"late")
    connection.close()
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_stays_awake_until_it_has_answered() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let idle_timeout = duration(Duration::from_millis(100));
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { idle_timeout, ..Default::default() }).await.unwrap();
    serve(&daemon, &sandbox, SLOW, "127.0.0.1", 3000).await;
    let mut forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    forward.send(b"?").await;
    let before = sandbox.get().await.unwrap().generation;
    assert_eq!(forward.read_to_end().await, b"late");
    let answered = sandbox.get().await.unwrap();
    assert!(answered.generation == before || answered.phase() != Phase::Running, "it did not sleep over the answer");
    drop(forward);
    eventually(SOON, || async {
        let phase = phase(&sandbox).await;
        expect(phase == Phase::Hibernated, format!("{phase:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_ends_with_the_sandbox() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    let mut forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    forward.send(b"here").await;
    forward.read(4).await;
    sandbox.destroy().await.unwrap();
    // By its end or by an error, as the kernel tells it; but it does not hang.
    let ended = tokio::time::timeout(SOON, forward.next()).await.expect("it ends");
    assert!(!matches!(ended, Ok(Some(handsd::api::proto::forward_response::Part::Data(_)))), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_on_the_node_is_not_reached_from_inside_nor_forwarded_to() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let closed = Forward::open(&daemon, &sandbox, port.into()).await.err().unwrap();
    assert_eq!(reason(&closed), "PORT_CLOSED");
    let line = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    assert_eq!(sandbox.run(argv(&["bash", "-c", &line])).await.unwrap().code(), Some(1));
}
