//! Mode `proxy`: what an allowlist of names permits, and nothing else.

use std::time::Duration;

use handsd::api::proto::network::Mode;
use handsd::api::proto::{CreateSandboxRequest, Network, SetNetworkRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tonic::Status;

use crate::inside::has_python;
use crate::support::{Daemon, SOON, Sandbox, argv, eventually, expect, field, reason, shell};

/// The node's loopback stands for the world.
pub const LOOPBACK: &str = "[network]\nreachable = ['127.0.0.0/8']\n";

pub fn proxy<S: AsRef<str>>(allow: &[S]) -> Network {
    Network { mode: Mode::Proxy.into(), allow: allow.iter().map(|rule| rule.as_ref().to_owned()).collect() }
}

pub async fn sandbox_with(daemon: &Daemon, network: Network) -> Result<Sandbox, Status> {
    let request = CreateSandboxRequest { network: Some(network), ..Default::default() };
    Sandbox::create(daemon, request).await
}

pub async fn set_network(daemon: &Daemon, sandbox: &Sandbox, network: Network) -> Result<u64, Status> {
    let request = SetNetworkRequest { sandbox_id: sandbox.id.clone(), network: Some(network), secrets: Vec::new() };
    daemon.sandboxes().set_network(request).await.map(|sandbox| sandbox.into_inner().generation)
}

/// A server of the world: answers an HTTP request with what it was sent, and anything else with itself. Ends with the
/// test.
pub struct World {
    /// Where it is.
    pub port: u16,
    _tasks: JoinSet<()>,
}

impl World {
    /// Starts it.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                connections.spawn(serve(socket));
            }
        });
        Self { port, _tasks: tasks }
    }

    fn name(&self) -> String {
        format!("localhost:{}", self.port)
    }
}

async fn serve(mut socket: TcpStream) {
    let mut bytes = [0; 4096];
    while let Ok(count) = socket.read(&mut bytes).await
        && count > 0
    {
        let said = &bytes[..count];
        let answer = if said.windows(5).any(|window| window == b" HTTP") {
            let body = String::from_utf8_lossy(said).into_owned();
            format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len()).into_bytes()
        } else {
            said.to_vec()
        };
        let is_http = answer.starts_with(b"HTTP");
        if socket.write_all(&answer).await.is_err() || is_http {
            return;
        }
    }
}

/// Asks the proxy with python, which finds it by the environment; prints status and body. The variable that keeps the
/// sandbox's own loopback away from the proxy is taken out, because the node's stands for the world here.
fn get(url: &str) -> String {
    format!(
        r#"NO_PROXY= no_proxy= python3 - <<'EOF'
import urllib.request, urllib.error
try:
    answer = urllib.request.urlopen("{url}", timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
EOF"#
    )
}

/// Opens a tunnel by CONNECT, or by SOCKS5 if `socks`, and prints what comes back of "hello", or the refusal.
pub fn tunnel(host: &str, port: u16, socks: bool) -> String {
    format!(
        r#"python3 - <<'EOF'
import socket
proxy = socket.create_connection(("127.0.0.1", 7422))
host, port = "{host}", {port}
if {socks}:
    proxy.sendall(bytes([5, 1, 0]))
    assert proxy.recv(2) == bytes([5, 0])
    proxy.sendall(bytes([5, 1, 0, 3, len(host)]) + host.encode() + port.to_bytes(2, "big"))
    code = proxy.recv(10)[1]
    refusal = None if code == 0 else "socks %d" % code
else:
    proxy.sendall(b"CONNECT %s:%d HTTP/1.1\r\n\r\n" % (host.encode(), port))
    head = proxy.recv(4096).decode()
    refusal = None if " 200 " in head else head.split("\r\n")[0]
if refusal:
    print(refusal)
else:
    proxy.sendall(b"hello")
    print(proxy.recv(100).decode())
EOF"#,
        socks = if socks { "True" } else { "False" }
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_name_is_reached_in_every_way_and_counted() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&[world.name()])).await.unwrap();
    let url = format!("http://LOCALHOST:{}/path?q#f", world.port);
    let said = sandbox.read(&get(&url)).await;
    assert!(said.starts_with("200 GET /path?q HTTP/1.1\r\nHost: localhost:"), "{said}");
    assert!(said.contains("Connection: close") && !said.contains("Proxy"), "{said}");
    for socks in [false, true] {
        assert_eq!(sandbox.read(&tunnel("localhost", world.port, socks)).await, "hello");
    }
    let usage = sandbox.get().await.unwrap().network_usage.unwrap();
    assert_eq!((usage.connected, usage.refused), (3, 0));
    assert!(usage.sent_bytes > 10 && usage.received_bytes > 10, "{usage:?}");
    assert_eq!(sandbox.read("env | grep -ci _proxy=").await, "8");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_listed_is_refused_by_name() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["*", "169.254.169.254", "[fd00:ec2::254]"])).await.unwrap();
    for (host, socks, refusal) in [
        ("127.0.0.1", false, "HTTP/1.1 403 Forbidden"),
        ("127.0.0.1", true, "socks 2"),
        ("[::ffff:127.0.0.1]", false, "HTTP/1.1 403 Forbidden"),
        ("2130706433", false, "HTTP/1.1 400 Bad Request"),
        ("127.1", true, "socks 7"),
        ("169.254.169.254", false, "HTTP/1.1 403 Forbidden"),
        ("[fd00:ec2::254]", false, "HTTP/1.1 403 Forbidden"),
        ("no-such-name.invalid", false, "HTTP/1.1 502 Bad Gateway"),
        ("no-such-name.invalid", true, "socks 4"),
    ] {
        assert_eq!(sandbox.read(&tunnel(host, world.port, socks)).await, refusal, "{host}");
    }
    assert_eq!(sandbox.get().await.unwrap().network_usage.unwrap().refused, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_itself_is_refused_by_whatever_name() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start().await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["*", "127.0.0.1", "::1"])).await.unwrap();
    for host in ["localhost", "127.0.0.1", "[::1]"] {
        assert_eq!(sandbox.read(&tunnel(host, world.port, false)).await, "HTTP/1.1 403 Forbidden", "{host}");
    }
    let said = sandbox.read(&get(&format!("http://localhost.:{}/", world.port))).await;
    assert!(said.starts_with("403 ") && said.contains("NETWORK_ADDRESS_REFUSED"), "{said}");
    // Past the proxy there is nothing.
    assert_eq!(sandbox.run(argv(&["bash", "-c", "exec 3<>/dev/tcp/198.51.100.1/80"])).await.unwrap().code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_the_list_holds_at_once_and_cuts_what_is_not_on_it_any_more() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy::<&str>(&[])).await.unwrap();
    let refused = sandbox.read(&tunnel("localhost", world.port, false)).await;
    assert_eq!(refused, "HTTP/1.1 403 Forbidden");
    let before = sandbox.get().await.unwrap().generation;
    assert_eq!(set_network(&daemon, &sandbox, proxy(&["localhost"])).await.unwrap(), before + 1);
    let line = format!(
        r#"python3 -u - > tunnel.log <<'EOF' &
import socket
proxy = socket.create_connection(("127.0.0.1", 7422))
proxy.sendall(b"CONNECT localhost:{} HTTP/1.1\r\n\r\n")
assert b" 200 " in proxy.recv(4096)
print("open")
print("cut", proxy.recv(100))
EOF"#,
        world.port
    );
    sandbox.bash(&line).await;
    let says = |word: &'static str| {
        let sandbox = &sandbox;
        eventually(SOON, move || async move {
            let log = sandbox.read("cat tunnel.log").await;
            expect(log.contains(word), log)
        })
    };
    says("open").await;
    let narrower = proxy(&["localhost:1", "b.com"]);
    set_network(&daemon, &sandbox, narrower.clone()).await.unwrap();
    says("cut b''").await;
    assert_eq!(sandbox.get().await.unwrap().network, Some(narrower));
    let other = Network { mode: Mode::Nat.into(), allow: Vec::new() };
    let refused = set_network(&daemon, &sandbox, other).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("NETWORK_UNSUPPORTED", "network.mode"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_narrows_what_the_node_gives_and_never_widens_it() {
    let config =
        "[network]\ndefault = 'proxy'\nallow = ['a.com']\nceiling = 'proxy'\nceiling_allow = ['*.a.com', 'a.com']\n";
    let Some(daemon) = Daemon::start_configured(config).await else { return };
    assert_eq!(daemon.sandbox().await.made.network, Some(proxy(&["a.com"])));
    let none = Network { mode: Mode::None.into(), allow: Vec::new() };
    assert_eq!(sandbox_with(&daemon, none.clone()).await.unwrap().made.network, Some(none));
    let narrow = sandbox_with(&daemon, proxy(&["X.A.com:443"])).await.unwrap();
    assert_eq!(narrow.made.network, Some(proxy(&["x.a.com:443"])));
    for (network, about) in [
        (proxy(&["*"]), "network.allow"),
        (proxy(&["a.com", "1.2.3.4"]), "network.allow"),
        (Network { mode: Mode::Nat.into(), allow: Vec::new() }, "network.mode"),
        (Network { mode: Mode::Host.into(), allow: Vec::new() }, "network.mode"),
    ] {
        let refused = sandbox_with(&daemon, network).await.unwrap_err();
        assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("NETWORK_UNSUPPORTED", about));
    }
    let refused = set_network(&daemon, &narrow, proxy(&["b.com"])).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("NETWORK_UNSUPPORTED", "network.allow"));
    let refused = sandbox_with(&daemon, proxy(&["a b"])).await.unwrap_err();
    assert_eq!((reason(&refused).as_str(), field(&refused).as_str()), ("ARGUMENT_INVALID", "network.allow"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_connections_are_open_at_once() {
    const COUNT: usize = 1000;
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"])).await.unwrap();
    let line = format!(
        r#"ulimit -n 4096; python3 - <<'EOF'
import asyncio
async def open_tunnel():
    reader, writer = await asyncio.open_connection("127.0.0.1", 7422)
    writer.write(b"CONNECT localhost:{} HTTP/1.1\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer
async def talk(number, reader, writer):
    writer.write(b"%06d" % number)
    assert await reader.readexactly(6) == b"%06d" % number
async def main():
    tunnels = await asyncio.gather(*(open_tunnel() for _ in range({COUNT})))
    # All of them are open; now each says something of its own.
    await asyncio.gather(*(talk(number, *tunnel) for number, tunnel in enumerate(tunnels)))
    print(len(tunnels))
asyncio.run(main())
EOF"#,
        world.port
    );
    let outcome = tokio::time::timeout(4 * SOON, sandbox.bash(&line)).await.unwrap();
    assert_eq!((outcome.stdout_text().trim(), outcome.stderr_text().as_str()), ("1000", ""));
    assert_eq!(sandbox.get().await.unwrap().network_usage.unwrap().connected, COUNT as u64);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_served_after_the_sandbox() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"])).await.unwrap();
    let _running = sandbox.start(shell(&tunnel("localhost", port, false))).await.unwrap();
    let (mut socket, _) = tokio::time::timeout(SOON, listener.accept()).await.unwrap().unwrap();
    let mut hello = [0; 5];
    socket.read_exact(&mut hello).await.unwrap();
    sandbox.destroy().await.unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), socket.read(&mut hello)).await.expect("it ends");
    assert!(matches!(ended, Ok(0) | Err(_)), "{ended:?}");
}
