//! A daemon with TLS and a few clients.

use std::fs;
use std::ops::Deref;
use std::path::{Path, PathBuf};

use handsd::auth::token::TokenHash;
use handsd::client::{self, Address, Channel, ClientError, Credentials};

use crate::support::certificates::Authority;
use crate::support::{Daemon, Options};

/// The clients of every node here.
pub const CLIENTS: &str = r#"
[[auth.clients]]
name = "plane"
role = "admin"
certificate = "plane.example"

[[auth.clients]]
name = "spire"
role = "operator"
certificate = "spiffe://example/worker"
"#;

/// A daemon, the authority of its certificate, and files of the test.
pub struct Node {
    daemon: Daemon,
    pub authority: Authority,
    files: tempfile::TempDir,
}

impl Node {
    /// Starts one with [`CLIENTS`] and more configuration; `None` without root.
    pub async fn start(more: &str) -> Option<Self> {
        let files = tempfile::tempdir().unwrap();
        let authority = Authority::new(files.path(), "ca");
        authority.sign("node", &["127.0.0.1", "localhost"]);
        let config = config(files.path(), more);
        let daemon = Daemon::start_with(Options { config, ..Options::default() }).await?;
        Some(Self { daemon, authority, files })
    }

    /// Where the test's files are.
    pub fn files(&self) -> &Path {
        self.files.path()
    }

    /// Another configuration, put in force.
    pub async fn reconfigure(&self, more: &str) -> String {
        self.daemon.reconfigure(&config(self.files.path(), more)).await
    }

    /// Its port, through TLS.
    pub fn address(&self) -> Address {
        Address::Tls(self.daemon.tcp_address())
    }

    /// A certificate with this name, of the node's authority.
    pub fn identity(&self, name: &str) -> Credentials {
        Credentials { identity: Some(self.authority.sign("client", &[name])), ..self.anonymous() }
    }

    /// Nothing but trust in the node.
    pub fn anonymous(&self) -> Credentials {
        Credentials { ca: Some(self.authority.root()), ..Credentials::default() }
    }

    /// A token.
    pub fn token(&self, token: &str) -> Credentials {
        Credentials { token: Some(token.to_owned()), ..self.anonymous() }
    }

    /// Connects through TLS.
    pub async fn connect(&self, credentials: &Credentials) -> Result<Channel, ClientError> {
        client::connect_with(&self.address(), credentials).await
    }
}

impl Deref for Node {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

fn config(files: &Path, more: &str) -> String {
    let path = |name: &str| -> PathBuf { files.join(name) };
    let (certificate, key, ca) = (path("node.pem"), path("node.key"), path("ca.pem"));
    let tls = format!(
        "[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nclient_ca = {ca:?}\n[auth]\naudit = {:?}\n",
        path("audit.jsonl")
    );
    format!("{tls}{CLIENTS}{more}")
}

/// A client of the configuration that shows a token.
pub fn with_token(name: &str, role: &str, token: &str, labels: &str) -> String {
    let hash = TokenHash::of(token);
    format!("[[auth.clients]]\nname = {name:?}\nrole = {role:?}\ntoken_sha256 = \"{hash}\"\nlabels = {{ {labels} }}\n")
}

/// What the audit log says.
pub fn audited(node: &Node) -> Vec<serde_json::Value> {
    let text = fs::read_to_string(node.files().join("audit.jsonl")).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
