//! The configuration: one TOML file, a few flags on top, and a default for all the rest.
//!
//! [`Config::parse`] is pure: a text and an [`Environment`] in, a [`Config`] or every [`Fault`] of the text out.
//! [`Config::load`] reads the file for it. A configuration that was made is valid: nobody checks it again.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use defaults::ID_COUNT;
pub use environment::{Environment, Secret};
pub use fault::{Fault, Place};
pub use listen::{AddressError, HttpAddress, ListenAddress};

pub use access::{AuthConfig, LimitsConfig};
pub use brains::{BrainConfig, ModelConfig, ProviderConfig};
use ipnet::{IpNet, Ipv4Net};

use crate::auth::tls::TlsFiles;
use crate::engine::Passage;
use crate::engine::docker::{Pull, UserNamespace};
use crate::health::policy::Floors;
use crate::image::{ImageRef, ImageRefError};
use crate::network::policy::Policy;
use crate::sandbox::policy::Policy as Restarts;
use crate::sandbox::pressure;
use crate::telemetry::{LogConfig, LogFormat, TraceConfig};

mod access;
mod brains;
mod defaults;
mod environment;
mod fault;
mod listen;
mod parse;
mod print;
mod section;
mod telemetry;
mod units;
mod value;

/// A configuration takes 2 KiB; what is longer than this is another file.
const MAX_FILE: u64 = 64 << 10;

/// What the daemon is to do.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where all state is kept; absolute and UTF-8.
    pub state_dir: PathBuf,
    /// Where gRPC is served; at least one, none twice.
    pub grpc: Vec<ListenAddress>,
    /// The HTTP surface.
    pub http: HttpConfig,
    /// What is logged, and how.
    pub log: LogConfig,
    /// Where spans of calls are sent.
    pub telemetry: TraceConfig,
    /// Who may call.
    pub auth: AuthConfig,
    /// Certificates of the gRPC ports; without them, there is no TLS and only loopback is served.
    pub tls: Option<TlsFiles>,
    /// How much may be asked for at once.
    pub limits: LimitsConfig,
    /// What has to be left for the node to be ready.
    pub health: Floors,
    /// What a sandbox gets if its request leaves it out.
    pub sandbox: SandboxDefaults,
    /// The same of a run.
    pub run: RunDefaults,
    /// How patient to be with what sandboxes keep running.
    pub runtime: Restarts,
    /// Bounds of images.
    pub image: ImageConfig,
    /// What sandboxes may reach.
    pub network: NetworkConfig,
    /// The programs that think.
    pub brains: Vec<BrainConfig>,
    /// Who serves their models.
    pub model: ModelConfig,
    /// What makes the containers.
    pub engine: EngineConfig,
}

/// The HTTP surface: where it is, and who may use it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Where it is served, if anywhere.
    pub listen: Option<SocketAddr>,
    /// It is served with TLS, by the certificate of the gRPC ports.
    pub tls: bool,
    /// Names of this node in URLs, besides its addresses and "localhost"; in lower case, without a port.
    pub hosts: Vec<String>,
    /// Origins of other sites whose pages may call it, such as `https://app.example`; "*" is any.
    pub origins: Vec<String>,
    /// The file with the API key; absolute and UTF-8.
    pub key_file: PathBuf,
    /// The key itself, which comes before the file.
    pub key: Option<Secret>,
    /// Webhooks may go to private addresses, and without TLS.
    pub private_webhooks: bool,
    /// The pause before a webhook's first retry.
    pub webhook_retry: Duration,
    /// How long a client may leave unread what was sent to it.
    pub unread_timeout: Duration,
}

/// What a sandbox gets if its request leaves it out; `None` is unlimited.
#[derive(Debug, Clone, PartialEq)]
pub struct SandboxDefaults {
    /// Image reference.
    pub image: String,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// CPUs' worth of processor time.
    pub cpus: Option<f64>,
    /// Processes and threads.
    pub pids: Option<u64>,
    /// Bytes a second to the outside, and as many from there.
    pub bandwidth: Option<u64>,
    /// Time without use after which a sandbox goes to sleep; `None`: it does not by itself.
    pub idle_timeout: Option<Duration>,
    /// Time asleep after which a sandbox's processes are ended; `None`: they are not.
    pub stop_after: Option<Duration>,
    /// Sandboxes that are woken at once; more wait.
    pub max_wakes: usize,
    /// Sandboxes of this node; no request goes beyond it.
    pub max_sandboxes: usize,
    /// How many are made before anybody asks for them.
    pub reserve: usize,
    /// From when on memory is so short that idle sandboxes go to sleep at once.
    pub pressure: pressure::policy::Floors,
}

/// What a run gets if its request leaves it out, and what no request goes beyond.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDefaults {
    /// Deadline; at least a second and at most `max_timeout`.
    pub timeout: Duration,
    /// The longest deadline that a request may name.
    pub max_timeout: Duration,
    /// Between SIGTERM and SIGKILL; zero kills at once.
    pub kill_grace: Duration,
    /// How long a run that has ended can be attached to.
    pub retention: Duration,
    /// How many ended runs a sandbox keeps, the latest first.
    pub retained_runs: usize,
    /// Bytes of output kept of one run, head and tail together.
    pub output_cap: u64,
    /// Runs that run at once in one sandbox.
    pub max_runs: usize,
}

/// Bounds of images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// Bytes that one image may unpack to.
    pub max_unpacked: u64,
    /// Registries, as host or host:port, that are spoken to without TLS.
    pub plain_http: Vec<String>,
    /// Docker's `config.json` with the credentials of registries, if there is a place for one.
    pub credentials: Option<PathBuf>,
}

/// What sandboxes may reach.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// What a request gets that says nothing.
    pub default: Policy,
    /// The most that a request may ask for; the default is within it.
    pub ceiling: Policy,
    /// Private ranges that sandboxes may reach all the same.
    pub reachable: Vec<IpNet>,
    /// The addresses of sandboxes that have one; no other daemon of this machine has the same.
    pub subnet: Ipv4Net,
    /// The name below which previews have theirs.
    pub preview_domain: String,
}

/// What makes the containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineConfig {
    /// Which engine.
    pub kind: EngineKind,
    /// Whether it uses cgroups.
    pub cgroup: CgroupUse,
    /// The cgroup below which those of sandboxes are; relative, without `.` and `..`.
    pub cgroup_parent: PathBuf,
    /// The first user and group id of the node that sandboxes run as; [`ID_COUNT`] are theirs.
    pub id_base: u32,
    /// Of the Docker engine.
    pub docker: DockerConfig,
}

/// What the Docker engine is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DockerConfig {
    /// Docker's socket; absolute and UTF-8.
    pub socket: PathBuf,
    /// The OCI runtime, by the name that Docker knows it by; `None` is Docker's default.
    pub runtime: Option<String>,
    /// How guests are reached; `None`: as the runtime lets them be.
    pub guest: Option<Passage>,
    /// The network of sandboxes that have addresses: "own" is the daemon's, with its refusals; "none": they cannot; else
    /// the name of one of Docker's, under its rules.
    pub network_mode: String,
    /// When images are pulled.
    pub pull: Pull,
    /// Which user namespace sandboxes are in.
    pub user_namespace: UserNamespace,
    /// Docker's `config.json` with the credentials of registries, if there is a place for one.
    pub credentials: Option<PathBuf>,
}

/// An engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineKind {
    /// The embedded one.
    Native,
    /// Docker.
    Docker,
}

/// Whether cgroups are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CgroupUse {
    /// As far as the host has them.
    Auto,
    /// Not at all: no limits, and kills that a process can escape.
    Off,
}

/// What the command line says; it wins over the file.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Overrides {
    /// Where all state is kept
    #[arg(long, value_name = "DIR")]
    pub state_dir: Option<PathBuf>,
    /// Where gRPC is served: unix:/path or an address, without TLS a loopback one; may be repeated
    #[arg(long, value_name = "ADDRESS")]
    pub grpc: Vec<ListenAddress>,
    /// Where the HTTP API, its page, /livez and /readyz are served: a loopback address, or "off"
    #[arg(long, value_name = "ADDRESS")]
    pub http: Option<HttpAddress>,
    /// What makes the containers
    #[arg(long, value_name = "ENGINE")]
    pub engine: Option<EngineKind>,
    /// What sandboxes are made of whose request names no image
    #[arg(long, value_name = "IMAGE", value_parser = image_reference)]
    pub image: Option<String>,
}

/// An image reference, as it is written.
fn image_reference(text: &str) -> Result<String, ImageRefError> {
    text.parse::<ImageRef>().map(|_| text.to_owned())
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("reading {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The file is not one of ours.
    #[error("{} is longer than {MAX_FILE} bytes, so it is no configuration of handsd", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// The configuration has faults.
    #[error(transparent)]
    Faults(ConfigFaults),
}

/// Every fault of a configuration, one a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFaults {
    /// The file, if one was read.
    pub file: Option<PathBuf>,
    /// At least one, in the file's order.
    pub faults: Vec<Fault>,
}

impl Config {
    /// Reads `file`, if there is one, and puts the command line's `overrides` on top.
    ///
    /// # Errors
    /// The file cannot be read, or it has faults: then all of them.
    pub fn load(file: Option<&Path>, overrides: &Overrides, environment: &Environment) -> Result<Self, ConfigError> {
        let text = file.map(read_file).transpose()?.unwrap_or_default();
        parse::config(&text, overrides, environment)
            .map_err(|faults| ConfigError::Faults(ConfigFaults { file: file.map(Path::to_owned), faults }))
    }

    /// The configuration that a text gives where there are no flags.
    ///
    /// # Errors
    /// Every fault of the text.
    pub fn parse(text: &str, environment: &Environment) -> Result<Self, Vec<Fault>> {
        parse::config(text, &Overrides::default(), environment)
    }
}

impl fmt::Display for ConfigFaults {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                formatter.write_str("\n")?;
            }
            // Without a place, it may be a flag or the environment that is at fault.
            if let (Some(file), Some(_)) = (&self.file, fault.place) {
                write!(formatter, "{}:", file.display())?;
            }
            fault.fmt(formatter)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigFaults {}

fn read_file(path: &Path) -> Result<String, ConfigError> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    match read {
        Ok(length) if length as u64 > MAX_FILE => Err(ConfigError::TooLong { path: path.to_owned() }),
        Ok(_) => Ok(text),
        Err(source) => Err(ConfigError::Read { path: path.to_owned(), source }),
    }
}

#[cfg(test)]
mod tests;
