//! Secrets that are bound to names: the sandbox never sees them.

use std::path::Path;
use std::sync::Arc;

use handsd::api::proto::{BoundSecret, CreateSandboxRequest, Network, SetNetworkRequest};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use crate::inside::{has_python, hibernate};
use crate::proxy::proxy;
use crate::support::certificates::Authority;
use crate::support::{Daemon, Options, Sandbox, field, holders, reason};

/// Found nowhere but where it belongs.
pub const VALUE: &str = "Bearer 7c1f0d6bhush";

/// A server of the world that answers a request with its head; over TLS if it has certificates.
pub async fn serve(tls: Option<Arc<ServerConfig>>, tasks: &mut JoinSet<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let tls = tls.clone();
            connections.spawn(async move {
                match tls {
                    None => echo(socket).await,
                    Some(tls) => {
                        // Who does not trust us leaves.
                        if let Ok(socket) = TlsAcceptor::from(tls).accept(socket).await {
                            echo(socket).await;
                        }
                    }
                }
            });
        }
    });
    port
}

async fn echo(mut socket: impl AsyncRead + AsyncWrite + Unpin) {
    let mut head = vec![0; 16 << 10];
    let mut length = 0;
    while !head[..length].windows(4).any(|window| window == b"\r\n\r\n") {
        match socket.read(&mut head[length..]).await {
            Ok(count) if count > 0 => length += count,
            Ok(_) | Err(_) => return,
        }
    }
    let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    let _ = socket.write_all(&[answer.as_bytes(), &head[..length]].concat()).await;
    let _ = socket.shutdown().await;
}

pub fn tls(authority: &Authority) -> Arc<ServerConfig> {
    let (certificate, key) = authority.sign("server", &["localhost"]);
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()));
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    Arc::new(config.with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap())
}

/// A daemon that reaches the test's servers and trusts this authority.
pub async fn daemon(root: &Path) -> Option<Daemon> {
    let wrapper = vec!["env".to_owned(), format!("SSL_CERT_FILE={}", root.display())];
    let config = "[network]\nreachable = ['127.0.0.0/8']\n".to_owned();
    Daemon::start_with(Options { config, wrapper, ..Options::default() }).await
}

/// One that goes over TLS only.
pub fn secret(name: &str, header: &str, value: &str) -> BoundSecret {
    BoundSecret { name: name.to_owned(), header: header.to_owned(), value: value.to_owned(), plain: false }
}

/// One that goes over plain HTTP too.
fn plain_secret(name: &str, header: &str, value: &str) -> BoundSecret {
    BoundSecret { plain: true, ..secret(name, header, value) }
}

pub async fn sandbox_with(
    daemon: &Daemon,
    network: Network,
    secrets: Vec<BoundSecret>,
) -> Result<Sandbox, tonic::Status> {
    let request = CreateSandboxRequest { network: Some(network), secrets, ..Default::default() };
    Sandbox::create(daemon, request).await
}

/// Asks with a placeholder in the header, and prints status and body.
pub fn get(url: &str) -> String {
    format!(
        r#"NO_PROXY= no_proxy= python3 - <<'EOF'
import urllib.request, urllib.error
request = urllib.request.Request("{url}", headers={{"Authorization": "placeholder"}})
try:
    answer = urllib.request.urlopen(request, timeout=30)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status, answer.read().decode())
EOF"#
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_reaches_its_name_and_nobody_else() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new(directory.path(), "world");
    let Some(mut daemon) = daemon(&authority.root()).await else { return };
    let mut tasks = JoinSet::new();
    let (plain, encrypted) = (serve(None, &mut tasks).await, serve(Some(tls(&authority)), &mut tasks).await);
    let network = proxy(&["localhost", "127.0.0.1"]);
    let secrets = vec![plain_secret("localhost", "Authorization", VALUE)];
    let sandbox = sandbox_with(&daemon, network.clone(), secrets).await.unwrap();
    let urls = [format!("http://localhost:{plain}/a?b"), format!("https://localhost:{encrypted}/a?b")];
    for url in &urls {
        let said = sandbox.read(&get(url)).await;
        assert!(said.starts_with("200 GET /a?b HTTP/1.1"), "{url}: {said}");
        assert!(said.contains(&format!("authorization: {VALUE}")) && !said.contains("placeholder"), "{url}: {said}");
    }
    // The same host by another name.
    let said = sandbox.read(&get(&format!("http://127.0.0.1:{plain}/"))).await;
    assert!(said.contains("uthorization: placeholder") && !said.contains(VALUE), "{said}");
    // Nor does the sandbox get it out of its own requests.
    let trace = format!(
        "exec 3<>/dev/tcp/127.0.0.1/7422; printf 'TRACE http://localhost:{plain}/ HTTP/1.1\\r\\n\\r\\n' >&3; head -n 1 <&3"
    );
    assert_eq!(sandbox.read(&trace).await, "HTTP/1.1 400 Bad Request");
    assert_eq!(sandbox.read("env | grep -c hush || true").await, "0");
    assert!(!format!("{:?}", sandbox.get().await.unwrap()).contains("hush"));
    assert!(!daemon.log().contains("hush"));
    assert_eq!(sandbox.get().await.unwrap().secrets, [plain_secret("localhost", "authorization", "")]);
    // What the world sends back is in the output of the commands that have asked it.
    let holders = holders(&daemon.state(), b"7c1f0d6bhush").into_iter().filter(|path| !path.contains("/runs/"));
    assert_eq!(holders.collect::<Vec<_>>(), Vec::<String>::new());
    // Programs that go on trust the proxy of the next daemon too.
    hibernate(&daemon, &sandbox).await;
    daemon.kill_and_restart().await;
    let sandbox = sandbox.through(&daemon);
    let said = sandbox.read(&get(&urls[1])).await;
    assert!(said.contains(&format!("authorization: {VALUE}")), "{said}");
    assert_eq!(sandbox.get().await.unwrap().secrets, [plain_secret("localhost", "authorization", "")]);
    // And it is replaced, and taken away.
    let another = secret("localhost", "authorization", "Bearer 2");
    for (change, url, expected) in [
        (another, &urls[1], "authorization: Bearer 2"),
        (secret("localhost", "authorization", ""), &urls[0], "placeholder"),
    ] {
        let (sandbox_id, network) = (sandbox.id.clone(), Some(network.clone()));
        let request = SetNetworkRequest { sandbox_id, network, secrets: vec![change] };
        daemon.sandboxes().set_network(request).await.unwrap();
        let said = sandbox.read(&get(url)).await;
        assert!(said.contains(expected) && !said.contains("hush"), "{said}");
    }
    assert_eq!(sandbox.get().await.unwrap().secrets, []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_the_node_does_not_trust_gets_none() {
    if !has_python() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let (authority, other) = (Authority::new(directory.path(), "world"), Authority::new(directory.path(), "other"));
    let Some(daemon) = daemon(&authority.root()).await else { return };
    let mut tasks = JoinSet::new();
    let port = serve(Some(tls(&other)), &mut tasks).await;
    let secrets = vec![secret("localhost", "Authorization", VALUE)];
    let sandbox = sandbox_with(&daemon, proxy(&["localhost"]), secrets).await.unwrap();
    let said = sandbox.read(&get(&format!("https://localhost:{port}/"))).await;
    assert!(said.starts_with("502 ") && said.contains("NETWORK_TLS_FAILED"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_of_the_proxy_and_of_names() {
    let Some(daemon) = Daemon::start().await else { return };
    let refused = async |network, secret| {
        let refused = sandbox_with(&daemon, network, vec![secret]).await.unwrap_err();
        (reason(&refused), field(&refused))
    };
    let pair = |reason: &str, field: &str| (reason.to_owned(), field.to_owned());
    let fine = || secret("a.com", "x", "y");
    assert_eq!(refused(Network::default(), fine()).await, pair("NETWORK_UNSUPPORTED", "secrets"));
    for (secret, field) in [
        (secret("*", "x", "y"), "secrets.name"),
        (secret("a.com", "Host", "y"), "secrets.header"),
        (secret("a.com", "x", "y\r\nz: 1"), "secrets.value"),
    ] {
        assert_eq!(refused(proxy(&["a.com"]), secret).await, pair("ARGUMENT_INVALID", field));
    }
    let sandbox = sandbox_with(&daemon, proxy(&["a.com"]), Vec::new()).await.unwrap();
    let (sandbox_id, network) = (sandbox.id.clone(), Some(proxy(&["a.com"])));
    let request = SetNetworkRequest { sandbox_id, network, secrets: vec![fine()] };
    let refused = daemon.sandboxes().set_network(request).await.unwrap_err();
    assert_eq!((reason(&refused), field(&refused)), pair("NETWORK_UNSUPPORTED", "secrets"));
    // The same key with another secret is another request.
    let keyed = |value: &str| CreateSandboxRequest {
        network: Some(proxy(&["a.com"])),
        secrets: vec![secret("a.com", "x", value)],
        idempotency_key: "key".to_owned(),
        ..Default::default()
    };
    let made = daemon.sandboxes().create(keyed("1")).await.unwrap().into_inner();
    assert_eq!(daemon.sandboxes().create(keyed("1")).await.unwrap().into_inner().id, made.id);
    assert_eq!(reason(&daemon.sandboxes().create(keyed("2")).await.unwrap_err()), "IDEMPOTENCY_CONFLICT");
}
