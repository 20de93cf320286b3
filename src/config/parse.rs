//! The keys of the file: what each one takes, and what stands in for it.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::access;
use super::brains;
use super::section::{self, Section, choice, integer, limit, number, text};
use super::telemetry;
use super::value::{
    cgroup_path, credentials, directory, docker_name, domain, duration, expected, filter, host, image_reference,
    listen_address, origin, range, registry, size, subnet, truth,
};
use super::{
    CgroupUse, Config, DockerConfig, EngineConfig, EngineKind, Environment, Fault, HttpAddress, HttpConfig,
    ImageConfig, ListenAddress, LogConfig, LogFormat, NetworkConfig, Overrides, RunDefaults, SandboxDefaults, defaults,
    units,
};
use crate::engine::Passage;
use crate::engine::docker::{Pull, UserNamespace};
use crate::health::policy::Floors;
use crate::network::policy::{Allow, Bounds, Policy, Rule};
use crate::sandbox::policy::Policy as Restarts;
use crate::sandbox::pressure;

/// The configuration that `text` gives with the flags on top, or all its faults.
pub(super) fn config(text: &str, overrides: &Overrides, environment: &Environment) -> Result<Config, Vec<Fault>> {
    section::read(text, |root| {
        let state_dir = state_dir(root, overrides, environment);
        let auth = root.section("auth", access::auth);
        let tls = root.section("tls", |section| access::tls(section, environment));
        let reach = access::reach(tls.as_ref(), &auth);
        let grpc = grpc(root, overrides, environment, &state_dir, reach);
        let engine = root.section("engine", |section| engine(section, overrides, environment));
        Config {
            http: root.section("http", |section| {
                let place = HttpPlace { state_dir: &state_dir, grpc: &grpc, has_tls: tls.is_some() };
                http(section, overrides, environment, place)
            }),
            grpc,
            log: root.section("log", log),
            telemetry: root.section("telemetry", telemetry::telemetry),
            auth,
            tls,
            limits: root.section("limits", access::limits),
            health: root.section("health", health),
            sandbox: root.section("sandbox", |section| sandbox(section, engine.kind, overrides)),
            run: root.section("run", run),
            runtime: root.section("runtime", runtime),
            image: root.section("image", |section| image(section, environment)),
            network: root.section("network", network),
            brains: root.section("brain", brains::brains),
            model: root.section("model", brains::model),
            engine,
            state_dir,
        }
    })
}

fn state_dir(root: &mut Section<'_, '_>, overrides: &Overrides, environment: &Environment) -> PathBuf {
    let written = root.take("state_dir", text(directory));
    let default = || {
        if environment.is_root {
            return Some(PathBuf::from(defaults::ROOT_STATE_DIR));
        }
        let under_home = || environment.home.as_ref().map(|home| home.join(".local/state"));
        environment.xdg_state_home.clone().or_else(under_home).map(|states| states.join("handsd"))
    };
    let chosen = overrides.state_dir.clone().or(written).or_else(default);
    let chosen = chosen.unwrap_or_else(|| {
        let message = "expected a directory: neither HOME nor XDG_STATE_HOME is set, so there is no default";
        root.reject("state_dir", Some(message.to_owned()));
        PathBuf::new()
    });
    // A flag or the environment may give what the file could not.
    let usable = chosen.to_str().is_some_and(|path| directory(path).is_ok());
    root.reject("state_dir", (!usable).then(|| format!("expected an absolute path in UTF-8, found {chosen:?}")));
    chosen
}

fn grpc(
    root: &mut Section<'_, '_>,
    overrides: &Overrides,
    environment: &Environment,
    state_dir: &Path,
    reach: Result<(), &'static str>,
) -> Vec<ListenAddress> {
    let written = root.take_list("grpc", text(|text| access::within(listen_address(text)?, reach)));
    let far = overrides.grpc.iter().find_map(|address| access::within(address.clone(), reach).err());
    root.reject("grpc", far.map(|expected| format!("expected {expected}")));
    let default_socket = || match &environment.xdg_runtime_dir {
        _ if environment.is_root => PathBuf::from(defaults::ROOT_SOCKET),
        Some(runtime) => runtime.join("handsd/handsd.sock"),
        None => state_dir.join("handsd.sock"),
    };
    let given = if overrides.grpc.is_empty() { written } else { Some(overrides.grpc.clone()) };
    let addresses = given.unwrap_or_else(|| vec![ListenAddress::Unix(default_socket())]);
    // Of the addresses, only the default socket has not been through this: its directory may be a deep one.
    let long = addresses.iter().find_map(|address| match address {
        ListenAddress::Unix(path) => ListenAddress::unix(path).err(),
        ListenAddress::Tcp(_) => None,
    });
    root.reject("grpc", long.map(|error| error.to_string()));
    root.reject("grpc", addresses.is_empty().then(|| "expected at least one address".to_owned()));
    let twice = addresses.iter().enumerate().find(|(index, address)| addresses[..*index].contains(address));
    root.reject("grpc", twice.map(|(_, address)| format!("{address} is there twice")));
    addresses
}

/// What the HTTP surface stands beside.
struct HttpPlace<'a> {
    state_dir: &'a Path,
    grpc: &'a [ListenAddress],
    has_tls: bool,
}

fn http(
    http: &mut Section<'_, '_>,
    overrides: &Overrides,
    environment: &Environment,
    HttpPlace { state_dir, grpc, has_tls }: HttpPlace<'_>,
) -> HttpConfig {
    let written = http.take("listen", text(|text| text.parse::<HttpAddress>().map_err(expected)));
    let listen: Option<SocketAddr> = overrides.http.or(written).unwrap_or(HttpAddress::At(defaults::HTTP)).into();
    // Of port 0 the kernel makes another port each time.
    let taken = listen.filter(|address| address.port() != 0 && grpc.contains(&ListenAddress::Tcp(*address)));
    http.reject("listen", taken.map(|_| "expected another address than gRPC has".to_owned()));
    let tls = http.take("tls", truth).unwrap_or(defaults::HTTP_TLS);
    http.reject("tls", (tls && !has_tls).then(|| "expected false (to be served with TLS takes [tls])".to_owned()));
    let is_open = listen.is_some_and(|address| !address.ip().is_loopback()) && !tls;
    http.reject(
        "listen",
        is_open.then(|| "expected a loopback address (beyond loopback it takes http.tls)".to_owned()),
    );
    HttpConfig {
        listen,
        tls,
        hosts: http.take_list("hosts", text(host)).unwrap_or_default(),
        origins: http.take_list("origins", text(origin)).unwrap_or_default(),
        key_file: http.take("key_file", text(directory)).unwrap_or_else(|| state_dir.join(defaults::KEY_FILE)),
        key: environment.api_key.clone(),
        private_webhooks: http.take("private_webhooks", truth).unwrap_or(defaults::PRIVATE_WEBHOOKS),
        webhook_retry: http
            .take("webhook_retry", duration(defaults::WEBHOOK_RETRY_BOUNDS))
            .unwrap_or(defaults::WEBHOOK_RETRY),
        unread_timeout: http
            .take("unread_timeout", duration(defaults::UNREAD_TIMEOUT_BOUNDS))
            .unwrap_or(defaults::UNREAD_TIMEOUT),
    }
}

fn log(log: &mut Section<'_, '_>) -> LogConfig {
    let filter = log.take("filter", text(filter));
    let format = log.take("format", choice([("human", LogFormat::Human), ("json", LogFormat::Json)]));
    LogConfig {
        filter: filter.unwrap_or_else(|| defaults::LOG_FILTER.to_owned()),
        format: format.unwrap_or(defaults::LOG_FORMAT),
    }
}

fn health(health: &mut Section<'_, '_>) -> Floors {
    Floors {
        disk: health.take("min_free_disk", size(defaults::MIN_FREE_BOUNDS)).unwrap_or(defaults::MIN_FREE_DISK),
        memory: health.take("min_free_memory", size(defaults::MIN_FREE_BOUNDS)).unwrap_or(defaults::MIN_FREE_MEMORY),
    }
}

fn sandbox(sandbox: &mut Section<'_, '_>, engine: EngineKind, overrides: &Overrides) -> SandboxDefaults {
    let image = sandbox.take("image", text(image_reference));
    let default = match engine {
        EngineKind::Native => defaults::IMAGE,
        EngineKind::Docker => defaults::DOCKER_IMAGE,
    };
    SandboxDefaults {
        image: overrides.image.clone().or(image).unwrap_or_else(|| default.to_owned()),
        memory: sandbox.take("memory", limit(size(defaults::MEMORY_BOUNDS))).unwrap_or(defaults::MEMORY),
        cpus: sandbox.take("cpus", limit(number(defaults::CPUS_BOUNDS))).unwrap_or(defaults::CPUS),
        pids: sandbox.take("pids", limit(integer(defaults::PIDS_BOUNDS))).unwrap_or(defaults::PIDS),
        bandwidth: sandbox.take("bandwidth", limit(size(defaults::BANDWIDTH_BOUNDS))).unwrap_or(defaults::BANDWIDTH),
        idle_timeout: sandbox
            .take("idle_timeout", limit(duration(defaults::IDLE_TIMEOUT_BOUNDS)))
            .unwrap_or(defaults::IDLE_TIMEOUT),
        stop_after: sandbox
            .take("stop_after", limit(duration(defaults::STOP_AFTER_BOUNDS)))
            .unwrap_or(defaults::STOP_AFTER),
        max_wakes: sandbox.take("max_wakes", integer(defaults::MAX_WAKES_BOUNDS)).unwrap_or(defaults::MAX_WAKES),
        max_sandboxes: sandbox
            .take("max_sandboxes", integer(defaults::MAX_SANDBOXES_BOUNDS))
            .unwrap_or(defaults::MAX_SANDBOXES),
        reserve: sandbox.take("reserve", integer(defaults::RESERVE_BOUNDS)).unwrap_or(defaults::RESERVE),
        pressure: pressure(sandbox),
    }
}

fn pressure(sandbox: &mut Section<'_, '_>) -> pressure::policy::Floors {
    let available = sandbox.take("pressure_memory", size(defaults::PRESSURE_MEMORY_BOUNDS));
    let stall = sandbox.take("pressure_stall", limit(number(defaults::PRESSURE_STALL_BOUNDS)));
    pressure::policy::Floors {
        available: available.unwrap_or(defaults::PRESSURE_MEMORY),
        stall: stall.unwrap_or(defaults::PRESSURE_STALL),
    }
}

fn runtime(runtime: &mut Section<'_, '_>) -> Restarts {
    let default = Restarts::default();
    let mut span = |key, default| runtime.take(key, duration(defaults::RESTART_BOUNDS)).unwrap_or(default);
    Restarts {
        first: span("restart_after", default.first),
        longest: span("restart_longest", default.longest),
        window: span("window", default.window),
        stable: span("stable", default.stable),
        budget: runtime.take("budget", integer(defaults::RESTART_BUDGET_BOUNDS)).unwrap_or(default.budget),
    }
}

fn run(run: &mut Section<'_, '_>) -> RunDefaults {
    let timeout = run.take("timeout", duration(defaults::TIMEOUT_BOUNDS));
    let max_timeout = run.take("max_timeout", duration(defaults::TIMEOUT_BOUNDS)).unwrap_or(defaults::MAX_TIMEOUT);
    // Who only lowers the maximum means the default as well.
    let timeout = timeout.unwrap_or_else(|| defaults::TIMEOUT.min(max_timeout));
    let late = (timeout > max_timeout).then(|| units::format_duration(max_timeout));
    run.reject("timeout", late.map(|most| format!("expected at most run.max_timeout, which is {most}")));
    RunDefaults {
        timeout,
        max_timeout,
        kill_grace: run.take("kill_grace", duration(defaults::KILL_GRACE_BOUNDS)).unwrap_or(defaults::KILL_GRACE),
        retention: run.take("retention", duration(defaults::RETENTION_BOUNDS)).unwrap_or(defaults::RETENTION),
        retained_runs: run
            .take("retained_runs", integer(defaults::RETAINED_RUNS_BOUNDS))
            .unwrap_or(defaults::RETAINED_RUNS),
        output_cap: run.take("output_cap", size(defaults::OUTPUT_CAP_BOUNDS)).unwrap_or(defaults::OUTPUT_CAP),
        max_runs: run.take("max_runs", integer(defaults::MAX_RUNS_BOUNDS)).unwrap_or(defaults::MAX_RUNS),
    }
}

fn image(image: &mut Section<'_, '_>, environment: &Environment) -> ImageConfig {
    ImageConfig {
        max_unpacked: image.take("max_unpacked", size(defaults::MAX_UNPACKED_BOUNDS)).unwrap_or(defaults::MAX_UNPACKED),
        plain_http: image.take_list("plain_http", text(registry)).unwrap_or_default(),
        credentials: registry_credentials(image, environment),
    }
}

fn network(network: &mut Section<'_, '_>) -> NetworkConfig {
    let modes = [("none", "none"), ("proxy", "proxy"), ("nat", "nat"), ("host", "host")];
    let default = network.take("default", choice(modes)).unwrap_or(defaults::NETWORK);
    let allow = allowlist(network, "allow").unwrap_or_default();
    let ceiling = network.take("ceiling", choice(modes)).unwrap_or(defaults::NETWORK_CEILING);
    let every = || Allow::parse(&[defaults::NETWORK_CEILING_ALLOW]).expect("it is a rule");
    let most = allowlist(network, "ceiling_allow").unwrap_or_else(every);
    let (default, ceiling) = (policy(default, allow), policy(ceiling, most));
    let beyond = Bounds::new(default.clone(), ceiling.clone()).err();
    network.reject("default", beyond.map(|beyond| format!("expected no more than network.ceiling: {beyond}")));
    NetworkConfig {
        default,
        ceiling,
        reachable: network.take_list("reachable", text(range)).unwrap_or_default(),
        subnet: network
            .take("subnet", text(subnet))
            .unwrap_or_else(|| defaults::SUBNET.parse().expect("it is a range")),
        preview_domain: network
            .take("preview_domain", text(domain))
            .unwrap_or_else(|| defaults::PREVIEW_DOMAIN.to_owned()),
    }
}

fn allowlist(network: &mut Section<'_, '_>, key: &'static str) -> Option<Allow> {
    let rule = |rule: &str| rule.parse::<Rule>().map(|rule| rule.to_string()).map_err(|error| error.to_string());
    let rules = network.take_list(key, text(rule))?;
    let allow = Allow::parse(&rules);
    network.reject(key, allow.as_ref().err().map(ToString::to_string));
    allow.ok()
}

fn policy(mode: &str, allow: Allow) -> Policy {
    match mode {
        "proxy" => Policy::Proxy(allow),
        "nat" => Policy::Nat,
        "host" => Policy::Host,
        _ => Policy::None,
    }
}

fn engine(engine: &mut Section<'_, '_>, overrides: &Overrides, environment: &Environment) -> EngineConfig {
    let kind = engine.take("kind", choice([("native", EngineKind::Native), ("docker", EngineKind::Docker)]));
    let kind = overrides.engine.or(kind).unwrap_or(defaults::ENGINE);
    EngineConfig {
        kind,
        cgroup: engine
            .take("cgroup", choice([("auto", CgroupUse::Auto), ("off", CgroupUse::Off)]))
            .unwrap_or(defaults::CGROUP),
        cgroup_parent: engine
            .take("cgroup_parent", text(cgroup_path))
            .unwrap_or_else(|| PathBuf::from(defaults::CGROUP_PARENT)),
        id_base: engine.take("id_base", integer(defaults::ID_BASE_BOUNDS)).unwrap_or(defaults::ID_BASE),
        docker: engine.section("docker", |section| docker(section, kind, environment)),
    }
}

fn docker(docker: &mut Section<'_, '_>, kind: EngineKind, environment: &Environment) -> DockerConfig {
    let pull = [("missing", Pull::Missing), ("never", Pull::Never), ("always", Pull::Always)];
    let guest = [("auto", None), ("socket", Some(Passage::Socket)), ("stdio", Some(Passage::Stdio))];
    let user_namespace = [("engine", UserNamespace::Engine), ("host", UserNamespace::Host)];
    let runtime =
        docker.take("runtime", text(|name| if name.is_empty() { Ok(None) } else { docker_name(name).map(Some) }));
    DockerConfig {
        socket: docker_socket(docker, kind, environment),
        runtime: runtime.flatten(),
        guest: docker.take("guest", choice(guest)).flatten(),
        network_mode: docker
            .take("network_mode", text(docker_name))
            .unwrap_or_else(|| defaults::NETWORK_MODE.to_owned()),
        pull: docker.take("pull", choice(pull)).unwrap_or(defaults::PULL),
        user_namespace: docker.take("user_namespace", choice(user_namespace)).unwrap_or(defaults::USER_NAMESPACE),
        credentials: registry_credentials(docker, environment),
    }
}

/// Where `docker login` keeps them, unless something else is written.
fn registry_credentials(section: &mut Section<'_, '_>, environment: &Environment) -> Option<PathBuf> {
    section.take("credentials", text(credentials)).unwrap_or_else(|| {
        let below_home = || environment.home.as_ref().map(|home| home.join(".docker"));
        environment.docker_config.clone().or_else(below_home).map(|config| config.join("config.json"))
    })
}

fn docker_socket(docker: &mut Section<'_, '_>, kind: EngineKind, environment: &Environment) -> PathBuf {
    if let Some(written) = docker.take("socket", text(directory)) {
        return written;
    }
    let Some(host) = &environment.docker_host else { return PathBuf::from(defaults::DOCKER_SOCKET) };
    let path = host.strip_prefix("unix://").and_then(|path| directory(path).ok());
    // Who uses another engine may well have a Docker elsewhere.
    let elsewhere = kind == EngineKind::Docker && path.is_none();
    docker.reject("socket", elsewhere.then(|| format!("expected a unix socket: DOCKER_HOST is {host:?}")));
    path.unwrap_or_else(|| PathBuf::from(defaults::DOCKER_SOCKET))
}
