//! Peers that vanish: no end of their connections is ever told.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::cli::Forwarding;
use crate::inside::{ECHO, has_python, serve};
use crate::lab::Lab;
use crate::preview::{SERVER, preview};
use crate::proxy::{proxy, sandbox_with};
use crate::support::{Daemon, Options, SOON, Sandbox, eventually, expect, probe, shell};

/// Says hello to whoever connects, and then nothing.
const SILENT: &str = r#"
import socket, threading
server = socket.create_server(("198.51.100.2", 81))
print("ready")
kept = []
while True:
    connection = server.accept()[0]
    connection.sendall(b"hello")
    kept.append(connection)
"#;

/// Goes through the proxy to [`SILENT`], and tells how that ends.
const TALK: &str = r#"
import socket
proxy = socket.create_connection(("127.0.0.1", 7422))
proxy.sendall(b"CONNECT world.test:81 HTTP/1.1\r\n\r\n")
said = b""
while not said.endswith(b"hello"):
    said += proxy.recv(4096)
print("open", flush=True)
try:
    print("ended", proxy.recv(1))
except OSError as error:
    print("ended", error)
"#;

/// The connections inside that are open, both ends of each.
async fn open_inside(sandbox: &Sandbox) -> String {
    sandbox.read("awk '$4 == \"01\"' /proc/net/tcp | wc -l").await
}

async fn vanished(lab: &Lab, daemon: &Daemon, address: &str) -> Vec<String> {
    let stream = lab.connect(address).await;
    let (_, text) = probe::get_over(stream, address, &format!("/metrics?api_key={}", daemon.key())).await;
    text.lines().filter(|line| line.starts_with("handsd_connections_vanished_total")).map(str::to_owned).collect()
}

async fn read_until(stream: &mut TcpStream, end: &str) {
    let mut said = Vec::new();
    while !said.ends_with(end.as_bytes()) {
        let mut byte = [0];
        stream.read_exact(&mut byte).await.unwrap();
        said.extend(byte);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_that_vanish_are_cut_and_counted_and_what_they_held_is_free() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() {
        return;
    }
    lab.serve(SILENT);
    let config = "limits.silence = '2s'\nhttp.unread_timeout = '2s'\n".to_owned();
    let Some(daemon) = lab.daemon_with(Options { config, http: true, ..Options::default() }).await else { return };
    let (http, grpc) = (daemon.http_address().await, daemon.tcp_address());

    let proxied = sandbox_with(&daemon, proxy(&["world.test:81"])).await.unwrap();
    let _talking = proxied.start(shell(&format!("python3 - > talk.log <<'EOF'\n{TALK}\nEOF"))).await.unwrap();
    let talked = async |word: &str| {
        eventually(SOON, || async {
            let log = proxied.read("cat talk.log").await;
            expect(log.contains(word), log)
        })
        .await;
    };
    talked("open").await;

    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, ECHO, "127.0.0.1", 3000).await;
    let hands = lab.command_on_node(env!("CARGO_BIN_EXE_hands"));
    let forwarding = Forwarding::start_as(hands, &grpc, &sandbox, 3000);
    let mut forwarded = lab.connect(&forwarding.address).await;
    forwarded.write_all(b"one").await.unwrap();
    read_until(&mut forwarded, "one").await;

    serve(&daemon, &sandbox, SERVER, "127.0.0.1", 3001).await;
    let preview = preview(&daemon, &sandbox, 3001).await;
    let mut looked = lab.connect(&http).await;
    let head = format!("GET /preview/{}/3001/socket HTTP/1.1\r\nHost: localhost\r\n", sandbox.id);
    let upgrade = "Connection: Upgrade\r\nUpgrade: echo\r\n";
    let head = format!("{head}{upgrade}X-Hands-Token: {}\r\n\r\n", preview.token);
    looked.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut looked, "\r\n\r\n").await;

    assert_eq!(open_inside(&sandbox).await, "4", "a forwarded connection and a looked at one");
    assert_eq!(vanished(&lab, &daemon, &http).await, Vec::<String>::new());
    let port = |address: &str| address.rsplit(':').next().unwrap().parse::<u16>().unwrap();
    for port in [81, port(&grpc), looked.local_addr().unwrap().port()] {
        lab.lose(port);
    }
    talked("ended").await;
    let expected = ["grpc_client", "http_client", "proxied_host"]
        .map(|peer| format!("handsd_connections_vanished_total{{peer=\"{peer}\"}} 1"));
    eventually(SOON, || async {
        let found = vanished(&lab, &daemon, &http).await;
        expect(found == expected, format!("{found:?}"))
    })
    .await;
    eventually(SOON, || async {
        let open = open_inside(&sandbox).await;
        expect(open == "0", format!("{open} are open inside"))
    })
    .await;
}
