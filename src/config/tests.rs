use proptest::prelude::*;

use super::*;
use crate::gateway::Provider;
use crate::network::policy::Allow;
use crate::runtime::{Kind, Launch, codex};

fn root() -> Environment {
    Environment { is_root: true, ..Environment::default() }
}

fn user() -> Environment {
    Environment { home: Some("/home/ada".into()), ..Environment::default() }
}

fn faults(text: &str) -> Vec<String> {
    Config::parse(text, &root()).unwrap_err().iter().map(Fault::to_string).collect()
}

#[test]
fn an_empty_file_gives_the_defaults() {
    let config = Config::parse("", &root()).unwrap();
    assert_eq!(config.state_dir, Path::new("/var/lib/handsd"));
    assert_eq!(config.grpc, [ListenAddress::Unix("/run/handsd/handsd.sock".into())], "nobody else's, by default");
    assert_eq!(config.http.listen, Some("127.0.0.1:7421".parse().unwrap()));
    assert_eq!(config.http.key_file, Path::new("/var/lib/handsd/api.key"));
    assert_eq!(config.run.timeout, Duration::from_secs(300));
    assert_eq!(config.sandbox.pids, Some(4096));
}

#[test]
fn the_example_of_the_package_can_be_read() {
    let config = Config::parse(include_str!("../../systemd/handsd.toml"), &root()).unwrap();
    assert_eq!(config.engine.cgroup_parent, Path::new("handsd.slice"));
    assert_eq!(config.http, Config::parse("", &root()).unwrap().http);
}

#[test]
fn every_default_is_within_its_bounds() {
    let config = Config::parse("", &root()).unwrap();
    assert_eq!(Config::parse(&config.to_toml(), &user()).unwrap(), config);
}

#[test]
fn a_user_keeps_state_at_home_and_the_socket_in_the_runtime_directory() {
    let mut environment = user();
    let config = Config::parse("", &environment).unwrap();
    assert_eq!(config.state_dir, Path::new("/home/ada/.local/state/handsd"));
    assert_eq!(config.grpc[0], ListenAddress::Unix("/home/ada/.local/state/handsd/handsd.sock".into()));

    environment.xdg_state_home = Some("/xdg/state".into());
    environment.xdg_runtime_dir = Some("/run/user/1000".into());
    let config = Config::parse("", &environment).unwrap();
    assert_eq!(config.state_dir, Path::new("/xdg/state/handsd"));
    assert_eq!(config.grpc[0], ListenAddress::Unix("/run/user/1000/handsd/handsd.sock".into()));
}

#[test]
fn docker_is_where_the_environment_says_unless_the_file_says_otherwise() {
    let mut environment = Environment { docker_host: Some("unix:///run/user/1/docker.sock".to_owned()), ..user() };
    let docker =
        |text: &str, environment: &Environment| Config::parse(text, environment).map(|config| config.engine.docker);
    let found = docker("", &environment).unwrap();
    assert_eq!(found.socket, Path::new("/run/user/1/docker.sock"));
    assert_eq!(found.credentials.as_deref(), Some(Path::new("/home/ada/.docker/config.json")));
    let written = docker("[engine.docker]\nsocket = '/d.sock'", &environment).unwrap();
    assert_eq!(written.socket, Path::new("/d.sock"));

    environment.docker_host = Some("tcp://10.0.0.1:2375".to_owned());
    assert!(docker("", &environment).is_ok());
    let faults = docker("[engine]\nkind = 'docker'", &environment).unwrap_err();
    assert_eq!(
        faults[0].to_string(),
        "engine.docker.socket: expected a unix socket: DOCKER_HOST is \"tcp://10.0.0.1:2375\""
    );
}

#[test]
fn without_a_home_the_state_directory_must_be_named() {
    let environment = Environment::default();
    let faults = Config::parse("", &environment).unwrap_err();
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].place, faults[0].key.as_str()), (None, "state_dir"));
    assert!(Config::parse("state_dir = '/state'", &environment).is_ok());
}

#[test]
fn every_key_is_read() {
    let text = "\
state_dir = '/state'
grpc = ['unix:/state/socket', '[::1]:1']
[http]
listen = 'off'
hosts = ['Node1.example']
origins = ['https://app.example:8443', '*']
key_file = '/etc/handsd/key'
private_webhooks = true
webhook_retry = '1s'
unread_timeout = '2s'
[log]
filter = 'warn,handsd::engine=debug'
format = 'json'
[telemetry]
otlp = 'http://collector.local:4318/'
[sandbox]
image = 'debian:12'
memory = '512MiB'
cpus = 2
pids = 'unlimited'
bandwidth = '1MiB'
idle_timeout = '90s'
stop_after = '1day'
max_wakes = 2
max_sandboxes = 3
reserve = 4
pressure_memory = '1G'
pressure_stall = 12.5
[run]
timeout = '10m'
max_timeout = '1h'
kill_grace = '0s'
retention = '1day'
retained_runs = 0
output_cap = 65536
max_runs = 1
[runtime]
restart_after = '2s'
restart_longest = '3s'
budget = 4
window = '5s'
stable = '6s'
[image]
max_unpacked = '1G'
plain_http = ['registry.local:5000']
credentials = 'none'
[network]
default = 'proxy'
allow = ['Example.com:443']
ceiling = 'proxy'
ceiling_allow = ['*.example.com', 'example.com']
reachable = ['10.1.0.0/16', 'fd00::/64']
subnet = '100.64.0.0/24'
preview_domain = 'Preview.Example.com'
[brain]
npm = '/opt/npm'
[brain.claude]
program = '/opt/claude'
versions = ['1.0', '2.1.330']
[brain.acp]
program = '/opt/agent'
args = ['acp', '--model={model}']
env = ['URL={base_url}/v1?a=b']
files = ['/etc/ssl/certs']
provider = 'openai'
[model]
first_byte_timeout = '20s'
idle_timeout = '10s'
[model.anthropic]
base_url = 'http://models.local:8080/a/'
[model.openai]
base_url = 'https://models.example'
[engine]
kind = 'native'
cgroup = 'off'
cgroup_parent = 'a.slice/b'
id_base = 0x10000
[engine.docker]
socket = '/run/other.sock'
runtime = 'runsc'
guest = 'socket'
network_mode = 'bridge'
pull = 'never'
user_namespace = 'host'
credentials = '/etc/handsd/docker.json'
[limits]
connections = 4
silence = '3s'
calls = 3
calls_per_client = 2
calls_per_second = 1
[health]
min_free_disk = '0B'
min_free_memory = '1M'
[auth]
audit = '/audit'
";
    let config = Config::parse(text, &root()).unwrap();
    let expected = Config {
        state_dir: "/state".into(),
        grpc: vec!["unix:/state/socket".parse().unwrap(), "[::1]:1".parse().unwrap()],
        http: HttpConfig {
            listen: None,
            tls: false,
            hosts: vec!["node1.example".to_owned()],
            origins: vec!["https://app.example:8443".to_owned(), "*".to_owned()],
            key_file: "/etc/handsd/key".into(),
            key: None,
            private_webhooks: true,
            webhook_retry: Duration::from_secs(1),
            unread_timeout: Duration::from_secs(2),
        },
        log: LogConfig { filter: "warn,handsd::engine=debug".to_owned(), format: LogFormat::Json },
        telemetry: TraceConfig { otlp: Some("http://collector.local:4318".to_owned()) },
        auth: AuthConfig { clients: Vec::new(), audit: Some("/audit".into()) },
        tls: None,
        limits: LimitsConfig {
            connections: 4,
            silence: Duration::from_secs(3),
            calls: crate::auth::rate::Limits { calls: 3, calls_per_client: 2, rate: Some(1) },
        },
        health: Floors { disk: 0, memory: 1 << 20 },
        sandbox: SandboxDefaults {
            image: "debian:12".to_owned(),
            memory: Some(512 << 20),
            cpus: Some(2.0),
            pids: None,
            bandwidth: Some(1 << 20),
            idle_timeout: Some(Duration::from_secs(90)),
            stop_after: Some(Duration::from_secs(86_400)),
            max_wakes: 2,
            max_sandboxes: 3,
            reserve: 4,
            pressure: pressure::policy::Floors { available: 1 << 30, stall: Some(12.5) },
        },
        run: RunDefaults {
            timeout: Duration::from_secs(600),
            max_timeout: Duration::from_secs(3600),
            kill_grace: Duration::ZERO,
            retention: Duration::from_secs(86_400),
            retained_runs: 0,
            output_cap: 65_536,
            max_runs: 1,
        },
        runtime: Restarts {
            first: Duration::from_secs(2),
            longest: Duration::from_secs(3),
            budget: 4,
            window: Duration::from_secs(5),
            stable: Duration::from_secs(6),
        },
        image: ImageConfig {
            max_unpacked: 1 << 30,
            plain_http: vec!["registry.local:5000".to_owned()],
            credentials: None,
        },
        network: NetworkConfig {
            default: Policy::Proxy(Allow::parse(&["example.com:443"]).unwrap()),
            ceiling: Policy::Proxy(Allow::parse(&["*.example.com", "example.com"]).unwrap()),
            reachable: vec!["10.1.0.0/16".parse().unwrap(), "fd00::/64".parse().unwrap()],
            subnet: "100.64.0.0/24".parse().unwrap(),
            preview_domain: "preview.example.com".to_owned(),
        },
        brains: vec![
            BrainConfig {
                kind: Kind::Claude,
                program: Some("/opt/claude".into()),
                versions: vec!["1.0".to_owned(), "2.1.330".to_owned()],
                provider: Provider::Anthropic,
                launch: Launch::default(),
                files: Vec::new(),
            },
            BrainConfig {
                kind: Kind::Codex,
                program: config.brains[1].program.clone().filter(|path| path.starts_with("/opt/npm/node_modules")),
                versions: vec![codex::VERSION.to_owned()],
                provider: Provider::OpenAi,
                launch: Launch::default(),
                files: Vec::new(),
            },
            BrainConfig {
                kind: Kind::Acp,
                program: Some("/opt/agent".into()),
                versions: Vec::new(),
                provider: Provider::OpenAi,
                launch: Launch {
                    args: vec!["acp".to_owned(), "--model={model}".to_owned()],
                    env: [("URL".to_owned(), "{base_url}/v1?a=b".to_owned())].into(),
                },
                files: vec!["/etc/ssl/certs".into()],
            },
        ],
        model: ModelConfig {
            first_byte_timeout: Duration::from_secs(20),
            idle_timeout: Duration::from_secs(10),
            anthropic: ProviderConfig { base_url: "http://models.local:8080/a".to_owned() },
            openai: ProviderConfig { base_url: "https://models.example".to_owned() },
        },
        engine: EngineConfig {
            kind: EngineKind::Native,
            cgroup: CgroupUse::Off,
            cgroup_parent: "a.slice/b".into(),
            id_base: 0x10000,
            docker: DockerConfig {
                socket: "/run/other.sock".into(),
                runtime: Some("runsc".to_owned()),
                guest: Some(Passage::Socket),
                network_mode: "bridge".to_owned(),
                pull: Pull::Never,
                user_namespace: UserNamespace::Host,
                credentials: Some("/etc/handsd/docker.json".into()),
            },
        },
    };
    assert_eq!(config, expected);
    assert_eq!(Config::parse(&config.to_toml(), &user()).unwrap(), expected);
}

#[test]
fn every_fault_is_reported_with_its_place_and_what_was_expected() {
    let text = "\
statedir = '/state'
grpc = ['unix:socket', '0.0.0.0:7420']
[http]
listen = 7421
[run]
timeout = 300
output_cap = '1K'
max_runs = 0
[engine]
kind = 'podman'
";
    let faults = faults(text);
    let expected = [
        "1:1: statedir: unknown key; did you mean \"state_dir\"?",
        "2:10: grpc: expected \"unix:\" and an absolute path, or an address like \"127.0.0.1:7420\", found \"unix:socket\"",
        "2:25: grpc: expected a loopback address (beyond loopback it takes [tls]), found \"0.0.0.0:7420\"",
        "4:10: http.listen: expected text, found 7421",
        "6:11: run.timeout: expected a duration like \"90s\" or \"10m\", from 1s to 30days, found 300",
        "7:15: run.output_cap: expected a size like \"512MiB\" or a number of bytes, from 64KiB to 1024TiB, found \"1K\"",
        "8:12: run.max_runs: expected a whole number from 1 to 32768, found 0",
        "10:9: engine.kind: expected \"native\" or \"docker\", found \"podman\"",
    ];
    assert_eq!(faults.len(), expected.len(), "{faults:#?}");
    for (fault, expected) in faults.iter().zip(expected) {
        assert!(fault.starts_with(expected), "{fault}");
    }
}

#[test]
fn each_wrong_value_is_one_fault_of_its_own_key() {
    for (key, value) in [
        ("brain.npm", "'npm'"),
        ("brain.codex.versions", "['latest']"),
        ("brain.codex.args", "['--yes']"),
        ("brain.acp.provider", "'google'"),
        ("brain.acp.args", "\"a\\u0000\""),
        ("brain.acp.env", "['1A=b']"),
        ("brain.acp.env", "['A']"),
        ("brain.acp.files", "['node_modules']"),
        ("brain.acp.files", "['/opt/../etc']"),
        ("model.idle_timeout", "'0s'"),
        ("model.openai.base_url", "'models.example'"),
        ("model.anthropic.base_url", "'https://user@models.example'"),
        ("state_dir", "'state'"),
        ("state_dir", "\"/a\\u0000\""),
        ("grpc", "[]"),
        ("grpc", "'127.0.0.1:7420'"),
        ("grpc", "['127.0.0.1:1', '127.0.0.1:1']"),
        ("http.listen", "'0.0.0.0:7421'"),
        ("http.hosts", "['http://node1']"),
        ("http.origins", "['app.example']"),
        ("http.origins", "['https://app.example/path']"),
        ("http.key_file", "'key'"),
        ("http.private_webhooks", "'yes'"),
        ("http.webhook_retry", "'0s'"),
        ("http.unread_timeout", "'100ms'"),
        ("http.tls", "true"),
        ("log.filter", "'handsd=loud'"),
        ("network.default", "'bridge'"),
        ("network.default", "'host'"),
        ("network.allow", "['a b']"),
        ("network.ceiling_allow", "'*'"),
        ("network.reachable", "['10.1']"),
        ("network.subnet", "'10.0.0.0/8'"),
        ("network.subnet", "'fd00::/64'"),
        ("network.preview_domain", "'127.0.0.1'"),
        ("log.format", "'xml'"),
        ("sandbox.memory", "'1M'"),
        ("sandbox.memory", "-1"),
        ("sandbox.cpus", "0"),
        ("sandbox.cpus", "nan"),
        ("sandbox.pids", "1"),
        ("sandbox.max_sandboxes", "1.5"),
        ("sandbox.reserve", "-1"),
        ("run.timeout", "'0s'"),
        ("run.max_timeout", "'1year'"),
        ("run.kill_grace", "'1h'"),
        ("run.retention", "'-1s'"),
        ("image.plain_http", "['http://registry']"),
        ("engine.cgroup", "true"),
        ("limits.silence", "'1s'"),
        ("engine.id_base", "1000"),
        ("engine.id_base", "0xffffffff"),
    ] {
        let faults = Config::parse(&format!("{key} = {value}"), &root()).unwrap_err();
        let keys: Vec<_> = faults.iter().map(|fault| fault.key.as_str()).collect();
        assert_eq!(keys, [key], "{value}: {faults:?}");
        assert!(faults[0].place.is_some_and(|place| place.line == 1), "{faults:?}");
    }
}

#[test]
fn the_default_deadline_is_never_beyond_the_maximum() {
    let config = Config::parse("run.max_timeout = '60s'", &root()).unwrap();
    assert_eq!(config.run.timeout, Duration::from_secs(60));
    assert_eq!(
        faults("[run]\ntimeout = '2m'\nmax_timeout = '60s'"),
        ["2:12: run.timeout: expected at most run.max_timeout, which is 1m"]
    );
}

#[test]
fn http_is_served_where_grpc_is_not() {
    let faults = faults("grpc = ['127.0.0.1:7420']\nhttp.listen = '127.0.0.1:7420'");
    assert_eq!(faults, ["2:16: http.listen: expected another address than gRPC has"]);
}

#[test]
fn flags_win_over_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "state_dir = '/file'\ngrpc = ['127.0.0.1:1']\nhttp.listen = 'off'\nrun.max_runs = 7\n")
        .unwrap();
    let overrides = Overrides {
        state_dir: Some("/flag".into()),
        grpc: vec!["unix:/flag/socket".parse().unwrap()],
        http: Some("127.0.0.1:9".parse().unwrap()),
        ..Overrides::default()
    };
    let config = Config::load(Some(file.path()), &overrides, &root()).unwrap();
    assert_eq!(config.state_dir, Path::new("/flag"));
    assert_eq!(config.grpc, overrides.grpc);
    assert_eq!(config.http.listen, Some("127.0.0.1:9".parse().unwrap()));
    assert_eq!(config.run.max_runs, 7);
}

#[test]
fn a_flag_for_the_state_directory_moves_the_default_socket() {
    let overrides = Overrides { state_dir: Some("/flag".into()), ..Overrides::default() };
    let config = Config::load(None, &overrides, &user()).unwrap();
    assert_eq!(config.grpc[0], ListenAddress::Unix("/flag/handsd.sock".into()));
}

#[test]
fn a_state_directory_too_deep_for_the_default_socket_is_a_fault() {
    let overrides = Overrides { state_dir: Some(format!("/{}", "x".repeat(110)).into()), ..Overrides::default() };
    let error = Config::load(None, &overrides, &user()).unwrap_err();
    assert!(error.to_string().starts_with("grpc: expected a path of at most 107 bytes"), "{error}");
    assert!(Config::load(None, &overrides, &root()).is_ok());
}

#[test]
fn port_0_is_another_port_each_time() {
    let config = Config::parse("grpc = ['127.0.0.1:0']\nhttp.listen = '127.0.0.1:0'", &root()).unwrap();
    assert_eq!(config.grpc, [ListenAddress::Tcp(config.http.listen.unwrap())]);
}

#[test]
fn the_key_of_the_environment_is_used_and_never_shown() {
    let environment = Environment { api_key: Some(Secret::new("hunter2".to_owned())), ..root() };
    let config = Config::parse("", &environment).unwrap();
    assert_eq!(config.http.key.as_ref().map(Secret::expose), Some("hunter2"));
    assert!(!config.to_toml().contains("hunter2"));
    assert!(!format!("{config:?}").contains("hunter2"));
}

#[test]
fn faults_of_a_file_name_the_file() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, "http.listen = 1\nx = 2\n").unwrap();
    let error = Config::load(Some(file.path()), &Overrides::default(), &root()).unwrap_err();
    let name = file.path().display();
    let message = error.to_string();
    let lines: Vec<_> = message.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(lines[0].starts_with(&format!("{name}:1:15: http.listen: expected")), "{message}");
    assert!(lines[1].starts_with(&format!("{name}:2:1: x: unknown key")), "{message}");
}

#[test]
fn a_file_that_is_missing_endless_or_no_text_is_refused() {
    let load = |path| Config::load(Some(Path::new(path)), &Overrides::default(), &root());
    assert!(matches!(load("/nonexistent/handsd.toml"), Err(ConfigError::Read { .. })));
    assert!(matches!(load("/dev/zero"), Err(ConfigError::TooLong { .. })));
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, b"http = '\xff'").unwrap();
    assert!(matches!(load(file.path().to_str().unwrap()), Err(ConfigError::Read { .. })));
}

/// Pieces of TOML and of ours, so that random joins of them come close to what a person writes.
fn almost_config() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "[run]\n",
        "[[run]]\n",
        "[run.timeout]\n",
        "[",
        "]",
        "{",
        "}",
        "=",
        ".",
        ",",
        "\n",
        " ",
        "\"",
        "'",
        "'''",
        "\"\"\"",
        "\\u",
        "#",
        "run",
        "timeout",
        "timeout = '1s'\n",
        "grpc = ",
        "['unix:/a']\n",
        "a.b.c = 1\n",
        "[a.b]\n",
        "[[a.b.c]]\n",
        "[[a]]\n",
        "1",
        "-1",
        "0x",
        "1e9",
        "nan",
        "true",
        "1979-05-27",
        "\r\n",
        "\u{feff}",
        "é",
        "state_dir",
        "log.filter='[{'\n",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_panics(text in "\\PC*|(?s:.*)") {
        let _ = Config::parse(&text, &root());
    }

    #[test]
    fn no_text_that_looks_like_a_config_panics(text in almost_config()) {
        if let Err(faults) = Config::parse(&text, &root()) {
            prop_assert!(!faults.is_empty());
        }
    }

    #[test]
    fn what_is_printed_reads_back(
        state_dir in "/[^\0]{0,40}",
        memory in prop::option::of(16_u64 << 20..1 << 50),
        cpus in prop::option::of(0.01..8192.0_f64),
        timeout in 1_000..2_592_000_000_u64,
        output_cap in 65_536_u64..1 << 50,
        id_base in 65_536..u32::MAX - 65_536,
    ) {
        let mut config = Config::parse("", &root()).unwrap();
        config.state_dir = state_dir.into();
        config.sandbox.memory = memory;
        config.sandbox.cpus = cpus;
        config.run.timeout = Duration::from_millis(timeout);
        config.run.output_cap = output_cap;
        config.engine.id_base = id_base;
        prop_assert_eq!(Config::parse(&config.to_toml(), &user()).unwrap(), config);
    }
}

#[test]
fn the_command_line_chooses_engine_and_image_over_the_file() {
    let overrides =
        Overrides { engine: Some(EngineKind::Docker), image: Some("debian:12".to_owned()), ..Overrides::default() };
    let text = "[engine]\nkind = 'native'\n[sandbox]\nimage = 'host'\n";
    let config = parse::config(text, &overrides, &root()).unwrap();
    assert_eq!((config.engine.kind, config.sandbox.image.as_str()), (EngineKind::Docker, "debian:12"));
}
