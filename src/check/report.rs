//! Judges what was seen of a host: what is there, what is missing, and how to get it.

use super::docker::Docker;
use super::{CgroupMode, Host, Overlayfs, User};

/// What of the kernel is needed, and since which version it is there.
const KERNEL_NEEDS: [((u32, u32), &str); 4] = [
    ((5, 2), "the mount calls that work on descriptors"),
    ((5, 6), "openat2, which keeps paths inside a sandbox"),
    ((5, 7), "clone3 into a cgroup"),
    ((5, 12), "idmapped mounts, which let sandboxes share an image"),
];

/// What the system call filter and the whole test suite have run on.
const TRIED_ARCHITECTURES: [&str; 2] = ["x86_64", "aarch64"];

/// File systems that can be the upper layer of an overlay and have been used so for years.
const GOOD_UPPERS: [&str; 5] = ["ext4", "xfs", "btrfs", "tmpfs", "f2fs"];
/// File systems that cannot: they lack extended attributes, whiteouts or file types in directory entries.
const BAD_UPPERS: [&str; 10] =
    ["overlay", "nfs", "nfs4", "cifs", "smb3", "vfat", "exfat", "9p", "virtiofs", "ecryptfs"];

/// An image and the first output fill less than this.
const LITTLE_DISK: u64 = 10 << 30;
/// With less, the first image does not fit.
const NO_DISK: u64 = 1 << 30;

/// What was found out about one ability of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The ability, in a word or two.
    pub name: &'static str,
    /// Whether it is there.
    pub state: State,
    /// What was seen; of what is not as it should be, one whole sentence.
    pub detail: String,
    /// What to do about it.
    pub fix: Option<String>,
}

/// Whether the host has an ability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It has.
    Ok,
    /// It has not, and something will be refused.
    Lacking,
    /// All works, but worse than it could.
    Warning,
}

impl Finding {
    fn ok(name: &'static str, detail: impl Into<String>) -> Self {
        Self { name, state: State::Ok, detail: detail.into(), fix: None }
    }

    fn lacking(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Lacking, detail: detail.into(), fix: Some(fix.into()) }
    }

    fn warning(name: &'static str, detail: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { name, state: State::Warning, detail: detail.into(), fix: Some(fix.into()) }
    }
}

/// All findings about a host, what matters most first.
#[must_use]
pub fn report(host: &Host) -> Vec<Finding> {
    vec![
        kernel(host),
        architecture(host),
        user(host),
        user_namespaces(host),
        overlayfs(host),
        seccomp(host),
        cgroups(host),
        limit(host, "memory limits", "memory", "limits.memory"),
        limit(host, "cpu limits", "cpu", "limits.cpus"),
        limit(host, "process limits", "pids", "limits.pids"),
        kill(host),
        addresses(host),
        state_filesystem(host),
        free_disk(host),
        disk_limits(host),
        swap(host),
        docker(host),
    ]
}

fn kernel(host: &Host) -> Finding {
    const NAME: &str = "kernel";
    let newest = KERNEL_NEEDS.map(|(since, _)| since).into_iter().max().unwrap_or_default();
    let fix = format!("boot Linux {}.{} or newer", newest.0, newest.1);
    let Some(version) = host.kernel_version() else {
        return Finding::warning(NAME, format!("The kernel's version cannot be told from {:?}.", host.kernel), fix);
    };
    let missing: Vec<_> = KERNEL_NEEDS.iter().filter(|(since, _)| version < *since).map(|(_, what)| *what).collect();
    if missing.is_empty() {
        Finding::ok(NAME, format!("Linux {}", host.kernel))
    } else {
        Finding::lacking(NAME, format!("Linux {} lacks {}.", host.kernel, missing.join("; ")), fix)
    }
}

fn architecture(host: &Host) -> Finding {
    const NAME: &str = "architecture";
    if TRIED_ARCHITECTURES.contains(&host.architecture.as_str()) {
        Finding::ok(NAME, &host.architecture)
    } else {
        let detail = format!("Nobody has tried handsd on {}.", host.architecture);
        Finding::warning(NAME, detail, format!("use a machine with {}", TRIED_ARCHITECTURES.join(" or ")))
    }
}

fn user(host: &Host) -> Finding {
    const NAME: &str = "user";
    match host.user {
        User::Root => Finding::ok(NAME, "root"),
        User::WeakRoot => Finding::lacking(
            NAME,
            "This is root without CAP_SYS_ADMIN, as in a container, and cannot mount.",
            "run handsd on the host, or in a container with CAP_SYS_ADMIN, or as a user other than root",
        ),
        User::Rootless => Finding::warning(
            NAME,
            "Without root, sandboxes hold one user only.",
            "run handsd as root if images need more users",
        ),
    }
}

fn user_namespaces(host: &Host) -> Finding {
    const NAME: &str = "user namespaces";
    let seen = host.user_namespaces;
    let rootless = host.user == User::Rootless;
    if !seen.built {
        Finding::lacking(NAME, "The kernel has no user namespaces.", "boot a kernel with CONFIG_USER_NS=y")
    } else if seen.max == 0 {
        Finding::lacking(
            NAME,
            "The host allows no user namespaces (user.max_user_namespaces is 0).",
            "sysctl -w user.max_user_namespaces=65536",
        )
    } else if rootless && seen.debian_forbids {
        Finding::lacking(
            NAME,
            "The host allows user namespaces to root only (kernel.unprivileged_userns_clone is 0).",
            "sysctl -w kernel.unprivileged_userns_clone=1",
        )
    } else if rootless && seen.apparmor_forbids {
        Finding::lacking(
            NAME,
            "AppArmor forbids user namespaces (kernel.apparmor_restrict_unprivileged_userns is 1).",
            "give handsd an AppArmor profile with \"userns,\", or sysctl -w \
             kernel.apparmor_restrict_unprivileged_userns=0",
        )
    } else {
        Finding::ok(NAME, format!("up to {}", seen.max))
    }
}

fn overlayfs(host: &Host) -> Finding {
    const NAME: &str = "overlayfs";
    match host.overlayfs {
        Overlayfs::Present => Finding::ok(NAME, "present"),
        Overlayfs::Module => Finding::ok(NAME, "a module that the first mount loads"),
        Overlayfs::Missing => {
            Finding::lacking(NAME, "The kernel has no overlayfs.", "boot a kernel with CONFIG_OVERLAY_FS")
        }
    }
}

fn seccomp(host: &Host) -> Finding {
    const NAME: &str = "seccomp";
    // A refused system call gets an error number; all else that the filter does is to allow.
    if host.seccomp.iter().any(|action| action == "errno") {
        Finding::ok(NAME, "system calls can be filtered")
    } else {
        let detail = "The kernel cannot filter system calls, so sandboxes reach all of them.";
        Finding::lacking(NAME, detail, "boot a kernel with CONFIG_SECCOMP_FILTER=y")
    }
}

fn cgroups(host: &Host) -> Finding {
    const NAME: &str = "cgroups";
    let mode = host.cgroup_mode();
    let writable = host.cgroups.v2.iter().chain(&host.cgroups.v1).any(|hierarchy| hierarchy.writable);
    match mode {
        CgroupMode::None => Finding::lacking(
            NAME,
            "No cgroups are mounted, so nothing can be limited and kills can be escaped.",
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
        CgroupMode::V1 | CgroupMode::V2 | CgroupMode::Hybrid if !writable => Finding::lacking(
            NAME,
            format!("Cgroups ({mode}) are mounted, but none can be made, so nothing can be limited."),
            match host.user {
                User::Rootless => delegate(),
                User::Root | User::WeakRoot => "mount the cgroup file system of this container read-write".to_owned(),
            },
        ),
        CgroupMode::V1 | CgroupMode::V2 | CgroupMode::Hybrid => {
            let at = host.cgroups.v2.as_ref().map(|v2| format!(", cgroup2 on {}", v2.mount.display()));
            Finding::ok(NAME, format!("{mode}{}", at.unwrap_or_default()))
        }
    }
}

fn addresses(host: &Host) -> Finding {
    const NAME: &str = "addresses";
    match host.user {
        User::Root | User::WeakRoot if host.nftables && host.legacy_filter => Finding::warning(
            NAME,
            "A filter of iptables-legacy, in which handsd has no say, may drop what sandboxes with network \"nat\" send.",
            "iptables-legacy -I FORWARD -i hd+ -j ACCEPT && iptables-legacy -I FORWARD -o hd+ -j ACCEPT, which handsd's \
             own rules come before",
        ),
        User::Root | User::WeakRoot if host.nftables => Finding::ok(NAME, "network \"nat\" by nf_tables"),
        User::Root | User::WeakRoot => Finding::lacking(
            NAME,
            "The kernel has no nf_tables that handsd may use, so network \"nat\" is refused.",
            "boot a kernel with CONFIG_NF_TABLES, CONFIG_NFT_MASQ, CONFIG_NFT_REJECT and CONFIG_VETH",
        ),
        // That sandboxes are poorer then is said of the user.
        User::Rootless => Finding::ok(NAME, "none without root: network \"nat\" is refused"),
    }
}

fn delegate() -> String {
    "on a cgroup v2 host with systemd, put Delegate=cpu memory pids into [Service] of handsd's unit, or of user@.service"
        .to_owned()
}

fn limit(host: &Host, name: &'static str, controller: &str, field: &str) -> Finding {
    if let Some(hierarchy) = host.cgroups.usable(controller) {
        return Finding::ok(name, format!("by {}", hierarchy.mount.display()));
    }
    let fix = match (host.user, host.cgroup_mode()) {
        (User::Rootless, _) => delegate(),
        (User::Root | User::WeakRoot, CgroupMode::V2 | CgroupMode::None) => {
            format!("boot without cgroup_disable={controller}, and with cgroup2 mounted on /sys/fs/cgroup")
        }
        (User::Root | User::WeakRoot, CgroupMode::V1 | CgroupMode::Hybrid) => {
            let directory = format!("/sys/fs/cgroup/{controller}");
            format!("mkdir -p {directory} && mount -t cgroup -o {controller} none {directory}")
        }
    };
    Finding::lacking(name, format!("The {controller} controller cannot be used, so {field} is refused."), fix)
}

fn kill(host: &Host) -> Finding {
    const NAME: &str = "whole kills";
    if host.cgroups.kill && host.cgroups.v2.as_ref().is_some_and(|v2| v2.writable) {
        return Finding::ok(NAME, "cgroup.kill");
    }
    let fix = match (&host.cgroups.v2, host.user) {
        (Some(_), User::Rootless) if host.cgroups.kill => delegate(),
        (Some(_), _) => "boot Linux 5.14 or newer".to_owned(),
        (None, _) => "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified".to_owned(),
    };
    Finding::lacking(NAME, "Without cgroup.kill, a run that forks fast enough may escape its kill.", fix)
}

fn state_filesystem(host: &Host) -> Finding {
    const NAME: &str = "state directory";
    let path = host.state.path.display();
    let fix = format!("set state_dir to a directory on {}", GOOD_UPPERS[..3].join(", "));
    match host.state.filesystem.as_deref() {
        Some("tmpfs") => Finding::warning(NAME, format!("{path} is in memory and gone at the next boot."), fix),
        Some(filesystem) if GOOD_UPPERS.contains(&filesystem) => Finding::ok(NAME, format!("{path} on {filesystem}")),
        Some(filesystem) if BAD_UPPERS.contains(&filesystem) || filesystem.starts_with("fuse") => {
            Finding::lacking(NAME, format!("{path} is on {filesystem}, which cannot hold what sandboxes write."), fix)
        }
        Some(filesystem) => {
            Finding::warning(NAME, format!("{path} is on {filesystem}, under which nobody has tried handsd."), fix)
        }
        None => Finding::warning(NAME, format!("The file system of {path} is unknown."), fix),
    }
}

fn free_disk(host: &Host) -> Finding {
    const NAME: &str = "free disk";
    let path = host.state.path.display();
    let fix = "make room, or set state_dir to another disk";
    let Some(free) = host.state.free else {
        return Finding::warning(NAME, format!("The free space of {path} is unknown."), fix);
    };
    match free {
        0..NO_DISK => Finding::lacking(NAME, format!("{path} has only {} free.", gib(free)), fix),
        NO_DISK..LITTLE_DISK => Finding::warning(NAME, format!("{path} has only {} free.", gib(free)), fix),
        LITTLE_DISK.. => Finding::ok(NAME, gib(free)),
    }
}

fn disk_limits(host: &Host) -> Finding {
    const NAME: &str = "disk limits";
    if host.state.project_quotas {
        return Finding::ok(NAME, "project quotas");
    }
    let path = host.state.path.display();
    let fix = match host.state.filesystem.as_deref() {
        Some("ext4") => "unmount it, tune2fs -O project -Q prjquota its device, and mount it with prjquota".to_owned(),
        Some("xfs") => "mount it with prjquota".to_owned(),
        _ => "set state_dir to a directory on ext4 or xfs that is mounted with prjquota".to_owned(),
    };
    let detail = format!("The file system of {path} has no project quotas, so limits.disk is refused.");
    Finding::lacking(NAME, detail, fix)
}

fn swap(host: &Host) -> Finding {
    const NAME: &str = "swap";
    if host.swap.bytes == 0 {
        return Finding::warning(
            NAME,
            "There is no swap, so an idle sandbox keeps all its memory.",
            "modprobe zram && disk=$(zramctl --find --size 8G) && mkswap $disk && swapon $disk",
        );
    }
    let kind = if host.swap.zram { ", with zram" } else { "" };
    Finding::ok(NAME, format!("{}{kind}", gib(host.swap.bytes)))
}

/// No engine of Docker's is needed, so that none is missed.
fn docker(host: &Host) -> Finding {
    const NAME: &str = "docker";
    match &host.docker {
        Docker::Absent => Finding::ok(NAME, "none, and none is needed"),
        Docker::Elsewhere { host } => Finding::ok(NAME, format!("{host}, which was not asked")),
        Docker::Answers { socket, server, api } => {
            let server = server.as_deref().unwrap_or("an engine");
            let api = api.as_ref().map(|api| format!(", API {api}")).unwrap_or_default();
            Finding::ok(NAME, format!("{server}{api} at {}", socket.display()))
        }
        Docker::Silent { socket, reason } => Finding::warning(
            NAME,
            format!("{} does not answer: {reason}.", socket.display()),
            "none is needed; else see why with: docker version",
        ),
    }
}

/// Bytes in GiB with one decimal, rounded down: who has 0.96 of them does not have one.
fn gib(bytes: u64) -> String {
    let tenths = bytes / ((1 << 30) / 10);
    format!("{}.{} GiB", tenths / 10, tenths % 10)
}

#[cfg(test)]
mod tests;
