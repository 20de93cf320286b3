use super::*;
use crate::check::{Cgroups, Hierarchy, StateDir, Swap, UserNamespaces};

/// A host that has all.
fn good() -> Host {
    Host {
        kernel: "6.8.0-generic".to_owned(),
        architecture: "x86_64".to_owned(),
        user: User::Root,
        user_namespaces: UserNamespaces { built: true, max: 65_536, debian_forbids: false, apparmor_forbids: false },
        overlayfs: Overlayfs::Present,
        cgroups: Cgroups { v2: Some(hierarchy("/sys/fs/cgroup", &["cpu", "memory", "pids"])), v1: vec![], kill: true },
        swap: Swap { bytes: 8 << 30, zram: true },
        seccomp: vec!["kill_process".to_owned(), "errno".to_owned(), "allow".to_owned()],
        nftables: true,
        legacy_filter: false,
        state: StateDir {
            path: "/var/lib/handsd".into(),
            free: Some(100 << 30),
            filesystem: Some("ext4".to_owned()),
            project_quotas: true,
        },
        docker: Docker::Absent,
    }
}

/// The same with its controllers on version 1.
fn hybrid() -> Host {
    let v1 = ["cpu", "memory", "pids"].map(|name| hierarchy(&format!("/sys/fs/cgroup/{name}"), &[name]));
    let v2 = Some(hierarchy("/sys/fs/cgroup/unified", &[]));
    let cgroups = Cgroups { v2, v1: v1.to_vec(), kill: true };
    Host { cgroups, ..good() }
}

/// A user's session with a cgroup of its own.
fn rootless() -> Host {
    Host { user: User::Rootless, ..good() }
}

fn hierarchy(mount: &str, controllers: &[&str]) -> Hierarchy {
    let controllers = controllers.iter().map(|name| (*name).to_owned()).collect();
    Hierarchy { mount: mount.into(), controllers, writable: true }
}

fn unwritable(mut host: Host) -> Host {
    host.cgroups.v2.iter_mut().chain(&mut host.cgroups.v1).for_each(|hierarchy| hierarchy.writable = false);
    host
}

/// What is not all right, as name and state.
fn troubles(host: &Host) -> Vec<(&'static str, State)> {
    let troubles = report(host).into_iter().filter(|finding| finding.state != State::Ok);
    troubles.map(|finding| (finding.name, finding.state)).collect()
}

fn finding(host: &Host, name: &str) -> Finding {
    report(host).into_iter().find(|finding| finding.name == name).unwrap()
}

fn fix(host: &Host, name: &str) -> String {
    finding(host, name).fix.unwrap()
}

#[test]
fn without_nf_tables_there_are_no_addresses() {
    let host = Host { nftables: false, ..good() };
    assert_eq!(troubles(&host), [("addresses", State::Lacking)]);
    assert_eq!(host.lacks().len(), 1);
}

#[test]
fn a_filter_in_which_handsd_has_no_say_is_named() {
    let host = Host { legacy_filter: true, ..good() };
    assert_eq!(troubles(&host), [("addresses", State::Warning)]);
    assert!(fix(&host, "addresses").starts_with("iptables-legacy -I FORWARD -i hd+"));
}

#[test]
fn a_host_that_has_all_lacks_nothing() {
    assert_eq!(troubles(&good()), []);
    assert_eq!(good().lacks(), Vec::<String>::new());
    assert_eq!(good().cgroup_mode(), CgroupMode::V2);
}

#[test]
fn every_trouble_is_a_sentence_and_has_a_fix() {
    let bare = Host {
        kernel: "4.19.0".to_owned(),
        architecture: "riscv64".to_owned(),
        user: User::WeakRoot,
        user_namespaces: UserNamespaces { built: false, max: 0, debian_forbids: true, apparmor_forbids: true },
        overlayfs: Overlayfs::Missing,
        cgroups: Cgroups::default(),
        swap: Swap::default(),
        seccomp: vec![],
        nftables: false,
        legacy_filter: true,
        state: StateDir {
            path: "/var".into(),
            free: Some(0),
            filesystem: Some("overlay".into()),
            project_quotas: false,
        },
        docker: Docker::Silent { socket: "/run/docker.sock".into(), reason: "connection refused".to_owned() },
    };
    let findings = report(&bare);
    assert_eq!(troubles(&bare).len(), findings.len());
    for trouble in findings.iter().filter(|finding| finding.state != State::Ok) {
        assert!(trouble.detail.ends_with('.') && trouble.fix.is_some(), "{trouble:?}");
    }
    assert_eq!(bare.cgroup_mode(), CgroupMode::None);
    assert_eq!(bare.lacks().len(), findings.iter().filter(|finding| finding.state == State::Lacking).count());
}

#[test]
fn an_old_kernel_is_told_what_it_lacks() {
    let host = |kernel: &str| Host { kernel: kernel.to_owned(), ..good() };
    assert_eq!(finding(&host("5.12.0"), "kernel").state, State::Ok);
    let found = finding(&host("5.6.19"), "kernel");
    assert_eq!(found.state, State::Lacking);
    assert!(found.detail.contains("clone3") && found.detail.contains("idmapped"), "{}", found.detail);
    assert!(!found.detail.contains("openat2"), "{}", found.detail);
    assert_eq!(fix(&host("5.6.19"), "kernel"), "boot Linux 5.12 or newer");
    assert_eq!(finding(&host("custom"), "kernel").state, State::Warning);
}

#[test]
fn a_switch_that_keeps_users_from_namespaces_is_no_matter_to_root() {
    let forbid = |mut host: Host| {
        host.user_namespaces.debian_forbids = true;
        host.user_namespaces.apparmor_forbids = true;
        host
    };
    assert_eq!(troubles(&forbid(good())), []);
    let host = forbid(rootless());
    assert_eq!(troubles(&host), [("user", State::Warning), ("user namespaces", State::Lacking)]);
    assert_eq!(fix(&host, "user namespaces"), "sysctl -w kernel.unprivileged_userns_clone=1");
}

#[test]
fn no_user_namespace_at_all_matters_to_root_too() {
    let mut host = good();
    host.user_namespaces.max = 0;
    assert_eq!(troubles(&host), [("user namespaces", State::Lacking)]);
}

#[test]
fn a_hybrid_host_lacks_nothing() {
    let host = hybrid();
    assert_eq!(host.cgroup_mode(), CgroupMode::Hybrid);
    assert_eq!(troubles(&host), []);
}

#[test]
fn a_host_with_version_one_only_cannot_kill_as_a_whole() {
    let mut host = hybrid();
    host.cgroups.v2 = None;
    host.cgroups.kill = false;
    assert_eq!(host.cgroup_mode(), CgroupMode::V1);
    assert_eq!(troubles(&host), [("whole kills", State::Lacking)]);
    assert!(fix(&host, "whole kills").contains("mount -t cgroup2"));
}

#[test]
fn a_missing_controller_names_the_limit_that_is_refused() {
    let mut host = hybrid();
    host.cgroups.v1.retain(|hierarchy| hierarchy.controllers != ["memory"]);
    let found = finding(&host, "memory limits");
    assert_eq!(found.detail, "The memory controller cannot be used, so limits.memory is refused.");
    assert!(found.fix.unwrap().contains("mount -t cgroup -o memory none /sys/fs/cgroup/memory"));
    assert_eq!(finding(&host, "cpu limits").state, State::Ok);
}

#[test]
fn a_user_without_a_cgroup_of_its_own_is_told_to_have_it_delegated() {
    let host = unwritable(rootless());
    let names: Vec<_> = troubles(&host).iter().map(|(name, _)| *name).collect();
    assert_eq!(names, ["user", "cgroups", "memory limits", "cpu limits", "process limits", "whole kills"]);
    for name in &names[1..] {
        assert!(fix(&host, name).contains("Delegate=cpu memory pids"), "{name}");
    }
}

#[test]
fn a_container_with_cgroups_it_cannot_write_is_told_so() {
    assert!(fix(&unwritable(good()), "cgroups").contains("read-write"));
}

#[test]
fn the_state_directory_must_bear_an_overlay() {
    let state = |filesystem: &str| {
        let mut host = good();
        host.state.filesystem = Some(filesystem.to_owned());
        finding(&host, "state directory").state
    };
    assert_eq!(state("ext4"), State::Ok);
    assert_eq!(state("xfs"), State::Ok);
    assert_eq!(state("tmpfs"), State::Warning);
    assert_eq!(state("zfs"), State::Warning);
    for filesystem in ["overlay", "nfs", "nfs4", "fuse.sshfs", "fuseblk"] {
        assert_eq!(state(filesystem), State::Lacking, "{filesystem}");
    }
}

#[test]
fn a_full_disk_is_a_lack_and_a_filling_one_a_warning() {
    let disk = |free: u64| {
        let mut host = good();
        host.state.free = Some(free);
        finding(&host, "free disk")
    };
    assert_eq!(disk((1 << 30) - 1).state, State::Lacking);
    assert_eq!(disk(1 << 30).state, State::Warning);
    assert_eq!(disk(10 << 30).state, State::Ok);
    assert_eq!(disk((1 << 30) - (1 << 20)).detail, "/var/lib/handsd has only 0.9 GiB free.");
}

#[test]
fn without_project_quotas_disk_limits_are_refused() {
    let mut host = good();
    host.state.project_quotas = false;
    assert_eq!(troubles(&host), [("disk limits", State::Lacking)]);
    assert!(fix(&host, "disk limits").contains("tune2fs"));
}

#[test]
fn docker_is_never_lacking() {
    for docker in [
        Docker::Absent,
        Docker::Elsewhere { host: "tcp://10.0.0.1:2375".to_owned() },
        Docker::Silent { socket: "/run/docker.sock".into(), reason: "timed out".to_owned() },
        Docker::Answers { socket: "/run/docker.sock".into(), server: Some("Docker/27".to_owned()), api: None },
    ] {
        let host = Host { docker, ..good() };
        assert!(host.lacks().is_empty(), "{:?}", host.docker);
    }
}
