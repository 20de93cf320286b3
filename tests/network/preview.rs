//! Previews: a port of a sandbox over the node's HTTP listener.

use handsd::api::proto::{Phase, PreviewRequest, PreviewResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::inside::{has_python, hibernate, phase, serve};
use crate::support::{Daemon, Options, SOON, Sandbox};

/// Answers a request with what it was sent; `/events` by two events, the second when another request asks for `/next`;
/// and whoever wants to speak "echo" instead of HTTP, by that.
pub const SERVER: &str = r#"
import socket, sys, threading
following = threading.Event()
def serve(connection):
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    head, rest = head.split(b"\r\n\r\n", 1)
    lowered = head.lower()
    for line in lowered.split(b"\r\n"):
        if line.startswith(b"content-length:"):
            while len(rest) < int(line.split(b":")[1]):
                rest += connection.recv(4096)
    if b"upgrade: echo" in lowered:
        connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
        while data := connection.recv(4096):
            connection.sendall(data)
    elif b"/events" in head.split(b"\r\n")[0]:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        connection.sendall(b"8\r\ndata: 1\n\r\n")
        following.wait()
        connection.sendall(b"8\r\ndata: 2\n\r\n0\r\n\r\n")
    else:
        if b"/next" in head:
            following.set()
        said = head + b"\n\n" + rest
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(said) + said)
    connection.close()
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"#;

async fn start() -> Option<Daemon> {
    if !has_python() {
        return None;
    }
    Daemon::start_with(Options { http: true, ..Options::default() }).await
}

pub async fn preview(daemon: &Daemon, sandbox: &Sandbox, port: u32) -> PreviewResponse {
    let request = PreviewRequest { sandbox_id: sandbox.id.clone(), port };
    daemon.sandboxes().preview(request).await.unwrap().into_inner()
}

/// The address of the listener, and the name of the preview.
fn address(preview: &PreviewResponse) -> (String, String) {
    let rest = preview.url.strip_prefix("http://").unwrap();
    let host = rest.split('/').next().unwrap().to_owned();
    (format!("127.0.0.1:{}", host.rsplit(':').next().unwrap()), host)
}

/// Asks, and reads the whole answer.
async fn ask(address: &str, head: &str) -> String {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    tokio::time::timeout(SOON, socket.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    answer
}

/// Reads until something is there.
async fn read_until(socket: &mut TcpStream, wanted: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(wanted) {
        let mut chunk = [0; 1024];
        let count = tokio::time::timeout(SOON, socket.read(&mut chunk)).await.expect("it comes").unwrap();
        assert_ne!(count, 0, "{wanted} in {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&chunk[..count]);
    }
    String::from_utf8(bytes).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_a_cookie_for_its_token_and_sees_the_server_under_a_name_of_its_own() {
    let Some(daemon) = start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, SERVER, "127.0.0.1", 3000).await;
    let preview = preview(&daemon, &sandbox, 3000).await;
    let (address, host) = address(&preview);
    assert!(host.starts_with(&format!("3000-{}.localhost:", sandbox.id)), "{host}");
    let query = preview.url.rsplit('/').next().unwrap();
    let entered = ask(&address, &format!("GET /{query}&a=1 HTTP/1.1\r\nHost: {host}")).await;
    assert!(entered.starts_with("HTTP/1.1 303 ") && entered.contains("\r\nlocation: /?a=1\r\n"), "{entered}");
    let cookie = entered.split("set-cookie: ").nth(1).unwrap().split(';').next().unwrap();
    assert!(entered.contains("; Path=/; HttpOnly; SameSite=Lax"), "{entered}");
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("POST /a/b?c HTTP/1.1\r\nHost: {host}\r\nCookie: x=y; {cookie}\r\nContent-Length: 4\r\n\r\n");
    socket.write_all(format!("{head}body").as_bytes()).await.unwrap();
    let seen = read_until(&mut socket, "body").await;
    assert!(seen.starts_with("HTTP/1.1 200 ") && seen.contains("POST /a/b?c HTTP/1.1"), "{seen}");
    assert!(seen.contains(&format!("host: {host}")) && seen.contains("cookie: x=y\r\n"), "{seen}");
    assert!(!seen.contains("content-security-policy"), "it is an origin of its own: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_own_token_nothing_is_seen() {
    let Some(daemon) = start().await else { return };
    let sandbox = daemon.sandbox().await;
    let (one, other) = (preview(&daemon, &sandbox, 3000).await, preview(&daemon, &sandbox, 3001).await);
    let (address, host) = address(&one);
    for head in [
        format!("GET / HTTP/1.1\r\nHost: {host}"),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Hands-Token: {}", other.token),
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nCookie: hands_preview={}", other.token),
        format!("GET /?hands_token={} HTTP/1.1\r\nHost: {host}", other.token),
        format!("GET /preview/{}/3000/ HTTP/1.1\r\nHost: localhost", sandbox.id),
        format!(
            "GET /preview/sb_00000000000000000000/3000/ HTTP/1.1\r\nHost: localhost\r\nX-Hands-Token: {}",
            one.token
        ),
    ] {
        let refused = ask(&address, &head).await;
        assert!(refused.starts_with("HTTP/1.1 401 ") && refused.contains("PREVIEW_TOKEN_INVALID"), "{head} {refused}");
    }
    assert!(ask(&address, "GET /livez HTTP/1.1\r\nHost: localhost").await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn by_path_it_has_no_origin_and_a_closed_port_is_named() {
    let Some(daemon) = start().await else { return };
    let sandbox = daemon.sandbox().await;
    let preview = preview(&daemon, &sandbox, 3000).await;
    let (address, host) = address(&preview);
    let path = format!("/preview/{}/3000", sandbox.id);
    let token = format!("X-Hands-Token: {}", preview.token);
    let closed = ask(&address, &format!("GET {path}/ HTTP/1.1\r\nHost: localhost\r\n{token}")).await;
    assert!(closed.starts_with("HTTP/1.1 502 ") && closed.contains("\"PORT_CLOSED\""), "{closed}");
    assert!(
        closed.contains(&format!("\"sandbox_id\":\"{}\"", sandbox.id)) && closed.contains("\"port\":3000"),
        "{closed}"
    );
    let page = ask(&address, &format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html,*/*\r\n{token}")).await;
    assert!(page.starts_with("HTTP/1.1 502 ") && page.contains("http-equiv=refresh"), "{page}");
    serve(&daemon, &sandbox, SERVER, "127.0.0.1", 3000).await;
    let seen = ask(&address, &format!("GET {path}/a//b?c HTTP/1.1\r\nHost: localhost\r\n{token}")).await;
    assert!(seen.contains("GET /a//b?c HTTP/1.1") && seen.contains("localhost:3000"), "{seen}");
    assert!(seen.contains(&format!("x-forwarded-prefix: {path}")), "{seen}");
    assert!(seen.contains("content-security-policy: sandbox allow-scripts"), "{seen}");
    assert!(!seen.contains(&preview.token), "the server does not see the token: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_as_they_are_sent() {
    let Some(daemon) = start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, SERVER, "127.0.0.1", 3000).await;
    let preview = preview(&daemon, &sandbox, 3000).await;
    let (address, host) = address(&preview);
    let common = format!("HTTP/1.1\r\nHost: {host}\r\nX-Hands-Token: {}", preview.token);
    let mut events = TcpStream::connect(&address).await.unwrap();
    events.write_all(format!("GET /events {common}\r\n\r\n").as_bytes()).await.unwrap();
    let first = read_until(&mut events, "data: 1").await;
    assert!(first.contains("text/event-stream") && !first.contains("data: 2"), "{first}");
    ask(&address, &format!("GET /next {common}")).await;
    read_until(&mut events, "data: 2").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_outlives_a_sleep_and_a_request_ends_one() {
    let Some(daemon) = start().await else { return };
    let sandbox = daemon.sandbox().await;
    serve(&daemon, &sandbox, SERVER, "127.0.0.1", 3000).await;
    let preview = preview(&daemon, &sandbox, 3000).await;
    let (address, host) = address(&preview);
    let common = format!("HTTP/1.1\r\nHost: {host}\r\nX-Hands-Token: {}", preview.token);
    let mut socket = TcpStream::connect(&address).await.unwrap();
    let head = format!("GET /socket {common}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: echo\r\n\r\n");
    socket.write_all(head.as_bytes()).await.unwrap();
    let switched = read_until(&mut socket, "\r\n\r\n").await;
    assert!(switched.starts_with("HTTP/1.1 101 ") && switched.contains("upgrade: echo"), "{switched}");
    for word in ["one", "two"] {
        socket.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(read_until(&mut socket, word).await, word);
        hibernate(&daemon, &sandbox).await;
    }
    let seen = ask(&address, &format!("GET /woken {common}")).await;
    assert!(seen.contains("GET /woken"), "{seen}");
    assert_eq!(phase(&sandbox).await, Phase::Running);
    sandbox.destroy().await.unwrap();
    let gone = ask(&address, &format!("GET / {common}")).await;
    assert!(gone.starts_with("HTTP/1.1 404 ") && gone.contains("SANDBOX_NOT_FOUND"), "{gone}");
}
