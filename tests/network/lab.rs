//! A node and the world around it, in network namespaces of the test's own: nothing in them reaches any other network.
//!
//! ```text
//!   node 198.51.100.1 ───── world 198.51.100.2, 203.0.113.2, 10.9.0.2, 169.254.169.254, fd00:ec2::254
//!        10.9.0.1                 2001:db8:5::2
//!        2001:db8:5::1
//! ```
//!
//! The daemon runs in the namespace of the node. Names are in a hosts file that only it sees.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sched::{CloneFlags, setns};
use tokio::net::TcpStream;

use crate::support::{Daemon, Options};

/// Names of the world, as the node resolves them.
const HOSTS: &str = "127.0.0.1 localhost\n198.51.100.2 world.test files.world.test\n10.9.0.2 private.test\n\
                     198.51.100.1 node.test\n169.254.169.254 metadata.test\n10.9.0.2 rebound.test\n\
                     2001:db8:5::2 six.test\n2001:db8:5::1 node6.test\nfd00:ec2::254 metadata6.test\n\
                     64:ff9b::a9fe:a9fe translated.test\n";

const NODE: [&str; 3] = ["198.51.100.1/24", "10.9.0.1/24", "2001:db8:5::1/64"];
const WORLD: [&str; 6] =
    ["198.51.100.2/24", "203.0.113.2/32", "10.9.0.2/24", "169.254.169.254/32", "fd00:ec2::254/128", "2001:db8:5::2/64"];

/// The namespaces; gone when this is dropped.
pub struct Lab {
    name: String,
    directory: tempfile::TempDir,
    servers: Vec<Child>,
}

impl Lab {
    /// Makes them; `None` where that cannot be done.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        if !crate::support::is_root() {
            return None;
        }
        let name = format!("hdt{}n{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { name, directory: tempfile::tempdir().unwrap(), servers: Vec::new() };
        let (node, world) = (lab.node(), lab.world());
        if !ip(&["netns", "add", &node]) || !ip(&["netns", "add", &world]) {
            println!("skipped: network namespaces cannot be made with ip(8)");
            return None;
        }
        let ends = ["netns", &node, "type", "veth", "peer", "name", "wire", "netns", &world];
        let pair = [&["link", "add", "name", "wire"][..], &ends].concat();
        assert!(ip(&pair), "a pair of links");
        for (namespace, addresses) in [(&node, &NODE[..]), (&world, &WORLD)] {
            for address in addresses {
                let flags: &[&str] = if address.contains(':') { &["nodad"] } else { &[] };
                let words = [&["-n", namespace, "address", "add", address, "dev", "wire"][..], flags].concat();
                assert!(ip(&words), "{address}");
            }
            for link in ["lo", "wire"] {
                assert!(ip(&["-n", namespace, "link", "set", link, "up"]), "{link}");
            }
        }
        for gateway in ["198.51.100.2", "2001:db8:5::2"] {
            assert!(ip(&["-n", &node, "route", "add", "default", "via", gateway]), "the way to the world");
        }
        std::fs::write(lab.hosts(), HOSTS).unwrap();
        std::fs::write(lab.resolv_conf(), "nameserver 203.0.113.2\n").unwrap();
        Some(lab)
    }

    fn node(&self) -> String {
        format!("{}a", self.name)
    }

    fn world(&self) -> String {
        format!("{}b", self.name)
    }

    fn hosts(&self) -> PathBuf {
        self.directory.path().join("hosts")
    }

    fn resolv_conf(&self) -> PathBuf {
        self.directory.path().join("resolv.conf")
    }

    /// A daemon on the node.
    pub async fn daemon(&self, config: &str) -> Option<Daemon> {
        self.daemon_with(Options { config: config.to_owned(), ..Options::default() }).await
    }

    /// The same with more options; how it is executed is the lab's.
    pub async fn daemon_with(&self, options: Options) -> Option<Daemon> {
        let mounts = format!(
            "mount --bind {} /etc/hosts && mount --bind {} $(readlink -f /etc/resolv.conf) && exec \"$@\"",
            self.hosts().display(),
            self.resolv_conf().display()
        );
        let namespace = format!("--net=/run/netns/{}", self.node());
        let words = ["nsenter", &namespace, "unshare", "--mount", "--propagation", "slave", "sh", "-c", &mounts, "sh"];
        let wrapper = words.map(str::to_owned).to_vec();
        Daemon::start_with(Options { wrapper, ..options }).await
    }

    /// Connects from the node itself.
    pub async fn connect(&self, address: &str) -> TcpStream {
        let namespace = File::open(format!("/run/netns/{}", self.node())).unwrap();
        let address = address.to_owned();
        // The namespace is the thread's for good.
        let connecting = std::thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            std::net::TcpStream::connect(address).unwrap()
        });
        let stream = connecting.join().unwrap();
        stream.set_nonblocking(true).unwrap();
        TcpStream::from_std(stream).unwrap()
    }

    /// From now on, the node hears nothing that comes from or to a port over TCP: not even that a connection ends.
    pub fn lose(&self, port: u16) {
        let rules = format!(
            "add table inet lost{port}; add chain inet lost{port} in {{ type filter hook input priority -20; }}; \
             add rule inet lost{port} in tcp sport {port} drop; add rule inet lost{port} in tcp dport {port} drop"
        );
        assert_eq!(self.on_node(&["sh", "-c", "nft \"$1\" && echo lost", "sh", &rules]), "lost\n");
    }

    /// A command that is executed on the node.
    pub fn command_on_node(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.node())).arg(program);
        command
    }

    /// Starts a program in the world, which ends with the test; waits until it says something.
    pub fn serve(&mut self, program: &str) {
        self.serve_in(&self.world(), program);
    }

    /// The same on the node.
    pub fn serve_on_node(&mut self, program: &str) {
        self.serve_in(&self.node(), program);
    }

    fn serve_in(&mut self, namespace: &str, program: &str) {
        let namespace = format!("--net=/run/netns/{namespace}");
        let mut command = Command::new("nsenter");
        command.args([&namespace, "python3", "-u", "-c", program]).current_dir(self.directory.path());
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut said = String::new();
        let stdout = child.stdout.take().unwrap();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(stdout), &mut said).unwrap();
        assert_eq!(said, "ready\n");
        self.servers.push(child);
    }

    /// What a program in the node's namespace prints.
    pub fn on_node(&self, words: &[&str]) -> String {
        let namespace = format!("--net=/run/netns/{}", self.node());
        let output = Command::new("nsenter").arg(namespace).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What a program in the world prints.
    pub fn in_world(&self, words: &[&str]) -> String {
        let namespace = format!("--net=/run/netns/{}", self.world());
        let output = Command::new("nsenter").arg(namespace).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Where servers of the world have their files.
    pub fn files(&self) -> &std::path::Path {
        self.directory.path()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
        for namespace in [self.node(), self.world()] {
            ip(&["netns", "delete", &namespace]);
        }
    }
}

fn ip(words: &[&str]) -> bool {
    Command::new("ip").args(words).stderr(Stdio::inherit()).status().is_ok_and(|status| status.success())
}
