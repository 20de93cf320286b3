//! `hands`: the command line client of handsd.

mod agents;
mod args;
mod copy;
mod credentials;
mod errors;
mod events;
#[cfg(test)]
mod fake;
mod files;
mod follow;
mod forward;
mod input;
mod json;
mod network;
mod node;
mod output;
mod runs;
mod runtime;
mod sandboxes;
mod search;
mod sessions;
mod signals;
mod terminal;
mod transfer;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::node_client::NodeClient;
use handsd::api::proto::sandboxes_client::SandboxesClient;
use handsd::api::proto::sessions_client::SessionsClient;
use handsd::client::{self, Address, Channel, Credentials};

use crate::events::Format;

/// Where handsd listens if nothing else was said.
const SOCKET: &str = "/run/handsd/handsd.sock";
/// The same, below `$XDG_RUNTIME_DIR`, for a daemon without root.
const USER_SOCKET: &str = "handsd/handsd.sock";
const TCP: &str = "127.0.0.1:7420";

/// Heads what every command takes, so that it stands apart from what is a command's own.
const SHARED: &str = "Options of every command";

/// Sandboxes, and commands and files in them.
#[derive(Debug, Parser)]
#[command(
    name = "hands",
    version,
    max_term_width = 120,
    after_help = "Examples:
  ID=$(hands create)
  hands bash $ID 'echo hello > greeting; uname -a'
  hands read $ID greeting
  hands cp -r ./src $ID:src
  hands bash -t $ID
  hands destroy $ID

Exit code: 0, or 125 if hands failed, with one line on stderr that ends with the reason. `hands bash` and `hands attach` \
have the exit code of the command; see `hands bash --help`."
)]
struct Cli {
    /// The node: unix:/path, http://host:port or https://host:port [default: /run/handsd/handsd.sock, $XDG_RUNTIME_DIR/handsd/handsd.sock,
    /// http://127.0.0.1:7420, whichever is there first]
    #[arg(long, global = true, help_heading = SHARED, env = "HANDS_ADDR", hide_env_values = true, value_name = "ADDRESS")]
    addr: Option<Address>,
    #[command(flatten)]
    credentials: CredentialArgs,
    /// Print JSON: one document, or an object a line where there is a stream
    #[arg(long, global = true, help_heading = SHARED)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

/// What proves to the node who calls.
#[derive(Debug, clap::Args)]
struct CredentialArgs {
    /// Certificate, in PEM, of the CA that signed the node's; needed for https
    #[arg(long, global = true, help_heading = SHARED, env = "HANDS_TLS_CA", value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// Certificate of the client, in PEM
    #[arg(long, global = true, help_heading = SHARED, env = "HANDS_TLS_CERT", value_name = "FILE", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// Key of the client's certificate, in PEM
    #[arg(long, global = true, help_heading = SHARED, env = "HANDS_TLS_KEY", value_name = "FILE", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Token; others on this machine can see it here, so that the environment is the better place
    #[arg(long, global = true, help_heading = SHARED, env = "HANDS_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    token: Option<String>,
}

impl From<CredentialArgs> for Credentials {
    fn from(args: CredentialArgs) -> Self {
        Self { ca: args.tls_ca, identity: args.tls_cert.zip(args.tls_key), token: args.token }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    Create(Box<sandboxes::CreateArgs>),
    List(sandboxes::ListArgs),
    Get(sandboxes::GetArgs),
    Watch(sandboxes::WatchArgs),
    Hibernate(sandboxes::HibernateArgs),
    Wake(sandboxes::WakeArgs),
    Destroy(sandboxes::DestroyArgs),
    Bash(runs::BashArgs),
    Attach(runs::AttachArgs),
    Kill(runs::KillArgs),
    Runs(runs::RunsArgs),
    Read(files::ReadArgs),
    Write(files::WriteArgs),
    Ls(files::LsArgs),
    Stat(files::StatArgs),
    Mkdir(files::MkdirArgs),
    Rm(files::RmArgs),
    Mv(files::MvArgs),
    Edit(search::EditArgs),
    Glob(search::GlobArgs),
    Grep(search::GrepArgs),
    Cp(copy::CpArgs),
    Ports(forward::PortsArgs),
    Forward(forward::ForwardArgs),
    Preview(forward::PreviewArgs),
    Allow(network::AllowArgs),
    Agent(agents::AgentArgs),
    Credential(credentials::CredentialArgs),
    Session(sessions::SessionArgs),
    /// Shows what the node is, can do and cannot
    Info(sandboxes::InfoArgs),
    Events(node::EventsArgs),
    Drain(node::DrainArgs),
    /// Prints completions, such as: hands completion bash > /etc/bash_completion.d/hands
    Completion {
        /// Whose
        shell: clap_complete::Shell,
    },
}

/// What every command needs.
pub struct Context {
    channel: Channel,
    /// How results are printed.
    pub format: Format,
}

impl Context {
    /// Commands and files.
    pub fn hands(&self) -> HandsClient<Channel> {
        client::hands(self.channel.clone())
    }

    /// Sandboxes.
    pub fn sandboxes(&self) -> SandboxesClient<Channel> {
        client::sandboxes(self.channel.clone())
    }

    /// Agents and sessions.
    pub fn sessions(&self) -> SessionsClient<Channel> {
        client::sessions(self.channel.clone())
    }

    /// The node itself.
    pub fn node(&self) -> NodeClient<Channel> {
        client::node(self.channel.clone())
    }
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no failure. If nobody reads them, there is nobody to tell.
            let _closed = error.print();
            return if error.use_stderr() { ExitCode::from(errors::FAILED) } else { ExitCode::SUCCESS };
        }
    };
    match start(cli) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            errors::report(&error);
            ExitCode::from(errors::exit_code(&error))
        }
    }
}

/// The command runs on this thread, which may block on stdout; connections and signals live on a worker, which may not.
fn start(cli: Cli) -> anyhow::Result<u8> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(run(cli));
    // A thread that still waits for stdin must not keep us.
    runtime.shutdown_background();
    result
}

async fn run(cli: Cli) -> anyhow::Result<u8> {
    if let Command::Completion { shell } = cli.command {
        let mut text = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "hands", &mut text);
        return output::write_flushed(&mut std::io::stdout().lock(), &text).map(|()| 0);
    }
    let address = cli.addr.unwrap_or_else(|| {
        let runtime = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        default_address(runtime.as_deref(), |path| path.exists())
    });
    let format = if cli.json { Format::Json } else { Format::Text };
    let context = Context { channel: client::connect_with(&address, &cli.credentials.into()).await?, format };
    match cli.command {
        Command::Bash(args) => return runs::bash(&context, args).await,
        Command::Attach(args) => return runs::attach(&context, args).await,
        Command::Create(args) => sandboxes::create(&context, *args).await,
        Command::List(args) => sandboxes::list(&context, args).await,
        Command::Get(args) => sandboxes::get(&context, args).await,
        Command::Watch(args) => sandboxes::watch(&context, args).await,
        Command::Hibernate(args) => sandboxes::hibernate(&context, args).await,
        Command::Wake(args) => sandboxes::wake(&context, args).await,
        Command::Destroy(args) => sandboxes::destroy(&context, args).await,
        Command::Info(args) => sandboxes::info(&context, args).await,
        Command::Events(args) => node::events(&context, args).await,
        Command::Drain(args) => node::drain(&context, args).await,
        Command::Agent(args) => agents::agent(&context, args).await,
        Command::Credential(args) => credentials::credential(&context, args).await,
        Command::Session(args) => sessions::session(&context, args).await,
        Command::Kill(args) => runs::kill(&context, args).await,
        Command::Runs(args) => runs::runs(&context, args).await,
        Command::Read(args) => files::read(&context, args).await,
        Command::Write(args) => files::write(&context, args).await,
        Command::Ls(args) => files::ls(&context, args).await,
        Command::Stat(args) => files::stat(&context, args).await,
        Command::Mkdir(args) => files::mkdir(&context, args).await,
        Command::Rm(args) => files::rm(&context, args).await,
        Command::Mv(args) => files::mv(&context, args).await,
        Command::Edit(args) => search::edit(&context, args).await,
        Command::Glob(args) => search::glob(&context, args).await,
        Command::Grep(args) => search::grep(&context, args).await,
        Command::Cp(args) => copy::cp(&context, args).await,
        Command::Ports(args) => forward::ports(&context, args).await,
        Command::Forward(args) => forward::forward(&context, args).await,
        Command::Preview(args) => forward::preview(&context, args).await,
        Command::Allow(args) => network::allow(&context, args).await,
        Command::Completion { .. } => Ok(()),
    }
    .map(|()| 0)
}

/// The address when none was given.
fn default_address(runtime: Option<&Path>, exists: impl Fn(&Path) -> bool) -> Address {
    let sockets = [Some(PathBuf::from(SOCKET)), runtime.map(|runtime| runtime.join(USER_SOCKET))];
    let socket = sockets.into_iter().flatten().find(|path| exists(path));
    socket.map_or_else(|| Address::Tcp(TCP.to_owned()), Address::Unix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_systems_socket_comes_before_the_users_and_tcp_last() {
        let runtime = Path::new("/run/user/7");
        let address =
            |there: &[&str]| default_address(Some(runtime), |path| there.iter().any(|it| Path::new(it) == path));
        let user = "/run/user/7/handsd/handsd.sock";
        assert_eq!(address(&[SOCKET, user]), Address::Unix(SOCKET.into()));
        assert_eq!(address(&[user]), Address::Unix(user.into()));
        assert_eq!(address(&[]), Address::Tcp(TCP.to_owned()));
        assert_eq!(default_address(None, |_| false), Address::Tcp(TCP.to_owned()));
    }
}
