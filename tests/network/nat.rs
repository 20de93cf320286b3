//! Mode `nat`: an address of its own, and what it does not reach.

use std::sync::Arc;

use handsd::api::proto::network::Mode;
use handsd::api::proto::{
    CreateSandboxRequest, DestroySandboxRequest, HibernateSandboxRequest, Limits, ListSandboxesRequest, Network,
    SetLimitsRequest, Tier,
};

use crate::support::dockerd::{self, Dockerd};

use crate::inside::{ECHO, Forward, has_python, hibernate, serve};
use crate::lab::Lab;
use crate::proxy::{proxy, sandbox_with, set_network};
use crate::support::engine::container;
use crate::support::rootfs;
use crate::support::{Daemon, SOON, Sandbox, eventually, expect, process, reason};

/// Says its own address to whoever connects, over TCP and UDP; answers every question about a name ending in "2.test" by
/// 203.0.113.2, and every other by 10.9.0.2, over UDP and TCP. But for `alias.test`, which is another name, `both.test`, which
/// has both addresses, `turns.test`, which is 203.0.113.2 and 169.254.169.254 in turns, and `aaa.test`, which is one of IPv6.
/// No answer is good for longer than it takes to read it.
pub const WORLD: &str = r#"
import itertools, socket, threading
def echo_tcp(address, port):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    server = socket.create_server((address, port), family=family)
    def accept():
        while True:
            connection, peer = server.accept()
            connection.sendall(("%s saw %s" % (address, peer[0])).encode())
            connection.close()
    threading.Thread(target=accept, daemon=True).start()
def echo_udp(address, port):
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, port))
    def answer():
        while True:
            data, peer = server.recvfrom(4096)
            server.sendto(("%s saw %s" % (address, peer[0])).encode(), peer)
    threading.Thread(target=answer, daemon=True).start()
PUBLIC, PRIVATE, LINK = (socket.inet_aton(text) for text in ["203.0.113.2", "10.9.0.2", "169.254.169.254"])
SIX = socket.inet_pton(socket.AF_INET6, "2001:db8:5::2")
turns = itertools.cycle([PUBLIC, LINK])
def record(name, kind, data):
    return name + kind.to_bytes(2, "big") + b"\0\x01\0\0\0\0" + len(data).to_bytes(2, "big") + data
def records(name, kind):
    own = b"\xc0\x0c"
    if name == b"\x05alias\x04test\0" and kind == 1:
        other = b"\x08private9\x04test\0"
        return [record(own, 5, other), record(other, 1, PRIVATE)]
    if name == b"\x03aaa\x04test\0":
        return [record(own, 28, SIX)] if kind == 28 else []
    if kind != 1:
        return []
    if name == b"\x04both\x04test\0":
        return [record(own, 1, PRIVATE), record(own, 1, PUBLIC)]
    if name == b"\x05turns\x04test\0":
        return [record(own, 1, next(turns))]
    return [record(own, 1, PUBLIC if name.endswith(b"2\x04test\0") else PRIVATE)]
def reply(question):
    end = question.index(b"\0", 12) + 5
    found = records(question[12:end - 4], int.from_bytes(question[end - 4:end - 2], "big"))
    return question[:2] + b"\x81\x80\0\x01\0" + bytes([len(found)]) + b"\0\0\0\0" + question[12:end] + b"".join(found)
def dns():
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(("203.0.113.2", 53))
    def answer():
        while True:
            question, peer = server.recvfrom(4096)
            server.sendto(reply(question), peer)
    threading.Thread(target=answer, daemon=True).start()
    tcp = socket.create_server(("203.0.113.2", 53))
    def accept():
        while True:
            connection, _ = tcp.accept()
            question = connection.recv(4096)[2:]
            answer = reply(question)
            connection.sendall(len(answer).to_bytes(2, "big") + answer)
            connection.close()
    threading.Thread(target=accept, daemon=True).start()
for address in ["198.51.100.2", "203.0.113.2", "10.9.0.2", "169.254.169.254", "fd00:ec2::254", "2001:db8:5::2"]:
    echo_tcp(address, 80)
    if ":" not in address:
        echo_udp(address, 80)
dns()
print("ready")
threading.Event().wait()
"#;

/// Connects over TCP, or sends over UDP, and prints the answer or what went wrong.
pub fn reach(address: &str, udp: bool) -> String {
    let kind = if udp { "udp" } else { "tcp" };
    format!(
        "timeout 5 bash -c 'exec 3<>/dev/{kind}/{address}/80; [ {kind} = tcp ] || printf ? >&3; \
         dd bs=4096 count=1 status=none <&3' 2> said || {{ [ $? = 124 ] && echo failed: late || echo failed: $(cat said); }}"
    )
}

/// Sends an echo request, and prints "pong" or what went wrong.
pub fn ping(address: &str) -> String {
    format!("busybox ping -c 1 -W 1 {address} > said 2>&1 && echo pong || echo failed: $(cat said)")
}

pub fn nat() -> Network {
    Network { mode: Mode::Nat.into(), allow: Vec::new() }
}

/// The node's address, as seen from inside: the gateway.
async fn gateway(sandbox: &Sandbox) -> String {
    sandbox.read("awk '/^nameserver/ { print $2 }' /etc/resolv.conf").await
}

/// Prints what the proxy says to a request for a tunnel.
pub fn ask(name: &str) -> String {
    format!(
        "printf 'CONNECT {name}:80 HTTP/1.1\\r\\n\\r\\n' > ask; exec 3<>/dev/tcp/127.0.0.1/7422; cat ask >&3; head -n 1 <&3"
    )
}

/// What there is of sandboxes in the node's network.
fn traces(lab: &Lab) -> String {
    let links = lab.on_node(&["ip", "-o", "link"]);
    let links = links.lines().filter(|line| line.contains(": hd"));
    let addresses = lab.on_node(&["ip", "-o", "address", "show", "dev", "lo"]);
    let addresses = addresses.lines().filter(|line| line.contains("198.18."));
    let routes = lab.on_node(&["ip", "route"]);
    let routes = routes.lines().filter(|line| line.contains("198.18."));
    let rules = lab.on_node(&["nft", "list", "tables"]);
    links.chain(addresses).chain(routes).chain(rules.lines()).map(|line| format!("{line}\n")).collect()
}

/// A node on one of the engines; the fields are dropped in this order.
pub struct Node {
    /// Its daemon.
    pub daemon: Daemon,
    dockerd: Option<Arc<Dockerd>>,
}

impl Node {
    /// With the native engine; `None`, and why is printed, where there can be none.
    pub async fn native(lab: &mut Lab) -> Option<Self> {
        if !has_python() {
            return None;
        }
        lab.serve(WORLD);
        Some(Self { daemon: lab.daemon("").await?, dockerd: None })
    }

    /// With Docker.
    async fn docker(lab: &mut Lab) -> Option<Self> {
        if !has_python() {
            return None;
        }
        let dockerd = tokio::task::spawn_blocking(dockerd::shared).await.unwrap()?;
        lab.serve(WORLD);
        let config = format!(
            "[engine]\nkind = 'docker'\n[engine.docker]\nsocket = '{}'\n[sandbox]\nimage = 'tar:{}'\n",
            dockerd.socket().display(),
            rootfs::write_tar(lab.files()).display()
        );
        Some(Self { daemon: lab.daemon(&config).await?, dockerd: Some(dockerd) })
    }
}

/// Each clause becomes a test of each engine.
macro_rules! on_each_engine {
    ($($clause:ident),* $(,)?) => {
        mod native {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $clause() {
                let Some(mut lab) = super::Lab::new() else { return };
                let Some(mut node) = super::Node::native(&mut lab).await else { return };
                super::$clause(&lab, &mut node.daemon).await;
            })*
        }
        mod docker {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $clause() {
                let Some(mut lab) = super::Lab::new() else { return };
                let Some(mut node) = super::Node::docker(&mut lab).await else { return };
                super::$clause(&lab, &mut node.daemon).await;
            })*
        }
    };
}

on_each_engine![
    the_world_is_reached_and_sees_the_node,
    the_node_its_neighbours_and_private_networks_are_not,
    what_a_killed_daemon_left_is_gone_after_the_next_start,
    the_next_daemon_goes_on_with_it,
];

async fn the_world_is_reached_and_sees_the_node(_: &Lab, daemon: &mut Daemon) {
    let sandbox = sandbox_with(daemon, nat()).await.unwrap();
    for udp in [false, true] {
        assert_eq!(sandbox.read(&reach("203.0.113.2", udp)).await, "203.0.113.2 saw 198.51.100.1");
        assert_eq!(sandbox.read(&reach("world2.test", udp)).await, "203.0.113.2 saw 198.51.100.1");
    }
    assert_eq!(sandbox.read(&ping("203.0.113.2")).await, "pong");
    // And it goes on after a sleep, and after one that its processes did not outlive.
    for tier in [Tier::Frozen, Tier::Stopped] {
        let request = HibernateSandboxRequest { sandbox_id: sandbox.id.clone(), tier: tier.into() };
        daemon.sandboxes().hibernate(request).await.unwrap();
        assert_eq!(sandbox.read(&reach("203.0.113.2", false)).await, "203.0.113.2 saw 198.51.100.1");
    }
}

async fn the_node_its_neighbours_and_private_networks_are_not(_: &Lab, daemon: &mut Daemon) {
    let (sandbox, neighbour) = (sandbox_with(daemon, nat()).await.unwrap(), sandbox_with(daemon, nat()).await.unwrap());
    let neighbour = neighbour.read("busybox ip -4 -o address show dev eth0 | awk '{ print $4 }' | cut -d / -f 1").await;
    assert!(neighbour.starts_with("198.18."), "{neighbour}");
    let gateway = gateway(&sandbox).await;
    for _ in 0..2 {
        for address in [
            "198.51.100.1",
            "10.9.0.1",
            &gateway,
            &neighbour,
            "10.9.0.2",
            "169.254.169.254",
            "fd00:ec2::254",
            // A name that is bound to a private address.
            "rebound.test",
        ] {
            for udp in [false, true] {
                let said = sandbox.read(&reach(address, udp)).await;
                assert!(said.starts_with("failed: "), "{address} {said}");
                // By the rules, and not by a host that was reached and does not listen. The kernel says so only so many
                // times a second, and who sends over UDP does not ask again.
                assert!(!said.contains("refused") && (udp || !said.contains("late")), "{address} {said}");
            }
            let said = sandbox.read(&ping(address)).await;
            assert!(said.starts_with("failed: "), "{address} {said}");
        }
        // And so after a wake.
        hibernate(daemon, &sandbox).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_way_in_is_the_same() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    serve(&daemon, &sandbox, ECHO, "0.0.0.0", 3000).await;
    let mut forward = Forward::open(&daemon, &sandbox, 3000).await.unwrap();
    forward.send(b"in").await;
    assert_eq!(forward.read(2).await, b"in");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_from_the_world_gets_in_and_nobody_takes_another_address() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    serve(&daemon, &sandbox, ECHO, "0.0.0.0", 80).await;
    for line in ["ip address add 198.18.0.77/32 dev eth0", "ip link set eth0 down", "ip route flush all"] {
        let outcome = sandbox.bash(line).await;
        assert_ne!(outcome.code(), Some(0), "{line}");
    }
    let reach = "import socket; s = socket.create_connection(('198.18.0.2', 80), 3); print('in')";
    assert_eq!(lab.in_world(&["ip", "route", "add", "198.18.0.0/16", "via", "198.51.100.1"]), "");
    assert_eq!(lab.in_world(&["python3", "-c", reach]), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_listed_is_reached_though_it_is_private() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() {
        return;
    }
    lab.serve(WORLD);
    let Some(daemon) = lab.daemon("[network]\nreachable = ['10.9.0.2/32']\n").await else { return };
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    assert_eq!(sandbox.read(&reach("10.9.0.2", false)).await, "10.9.0.2 saw 10.9.0.1");
    assert!(sandbox.read(&reach("10.9.0.1", false)).await.starts_with("failed: "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_leave_no_link_rule_address_or_route() {
    let Some(lab) = Lab::new() else { return };
    let Some(daemon) = lab.daemon("").await else { return };
    assert_eq!(traces(&lab), "");
    for _ in 0..4 {
        let sandboxes = make(&lab, &daemon, 25).await;
        destroy(&lab, sandboxes).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn those_of_docker_leave_no_namespace_either() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, dockerd: Some(dockerd) }) = Node::docker(&mut lab).await else { return };
    let rounds = std::env::var("HANDSD_NAT_ROUNDS").map_or(2, |rounds| rounds.parse().unwrap());
    assert_eq!(traces(&lab), "");
    for _ in 0..rounds {
        let sandboxes = make(&lab, &daemon, 10).await;
        let namespaces: Vec<String> = sandboxes
            .iter()
            .map(|sandbox| dockerd.json(&format!("/containers/{}/json", container(&daemon.state(), sandbox))))
            .map(|container| container["NetworkSettings"]["SandboxKey"].as_str().unwrap().to_owned())
            .collect();
        // Docker keeps a namespace by a mount; the empty file below it goes some time later.
        let mounted = || {
            let mounts = process::mounts(std::process::id());
            namespaces.iter().filter(|namespace| mounts.contains(namespace.as_str())).count()
        };
        assert_eq!(mounted(), namespaces.len(), "{namespaces:?}");
        destroy(&lab, sandboxes).await;
        eventually(SOON, || async { expect(mounted() == 0, format!("{} of {namespaces:?}", mounted())) }).await;
    }
}

/// So many sandboxes with an address, made at once.
async fn make(lab: &Lab, daemon: &Daemon, count: usize) -> Vec<Sandbox> {
    let making = (0..count).map(|_| sandbox_with(daemon, nat()));
    let sandboxes = futures_util::future::try_join_all(making).await.unwrap();
    let traces_now = traces(lab);
    let addresses = traces_now.lines().filter(|line| line.contains("198.18.")).count();
    assert_eq!(addresses, 1 + count, "the gateway and a route each");
    sandboxes
}

async fn destroy(lab: &Lab, sandboxes: Vec<Sandbox>) {
    futures_util::future::try_join_all(sandboxes.iter().map(Sandbox::destroy)).await.unwrap();
    assert_eq!(traces(lab), "");
}

/// What a Docker that manages iptables makes of the node's network.
const DOCKER_FILTER: &str = "iptables-nft -P FORWARD DROP && iptables-nft -N DOCKER-USER && \
                             iptables-nft -A DOCKER-USER -j RETURN && iptables-nft -A FORWARD -j DOCKER-USER";

#[tokio::test(flavor = "multi_thread")]
async fn a_docker_that_drops_what_it_does_not_know_lets_sandboxes_out_and_keeps_nothing_of_them() {
    let Some(mut lab) = Lab::new() else { return };
    if std::process::Command::new("iptables-nft").arg("--version").output().is_err() {
        println!("skipped: iptables-nft is not installed");
        return;
    }
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let out = "203.0.113.2 saw 198.51.100.1";
    let first = sandbox_with(&daemon, nat()).await.unwrap();
    assert_eq!(first.read(&reach("203.0.113.2", false)).await, out);
    lab.on_node(&["sh", "-c", DOCKER_FILTER]);
    assert!(
        first.read(&reach("203.0.113.2", false)).await.starts_with("failed: "),
        "Docker has come, and nobody knows"
    );
    let of_ours = || lab.on_node(&["iptables-nft", "-S", "DOCKER-USER"]).matches("-i hd").count();
    for _ in 0..2 {
        // Each that is made has it looked after.
        let next = sandbox_with(&daemon, nat()).await.unwrap();
        for sandbox in [&first, &next] {
            assert_eq!(sandbox.read(&reach("203.0.113.2", false)).await, out);
            assert!(sandbox.read(&reach("10.9.0.2", false)).await.starts_with("failed: "), "what is refused stays so");
        }
        assert_eq!(of_ours(), 1);
        // As a Docker does that begins anew.
        lab.on_node(&["iptables-nft", "-F", "DOCKER-USER"]);
    }
    sandbox_with(&daemon, nat()).await.unwrap().destroy().await.unwrap();
    assert_eq!(of_ours(), 1);
    for sandbox in daemon.sandboxes().list(ListSandboxesRequest::default()).await.unwrap().into_inner().sandboxes {
        daemon.sandboxes().destroy(DestroySandboxRequest { sandbox_id: sandbox.id }).await.unwrap();
    }
    assert_eq!(of_ours(), 0);
}

async fn what_a_killed_daemon_left_is_gone_after_the_next_start(lab: &Lab, daemon: &mut Daemon) {
    let _sandbox = sandbox_with(daemon, nat()).await.unwrap();
    assert!(traces(lab).contains("table ip hd"), "{}", traces(lab));
    daemon.kill_and_restart().await;
    for sandbox in daemon
        .sandboxes()
        .list(handsd::api::proto::ListSandboxesRequest::default())
        .await
        .unwrap()
        .into_inner()
        .sandboxes
    {
        let request = handsd::api::proto::DestroySandboxRequest { sandbox_id: sandbox.id };
        daemon.sandboxes().destroy(request).await.unwrap();
    }
    eventually(SOON, || async { expect(traces(lab).is_empty(), traces(lab)) }).await;
    // And another can be made.
    sandbox_with(daemon, nat()).await.unwrap().destroy().await.unwrap();
}

async fn the_next_daemon_goes_on_with_it(_: &Lab, daemon: &mut Daemon) {
    let (sandbox, proxied) =
        (sandbox_with(daemon, nat()).await.unwrap(), sandbox_with(daemon, proxy(&["a.com"])).await.unwrap());
    let list = proxy(&["world.test"]);
    set_network(daemon, &proxied, list.clone()).await.unwrap();
    daemon.kill_and_restart().await;
    let (sandbox, proxied) = (sandbox.through(daemon), proxied.through(daemon));
    assert_eq!(sandbox.read(&reach("world2.test", false)).await, "203.0.113.2 saw 198.51.100.1");
    assert!(sandbox.read(&reach("10.9.0.2", false)).await.starts_with("failed: "));
    assert_eq!(proxied.get().await.unwrap().network, Some(list));
    assert_eq!(proxied.read(&ask("world.test")).await, "HTTP/1.1 200 Connection established");
    // The numbers of those that go on are not given away.
    let another = sandbox_with(daemon, nat()).await.unwrap();
    assert_eq!(another.read(&reach("203.0.113.2", false)).await, "203.0.113.2 saw 198.51.100.1");
    assert_eq!(sandbox.read(&reach("203.0.113.2", false)).await, "203.0.113.2 saw 198.51.100.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_the_request_is_refused_by_name() {
    let Some(daemon) = Daemon::start().await else { return };
    let host = Network { mode: Mode::Host.into(), allow: Vec::new() };
    let refused = sandbox_with(&daemon, host).await.unwrap_err();
    assert_eq!(reason(&refused), "NETWORK_UNSUPPORTED");
    let Some(daemon) = Daemon::start_configured("network.ceiling = 'host'").await else { return };
    let host = Network { mode: Mode::Host.into(), allow: Vec::new() };
    let request = CreateSandboxRequest { network: Some(host), ..Default::default() };
    let refused = daemon.sandboxes().create(request).await.unwrap_err();
    assert_eq!(reason(&refused), "NETWORK_UNSUPPORTED");
    assert!(refused.message().contains("native engine"), "{}", refused.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_refuses_what_a_name_is_bound_to() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let sandbox = sandbox_with(&daemon, proxy(&["*"])).await.unwrap();
    assert_eq!(sandbox.read(&ask("world.test")).await, "HTTP/1.1 200 Connection established");
    for name in ["private.test", "rebound.test", "node.test", "metadata.test", "localhost"] {
        assert_eq!(sandbox.read(&ask(name)).await, "HTTP/1.1 403 Forbidden", "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_is_cloned_through_the_proxy_and_by_nat() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() || !is_made(&lab, REPOSITORY) {
        return;
    }
    lab.serve(REGISTRY);
    let Some(daemon) = lab.daemon("").await else { return };
    let proxied = sandbox_with(&daemon, proxy(&["world.test:8000"])).await.unwrap();
    let direct = sandbox_with(&daemon, nat()).await.unwrap();
    for (sandbox, url) in
        [(&proxied, "http://world.test:8000"), (&direct, "http://198.51.100.2:8000"), (&direct, "git://198.51.100.2")]
    {
        let line = format!("rm -rf repository; HOME=/tmp git clone -q {url}/repository.git && cat repository/greeting");
        let cloned = sandbox.bash(&line).await;
        assert_eq!(cloned.stdout_text(), "hello\n", "{url}: {}", cloned.stderr_text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_package_is_installed_from_a_registry_that_is_listed() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() || !is_made(&lab, PACKAGE) {
        return;
    }
    lab.serve(REGISTRY);
    let Some(daemon) = lab.daemon("").await else { return };
    let sandbox = sandbox_with(&daemon, proxy(&["world.test:8000"])).await.unwrap();
    let install = "export HOME=/tmp/home; npm install --no-audit --no-fund --registry http://world.test:8000 left > log 2>&1 \
                   || { cat log; exit 1; }; node -p \"require('left')\"";
    let installed = sandbox.bash(install).await;
    assert_eq!(installed.stdout_text(), "hello\n", "{}", installed.stderr_text());
}

/// Files over HTTP, and the repository by git's own protocol, if git has that.
const REGISTRY: &str = r#"
import http.server, os, socket, subprocess, threading
server = http.server.ThreadingHTTPServer(("198.51.100.2", 8000), http.server.SimpleHTTPRequestHandler)
git = socket.create_server(("198.51.100.2", 9418))
def accept():
    # One for each connection, which ends with it: nothing outlives the test.
    while True:
        connection = git.accept()[0]
        words = ["git", "daemon", "--inetd", "--export-all", "--base-path=" + os.getcwd()]
        subprocess.run(words, stdin=connection, stdout=connection, stderr=subprocess.DEVNULL)
        connection.close()
threading.Thread(target=accept, daemon=True).start()
print("ready")
server.serve_forever()
"#;

const REPOSITORY: &str = "git init -q work; cd work; echo hello > greeting; git add .; \
                          git -c user.name=a -c user.email=a@b commit -qm first; cd ..; \
                          git clone -q --bare work repository.git; git -C repository.git update-server-info; \
                          git daemon --help > /dev/null 2>&1 || test -x \"$(git --exec-path)/git-daemon\"";

const PACKAGE: &str = r#"npm --version > /dev/null; mkdir package; cd package
echo '{"name":"left","version":"1.0.0","main":"index.js"}' > package.json; echo 'module.exports = "hello"' > index.js; cd ..
tar czf left.tgz package; sum=$(sha1sum left.tgz | cut -d ' ' -f 1)
printf '{"name":"left","dist-tags":{"latest":"1.0.0"},"versions":{"1.0.0":{"name":"left","version":"1.0.0","main":"index.js",' > left
printf '"dist":{"tarball":"http://world.test:8000/left.tgz","shasum":"%s"}}}}' "$sum" >> left"#;

/// Makes something in the lab's files, if the programs are here that make it.
fn is_made(lab: &Lab, line: &str) -> bool {
    let made = std::process::Command::new("bash").args(["-ec", line]).current_dir(lab.files()).status();
    let is_made = made.is_ok_and(|status| status.success());
    if !is_made {
        println!("skipped: a program is missing that makes what is to be fetched");
    }
    is_made
}

/// Takes whatever comes at port 81 and says how much it was; and sends 4 MiB to whoever connects to port 82.
const BULK: &str = r#"
import socket, threading
def serve(port, talk):
    server = socket.create_server(("198.51.100.2", port))
    def accept():
        while True:
            connection = server.accept()[0]
            talk(connection)
            connection.close()
    threading.Thread(target=accept, daemon=True).start()
def take(connection):
    count = 0
    while data := connection.recv(1 << 16):
        count += len(data)
    connection.sendall(str(count).encode())
serve(81, take)
serve(82, lambda connection: connection.sendall(bytes(4 << 20)))
print("ready")
threading.Event().wait()
"#;

/// Sends 4 MiB, or gets as many; prints how many milliseconds that took. Through the proxy if the sandbox has one.
fn bulk(way: &str, proxied: bool) -> String {
    format!(
        r#"python3 - <<'EOF'
import socket, time
proxied, out = {proxied}, {out}
s = socket.create_connection(("127.0.0.1", 7422) if proxied else ("198.51.100.2", 81 if out else 82))
if proxied:
    s.sendall(b"CONNECT world.test:%d HTTP/1.1\r\n\r\n" % (81 if out else 82))
    assert s.recv(39).startswith(b"HTTP/1.1 200")
began, size, count = time.monotonic(), 4 << 20, 0
if out:
    s.sendall(bytes(size))
    s.shutdown(socket.SHUT_WR)
    count = int(s.recv(100))
else:
    while data := s.recv(1 << 16):
        count += len(data)
assert count == size, count
print(int((time.monotonic() - began) * 1000))
EOF"#,
        proxied = if proxied { "True" } else { "False" },
        out = if way == "out" { "True" } else { "False" },
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_and_come_no_faster_than_the_sandbox_may() {
    let Some(mut lab) = Lab::new() else { return };
    if !has_python() {
        return;
    }
    lab.serve(BULK);
    let Some(daemon) = lab.daemon("[sandbox]\nbandwidth = '2MiB'\n").await else { return };
    for (network, is_proxied) in [(nat(), false), (proxy(&["world.test"]), true)] {
        let sandbox = sandbox_with(&daemon, network).await.unwrap();
        // At 2 MiB a second, and the node's own buffers beside.
        for way in ["out", "in"] {
            let took: u64 = sandbox.read(&bulk(way, is_proxied)).await.parse().unwrap();
            assert!((1_000..20_000).contains(&took), "{way} {took} ms, proxied: {is_proxied}");
        }
        let limits = Limits { bandwidth: 1 << 30, ..Limits::default() };
        let request = SetLimitsRequest { sandbox_id: sandbox.id.clone(), limits: Some(limits) };
        daemon.sandboxes().set_limits(request).await.unwrap();
        let took: u64 = sandbox.read(&bulk("out", is_proxied)).await.parse().unwrap();
        assert!(took < 1_500, "{took} ms, proxied: {is_proxied}");
    }
}
