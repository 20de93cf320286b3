//! Writes a configuration as the file that would give it.

use std::path::Path;
use std::time::Duration;

use super::{CgroupUse, Config, DockerConfig, EngineKind, HttpConfig, LogFormat, NetworkConfig, units};
use crate::engine::Passage;
use crate::engine::docker::{Pull, UserNamespace};
use crate::network::policy::Policy;
use crate::sandbox::policy::Policy as Restarts;

impl Config {
    /// The effective configuration as TOML, each key with a word of explanation. [`Config::parse`] reads it back to the
    /// same configuration.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let node = [self.listening(), self.http(), self.log(), self.telemetry()];
        let sandboxes = [self.sandbox(), self.run(), self.runtime(), self.image(), self.network()];
        let brains = [self.brains(), self.model()];
        let engines = [self.engine(), self.docker()];
        let callers = [self.limits(), self.access()];
        [&node[..], &sandboxes, &brains, &engines, &callers].concat().join("\n")
    }

    fn listening(&self) -> String {
        let Self { state_dir, grpc, .. } = self;
        let grpc: Vec<_> = grpc.iter().map(|address| text(&address.to_string())).collect();
        format!(
            "\
# Where all state is kept: images, sandboxes, output.
state_dir = {state_dir}
# Where gRPC is served: \"unix:/path\" or an address; without [tls] a loopback one. See [auth] for who may call.
grpc = [{grpc}]
",
            state_dir = text(&state_dir.display().to_string()),
            grpc = grpc.join(", "),
        )
    }

    fn http(&self) -> String {
        // The key is in the environment and stays there.
        let HttpConfig {
            listen,
            tls,
            hosts,
            origins,
            key_file,
            key: _,
            private_webhooks,
            webhook_retry,
            unread_timeout,
        } = &self.http;
        let list = |items: &[String]| items.iter().map(|item| text(item)).collect::<Vec<_>>().join(", ");
        format!(
            "\
[http]
# Where the HTTP API, its page, /livez and /readyz are served: an address, without TLS a loopback one, or \"off\".
listen = {listen}
# Whether that is with TLS, by the certificate in [tls].
tls = {tls}
# Names of this node in URLs, besides its addresses and \"localhost\".
hosts = [{hosts}]
# Origins of other sites whose pages may call it, such as \"https://app.example\"; \"*\" is any.
origins = [{origins}]
# The API key; a new one is put here if there is no such file. HANDSD_API_KEY comes before it.
key_file = {key_file}
# Whether webhooks may go to private addresses, and without TLS.
private_webhooks = {private_webhooks}
# The pause before a webhook's first retry; each further one is four times as long, up to 6 hours.
webhook_retry = {webhook_retry}
# How long a client may leave unread what was sent to it, before its connection is closed.
unread_timeout = {unread_timeout}
",
            listen = listen.map_or_else(|| text("off"), |address| text(&address.to_string())),
            hosts = list(hosts),
            origins = list(origins),
            key_file = text(&key_file.display().to_string()),
            webhook_retry = duration(*webhook_retry),
            unread_timeout = duration(*unread_timeout),
        )
    }

    fn log(&self) -> String {
        let format = match self.log.format {
            LogFormat::Human => "human",
            LogFormat::Json => "json",
        };
        format!(
            "\
[log]
# What is logged: a level, or directives like \"info,handsd::engine=debug\".
filter = {filter}
# \"human\" or \"json\".
format = \"{format}\"
",
            filter = text(&self.log.filter),
        )
    }

    fn sandbox(&self) -> String {
        let sandbox = &self.sandbox;
        format!(
            "\
# What a sandbox gets if its request leaves it out.
[sandbox]
# \"host\", \"dir:/path\", \"tar:/path\", \"archive:/path\" or a registry reference.
image = {image}
# Bytes of memory, CPUs' worth of processor time, and processes and threads; or \"unlimited\".
memory = {memory}
cpus = {cpus}
pids = {pids}
# Bytes a second that go out by \"nat\" or \"proxy\", and as many that come; or \"unlimited\".
bandwidth = {bandwidth}
# Time without use after which a sandbox goes to sleep; or \"unlimited\".
idle_timeout = {idle_timeout}
# Time asleep after which a sandbox's processes are ended and its files kept; or \"unlimited\".
stop_after = {stop_after}
# Sandboxes that are woken at once; more wait for their turn.
max_wakes = {max_wakes}
# Sandboxes of this node; a request for one more is refused.
max_sandboxes = {max_sandboxes}
# Sandboxes as these keys say that are made before anybody asks.
reserve = {reserve}
# With less memory of the node available, or while something waits for memory in more than so many percent of the time, the
# sandbox that nobody has used for longest goes to sleep, and then the next; or \"unlimited\".
pressure_memory = {pressure_memory}
pressure_stall = {pressure_stall}
",
            image = text(&sandbox.image),
            memory = limit(sandbox.memory.map(size)),
            bandwidth = limit(sandbox.bandwidth.map(size)),
            cpus = limit(sandbox.cpus.map(|cpus| format!("{cpus:?}"))),
            pids = limit(sandbox.pids.map(|pids| pids.to_string())),
            idle_timeout = limit(sandbox.idle_timeout.map(duration)),
            stop_after = limit(sandbox.stop_after.map(duration)),
            max_wakes = sandbox.max_wakes,
            max_sandboxes = sandbox.max_sandboxes,
            reserve = sandbox.reserve,
            pressure_memory = size(sandbox.pressure.available),
            pressure_stall = limit(sandbox.pressure.stall.map(|stall| format!("{stall:?}"))),
        )
    }

    fn runtime(&self) -> String {
        let Restarts { first, longest, budget, window, stable } = self.runtime;
        format!(
            "\
# The process that a sandbox keeps running, if it was made with one.
[runtime]
# How long after its end it is started again: at first, and after more and more of them at most.
restart_after = {first}
restart_longest = {longest}
# The end after which it is given up, if so many come within the window; after so long a life they no longer count.
budget = {budget}
window = {window}
stable = {stable}
",
            first = duration(first),
            longest = duration(longest),
            window = duration(window),
            stable = duration(stable),
        )
    }

    fn run(&self) -> String {
        let run = &self.run;
        format!(
            "\
[run]
# Deadline of a run whose request names none, and the longest that a request may name.
timeout = {timeout}
max_timeout = {max_timeout}
# Between SIGTERM and SIGKILL.
kill_grace = {kill_grace}
# How long a run that has ended can be attached to, and how many of them a sandbox keeps.
retention = {retention}
retained_runs = {retained_runs}
# Output kept of one run; beyond it the head and the tail are kept.
output_cap = {output_cap}
# Runs that run at once in one sandbox; a request for one more is refused.
max_runs = {max_runs}
",
            timeout = duration(run.timeout),
            max_timeout = duration(run.max_timeout),
            kill_grace = duration(run.kill_grace),
            retention = duration(run.retention),
            retained_runs = run.retained_runs,
            output_cap = size(run.output_cap),
            max_runs = run.max_runs,
        )
    }

    fn image(&self) -> String {
        let plain_http: Vec<_> = self.image.plain_http.iter().map(|registry| text(registry)).collect();
        format!(
            "\
[image]
# What one image may unpack to.
max_unpacked = {max_unpacked}
# Registries, as host or host:port, that are spoken to without TLS.
plain_http = [{plain_http}]
# Docker's file with the credentials of registries, or \"none\".
credentials = {credentials}
",
            max_unpacked = size(self.image.max_unpacked),
            plain_http = plain_http.join(", "),
            credentials = path_or_none(self.image.credentials.as_deref()),
        )
    }

    fn network(&self) -> String {
        let NetworkConfig { default, ceiling, reachable, subnet, preview_domain } = &self.network;
        let list = |items: Vec<String>| items.iter().map(|item| text(item)).collect::<Vec<_>>().join(", ");
        let rules = |policy: &Policy| match policy {
            Policy::Proxy(allow) => allow.rules().iter().map(ToString::to_string).collect(),
            Policy::None | Policy::Nat | Policy::Host => Vec::new(),
        };
        format!(
            "\
# What sandboxes may reach: \"none\"; \"proxy\", what a list of names permits; \"nat\", all but the node, its other
# sandboxes and private networks; \"host\", what the node reaches.
[network]
# What a sandbox gets if its request leaves it out, and the names, if that is \"proxy\".
default = \"{default}\"
allow = [{allow}]
# The most that a request may ask for, and the names, if that is \"proxy\".
ceiling = \"{ceiling}\"
{ceiling_allow}# Ranges of private addresses that sandboxes may reach all the same.
reachable = [{reachable}]
# The addresses of sandboxes with \"nat\"; no other daemon of this machine may have the same.
subnet = \"{subnet}\"
# Previews are seen at http://PORT-SANDBOX. and this name.
preview_domain = {preview_domain}
",
            default = default.name(),
            allow = list(rules(default)),
            ceiling = ceiling.name(),
            ceiling_allow = match ceiling {
                Policy::Proxy(_) => format!("ceiling_allow = [{}]\n", list(rules(ceiling))),
                Policy::None | Policy::Nat | Policy::Host => String::new(),
            },
            preview_domain = text(preview_domain),
            reachable = list(reachable.iter().map(ToString::to_string).collect()),
        )
    }

    fn engine(&self) -> String {
        let kind = match self.engine.kind {
            EngineKind::Native => "native",
            EngineKind::Docker => "docker",
        };
        let cgroup = match self.engine.cgroup {
            CgroupUse::Auto => "auto",
            CgroupUse::Off => "off",
        };
        format!(
            "\
[engine]
# What makes the containers: \"native\" or \"docker\".
kind = \"{kind}\"
# \"auto\" uses the cgroups that the host has; \"off\" uses none: no limits, and kills that a process can escape.
cgroup = \"{cgroup}\"
# The cgroup below which those of sandboxes are, from the top of the tree. Not to be changed while there are sandboxes.
cgroup_parent = {parent}
# The first of the 65536 user and group ids of this node that sandboxes run as.
id_base = {id_base:#x}
",
            parent = text(&self.engine.cgroup_parent.display().to_string()),
            id_base = self.engine.id_base,
        )
    }

    fn docker(&self) -> String {
        let DockerConfig { socket, runtime, guest, network_mode, pull, user_namespace, credentials } =
            &self.engine.docker;
        let pull = match pull {
            Pull::Missing => "missing",
            Pull::Never => "never",
            Pull::Always => "always",
        };
        let user_namespace = match user_namespace {
            UserNamespace::Engine => "engine",
            UserNamespace::Host => "host",
        };
        format!(
            "\
# Of the engine \"docker\".
[engine.docker]
socket = {socket}
# The OCI runtime, by the name that Docker knows it by; \"\" is Docker's default.
runtime = {runtime}
# How guests are reached: by a unix \"socket\", by the containers' \"stdio\" where a runtime lets no socket in (gVisor, Kata), or
# \"auto\": as the runtime's name tells.
guest = \"{guest}\"
# The network of sandboxes with \"nat\": handsd's \"own\", or the name of one of Docker's, which handsd refuses nothing in;
# \"none\" if there is to be none.
network_mode = {network_mode}
# Images are pulled if they are \"missing\", \"never\", or \"always\".
pull = \"{pull}\"
# The user namespace of sandboxes: as the \"engine\" is configured, or the \"host\"'s.
user_namespace = \"{user_namespace}\"
# Docker's file with the credentials of registries, or \"none\".
credentials = {credentials}
",
            socket = text(&socket.display().to_string()),
            guest = guest.map_or("auto", Passage::name),
            runtime = text(runtime.as_deref().unwrap_or_default()),
            network_mode = text(network_mode),
            credentials = path_or_none(credentials.as_deref()),
        )
    }
}

pub(super) fn size(bytes: u64) -> String {
    text(&units::format_size(bytes))
}

pub(super) fn duration(duration: Duration) -> String {
    text(&units::format_duration(duration))
}

pub(super) fn limit(bound: Option<String>) -> String {
    bound.unwrap_or_else(|| text("unlimited"))
}

fn path_or_none(path: Option<&Path>) -> String {
    path.map_or_else(|| text("none"), |path| text(&path.display().to_string()))
}

/// A basic string of TOML.
pub(super) fn text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => quoted.extend(['\\', letter]),
            letter if letter.is_control() => quoted.push_str(&format!("\\u{:04x}", u32::from(letter))),
            letter => quoted.push(letter),
        }
    }
    quoted.push('"');
    quoted
}
