//! What a hostile sandbox, name or client tries.

use handsd::api::proto::Network;
use handsd::api::proto::network::Mode;
use tokio::task::JoinSet;

use crate::inside::has_python;
use crate::lab::Lab;
use crate::nat::{Node, nat};
use crate::proxy::{LOOPBACK, World, proxy, sandbox_with, tunnel};
use crate::secrets;
use crate::support::Daemon;
use crate::support::certificates::Authority;

/// Goes through the proxy to port 80 of a name, and prints the status of the answer and what the host says.
fn banner(name: &str) -> String {
    send(&format!(r"CONNECT {name}:80 HTTP/1.1\r\n\r\n"))
}

/// Sends bytes to the proxy, and prints the status that it answers with, and the body.
fn send(bytes: &str) -> String {
    format!(
        r#"python3 - <<'EOF'
import socket
proxy = socket.create_connection(("127.0.0.1", 7422))
proxy.sendall(b"{bytes}")
said = b""
while data := proxy.recv(4096):
    said += data
head, _, body = said.partition(b"\r\n\r\n")
print(head.split()[1].decode(), body.decode())
EOF"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_leads_where_it_may_however_it_answers() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let sandbox = sandbox_with(&daemon, proxy(&["*"])).await.unwrap();
    let public = "200 203.0.113.2 saw 198.51.100.1";
    // It is resolved once for each connection, and what was looked at is what is connected to.
    let mut answers = Vec::new();
    for _ in 0..6 {
        let said = sandbox.read(&banner("turns.test")).await;
        assert!(said == public || said.starts_with("403 ") && said.contains("link-local"), "{said}");
        answers.push(said == public);
    }
    assert!(answers.contains(&true) && answers.contains(&false), "{answers:?}");
    let said = sandbox.read(&banner("alias.test")).await;
    assert!(said.starts_with("403 ") && said.contains("NETWORK_ADDRESS_REFUSED"), "{said}");
    for _ in 0..3 {
        assert_eq!(sandbox.read(&banner("both.test")).await, public);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_the_same_however_it_is_written_and_what_is_none_is_refused() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"])).await.unwrap();
    for name in ["localhost", "LOCALHOST", "localhost."] {
        assert_eq!(sandbox.read(&tunnel(name, world.port, false)).await, "hello", "{name}");
    }
    let (long, longest) = ("a.".repeat(150) + "localhost", "a".repeat(255));
    for (name, socks, refusal) in [
        ("localhost..", false, "HTTP/1.1 400 Bad Request"),
        ("lo\u{441}alhost", false, "HTTP/1.1 400 Bad Request"),
        ("lo\u{441}alhost", true, "socks 7"),
        ("xn--loalhost-4yf", false, "HTTP/1.1 403 Forbidden"),
        ("%6cocalhost", false, "HTTP/1.1 400 Bad Request"),
        ("localhost%00.evil.test", false, "HTTP/1.1 400 Bad Request"),
        ("evil@localhost", false, "HTTP/1.1 400 Bad Request"),
        ("localhost/", false, "HTTP/1.1 400 Bad Request"),
        ("localhost:1", false, "HTTP/1.1 400 Bad Request"),
        (&long, false, "HTTP/1.1 400 Bad Request"),
        (&longest, true, "socks 7"),
    ] {
        assert_eq!(sandbox.read(&tunnel(name, world.port, socks)).await, refusal, "{name}");
    }
    for uri in ["http://%6cocalhost", "http://evil@localhost", "http://localhost@evil.test"] {
        let said = sandbox.read(&send(&format!("GET {uri}:{}/ HTTP/1.1\\r\\n\\r\\n", world.port))).await;
        assert!(said.starts_with("400 "), "{uri} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_one_request_to_the_host_that_was_judged() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"])).await.unwrap();
    let request = |headers: &str| format!("POST http://localhost:{}/ HTTP/1.1\\r\\n{headers}\\r\\n\\r\\n", world.port);
    let said = sandbox.read(&send(&request("Host: evil.test\\r\\nhost: other.test"))).await;
    assert!(said.starts_with(&format!("200 POST / HTTP/1.1\r\nHost: localhost:{}", world.port)), "{said}");
    assert!(!said.contains("evil") && !said.contains("other"), "{said}");
    for headers in [
        "Content-Length: 5\\r\\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\\r\\ntransfer-encoding: x",
        "Content-Length: 5\\r\\nContent-Length: 6",
        "Content-Length : 5",
        "Transfer-Encoding:\\x0bchunked",
        "A: b\\r\\n Transfer-Encoding: chunked",
        "A: b\\x00c",
        "A: b\\rContent-Length: 5",
    ] {
        let said = sandbox.read(&send(&request(headers))).await;
        assert!(said.starts_with("400 ") && said.contains("PROXY_REQUEST_INVALID"), "{headers} {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_tls_the_name_is_the_tunnels_whatever_the_client_calls_it() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "world");
    let Some(daemon) = secrets::daemon(&authority.root()).await else { return };
    let mut tasks = JoinSet::new();
    let port = secrets::serve(Some(secrets::tls(&authority)), &mut tasks).await;
    let bound = vec![secrets::secret("localhost", "Authorization", secrets::VALUE)];
    let sandbox = secrets::sandbox_with(&daemon, proxy(&["localhost"]), bound).await.unwrap();
    // It says another name in its handshake and in its request, and two headers that it should not.
    let line = format!(
        r#"python3 - <<'EOF'
import os, socket, ssl
proxy = socket.create_connection(("127.0.0.1", 7422))
proxy.sendall(b"CONNECT localhost:{port} HTTP/1.1\r\nHost: evil.test\r\n\r\n")
assert b" 200 " in proxy.recv(4096)
context = ssl.create_default_context(cafile=os.environ["SSL_CERT_FILE"])
context.check_hostname = False
tls = context.wrap_socket(proxy, server_hostname="evil.test")
print([name for kind, name in tls.getpeercert()["subjectAltName"]])
tls.sendall(b"GET / HTTP/1.1\r\nHost: evil.test\r\nAuthorization: mine\r\nAUTHORIZATION: mine\r\n\r\n")
said = b""
while data := tls.recv(4096):
    said += data
print(said.decode())
EOF"#
    );
    let said = sandbox.read(&line).await;
    assert!(said.starts_with("['localhost']"), "{said}");
    assert!(said.contains(&format!("Host: localhost:{port}\r\n")) && !said.contains("evil"), "{said}");
    assert_eq!(said.to_ascii_lowercase().matches("authorization:").count(), 1, "{said}");
    assert!(said.contains(secrets::VALUE) && !said.contains("mine"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_goes_over_tls_only_unless_it_is_said() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "world");
    let Some(daemon) = secrets::daemon(&authority.root()).await else { return };
    let mut tasks = JoinSet::new();
    let (plain, encrypted) =
        (secrets::serve(None, &mut tasks).await, secrets::serve(Some(secrets::tls(&authority)), &mut tasks).await);
    let bound = vec![secrets::secret("localhost", "Authorization", secrets::VALUE)];
    let sandbox = secrets::sandbox_with(&daemon, proxy(&["localhost"]), bound).await.unwrap();
    let said = sandbox.read(&secrets::get(&format!("https://localhost:{encrypted}/"))).await;
    assert!(said.contains(secrets::VALUE), "{said}");
    let said = sandbox.read(&secrets::get(&format!("http://localhost:{plain}/"))).await;
    assert!(said.contains("uthorization: placeholder") && !said.contains(secrets::VALUE), "{said}");
    // Nor in a tunnel, whatever the port stands for.
    let line = format!(
        "exec 3<>/dev/tcp/127.0.0.1/7422; printf 'CONNECT localhost:{plain} HTTP/1.1\\r\\n\\r\\n' >&3; head -n 2 <&3 > /dev/null; \
         printf 'GET / HTTP/1.1\\r\\nAuthorization: placeholder\\r\\n\\r\\n' >&3; cat <&3"
    );
    let said = sandbox.read(&line).await;
    assert!(said.contains("Authorization: placeholder") && !said.contains(secrets::VALUE), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_requests_that_do_not_end_keep_nobody_out() {
    if !has_python() {
        return;
    }
    let Some(daemon) = Daemon::start_configured(LOOPBACK).await else { return };
    let world = World::start().await;
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"])).await.unwrap();
    let line = format!(
        r#"python3 - <<'EOF'
import socket
def proxy():
    return socket.create_connection(("127.0.0.1", 7422))
half = [proxy() for _ in range(100)]
for number, one in enumerate(half):
    one.sendall([b"CONNECT localhost:", b"GET http://localhost/ HTTP/1.1\r\nA: ", b"\x05", b""][number % 4])
whole = proxy()
whole.sendall(b"CONNECT localhost:{port} HTTP/1.1\r\n\r\n")
print(whole.recv(4096).split()[1].decode())
# And one that is longer than any head is.
long = proxy()
try:
    long.sendall(b"GET http://localhost/ HTTP/1.1\r\nA: " + b"a" * (1 << 20))
except OSError:
    pass
print(long.recv(4096).split()[1].decode())
EOF"#,
        port = world.port
    );
    assert_eq!(sandbox.read(&line).await, "200\n400");
    assert_eq!(sandbox.get().await.unwrap().network_usage.unwrap().connected, 1);
}

/// Tries to send to an address of the world in every way but a connection through the proxy, and prints those that work.
const SOCKETS: &str = r#"
import socket, struct
WORLD, HOST = "203.0.113.2", "198.51.100.1"
def attempt(name, family, kind, protocol, send):
    try:
        with socket.socket(family, kind, protocol) as one:
            one.settimeout(3)
            send(one)
            print(name)
    except OSError:
        pass
echo = struct.pack("!BBHHH", 8, 0, 0xf7ff, 0, 0)
for address in [WORLD, HOST, "255.255.255.255", "224.0.0.1"]:
    attempt("tcp " + address, socket.AF_INET, socket.SOCK_STREAM, 0, lambda one: one.connect((address, 80)))
    attempt("udp " + address, socket.AF_INET, socket.SOCK_DGRAM, 0, lambda one: one.sendto(b"?", (address, 80)))
    attempt("ping " + address, socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP, lambda one: one.sendto(echo, (address, 0)))
    attempt("icmp " + address, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP, lambda one: one.sendto(echo, (address, 0)))
    attempt("ip " + address, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW, lambda one: one.sendto(bytes(20), (address, 0)))
attempt("six", socket.AF_INET6, socket.SOCK_DGRAM, 0, lambda one: one.sendto(b"?", ("2001:db8:5::2", 80)))
attempt("vsock", 40, socket.SOCK_STREAM, 0, lambda one: one.connect((2, 1024)))
for link in [name for _, name in socket.if_nameindex() if name != "lo"]:
    def send(one):
        one.bind((link, 0))
        one.send(bytes(60))
    attempt("link " + link, socket.AF_PACKET, socket.SOCK_RAW, 0, send)
"#;

#[tokio::test(flavor = "multi_thread")]
async fn without_an_address_no_socket_leads_out() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let none = Network { mode: Mode::None.into(), allow: Vec::new() };
    for network in [none, proxy(&["*"])] {
        let sandbox = sandbox_with(&daemon, network.clone()).await.unwrap();
        assert_eq!(sandbox.read(&format!("python3 - <<'EOF'\n{SOCKETS}\nEOF")).await, "", "{network:?}");
    }
    // With one, they do: what is tried above could work.
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    let said = sandbox.read(&format!("python3 - <<'EOF'\n{SOCKETS}\nEOF")).await;
    for word in ["tcp 203.0.113.2", "udp 203.0.113.2", "icmp 203.0.113.2", "link eth0"] {
        assert!(said.contains(word), "{word} is not in {said}");
    }
    assert!(!said.contains("tcp 198.51.100.1") && !said.contains("six") && !said.contains("vsock"), "{said}");
}

/// Sends to the world as somebody else, over UDP and by hand.
const SPOOF: &str = r#"
import socket, struct
def packet(source):
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, socket.inet_aton(source), socket.inet_aton("203.0.113.2"))
    return header + struct.pack("!HHHH", 5000, 80, 9, 0) + b"?"
one = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
for source in ["198.18.0.77", "198.51.100.9", "10.9.0.1", "198.18.0.1"]:
    one.sendto(packet(source), ("203.0.113.2", 80))
own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
own.sendto(b"!", ("203.0.113.2", 80))
print(own.recv(100).decode())
"#;

#[tokio::test(flavor = "multi_thread")]
async fn nobody_speaks_as_another() {
    /// Writes down who sends what.
    const LISTEN: &str = r#"
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("203.0.113.2", 80))
print("ready")
with open("heard", "w") as heard:
    while True:
        data, peer = server.recvfrom(100)
        heard.write(data.decode())
        heard.flush()
        server.sendto(b"heard", peer)
"#;
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() {
        return;
    }
    lab.serve(LISTEN);
    let Some(daemon) = lab.daemon("").await else { return };
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    assert_eq!(sandbox.read(&format!("python3 - <<'EOF'\n{SPOOF}\nEOF")).await, "heard");
    // Its own word came last and was heard alone.
    assert_eq!(std::fs::read_to_string(lab.files().join("heard")).unwrap(), "!");
}
