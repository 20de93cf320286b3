//! What a sandbox keeps running: `--runtime` and what belongs to it.

use handsd::api::proto::runtime::Restart as Message;
use handsd::api::proto::{Health, Runtime, RuntimeStatus, Sandbox, health};

use crate::args;

/// The process that a sandbox keeps running
#[derive(Debug, clap::Args)]
pub struct RuntimeArgs {
    /// A line for the shell that is kept running
    #[arg(long, value_name = "COMMAND")]
    runtime: Option<String>,
    /// After which ends it is started again [default: on-failure]
    #[arg(long, value_name = "WHEN", requires = "runtime")]
    restart: Option<Restart>,
    /// A line for the shell; the runtime hangs when it fails three times in a row
    #[arg(long, value_name = "COMMAND", requires = "runtime", conflicts_with = "heartbeat")]
    health: Option<String>,
    /// Between two health commands [default: 30s]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = args::duration)]
    health_interval: Option<prost_types::Duration>,
    /// How long a health command may take [default: 10s]
    #[arg(long, value_name = "DURATION", requires = "health", value_parser = args::duration)]
    health_timeout: Option<prost_types::Duration>,
    /// The runtime hangs when it writes nothing for so long
    #[arg(long, value_name = "DURATION", requires = "runtime", value_parser = args::duration)]
    heartbeat: Option<prost_types::Duration>,
    /// How long after its start the runtime is left alone [default: 0]
    #[arg(long, value_name = "DURATION", requires = "runtime", value_parser = args::duration)]
    start_period: Option<prost_types::Duration>,
    /// Between SIGTERM and SIGKILL, when it hangs or its sandbox is stopped [default: 10s]
    #[arg(long, value_name = "DURATION", requires = "runtime", value_parser = args::duration)]
    stop_grace: Option<prost_types::Duration>,
}

/// After which ends a runtime is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Restart {
    /// None
    Never,
    /// All but an exit with code 0
    OnFailure,
    /// All
    Always,
}

/// The runtime of a request.
pub fn request(args: RuntimeArgs) -> Option<Runtime> {
    let check = args.health.map(health::Check::Command).or_else(|| args.heartbeat.map(health::Check::Heartbeat));
    let health = check.map(|check| Health {
        check: Some(check),
        interval: args.health_interval,
        timeout: args.health_timeout,
        start_period: args.start_period,
    });
    let restart = match args.restart {
        None => Message::Unspecified,
        Some(Restart::Never) => Message::Never,
        Some(Restart::OnFailure) => Message::OnFailure,
        Some(Restart::Always) => Message::Always,
    };
    let stop_grace = args.stop_grace;
    args.runtime.map(|command| Runtime { command, restart: restart.into(), health, stop_grace, ..Runtime::default() })
}

/// How it stands, in one line; empty if there is none.
pub fn describe(sandbox: &Sandbox) -> String {
    sandbox.runtime_status.as_ref().map(line).unwrap_or_default()
}

fn line(status: &RuntimeStatus) -> String {
    let state = status.state().as_str_name().to_ascii_lowercase();
    let run = if status.run_id.is_empty() { String::new() } else { format!(" {}", status.run_id) };
    let exit = status.last_exit.as_ref().map(|exit| exit.reason().as_str_name().to_ascii_lowercase());
    let exit = exit.map(|exit| format!(", ended last: {exit}")).unwrap_or_default();
    format!("{state}{run}, start {}{exit}", status.starts)
}
