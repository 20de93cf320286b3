//! What the operator chose, as Docker and the sandboxes see it.

use super::support::dockerd::{REMAPPED, REMAPPED_ROOT, shared};
use super::support::registry::{Registry, Users};
use super::support::{duration, reason};
use super::*;

use handsd::api::proto::network::Mode;
use handsd::api::proto::{BashRequest, Network, SetLimitsRequest};

/// How the container of a sandbox was made.
fn inspect(dockerd: &Dockerd, daemon: &Daemon, sandbox: &Sandbox) -> serde_json::Value {
    dockerd.inspect(&container(&daemon.state(), sandbox))
}

/// A daemon on an engine, with a configuration file.
async fn on(engine: &Engine, config: &str) -> Option<Daemon> {
    let options = Options { engine: Some(engine.clone()), config: config.to_owned(), ..Options::default() };
    Daemon::start_with(options).await
}

/// A daemon with a configuration file, on the dockerd that tests share.
async fn on_shared(config: &str) -> Option<(Arc<Dockerd>, Daemon)> {
    let dockerd = tokio::task::spawn_blocking(shared).await.unwrap()?;
    let daemon = on(&Engine::Docker(Arc::clone(&dockerd)), config).await?;
    Some((dockerd, daemon))
}

async fn sandbox_of(daemon: &Daemon, image: &str) -> Result<Sandbox, tonic::Status> {
    Sandbox::create(daemon, CreateSandboxRequest { image: image.to_owned(), ..Default::default() }).await
}

async fn attached_to_nat(daemon: &Daemon) -> Result<Sandbox, tonic::Status> {
    let network = Some(Network { mode: Mode::Nat.into(), ..Network::default() });
    Sandbox::create(daemon, CreateSandboxRequest { network, ..Default::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_runtime_is_used_and_what_cannot_be_promised_with_it_is_said() {
    let config = "[engine.docker]\nruntime = 'own'\n";
    let Some((dockerd, daemon)) = start_configured(&["--add-runtime=own=runc"], config).await else { return };
    let sandbox = daemon.sandbox().await;
    assert_eq!(inspect(&dockerd, &daemon, &sandbox)["HostConfig"]["Runtime"], "own");
    // Nobody knows whether its processes are such that the node could place them.
    let line = "setsid sleep 4771 & echo partial; sleep 4771";
    let outcome = sandbox.run(BashRequest { timeout: duration(Duration::from_secs(1)), ..shell(line) }).await.unwrap();
    assert_eq!((outcome.reason(), outcome.stdout_text().as_str()), (Reason::TimedOut, "partial\n"));
    assert!(outcome.exited.degraded);
    assert_eq!(sandbox.read("pgrep sleep || echo none").await, "none");
}

#[tokio::test(flavor = "multi_thread")]
async fn sandboxes_with_addresses_are_in_the_network_of_dockers_that_was_named() {
    let config = "[network]\nceiling = 'nat'\n[engine.docker]\nnetwork_mode = 'ours'\n";
    let Some((dockerd, daemon)) = on_shared(config).await else { return };
    let made = dockerd.post("/networks/create", r#"{"Name":"ours","Internal":true}"#);
    assert!(made.contains(" 201 "), "{made}");
    let attached = attached_to_nat(&daemon).await.unwrap();
    let networks = inspect(&dockerd, &daemon, &attached)["NetworkSettings"]["Networks"].clone();
    assert!(networks["ours"]["IPAddress"].as_str().is_some_and(|address| !address.is_empty()), "{networks}");
    assert_eq!(attached.read("cd /sys/class/net; echo *").await, "eth0 lo");
    assert_eq!(daemon.sandbox().await.read("cd /sys/class/net; echo *").await, "lo");
    attached.destroy().await.unwrap();
    assert!(dockerd.get("/networks/ours").contains(" 200 "), "it is not ours to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_there_is_no_network_to_attach_to_that_is_said() {
    let config = "[network]\nceiling = 'nat'\n[engine.docker]\nnetwork_mode = 'none'\n";
    let Some((_dockerd, daemon)) = on_shared(config).await else { return };
    let refused = attached_to_nat(&daemon).await.unwrap_err();
    assert_eq!(reason(&refused), "NETWORK_UNSUPPORTED");
    assert!(refused.message().contains("engine.docker.network_mode"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_docker_that_maps_users_root_inside_is_nobody_outside_unless_it_is_told_not_to() {
    let Some((_dockerd, engine)) = Engine::docker(&[REMAPPED]).await else { return };
    let root = |daemon: &Daemon, sandbox: &Sandbox| {
        let map = fs::read_to_string(format!("/proc/{}/uid_map", daemon.init(sandbox))).unwrap();
        map.split_whitespace().nth(1).map(|id| id.parse::<u32>().unwrap())
    };
    let Some(daemon) = on(&engine, "").await else { return };
    // As where a package puts it: the root of a sandbox has to find its guest.
    for directory in [daemon.scratch(), &daemon.state()] {
        fs::set_permissions(directory, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    }
    let sandbox = daemon.sandbox().await;
    assert_eq!(root(&daemon, &sandbox), Some(REMAPPED_ROOT));
    Files::of(&daemon, &sandbox).write("file", b"content").await.unwrap();
    assert_eq!(sandbox.read("id -u; stat -c %u file; cat file").await, "0\n0\ncontent");
    // To place its runs from outside, the node's root would have to own their cgroups.
    assert!(sandbox.bash("true").await.exited.degraded);
    sandbox.destroy().await.unwrap();
    assert_eq!(daemon.leftovers(), Vec::<String>::new());

    let Some(daemon) = on(&engine, "[engine.docker]\nuser_namespace = 'host'\n").await else { return };
    let sandbox = daemon.sandbox().await;
    assert_eq!(root(&daemon, &sandbox), Some(0));
    assert!(!sandbox.bash("true").await.exited.degraded);
}

/// A registry in which there is what the tests' image is, and a Docker that has it by no name of that registry.
async fn in_registry(dockerd: &Dockerd, daemon: &Daemon, users: Users) -> Option<(Registry, String)> {
    let registry = Registry::start(users)?;
    daemon.sandbox().await.destroy().await.unwrap();
    let [image] = images(dockerd).try_into().unwrap();
    let repository = registry.name("team/app");
    dockerd.tag(&image, &repository, "1");
    dockerd.push(&repository, "1", "ada", "hush");
    let name = format!("{repository}:1");
    dockerd.untag(&name);
    Some((registry, name))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_if_it_is_missing_and_with_who_we_are_to_its_registry() {
    let (Some((dockerd, engine)), Ok(directory)) = (Engine::docker(&[]).await, tempfile::tempdir()) else { return };
    let file = directory.path().join("config.json");
    let config = format!("[engine.docker]\ncredentials = '{}'\n", file.display());
    let Some(daemon) = on(&engine, &config).await else { return };
    let Some((registry, name)) = in_registry(&dockerd, &daemon, Users::Ada).await else { return };
    // Without the file, with a wrong password, and with the right one, each as it is at the time.
    for auth in [None, Some("YWRhOndyb25n")] {
        if let Some(auth) = auth {
            fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"{auth}"}}}}}}"#, registry.name(""))).unwrap();
        }
        let refused = sandbox_of(&daemon, &name).await.unwrap_err();
        assert_eq!(reason(&refused), "IMAGE_PULL_FAILED", "{refused:?}");
        assert!(!refused.message().contains("wrong"), "{refused:?}");
    }
    fs::write(&file, format!(r#"{{"auths":{{"{}":{{"auth":"YWRhOmh1c2g="}}}}}}"#, registry.name(""))).unwrap();
    let missing = refusal(sandbox_of(&daemon, &registry.name("team/app:2")).await);
    assert_eq!(missing, fault(Code::NotFound, ErrorReason::ImageNotFound));
    assert_eq!(sandbox_of(&daemon, &name).await.unwrap().read("echo pulled").await, "pulled");
    // What is there is used, also when the registry is gone.
    drop(registry);
    assert_eq!(sandbox_of(&daemon, &name).await.unwrap().read("echo kept").await, "kept");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_always_pulled_is_what_the_registry_has_and_what_never_is_has_to_be_there() {
    let Some((dockerd, engine)) = Engine::docker(&[]).await else { return };
    let Some(never) = on(&engine, "[engine.docker]\npull = 'never'\n").await else { return };
    let Some((registry, name)) = in_registry(&dockerd, &never, Users::Everybody).await else { return };
    let missing = fault(Code::NotFound, ErrorReason::ImageNotFound);
    assert_eq!(refusal(sandbox_of(&never, &name).await), missing);
    let Some(always) = on(&engine, "[engine.docker]\npull = 'always'\n").await else { return };
    assert_eq!(sandbox_of(&always, &name).await.unwrap().read("echo pulled").await, "pulled");
    assert_eq!(sandbox_of(&never, &name).await.unwrap().read("echo there").await, "there");
    drop(registry);
    assert_eq!(reason(&sandbox_of(&always, &name).await.unwrap_err()), "IMAGE_PULL_FAILED");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_seen_from_inside_and_can_be_changed() {
    let Some((_dockerd, daemon)) = on_shared("").await else { return };
    let limits = |memory: u64, cpus: f64, pids: u64| {
        Some(Limits { memory_bytes: memory << 20, cpus, pids, ..Limits::default() })
    };
    let request = CreateSandboxRequest { limits: limits(128, 0.5, 100), ..Default::default() };
    let sandbox = Sandbox::create(&daemon, request).await.unwrap();
    // By version 2 of cgroups, or else by version 1.
    let line = "cd /sys/fs/cgroup; cat memory.max memory/memory.limit_in_bytes cpu.max cpu/cpu.cfs_quota_us \
                cpu/cpu.cfs_period_us pids.max pids/pids.max 2>/dev/null | tr '\\n' ' '";
    assert_eq!(sandbox.read(line).await.trim(), "134217728 50000 100000 100");
    let request = SetLimitsRequest { sandbox_id: sandbox.id.clone(), limits: limits(256, 1.5, 200) };
    daemon.sandboxes().set_limits(request).await.unwrap();
    assert_eq!(sandbox.read(line).await.trim(), "268435456 150000 100000 200");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_have_in_docker_is_there_when_all_of_ours_is_gone() {
    let Some((dockerd, mut daemon)) = start(&[]).await else { return };
    daemon.sandbox().await.destroy().await.unwrap();
    let [image] = images(&dockerd).try_into().unwrap();
    dockerd.tag(&image, "foreign", "1");
    for (path, body) in [
        ("/networks/create", r#"{"Name":"foreign","Internal":true}"#),
        ("/volumes/create", r#"{"Name":"foreign"}"#),
        // A label of ours alone does not make it ours.
        (
            "/containers/create?name=foreign",
            r#"{"Image":"foreign:1","Cmd":["sleep","1"],"Labels":{"dev.handsd.sandbox":"sbx_0123456789abcdefghij"}}"#,
        ),
    ] {
        let made = dockerd.post(path, body);
        assert!(made.contains(" 201 "), "{path}: {made}");
    }
    let sandbox = daemon.sandbox().await;
    daemon.kill();
    daemon.forget_sandboxes();
    let output = daemon.handsd(&["gc"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap().trim_end(), sandbox.id);
    for path in ["/networks/foreign", "/volumes/foreign", "/containers/foreign/json", "/images/foreign:1/json"] {
        assert!(dockerd.get(path).contains(" 200 "), "{path}");
    }
    dockerd.remove("foreign");
}
