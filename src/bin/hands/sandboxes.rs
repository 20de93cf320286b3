//! Sandboxes and the node: create, get, list, watch, destroy, info.

use std::collections::BTreeMap;
use std::time::SystemTime;

use anyhow::{Context as _, bail};
use handsd::api::proto::{
    CreateSandboxRequest, DestroySandboxRequest, GetSandboxRequest, HibernateSandboxRequest, Limits,
    ListSandboxesRequest, NodeInfo, NodeInfoRequest, Phase, Sandbox, Tier, WakeSandboxRequest, WatchSandboxRequest,
};
use serde_json::json;

use crate::events::Format;
use crate::output::{self, Align};
use crate::{Context, args, errors, json, network, runtime};

/// Makes a sandbox and prints its id.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands create                                         # the node's default image
  hands create --image debian:12 --memory 512M --cpus 1.5
  hands create --label owner=ann --env LANG=C.UTF-8
  hands create --runtime 'exec python3 -m http.server' --health 'curl -fsS localhost:8000'
  ID=$(hands create --image tar:/srv/rootfs.tar.zst)

Images: host, dir:/path, tar:/path, archive:/path[:name], or a registry reference.")]
pub struct CreateArgs {
    /// What the root file system is made of [default: the node's]
    #[arg(long)]
    image: Option<String>,
    /// Environment of every run; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    env: Vec<(String, String)>,
    /// The same for what nobody shall read: a variable of this command's environment; may be given many times
    #[arg(long, value_name = "VARIABLE")]
    secret_env: Vec<String>,
    /// Your own words on the sandbox; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,
    /// Memory of all its processes together, such as 512M [default: the node's]
    #[arg(short, long, value_name = "SIZE", value_parser = args::bytes)]
    memory: Option<u64>,
    /// Processor time in CPUs: 0.5 is half of one [default: the node's]
    #[arg(long)]
    cpus: Option<f64>,
    /// Processes and threads [default: the node's]
    #[arg(long)]
    pids: Option<u64>,
    /// Bytes of files written, such as 1G [default: no bound]
    #[arg(long, value_name = "SIZE", value_parser = args::bytes)]
    disk: Option<u64>,
    /// Bytes a second that go out by network "nat" or "proxy", and as many that come, such as 10M [default: the node's]
    #[arg(long, value_name = "SIZE", value_parser = args::bytes)]
    bandwidth: Option<u64>,
    /// Who commands run as: name, uid, name:group or uid:gid [default: the image's user]
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory of runs [default: /workspace]
    #[arg(short, long, value_name = "PATH")]
    workspace: Option<String>,
    /// Go to sleep after so long without use, such as 5m; 0 for never [default: the node's]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    idle_timeout: Option<prost_types::Duration>,
    /// What it can reach; "proxy" is what --allow lists [default: the node's]
    #[arg(long, value_name = "MODE")]
    network: Option<network::Mode>,
    /// A name, "*.name", "*" or an address that can be connected to, with or without a port; implies --network proxy, and
    /// may be given many times
    #[arg(long, value_name = "NAME[:PORT]")]
    allow: Vec<String>,
    /// A secret that the proxy puts into a header of requests over TLS to a name, so that the sandbox need not hold it: the
    /// value of a variable of this command's environment. With http:// before the name, over plain HTTP too. May be given
    /// many times
    #[arg(long, value_name = "NAME:HEADER=VARIABLE")]
    secret: Vec<network::SecretArg>,
    /// A second create with the same key and request answers with the same sandbox
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    runtime: runtime::RuntimeArgs,
}

/// Shows a sandbox.
#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The sandbox
    id: String,
}

/// Lists the sandboxes of the node.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands list --label owner=ann
  hands list --json | jq -r '.[].id'")]
pub struct ListArgs {
    /// Only those with this label; may be given many times
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = args::pair)]
    label: Vec<(String, String)>,
}

/// Shows a sandbox whenever it changes, until it is destroyed.
#[derive(Debug, clap::Args)]
pub struct WatchArgs {
    /// The sandbox
    id: String,
}

/// Puts a sandbox to sleep; the next command wakes it.
#[derive(Debug, clap::Args)]
pub struct HibernateArgs {
    /// The sandbox
    id: String,
    /// End its processes too, and keep its files only
    #[arg(long)]
    stop: bool,
}

/// Wakes a sandbox.
#[derive(Debug, clap::Args)]
pub struct WakeArgs {
    /// The sandbox
    id: String,
}

/// Ends all processes of sandboxes and removes their files.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands destroy $(hands list --label owner=ann --json | jq -r '.[].id')")]
pub struct DestroyArgs {
    /// The sandboxes; one that is gone already is fine
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
}

/// `hands create`
pub async fn create(context: &Context, args: CreateArgs) -> anyhow::Result<()> {
    let limits = Limits {
        memory_bytes: args.memory.unwrap_or_default(),
        cpus: args.cpus.unwrap_or_default(),
        pids: args.pids.unwrap_or_default(),
        disk_bytes: args.disk.unwrap_or_default(),
        bandwidth: args.bandwidth.unwrap_or_default(),
    };
    let request = CreateSandboxRequest {
        image: args.image.unwrap_or_default(),
        env: args.env.into_iter().collect(),
        labels: args.label.into_iter().collect(),
        limits: Some(limits),
        user: args.user.unwrap_or_default(),
        workspace: args.workspace.unwrap_or_default(),
        network: network::request(args.network, args.allow)?,
        idempotency_key: args.idempotency_key.unwrap_or_default(),
        idle_timeout: args.idle_timeout,
        runtime: runtime::request(args.runtime),
        secrets: network::secrets(args.secret)?,
        secret_env: secret_env(args.secret_env)?,
    };
    let sandbox = context.sandboxes().create(request).await?.into_inner();
    match context.format {
        Format::Text => output::print(&format!("{}\n", sandbox.id)),
        Format::Json => output::print_json(&json::sandbox(&sandbox)),
    }
}

/// Values come from this process's environment: what is on the command line, everybody on this machine sees.
fn secret_env(variables: Vec<String>) -> anyhow::Result<BTreeMap<String, String>> {
    let read = |variable: String| {
        let value = std::env::var(&variable).with_context(|| format!("the environment's {variable}"))?;
        Ok((variable, value))
    };
    variables.into_iter().map(read).collect()
}

/// `hands get`
pub async fn get(context: &Context, args: GetArgs) -> anyhow::Result<()> {
    show(context, &context.sandboxes().get(GetSandboxRequest { sandbox_id: args.id }).await?.into_inner())
}

/// `hands hibernate`
pub async fn hibernate(context: &Context, args: HibernateArgs) -> anyhow::Result<()> {
    let tier = if args.stop { Tier::Stopped } else { Tier::Frozen };
    let request = HibernateSandboxRequest { sandbox_id: args.id, tier: tier.into() };
    show(context, &context.sandboxes().hibernate(request).await?.into_inner())
}

/// `hands wake`
pub async fn wake(context: &Context, args: WakeArgs) -> anyhow::Result<()> {
    let request = WakeSandboxRequest { sandbox_id: args.id };
    show(context, &context.sandboxes().wake(request).await?.into_inner())
}

/// A sandbox as it stands.
fn show(context: &Context, sandbox: &Sandbox) -> anyhow::Result<()> {
    match context.format {
        Format::Text => output::print(&describe(sandbox, SystemTime::now())),
        Format::Json => output::print_json(&json::sandbox(sandbox)),
    }
}

/// `hands list`
pub async fn list(context: &Context, args: ListArgs) -> anyhow::Result<()> {
    let mut sandboxes = Vec::new();
    let mut request = ListSandboxesRequest { labels: args.label.into_iter().collect(), ..Default::default() };
    loop {
        let page = context.sandboxes().list(request.clone()).await?.into_inner();
        sandboxes.extend(page.sandboxes);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    if context.format == Format::Json {
        return output::print_json(&sandboxes.iter().map(json::sandbox).collect());
    }
    let columns = [
        ("ID", Align::Left),
        ("PHASE", Align::Left),
        ("AGE", Align::Right),
        ("RUNS", Align::Right),
        ("IMAGE", Align::Left),
        ("LABELS", Align::Left),
    ];
    let now = SystemTime::now();
    let row = |it: &Sandbox| {
        let age = output::age(it.created_at, now);
        vec![it.id.clone(), phase(it), age, it.running.to_string(), it.image.clone(), pairs(&it.labels)]
    };
    let rows: Vec<Vec<String>> = sandboxes.iter().map(row).collect();
    output::print(&output::table(&columns, &rows))
}

/// `hands watch`
pub async fn watch(context: &Context, args: WatchArgs) -> anyhow::Result<()> {
    let request = WatchSandboxRequest { sandbox_id: args.id, after_generation: 0 };
    let mut stream = context.sandboxes().watch(request).await?.into_inner();
    while let Some(sandbox) = stream.message().await? {
        match context.format {
            Format::Json => output::print_json(&json::sandbox(&sandbox))?,
            Format::Text => {
                let failure = sandbox.failure.as_ref().map(|it| format!("{} ({})", it.message, it.reason));
                let row = [sandbox.generation.to_string(), phase(&sandbox), failure.unwrap_or_default()];
                let columns = [("", Align::Left), ("", Align::Left), ("", Align::Left)];
                output::print(&output::table(&columns, &[row.to_vec()]))?;
            }
        }
        if sandbox.phase() == Phase::Destroyed {
            return Ok(());
        }
    }
    bail!("the node ended the watch before the sandbox was destroyed")
}

/// `hands destroy`: all of them, also after one has failed.
pub async fn destroy(context: &Context, args: DestroyArgs) -> anyhow::Result<()> {
    let mut failed = None;
    for id in args.ids {
        let request = DestroySandboxRequest { sandbox_id: id.clone() };
        match (context.sandboxes().destroy(request).await, context.format) {
            (Ok(_), Format::Text) => output::print(&format!("{id}\n"))?,
            (Ok(_), Format::Json) => output::print_json(&json!({ "destroyed": id }))?,
            (Err(status), _) => {
                let error = anyhow::Error::from(status).context(format!("cannot destroy {id}"));
                // Each but the last is reported here, the last by the caller.
                if let Some(before) = failed.replace(error) {
                    errors::report(&before);
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

/// Arguments of `hands info`.
#[derive(Debug, clap::Args)]
pub struct InfoArgs {
    /// Print only the key of the HTTP surface, which is in a file on the node
    #[arg(long)]
    show_key: bool,
}

/// `hands info`
pub async fn info(context: &Context, args: InfoArgs) -> anyhow::Result<()> {
    let node = context.node().info(NodeInfoRequest {}).await?.into_inner();
    if args.show_key {
        return show_key(context.format, &node);
    }
    match context.format {
        Format::Text => output::print(&describe_node(&node, SystemTime::now())),
        Format::Json => output::print_json(&json::node(&node)),
    }
}

/// The daemon tells nobody the key, but where it is: who may read the file may know it.
fn show_key(format: Format, node: &NodeInfo) -> anyhow::Result<()> {
    anyhow::ensure!(!node.http_address.is_empty(), "the node has no HTTP surface");
    anyhow::ensure!(!node.http_key_file.is_empty(), "the node's key is in the environment that it was started with");
    let key = std::fs::read_to_string(&node.http_key_file).with_context(|| format!("read {}", node.http_key_file))?;
    match format {
        Format::Text => output::print(&format!("{}\n", key.trim())),
        Format::Json => output::print_json(&serde_json::json!({ "key": key.trim() })),
    }
}

fn describe(sandbox: &Sandbox, now: SystemTime) -> String {
    let limits = sandbox.limits.unwrap_or_default();
    // 0 is unbounded, and then there is nothing to show.
    let bytes = |bytes: u64| if bytes == 0 { String::new() } else { output::size(bytes) };
    output::fields(&[
        ("id", sandbox.id.clone()),
        ("phase", phase(sandbox)),
        ("tier", tier(sandbox)),
        ("failure", sandbox.failure.as_ref().map(|it| format!("{} ({})", it.message, it.reason)).unwrap_or_default()),
        ("age", output::age(sandbox.created_at, now)),
        ("image", sandbox.image.clone()),
        ("engine", sandbox.engine.clone()),
        ("user", sandbox.user.clone()),
        ("workspace", sandbox.workspace.clone()),
        ("labels", pairs(&sandbox.labels)),
        ("env", pairs(&sandbox.env)),
        ("secret env", sandbox.secret_env.join(" ")),
        ("memory", bytes(limits.memory_bytes)),
        ("cpus", if limits.cpus > 0.0 { limits.cpus.to_string() } else { String::new() }),
        ("pids", if limits.pids == 0 { String::new() } else { limits.pids.to_string() }),
        ("disk", bytes(limits.disk_bytes)),
        ("idle timeout", idle_timeout(sandbox)),
        ("network", network::describe(sandbox)),
        ("secrets", network::describe_secrets(sandbox)),
        ("runs", sandbox.running.to_string()),
        ("runtime", runtime::describe(sandbox)),
        ("generation", sandbox.generation.to_string()),
    ])
}

fn describe_node(node: &NodeInfo, now: SystemTime) -> String {
    let defaults = node.defaults.clone().unwrap_or_default();
    let mut text = output::fields(&[
        ("version", node.version.clone()),
        ("engine", node.engine.clone()),
        ("up", output::age(node.started_at, now)),
        ("kernel", node.kernel.clone()),
        ("cgroup", node.cgroup.clone()),
        ("rootless", if node.rootless { "yes" } else { "no" }.to_owned()),
        ("cpus", node.cpus.to_string()),
        ("memory", output::size(node.memory_bytes)),
        ("sandboxes", node.sandboxes.to_string()),
        ("runs", node.running.to_string()),
        ("http", node.http_address.clone()),
        ("image", defaults.image),
        ("timeout", span(defaults.timeout)),
        ("kill grace", span(defaults.kill_grace)),
        ("retention", span(defaults.retention)),
        ("output cap", output::size(defaults.output_cap_bytes)),
    ]);
    for lack in &node.lacks {
        text.push_str(&format!("lacks: {}\n", output::printable(lack)));
    }
    text
}

fn phase(sandbox: &Sandbox) -> String {
    sandbox.phase().as_str_name().to_ascii_lowercase()
}

/// How deep it sleeps, if it does.
fn tier(sandbox: &Sandbox) -> String {
    match sandbox.tier() {
        Tier::Unspecified => String::new(),
        tier => tier.as_str_name().to_ascii_lowercase(),
    }
}

/// After what time without use it goes to sleep.
fn idle_timeout(sandbox: &Sandbox) -> String {
    if sandbox.idle_timeout.is_some() { span(sandbox.idle_timeout) } else { "never".to_owned() }
}

fn span(span: Option<prost_types::Duration>) -> String {
    let span = span.and_then(|span| std::time::Duration::try_from(span).ok());
    span.map(|span| humantime::format_duration(span).to_string()).unwrap_or_default()
}

fn pairs(map: &BTreeMap<String, String>) -> String {
    map.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unbounded_or_empty_is_not_shown() {
        let limits = Limits { memory_bytes: 512 << 20, ..Default::default() };
        let labels = [("a".to_owned(), "1".to_owned()), ("b".to_owned(), "2".to_owned())].into();
        let sandbox = Sandbox {
            id: "sb_x".to_owned(),
            phase: Phase::Running.into(),
            limits: Some(limits),
            labels,
            ..Default::default()
        };
        let text = describe(&sandbox, SystemTime::UNIX_EPOCH);
        assert!(text.contains("phase:         running\n"), "{text}");
        assert!(text.contains("memory:        512M\n"), "{text}");
        assert!(text.contains("labels:        a=1 b=2\n"), "{text}");
        assert!(!text.contains("cpus") && !text.contains("failure") && !text.contains("tier"), "{text}");
    }
}
