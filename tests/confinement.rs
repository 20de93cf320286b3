//! What a hostile process in a sandbox cannot do, tried from inside.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::net::TcpListener;

use handsd::api::proto::{BashRequest, CreateSandboxRequest};
use nix::libc;
use support::{Daemon, Sandbox, argv, process, shell};

mod support;

/// Docker's default set: see capabilities(7) and the engine's `jail`.
const CAPABILITIES: &str = "00000000a80425fb";

/// A program for the sandbox's Python, with what most of them use.
fn python(program: &str) -> BashRequest {
    let prelude = "import ctypes, errno, os, socket, struct, sys\n\
                   libc = ctypes.CDLL(None, use_errno=True)\n\
                   buffer = ctypes.create_string_buffer(128)\n\
                   vector = ctypes.create_string_buffer(struct.pack('2Q', ctypes.addressof(buffer), 16))\n\
                   def why(call, *arguments):\n    \
                       result = call(*arguments)\n    \
                       return 'done' if result != -1 else errno.errorcode[ctypes.get_errno()]\n\
                   def attempt(action):\n    \
                       try:\n        action()\n        return 'done'\n    \
                       except OSError as error:\n        return errno.errorcode[error.errno]\n";
    argv(&["python3", "-c", &format!("{prelude}{program}")])
}

/// What a program writes to stdout; it has to end well.
async fn said(sandbox: &Sandbox, request: BashRequest) -> String {
    let outcome = sandbox.run(request).await.unwrap();
    assert_eq!((outcome.code(), outcome.stderr_text().as_str()), (Some(0), ""), "{}", outcome.stdout_text());
    outcome.stdout_text().trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_file_of_the_node_is_visible() {
    let Some(daemon) = Daemon::start().await else { return };
    let places = ["/root", "/home", "/tmp", "/var/tmp", "/run", "/etc"].map(std::path::Path::new);
    let markers: Vec<_> = places.into_iter().chain([daemon.scratch(), &daemon.state()]).map(marker).collect();
    let sandbox = daemon.sandbox().await;
    // A file of its own is found: the search can find.
    sandbox.read("touch /root/handsd-marker-inside").await;
    let search = "find / \\( -path /proc -o -path /sys -o -path /usr \\) -prune -o -name 'handsd-marker-*' -print";
    assert_eq!(sandbox.read(search).await, "/root/handsd-marker-inside");
    for marker in &markers {
        let path = marker.path().display();
        let ways = format!("ls {path} /proc/1/root{path} /proc/self/root/../..{path} 2>/dev/null; true");
        assert_eq!(sandbox.read(&ways).await, "", "{path}");
    }
    let about = sandbox.read("cat /proc/self/mountinfo /proc/self/cgroup /proc/cmdline /proc/mounts").await;
    for word in [daemon.scratch().to_str().unwrap(), "handsd-test-", "handsd/"] {
        assert!(!about.contains(word), "{word} in:\n{about}");
    }
    let shadow = fs::read_to_string("/etc/shadow").unwrap();
    let inside = sandbox.bash("cat /etc/shadow /etc/machine-id").await.stdout_text();
    let secrets = shadow.lines().filter(|line| line.contains('$'));
    assert!(secrets.filter(|line| inside.contains(*line)).count() == 0, "a password of the node");
}

fn marker(directory: &std::path::Path) -> tempfile::NamedTempFile {
    tempfile::Builder::new().prefix("handsd-marker-").tempfile_in(directory).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_sandbox_writes_stays_in_it() {
    let Some(daemon) = Daemon::start().await else { return };
    let [one, other] = [daemon.sandbox().await, daemon.sandbox().await];
    let name = format!("handsd-marker-{}", one.id);
    let places = ["/usr/bin", "/etc", "/tmp", "/root", "/dev/shm", "/workspace", "/var/tmp", "/run"];
    for place in places {
        one.read(&format!("echo x > {place}/{name}; test -s {place}/{name}")).await;
        assert!(!std::path::Path::new(place).join(&name).exists(), "{place} on the node");
        assert_eq!(other.read(&format!("ls -A {place} | grep {name} || true")).await, "", "{place}");
    }
    // Sockets without a path, System V memory and the host name are the sandbox's own, too.
    let listen = "s = socket.socket(socket.AF_UNIX); s.bind('\\0handsd-marker'); s.listen()\n\
                  print(libc.shmget(0x68616e64, 4096, 0o1666) >= 0, flush=True); sys.stdin.read()";
    let mut listening = one.start(BashRequest { stdin: true, ..python(listen) }).await.unwrap();
    listening.read_until("True").await.unwrap();
    let connect = "print(attempt(lambda: socket.socket(socket.AF_UNIX).connect('\\0handsd-marker')))\n\
                   print(why(libc.shmget, 0x68616e64, 0, 0))";
    assert_eq!(said(&one, python(connect)).await, "done\ndone");
    assert_eq!(said(&other, python(connect)).await, "ECONNREFUSED\nENOENT");
    assert_ne!(one.read("hostname").await, other.read("hostname").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_its_own_processes_are_visible() {
    let Some(daemon) = Daemon::start().await else { return };
    let [one, other] = [daemon.sandbox().await, daemon.sandbox().await];
    let mut sleeping = one.start(shell("echo up; exec -a handsd-marker sleep 1000")).await.unwrap();
    sleeping.read_until("up").await.unwrap();
    support::eventually(support::SOON, || async {
        support::expect(one.processes().await == ["handsd-marker 1000"], format!("{:?}", one.processes().await))
    })
    .await;
    assert_eq!(other.processes().await, Vec::<String>::new());
    let seen = other.read("echo /proc/[0-9]*").await;
    assert!(seen.split(' ').count() <= 3, "{seen}");
    // All of them are on the node who they should be: nobody there.
    let init = daemon.init(&one);
    let members: Vec<_> = process::descendants(init).into_iter().map(|(pid, _)| pid).chain([init]).collect();
    assert!(members.len() >= 2, "{members:?}");
    for pid in members {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        for line in status.lines().filter(|line| line.starts_with("Uid:") || line.starts_with("Gid:")) {
            let ids = line.split_whitespace().skip(1).map(|id| id.parse::<u32>().unwrap());
            assert!(ids.into_iter().all(|id| id >= 65_536), "{pid}: {line}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_process_cannot_be_touched() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let init = daemon.init(&sandbox);
    sandbox.read("for s in $(seq 1 64); do kill -$s 1 2>/dev/null; done; true").await;
    sandbox.read("kill -9 1; kill -STOP 1; kill -SEGV 1; true").await;
    assert_eq!(daemon.init(&sandbox), init);
    let look = "fds = ['fd/' + name for name in os.listdir('/proc/1/fd')]\n\
                for name in 'mem environ maps smaps auxv stack syscall io pagemap exe'.split() + fds:\n    \
                    print(name, attempt(lambda: open('/proc/1/' + name, 'rb').read(1)))\n\
                for name in ['exe', 'cwd', 'root', 'ns/mnt', 'ns/user'] + fds:\n    \
                    print(name, attempt(lambda: os.readlink('/proc/1/' + name)))\n\
                for name in 'map_files cwd root'.split():\n    \
                    print(name, attempt(lambda: os.listdir('/proc/1/' + name)))\n\
                print('write', attempt(lambda: open('/proc/1/mem', 'wb')))";
    let answers = said(&sandbox, python(look)).await;
    assert!(answers.lines().count() > 25, "{answers}");
    for line in answers.lines() {
        assert!(line.ends_with(" EACCES") || line.ends_with(" EPERM"), "{line}\n{answers}");
    }
    let calls = [
        ("attach", libc::SYS_ptrace, "16, 1, 0, 0"),
        ("seize", libc::SYS_ptrace, "0x4206, 1, 0, 0"),
        ("read", libc::SYS_process_vm_readv, "1, vector, 1, vector, 1, ctypes.c_ulong(0)"),
        ("fd", libc::SYS_pidfd_getfd, "libc.syscall(434, 1, 0), 0, 0"),
        ("limits", libc::SYS_prlimit64, "1, 7, buffer, 0"),
        ("namespace", libc::SYS_setns, "libc.syscall(434, 1, 0), 0x20000"),
    ];
    refused(&sandbox, &calls).await;
    assert_eq!(sandbox.read("echo alive").await, "alive");
    // Its program cannot be replaced either, and nobody can act as it.
    let replace =
        sandbox.bash("echo > /dev/hands/guest || cp /bin/true /dev/hands/guest || mv /dev/hands /dev/h").await;
    assert_ne!(replace.code(), Some(0));
    assert_eq!(sandbox.read("find / -path /proc -prune -o -path /usr -prune -o -type s -print").await, "");
    assert_eq!(sandbox.read("tail -n +2 /proc/net/unix").await, "", "its socket is not in the sandbox's network");
}

/// Makes system calls, as (name, number, arguments in Python). The kernel must refuse all, for want of rights.
async fn refused(sandbox: &Sandbox, calls: &[(&str, libc::c_long, &str)]) {
    let line = |(name, number, arguments): &(&str, libc::c_long, &str)| {
        format!("print({name:?}, why(libc.syscall, {number}, {arguments}))\n")
    };
    let answers = said(sandbox, python(&calls.iter().map(line).collect::<String>())).await;
    assert_eq!(answers.lines().count(), calls.len());
    for line in answers.lines() {
        // ENOSPC is how the kernel says that there may be no more user namespaces.
        let is_refused = [" EPERM", " EACCES", " ENOSPC"].iter().any(|errno| line.ends_with(errno));
        assert!(is_refused, "{line}\n{answers}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_reach_beyond_the_sandbox_are_refused() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let new_user_clone3 =
        "ctypes.create_string_buffer(struct.pack('11Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0)), 88";
    let calls = [
        ("unshare user", libc::SYS_unshare, "0x10000000"),
        ("unshare mount", libc::SYS_unshare, "0x20000"),
        ("unshare pid", libc::SYS_unshare, "0x20000000"),
        ("unshare net", libc::SYS_unshare, "0x40000000"),
        ("clone3 user", libc::SYS_clone3, new_user_clone3),
        ("clone user", libc::SYS_clone, "0x10000000 | 17, 0, 0, 0, 0"),
        ("setns", libc::SYS_setns, "os.open('/proc/self/ns/net', 0), 0"),
        ("mount", libc::SYS_mount, "b'none', b'/mnt', b'tmpfs', 0, 0"),
        ("mount proc", libc::SYS_mount, "b'proc', b'/mnt', b'proc', 0, 0"),
        ("remount", libc::SYS_mount, "b'', b'/proc/sys', b'', 0x1020, 0"),
        ("umount", libc::SYS_umount2, "b'/proc/kcore', 2"),
        ("pivot_root", libc::SYS_pivot_root, "b'/', b'/mnt'"),
        ("open_tree", libc::SYS_open_tree, "-100, b'/', 1"),
        ("fsopen", libc::SYS_fsopen, "b'tmpfs', 0"),
        ("mount_setattr", libc::SYS_mount_setattr, "-100, b'/', 0, buffer, 32"),
        ("swapon", libc::SYS_swapon, "b'/tmp/x', 0"),
        ("swapoff", libc::SYS_swapoff, "b'/tmp/x'"),
        ("reboot", libc::SYS_reboot, "0xfee1dead, 672274793, 0, 0"),
        ("init_module", libc::SYS_init_module, "buffer, 128, b''"),
        ("finit_module", libc::SYS_finit_module, "0, b'', 0"),
        ("delete_module", libc::SYS_delete_module, "b'loop', 0"),
        ("kexec_load", libc::SYS_kexec_load, "0, 0, 0, 0"),
        ("bpf", libc::SYS_bpf, "0, buffer, 128"),
        ("perf_event_open", libc::SYS_perf_event_open, "buffer, 0, -1, -1, 0"),
        ("keyctl", libc::SYS_keyctl, "0, -3, 0, 0, 0"),
        ("add_key", libc::SYS_add_key, "b'user', b'name', b'data', 4, -3"),
        ("request_key", libc::SYS_request_key, "b'user', b'name', 0, -3"),
        ("open_by_handle_at", libc::SYS_open_by_handle_at, "-100, buffer, 0"),
        ("userfaultfd", libc::SYS_userfaultfd, "0"),
        ("io_uring_setup", libc::SYS_io_uring_setup, "1, buffer"),
        ("clock_settime", libc::SYS_clock_settime, "0, buffer"),
        ("settimeofday", libc::SYS_settimeofday, "buffer, 0"),
        ("sethostname", libc::SYS_sethostname, "b'x', 1"),
        ("setdomainname", libc::SYS_setdomainname, "b'x', 1"),
        ("acct", libc::SYS_acct, "0"),
        ("quotactl", libc::SYS_quotactl, "0, 0, 0, 0"),
        ("syslog", libc::SYS_syslog, "3, buffer, 128"),
        ("vhangup", libc::SYS_vhangup, "0"),
        ("mknod", libc::SYS_mknodat, "-100, b'/tmp/mem', 0o20666, 0x101"),
        ("mknod disk", libc::SYS_mknodat, "-100, b'/tmp/disk', 0o60666, 0xfe00"),
        ("real time", libc::SYS_sched_setscheduler, "0, 1, ctypes.create_string_buffer(b'\\1\\0\\0\\0')"),
        ("priority", libc::SYS_setpriority, "0, 0, -5"),
        ("rlimit", libc::SYS_prlimit64, "0, 7, ctypes.create_string_buffer(struct.pack('2Q', 1 << 30, 1 << 30)), 0"),
    ];
    refused(&sandbox, &calls).await;
    for line in
        ["unshare -U true", "unshare -m true", "unshare -Ur true", "mount -t tmpfs x /mnt", "nsenter -t 1 -m true"]
    {
        assert_ne!(sandbox.bash(line).await.code(), Some(0), "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_are_dockers_and_do_not_grow() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let status = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status | tr -d '\\t' | tr '\\n' ' '";
    let rights = |effective: &str| {
        format!(
            "CapInh:0000000000000000 CapPrm:{effective} CapEff:{effective} CapBnd:{CAPABILITIES} \
             CapAmb:0000000000000000 NoNewPrivs:1 Seccomp:2"
        )
    };
    assert_eq!(sandbox.read(status).await, rights(CAPABILITIES));
    let nobody = |line: &str| BashRequest { user: "nobody".to_owned(), ..shell(line) };
    assert_eq!(said(&sandbox, nobody(status)).await, rights("0000000000000000"));
    // Neither set-user-id bits nor file capabilities do anything, whoever owns the program.
    sandbox.read("cp /usr/bin/id /tmp/id; chown 0:0 /tmp/id; chmod 6755 /tmp/id; cp /bin/cat /tmp/cat").await;
    sandbox.read("echo secret > /root/secret; chmod 600 /root/secret; cp /bin/cat /tmp/cat").await;
    let set = "path = b'/tmp/cat'\n\
               cap = struct.pack('<5I', 0x2000001, 0x6, 0, 0, 0)\n\
               print(attempt(lambda: os.setxattr(path, 'security.capability', cap)))";
    assert_eq!(said(&sandbox, python(set)).await, "done");
    assert_eq!(said(&sandbox, nobody("/tmp/id -u; /tmp/id -g; id -u; id -g")).await.lines().collect::<Vec<_>>(), {
        let own = said(&sandbox, nobody("id -u; id -g")).await;
        own.lines().chain(own.lines()).map(str::to_owned).collect::<Vec<_>>()
    });
    assert_ne!(sandbox.run(nobody("/tmp/cat /root/secret")).await.unwrap().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_inherits_its_three_streams_and_nothing_else() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    // Others are under way, and so are conversations about files: their descriptors are at hand in the guest.
    let _others = [sandbox.start(shell("sleep 100")).await.unwrap(), sandbox.start(shell("sleep 100")).await.unwrap()];
    let look = "print([fd for fd in range(4096) if attempt(lambda: os.fstat(fd)) == 'done'])";
    let pty = Some(handsd::api::proto::Pty::default());
    for request in [
        python(look),
        BashRequest { stdin: true, ..python(look) },
        BashRequest { pty, ..python(look) },
        BashRequest { user: "nobody".to_owned(), ..python(look) },
    ] {
        assert_eq!(said(&sandbox, request).await, "[0, 1, 2]");
    }
    let environment = sandbox.read("env | cut -d= -f1 | tr '\\n' ' '").await;
    for name in environment.split(' ') {
        assert!(
            ["HOME", "LANG", "LOGNAME", "OLDPWD", "PATH", "PWD", "SHELL", "SHLVL", "TERM", "USER", "_"].contains(&name),
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proc_sys_and_dev_show_and_change_nothing_of_the_node() {
    let Some(daemon) = Daemon::start().await else { return };
    let sandbox = daemon.sandbox().await;
    let write = "for path in '''/proc/sys/kernel/hostname /proc/sys/kernel/core_pattern /proc/sys/vm/drop_caches\n\
                 /proc/sys/user/max_user_namespaces /proc/sys/net/ipv4/ip_forward /proc/sysrq-trigger /proc/irq/default_smp_affinity\n\
                 /sys/kernel/uevent_helper /sys/kernel/mm/transparent_hugepage/enabled /sys/power/state'''.split():\n    \
                     if os.path.exists(path): print(path, attempt(lambda: open(path, 'w').write('1')))\n\
                 print('dir', attempt(lambda: os.mkdir('/sys/fs/x')))\n\
                 print('dev', attempt(lambda: os.mkdir('/dev/x')))";
    let answers = said(&sandbox, python(write)).await;
    assert!(answers.lines().count() >= 7, "{answers}");
    for line in answers.lines() {
        assert!([" EROFS", " EACCES", " EPERM"].iter().any(|errno| line.ends_with(errno)), "{line}");
    }
    let hidden =
        "for path in /proc/kcore /proc/keys /proc/timer_list /proc/interrupts /proc/latency_stats /proc/sched_debug; do
        [ ! -e $path ] || [ $(head -c 100 $path | wc -c) = 0 ] || echo $path
    done; for path in /proc/acpi /proc/scsi /proc/asound /sys/firmware /sys/devices/virtual/powercap; do
        [ ! -e $path ] || [ -z \"$(ls -A $path)\" ] || echo $path
    done";
    assert_eq!(sandbox.read(hidden).await, "");
    assert_eq!(sandbox.read("find /sys /proc/sys -xdev -writable -type f 2>/dev/null | head -3").await, "");
    assert_eq!(
        sandbox.read("find / -path /proc -prune -o \\( -type b -o -type c \\) -print | sort | tr '\\n' ' '").await,
        { "/dev/full /dev/null /dev/pts/ptmx /dev/random /dev/tty /dev/urandom /dev/zero" }
    );
    // A device that came in some other way could not be opened: only the mounts of /dev let devices be.
    let mounts = sandbox.read("cut -d' ' -f5,6 /proc/self/mountinfo").await;
    for mount in mounts.lines().filter(|mount| !mount.starts_with("/dev") && !mount.starts_with("/proc/")) {
        let is_empty_mask = mount.contains(" ro,") && mount.starts_with("/sys/");
        assert!(is_empty_mask || (mount.contains("nodev") && mount.contains("nosuid")), "{mount}");
    }
    let rights = sandbox.read("ls -ld /dev | cut -c1-10; awk '$5 == \"/dev\" {print $6}' /proc/self/mountinfo").await;
    assert!(rights.starts_with("drwxr-xr-x\nro,nosuid"), "{rights}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_network_is_loopback_and_no_ones_else() {
    let Some(daemon) = Daemon::start().await else { return };
    let [one, other] = [daemon.sandbox().await, daemon.sandbox().await];
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let daemons = daemon.tcp_address().rsplit_once(':').unwrap().1.to_owned();
    let connect = format!(
        "for address in [('127.0.0.1', {port}), ('127.0.0.1', {daemons}), ('169.254.169.254', 80), ('1.1.1.1', 53)]:\n    \
             print(attempt(lambda: socket.create_connection(address, 5)))\n\
         print(attempt(lambda: socket.create_connection(('::1', {port}), 5)))\n\
         print(attempt(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('1.1.1.1', 53))))"
    );
    let answers = said(&one, python(&connect)).await;
    assert!(answers.starts_with("ECONNREFUSED\nECONNREFUSED\nENETUNREACH\nENETUNREACH\n"), "{answers}");
    assert!(!answers.contains("done"), "{answers}");
    assert_eq!(listener.accept().unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    assert_eq!(one.read("tail -n +3 /proc/net/dev | cut -d: -f1 | tr -d ' '").await, "lo");
    assert_eq!(one.read("tail -n +2 /proc/net/route; ls /sys/class/net").await, "lo");
    // Its own loopback works, and is its own.
    let serve = "s = socket.create_server(('127.0.0.1', 4444)); print('up', flush=True); s.accept()";
    let mut serving = one.start(python(serve)).await.unwrap();
    serving.read_until("up").await.unwrap();
    let reach = "print(attempt(lambda: socket.create_connection(('127.0.0.1', 4444), 5)))";
    assert_eq!(said(&other, python(reach)).await, "ECONNREFUSED");
    assert_eq!(said(&one, python(reach)).await, "done");
    // Families that know no network namespaces lead to the node or its hypervisor.
    let families =
        "for family in [40, 38, 16]:\n    print(family, attempt(lambda: socket.socket(family, socket.SOCK_STREAM)))";
    let answers = said(&one, python(families)).await;
    assert!(!answers.contains("40 done"), "vsock: {answers}");
    let add = "r = libc.system(b'ip link add v0 type veth peer name v1 2>/dev/null')\nprint(r != 0)";
    assert_eq!(said(&one, python(add)).await, "True");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_cgroups_are_out_of_its_reach() {
    let Some(daemon) = Daemon::start().await else { return };
    let limits = handsd::api::proto::Limits { pids: 64, ..Default::default() };
    let sandbox = Sandbox::create(&daemon, CreateSandboxRequest { limits: Some(limits), ..Default::default() }).await;
    let sandbox = sandbox.unwrap();
    assert_eq!(sandbox.read("find /sys/fs/cgroup -writable 2>/dev/null | grep -v '^/sys/fs/cgroup$' | head").await, "");
    assert_eq!(sandbox.read("grep -c -v ':/$\\|:/run_' /proc/self/cgroup || true").await, "0", "{}", {
        sandbox.read("cat /proc/self/cgroup").await
    });
    assert_eq!(sandbox.read("ls -A /sys/fs/cgroup | head -3").await, "");
}
