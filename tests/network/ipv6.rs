//! IPv6: none of it leaves a sandbox by an address of its own, and the proxy holds it to the same rules.

use crate::lab::Lab;
use crate::nat::{Node, ask, nat, ping, reach};
use crate::proxy::{proxy, sandbox_with};
use crate::support::{SOON, eventually, expect, field, reason};

/// Writes down on which links packets of IPv6 come in, and from where.
const WATCH: &str = r#"
import socket
watch = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x86DD))
print("ready")
with open("SEEN", "w", buffering=1) as seen:
    while True:
        data, peer = watch.recvfrom(100)
        seen.write(peer[0] + " " + socket.inet_ntop(socket.AF_INET6, data[22:38]) + "\n")
"#;

/// Sends a packet by hand, past the addresses and routes of the kernel inside: to the world, by the node.
const BY_HAND: &str = r#"
import socket
node = next(line.split()[3] for line in open("/proc/net/arp") if line.endswith("eth0\n"))
address = lambda text: socket.inet_pton(socket.AF_INET6, text)
header = bytes.fromhex(node.replace(":", "") + "020000000001" + "86dd" + "60000000" + "0008" + "3a" + "ff")
packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
packet.bind(("eth0", 0))
print(packet.send(header + address("2001:db8:9::9") + address("2001:db8:5::2") + bytes.fromhex("8000000000010001")))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn no_packet_of_it_leaves_a_sandbox_with_an_address() {
    let Some(mut lab) = Lab::new() else { return };
    lab.serve_on_node(&WATCH.replace("SEEN", "node"));
    lab.serve(&WATCH.replace("SEEN", "world"));
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let sandbox = sandbox_with(&daemon, nat()).await.unwrap();
    for address in [
        "2001:db8:5::2",
        "2001:db8:5::1",
        "fd00:ec2::254",
        "fe80::1%eth0",
        "64:ff9b::cb00:7102",
        "::ffff:10.9.0.2",
        // A name that has only an address of IPv6.
        "aaa.test",
    ] {
        for udp in [false, true] {
            let said = sandbox.read(&reach(address, udp)).await;
            assert!(said.starts_with("failed: ") && !said.contains("late"), "{address} {said}");
        }
        assert!(sandbox.read(&ping(address)).await.starts_with("failed: "), "{address}");
    }
    let on = "echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6";
    assert_ne!(sandbox.bash(on).await.code(), Some(0), "nobody inside turns it on");
    assert_eq!(sandbox.read("grep -c eth0 /proc/net/if_inet6 || true").await, "0");
    // An address of IPv4 in other words is one of IPv4, and is no secret way out.
    let mapped = sandbox.read(&reach("::ffff:203.0.113.2", false)).await;
    assert!(mapped == "203.0.113.2 saw 198.51.100.1", "{mapped}");
    // What is seen in the end was sent after all of that.
    let seen = async |file: &str, word: &str| {
        eventually(SOON, || async {
            let seen = std::fs::read_to_string(lab.files().join(file)).unwrap_or_default();
            expect(seen.contains(word), format!("{word} is not in {seen}")).map(|()| seen)
        })
        .await
    };
    lab.on_node(&["busybox", "ping", "-c", "1", "::1"]);
    let on_node = seen("node", "lo ::1\n").await;
    assert!(!on_node.contains("hd"), "{on_node}");
    // Whoever makes packets by hand gets them as far as the node's end of the link.
    assert_eq!(sandbox.read(&format!("python3 - <<'EOF'\n{BY_HAND}\nEOF")).await, "62");
    seen("node", " 2001:db8:9::9\n").await;
    lab.on_node(&["busybox", "ping", "-c", "1", "2001:db8:5::2"]);
    let in_world = seen("world", " 2001:db8:5::1\n").await;
    assert!(!in_world.contains("2001:db8:9::9"), "{in_world}");
}

#[tokio::test(flavor = "multi_thread")]
async fn through_the_proxy_it_is_reached_where_it_is_listed_and_refused_like_any_other() {
    let Some(mut lab) = Lab::new() else { return };
    let Some(Node { daemon, .. }) = Node::native(&mut lab).await else { return };
    let refused = [
        "[2001:db8:5::1]",
        "[::1]",
        "[fe80::1]",
        "[fd00:ec2::254]",
        "[::ffff:169.254.169.254]",
        "[::ffff:10.9.0.2]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::1]",
    ];
    let listed = [&["*", "[2001:db8:5::2]"][..], &refused].concat();
    let sandbox = sandbox_with(&daemon, proxy(&listed)).await.unwrap();
    for target in ["six.test", "aaa.test", "[2001:db8:5::2]", "[2001:DB8:5:0::2]"] {
        assert_eq!(sandbox.read(&ask(target)).await, "HTTP/1.1 200 Connection established", "{target}");
    }
    for target in refused.iter().chain(&["node6.test", "metadata6.test", "translated.test"]) {
        assert_eq!(sandbox.read(&ask(target)).await, "HTTP/1.1 403 Forbidden", "{target}");
    }
    let usage = sandbox.get().await.unwrap().network_usage.unwrap();
    assert_eq!((usage.connected, usage.refused), (4, 11));
    // It is no name, so that "*" does not stand for it.
    let sandbox = sandbox_with(&daemon, proxy(&["*"])).await.unwrap();
    assert_eq!(sandbox.read(&ask("[2001:db8:5::2]")).await, "HTTP/1.1 403 Forbidden");
    let zone = sandbox_with(&daemon, proxy(&["[fe80::1%eth0]"])).await.unwrap_err();
    assert_eq!((reason(&zone).as_str(), field(&zone).as_str()), ("ARGUMENT_INVALID", "network.allow"));
}
