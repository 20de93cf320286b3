//! The sections `auth`, `tls` and `limits`: who may call, through what, and how much.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use toml_span::value::Value;

use super::print;
use super::section::{Section, choice, integer, limit, text};
use super::value::{directory, duration};
use super::{Config, Environment, ListenAddress, defaults};
use crate::auth::policy::{Caller, Client, Proof, Role, Scope};
use crate::auth::rate::Limits;
use crate::auth::tls::TlsFiles;

/// What a path begins with that names a credential of the service.
const CREDENTIAL: &str = "credential:";

/// Longest name of a client.
const MAX_NAME: usize = 64;

/// Who may call.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct AuthConfig {
    /// Those who may, besides root and the daemon's own user through the unix socket.
    pub clients: Vec<Client>,
    /// Where calls are written down; absolute and UTF-8.
    pub audit: Option<PathBuf>,
}

/// How much may be asked for at once.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LimitsConfig {
    /// Connections to one address.
    pub connections: usize,
    /// How long a client, or a host that a sandbox talks to through the proxy, may be silent when it is asked whether it is
    /// there, before it is taken for gone.
    pub silence: Duration,
    /// Calls.
    pub calls: Limits,
}

pub(super) fn auth(auth: &mut Section<'_, '_>) -> AuthConfig {
    let audit = auth.take("audit", text(file_or_off)).flatten();
    let clients: Vec<Client> = auth.sections("clients", client).into_iter().flatten().collect();
    let twice = clients
        .iter()
        .enumerate()
        .find(|(index, client)| clients[..*index].iter().any(|other| other.proof == client.proof));
    auth.reject("clients", twice.map(|(_, client)| format!("{:?} proves what another entry has", client.caller.name)));
    AuthConfig { clients, audit }
}

fn client(client: &mut Section<'_, '_>) -> Option<Client> {
    let name = client.take("name", text(name));
    let roles = [("reader", Role::Reader), ("operator", Role::Operator), ("admin", Role::Admin)];
    let role = client.take("role", choice(roles));
    let labels = client.take("labels", labels);
    let proofs = [
        client.take("certificate", text(name_of_certificate)).map(Proof::Certificate),
        client
            .take("token_sha256", text(|text| text.parse().map_err(|_| "64 hexadecimal digits".to_owned())))
            .map(Proof::Token),
        client.take("uid", integer(0..=u32::MAX - 1)).map(Proof::Uid),
    ];
    let mut proofs = proofs.into_iter().flatten();
    let (proof, other) = (proofs.next(), proofs.next());
    client.reject("name", name.is_none().then(|| "expected a name for the client".to_owned()));
    client.reject("role", role.is_none().then(|| "expected \"reader\" or \"operator\" or \"admin\"".to_owned()));
    let is_one = proof.is_some() && other.is_none();
    client.reject("name", (!is_one).then(|| "expected one of certificate, token_sha256 and uid beside it".to_owned()));
    // An admin commands the node, and so every sandbox of it.
    let is_bound_admin = role == Some(Role::Admin) && labels.as_ref().is_some_and(|labels| !labels.is_empty());
    client.reject("labels", is_bound_admin.then(|| "expected none: an admin is not bound to labels".to_owned()));
    let caller = Caller { name: name?, role: role?, scope: Scope(labels.unwrap_or_default()) };
    Some(Client { caller: Arc::new(caller), proof: proof? })
}

pub(super) fn tls(tls: &mut Section<'_, '_>, environment: &Environment) -> Option<TlsFiles> {
    let path = || text(|text| path(text, environment));
    let (certificate, key) = (tls.take("certificate", path()), tls.take("key", path()));
    let client_ca = tls.take("client_ca", path());
    let is_written = certificate.is_some() || key.is_some() || client_ca.is_some();
    let lacks = |file: &Option<PathBuf>| {
        (is_written && file.is_none()).then(|| "expected a file in PEM beside the others of [tls]".to_owned())
    };
    tls.reject("certificate", lacks(&certificate));
    tls.reject("key", lacks(&key));
    // Where one lacks, there are faults, and the others stand in for it.
    is_written.then(|| TlsFiles {
        certificate: certificate.unwrap_or_default(),
        key: key.unwrap_or_default(),
        client_ca,
    })
}

pub(super) fn limits(limits: &mut Section<'_, '_>) -> LimitsConfig {
    let mut calls = |key, default| limits.take(key, integer(defaults::CALLS_BOUNDS)).unwrap_or(default);
    let (all, per_client) = (calls("calls", defaults::CALLS), calls("calls_per_client", defaults::CALLS_PER_CLIENT));
    let rate = limits.take("calls_per_second", limit(integer(defaults::RATE_BOUNDS))).unwrap_or(defaults::RATE);
    LimitsConfig {
        connections: limits.take("connections", integer(defaults::CONNECTIONS_BOUNDS)).unwrap_or(defaults::CONNECTIONS),
        silence: limits.take("silence", duration(defaults::SILENCE_BOUNDS)).unwrap_or(defaults::SILENCE),
        calls: Limits { calls: all, calls_per_client: per_client, rate },
    }
}

/// Why only loopback may be served, if so: beyond it there is TLS, and somebody who may call.
pub(super) fn reach(tls: Option<&TlsFiles>, auth: &AuthConfig) -> Result<(), &'static str> {
    if tls.is_none() {
        Err("a loopback address (beyond loopback it takes [tls])")
    } else if auth.clients.is_empty() {
        Err("a loopback address (beyond loopback it takes [[auth.clients]])")
    } else {
        Ok(())
    }
}

/// An address that may be served.
pub(super) fn within(address: ListenAddress, reach: Result<(), &'static str>) -> Result<ListenAddress, String> {
    match (&address, reach) {
        (ListenAddress::Tcp(at), Err(expected)) if !at.ip().is_loopback() => Err(expected.to_owned()),
        _ => Ok(address),
    }
}

impl Config {
    /// The sections in which `new` asks for something that a running daemon cannot put in force.
    #[must_use]
    pub fn waiting_for_restart(&self, new: &Self) -> Vec<&'static str> {
        // All of them by name, so that none can be forgotten. Who may call changes live.
        let Self {
            state_dir,
            grpc,
            http,
            log,
            telemetry,
            auth: _,
            tls,
            limits,
            health,
            sandbox,
            run,
            runtime,
            image,
            network,
            brains,
            model,
            engine,
        } = self;
        let changed = [
            ("state_dir", *state_dir != new.state_dir),
            ("grpc", *grpc != new.grpc),
            ("http", *http != new.http),
            ("log.format", log.format != new.log.format),
            ("telemetry", *telemetry != new.telemetry),
            ("tls", tls.is_some() != new.tls.is_some()),
            ("limits.connections", limits.connections != new.limits.connections),
            ("limits.silence", limits.silence != new.limits.silence),
            ("health", *health != new.health),
            ("sandbox", *sandbox != new.sandbox),
            ("run", *run != new.run),
            ("runtime", *runtime != new.runtime),
            ("image", *image != new.image),
            ("network", *network != new.network),
            ("brain", *brains != new.brains),
            ("model", *model != new.model),
            ("engine", *engine != new.engine),
        ];
        changed.into_iter().filter(|(_, changed)| *changed).map(|(section, _)| section).collect()
    }

    /// Takes over from `new` what a running daemon puts in force.
    pub fn take_live(&mut self, new: &Self) {
        self.log.filter.clone_from(&new.log.filter);
        self.auth.clone_from(&new.auth);
        self.limits.calls = new.limits.calls;
        if self.tls.is_some() && new.tls.is_some() {
            self.tls.clone_from(&new.tls);
        }
    }

    pub(super) fn limits(&self) -> String {
        let LimitsConfig { connections, silence, calls: Limits { calls, calls_per_client, rate } } = self.limits;
        format!(
            "\
# What may be asked for at once. A call beyond it is refused, a connection waits.
[limits]
# Connections to one address.
connections = {connections}
# How long a gRPC client, or a host at the other end of the proxy, may be silent when it is asked whether it is there.
silence = {silence}
# Calls under way, of all clients and of one; streams that are open are calls.
calls = {calls}
calls_per_client = {calls_per_client}
# Calls a second of one client; or \"unlimited\".
calls_per_second = {rate}

# The node is not ready, and says so, while less than this is left.
[health]
min_free_disk = {disk}
min_free_memory = {memory}
",
            silence = print::duration(silence),
            rate = print::limit(rate.map(|rate| rate.to_string())),
            disk = print::size(self.health.disk),
            memory = print::size(self.health.memory),
        )
    }

    pub(super) fn access(&self) -> String {
        let tls = self.tls.as_ref().map(printed_tls);
        let audit = self.auth.audit.as_ref().map_or_else(|| "off".to_owned(), |path| path.display().to_string());
        let auth = format!(
            "\
[auth]
# Where calls are written down, one JSON object a line; or \"off\".
audit = {audit}
",
            audit = print::text(&audit),
        );
        let clients = self.auth.clients.iter().map(printed_client);
        tls.into_iter().chain([auth]).chain(clients).collect::<Vec<_>>().join("\n")
    }
}

fn printed_tls(files: &TlsFiles) -> String {
    let line = |key: &str, path: &PathBuf| format!("{key} = {}\n", print::text(&path.display().to_string()));
    let client_ca = files.client_ca.as_ref().map(|path| line("client_ca", path));
    format!(
        "# Certificates of the gRPC ports, in PEM.\n[tls]\n{}{}{}",
        line("certificate", &files.certificate),
        line("key", &files.key),
        client_ca.unwrap_or_default(),
    )
}

fn printed_client(client: &Client) -> String {
    let Caller { name, role, scope } = &*client.caller;
    let proof = match &client.proof {
        Proof::Certificate(name) => format!("certificate = {}", print::text(name)),
        Proof::Token(hash) => format!("token_sha256 = \"{hash}\""),
        Proof::Uid(uid) => format!("uid = {uid}"),
    };
    let labels: Vec<_> =
        scope.0.iter().map(|(key, value)| format!("{} = {}", print::text(key), print::text(value))).collect();
    format!(
        "[[auth.clients]]\nname = {}\nrole = \"{role}\"\n{proof}\nlabels = {{ {} }}\n",
        print::text(name),
        labels.join(", "),
    )
}

fn file_or_off(text: &str) -> Result<Option<PathBuf>, String> {
    match text {
        "off" => Ok(None),
        path => directory(path).map(Some).map_err(|expected| format!("{expected}, or \"off\"")),
    }
}

/// A path, or a credential of the service by its name.
fn path(text: &str, environment: &Environment) -> Result<PathBuf, String> {
    let Some(name) = text.strip_prefix(CREDENTIAL) else {
        return directory(text).map_err(|expected| format!("{expected}, or \"{CREDENTIAL}NAME\""));
    };
    if name.is_empty() || name.contains('/') {
        return Err("the name of a credential".to_owned());
    }
    let credentials = environment.credentials.as_ref();
    credentials.map(|directory| directory.join(name)).ok_or_else(|| "a path: no credentials were passed".to_owned())
}

fn name(text: &str) -> Result<String, String> {
    let is_plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.@".contains(&byte));
    let is_name = is_plain && (1..=MAX_NAME).contains(&text.len());
    if is_name { Ok(text.to_owned()) } else { Err(format!("at most {MAX_NAME} letters, digits, -, _, . and @")) }
}

fn name_of_certificate(text: &str) -> Result<String, String> {
    let is_name = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_graphic());
    if is_name { Ok(text.to_owned()) } else { Err("a DNS or URI name of a certificate".to_owned()) }
}

fn labels(value: &Value<'_>) -> Result<BTreeMap<String, String>, String> {
    let expected = || "a table of texts".to_owned();
    let pairs = value.as_table().ok_or_else(expected)?.iter();
    pairs.map(|(key, value)| Ok((key.name.to_string(), value.as_str().ok_or_else(expected)?.to_owned()))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::token::TokenHash;
    use crate::config::Overrides;

    fn environment() -> Environment {
        Environment { is_root: true, credentials: Some("/run/credentials/h".into()), ..Environment::default() }
    }

    fn faults(text: &str) -> Vec<String> {
        Config::parse(text, &environment()).unwrap_err().iter().map(ToString::to_string).collect()
    }

    const CLIENT: &str = "[[auth.clients]]\nname = 'plane'\nrole = 'operator'\ncertificate = 'plane.example'\n";
    const TLS: &str = "[tls]\ncertificate = '/c'\nkey = 'credential:tls-key'\nclient_ca = '/ca'\n";

    #[test]
    fn it_prints_what_it_reads() {
        let token = format!(
            "[[auth.clients]]\nname = 'bot'\nrole = 'reader'\ntoken_sha256 = '{}'\nlabels = {{ tenant = 'a\"b' }}\n",
            TokenHash::of("x")
        );
        let text = format!(
            "grpc = ['0.0.0.0:7420']\n{CLIENT}{token}[[auth.clients]]\nname = 'ada'\nrole = 'admin'\nuid = 7\n{TLS}\
             [auth]\naudit = '/var/log/a'\n[limits]\nconnections = 3\ncalls_per_second = 9\n"
        );
        // TOML has [auth] before its clients.
        let text = text
            .replace("[auth]\naudit = '/var/log/a'\n", "")
            .replace("grpc = ['0.0.0.0:7420']\n", "grpc = ['0.0.0.0:7420']\n[auth]\naudit = '/var/log/a'\n");
        let config = Config::parse(&text, &environment()).unwrap();
        assert_eq!(config.auth.clients.len(), 3);
        assert_eq!(config.tls.as_ref().unwrap().key, PathBuf::from("/run/credentials/h/tls-key"));
        assert_eq!((config.limits.connections, config.limits.calls.rate), (3, Some(9)));
        assert_eq!(Config::parse(&config.to_toml(), &environment()), Ok(config));
    }

    #[test]
    fn beyond_loopback_it_takes_tls_and_somebody_who_may_call() {
        let far = "grpc = ['10.0.0.1:7420']\n";
        assert!(Config::parse(&format!("{far}{TLS}{CLIENT}"), &environment()).is_ok());
        let fault = |lacking: &str| {
            format!(
                "1:10: grpc: expected a loopback address (beyond loopback it takes {lacking}), found \"10.0.0.1:7420\""
            )
        };
        assert_eq!(faults(&format!("{far}{CLIENT}")), [fault("[tls]")]);
        assert_eq!(faults(&format!("{far}{TLS}")), [fault("[[auth.clients]]")]);
        let overrides = Overrides { grpc: vec!["0.0.0.0:1".parse().unwrap()], ..Overrides::default() };
        let error = Config::load(None, &overrides, &environment()).unwrap_err();
        assert!(error.to_string().contains("beyond loopback it takes [tls]"), "{error}");
    }

    #[test]
    fn a_client_has_a_name_a_role_and_one_proof() {
        let client = |rest: &str| faults(&format!("[[auth.clients]]\n{rest}")).join("\n");
        assert!(client("role = 'admin'\nuid = 1").contains("auth.clients[0].name: expected a name"));
        assert!(client("name = 'a'\nuid = 1").contains("auth.clients[0].role: expected \"reader\""));
        assert!(client("name = 'a'\nrole = 'admin'").contains("expected one of certificate, token_sha256 and uid"));
        assert!(client("name = 'a'\nrole = 'admin'\nuid = 1\ncertificate = 'b'").contains("expected one of"));
        assert!(client("name = 'a\\nb'\nrole = 'admin'\nuid = 1").contains("name: expected at most 64"));
        assert!(client("name = 'a'\nrole = 'root'\nuid = 1").contains("role: expected \"reader\""));
        assert!(client("name = 'a'\nrole = 'admin'\ntoken_sha256 = 'hands_x'").contains("64 hexadecimal"));
        assert!(client("name = 'a'\nrole = 'admin'\nuid = 1\nlabels = { a = 'b' }").contains("labels: expected none"));
        assert!(client("name = 'a'\nrole = 'reader'\nuid = 1\nlabels = { a = 1 }").contains("a table of texts"));
        assert!(client("name = 'a'\nrole = 'reader'\nuid = 1\nuids = 1").contains("did you mean \"uid\"?"));
        assert!(faults("[auth]\nclients = 1").join("").contains("[[auth.clients]]"));
        assert!(faults(&format!("{CLIENT}{CLIENT}")).join("").contains("proves what another entry has"));
    }

    #[test]
    fn a_certificate_goes_with_its_key() {
        assert!(faults("[tls]\ncertificate = '/c'").join("").contains("tls.key: expected a file"));
        assert!(faults("[tls]\nkey = '/c'").join("").contains("tls.certificate: expected a file"));
        assert!(faults("[tls]\nclient_ca = 'credential:a/b'").join("").contains("the name of a credential"));
        assert!(
            Config::parse("[tls]\n", &Environment { is_root: true, ..Environment::default() }).unwrap().tls.is_none()
        );
    }
}
