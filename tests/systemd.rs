//! The package under a real systemd: from `dpkg -i` to a purge, with runs that outlive all that happens to the daemon.
//!
//! A small Debian boots in a container. `.ci/systemd` makes it, and has `cargo deb`; without them the test is skipped.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use support::dockerd::{self, Dockerd};
use support::{eventually, expect};

mod support;

/// A boot, a restart after the watchdog, a package removed: each takes seconds on a busy machine.
const PATIENCE: Duration = Duration::from_secs(90);

/// A machine with systemd as its first process.
struct Machine<'a> {
    engine: &'a Dockerd,
    name: &'static str,
}

impl<'a> Machine<'a> {
    /// Boots one that finds the package as /handsd.deb.
    async fn boot(engine: &'a Dockerd, root: &Path, package: &Path) -> Self {
        let mut tar = Command::new("tar");
        let mut tar = tar.arg("-C").arg(root).args(["-c", "."]).stdout(Stdio::piped()).spawn().unwrap();
        let mut import = docker(engine);
        let import = import.args(["import", "-", "systemd"]).stdin(tar.stdout.take().unwrap()).output().unwrap();
        assert!(tar.wait().unwrap().success());
        assert!(import.status.success(), "{import:?}");
        let machine = Self { engine, name: "machine" };
        let mut run = docker(engine);
        run.args(["run", "-d", "--name", machine.name, "--network", "none"]);
        run.args(["SYS_ADMIN", "NET_ADMIN", "MKNOD", "SYS_PTRACE"].map(|right| format!("--cap-add={right}")));
        run.args(["seccomp", "apparmor", "systempaths"].map(|fence| format!("--security-opt={fence}=unconfined")));
        run.args(["--tmpfs=/run", "--tmpfs=/run/lock", "-v=/sys/fs/cgroup:/sys/fs/cgroup:rw", "-v=/var/lib/handsd"]);
        run.arg(format!("-v={}:/handsd.deb:ro", package.display()));
        // What sandboxes are made of: the container's own root is a file system that cannot be mapped to their users.
        run.arg(format!("-v={}:/srv/image:ro", root.display()));
        let systemd = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd");
        let programs = Path::new(env!("CARGO_BIN_EXE_handsd")).parent().unwrap();
        run.arg(format!("-v={}:/srv/systemd:ro", systemd.display()));
        run.arg(format!("-v={}:/srv/programs:ro", programs.display()));
        let run = run.args(["-e", "container=docker", "systemd", "/sbin/init"]).output().unwrap();
        assert!(run.status.success(), "{run:?}");
        eventually(PATIENCE, || async {
            let state = machine.told("systemctl is-system-running").1;
            expect(["running", "degraded"].contains(&state.as_str()), state)
        })
        .await;
        machine
    }

    /// What a command line says, and whether it succeeded.
    fn told(&self, line: &str) -> (bool, String) {
        let output = docker(self.engine).args(["exec", self.name, "sh", "-c", line]).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).trim().to_owned())
    }

    /// The same of one that has to succeed.
    #[track_caller]
    fn get(&self, line: &str) -> String {
        let (is_well, text) = self.told(line);
        assert!(is_well, "{line}: {text}\n{}", self.told("journalctl --no-pager -n 40").1);
        text
    }

    fn property(&self, name: &str) -> String {
        self.get(&format!("systemctl show -p {name} --value handsd"))
    }

    /// Waits until another process than `before` serves.
    async fn serves_again(&self, before: &str) -> String {
        eventually(PATIENCE, || async {
            let pid = self.property("MainPID");
            let is_other = pid != before && pid != "0";
            expect(is_other && self.told("hands info").0, format!("process {pid}, {}", self.property("ActiveState")))?;
            Ok(pid)
        })
        .await
    }
}

impl Drop for Machine<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{}", self.told("journalctl --no-pager -u handsd -n 60").1);
        }
        // The engine's directory goes with the engine.
        let _ = docker(self.engine).args(["rm", "-f", "-v", self.name]).output();
    }
}

fn docker(engine: &Dockerd) -> Command {
    let mut command = Command::new("docker");
    command.arg("-H").arg(format!("unix://{}", engine.socket().display()));
    command
}

/// The package with the programs under test; `None`, and why is printed, where none can be made.
fn package(place: &Path) -> Option<PathBuf> {
    let package = place.join("handsd.deb");
    let mut deb = Command::new("cargo");
    deb.args(["deb", "--fast", "--no-build", "--no-strip", "--profile", "dev", "-o"]).arg(&package);
    let made = deb.current_dir(env!("CARGO_MANIFEST_DIR")).output().unwrap();
    if made.status.success() {
        return Some(package);
    }
    println!("skipped: no package: {}", String::from_utf8_lossy(&made.stderr));
    None
}

#[tokio::test(flavor = "multi_thread")]
async fn the_package_is_installed_survives_what_happens_and_leaves_nothing() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/systemd-root");
    if !root.join("sbin/init").exists() {
        println!("skipped: no {}, which .ci/systemd makes", root.display());
        return;
    }
    // The hands client of this build is a part of the package.
    let _ = env!("CARGO_BIN_EXE_hands");
    let Some(engine) = dockerd::shared() else { return };
    let Some(package) = package(engine.scratch()) else { return };
    let machine = Machine::boot(&engine, &root, &package).await;

    machine.get("dpkg -i /handsd.deb");
    assert_eq!(machine.property("ActiveState"), "active", "it starts when it is installed");
    assert_eq!(machine.get("systemctl is-enabled handsd"), "enabled");
    assert_eq!(machine.get("stat -c %a /etc/handsd/seal.key"), "600");
    assert_eq!(machine.told("systemd-analyze verify handsd.service handsd.slice"), (true, String::new()));
    let security = machine.get("systemd-analyze security --no-pager handsd.service | tail -n 1");
    println!("{security}");
    assert!(security.contains(": 7."), "README.md has another exposure: {security}");
    machine.get("printf '[sandbox]\\nimage = \"dir:/srv/image\"\\n' >> /etc/handsd/handsd.toml");
    machine.get("systemctl restart handsd");

    let sandbox = machine.get("hands create");
    assert_eq!(machine.get(&format!("hands bash {sandbox} 'echo hello; exit 0'")), "hello");
    assert!(machine.get("cat /var/log/handsd/audit.jsonl").contains("/hands.v1.Hands/Bash"));
    assert_eq!(machine.property("Slice"), "handsd.slice");
    let below = machine.get(&format!("find /sys/fs/cgroup -type d -path '*/handsd.slice/*' -name {sandbox}"));
    assert_ne!(below, "", "the sandbox is in the slice");
    let run = machine
        .get(&format!("hands bash -d {sandbox} 'echo begun; while [ ! -e end ]; do sleep 0.1; done; echo over'"));

    let first = machine.property("MainPID");
    machine.get("systemctl restart handsd");
    let second = machine.serves_again(&first).await;
    assert!(machine.property("StatusText").contains("1 sandboxes, 1 runs"), "{}", machine.property("StatusText"));

    machine.get(&format!("kill -9 {second}"));
    let third = machine.serves_again(&second).await;
    assert_eq!(machine.property("NRestarts"), "1");

    machine.get("sed -i 's/filter = \"info\"/filter = \"info,handsd=debug\"/' /etc/handsd/handsd.toml && systemctl reload handsd");
    eventually(PATIENCE, || async {
        expect(machine.told("journalctl -u handsd | grep -q 'configuration is in force'").0, "no reload")
    })
    .await;
    assert_eq!(machine.property("MainPID"), third);

    // One that hangs is found out by the watchdog, here sooner than in the package.
    machine.get("mkdir -p /run/systemd/system/handsd.service.d");
    let sooner = "[Service]\\nWatchdogSec=3\\nTimeoutAbortSec=2\\n";
    machine.get(&format!(
        "printf '{sooner}' > /run/systemd/system/handsd.service.d/sooner.conf && systemctl daemon-reload"
    ));
    machine.get("systemctl restart handsd");
    let fourth = machine.serves_again(&third).await;
    machine.get(&format!("kill -STOP {fourth}"));
    machine.serves_again(&fourth).await;
    assert!(machine.get("journalctl -u handsd --no-pager").contains("Watchdog timeout"));

    // After all of this, the run is still the same and ends as it would have.
    machine.get(&format!("hands write {sandbox} end < /dev/null"));
    assert_eq!(machine.get(&format!("hands attach {sandbox} {run}")), "begun\nover");

    machine.get("dpkg -r handsd");
    assert_eq!(machine.told("ls /var/lib/handsd/sandboxes").1, "", "sandboxes outlive the daemon, not the package");
    machine.get("dpkg -P handsd");
    let (_, left) = machine.told("ls -d /etc/handsd /var/log/handsd /usr/bin/hands* /var/lib/handsd/*");
    assert!(!left.lines().any(|line| line.starts_with('/')), "left: {left}");

    // The same without the package.
    assert!(machine.get("/srv/systemd/install /srv/programs").contains("native"), "the daemon answers");
    assert_eq!(machine.property("ActiveState"), "active");
    assert_eq!(machine.get("stat -c %a /etc/handsd/seal.key"), "600");
    machine.get("/srv/systemd/install --purge");
    let (_, left) = machine.told("ls -d /etc/handsd /var/log/handsd /usr/bin/hands* /etc/systemd/system/handsd*");
    assert!(!left.lines().any(|line| line.starts_with('/')), "left: {left}");
}
