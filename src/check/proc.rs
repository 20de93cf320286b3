//! What files of the kernel say. Pure: text in, facts out, and lines that make no sense are passed over.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::Swap;

/// All controllers that version 1 ever had; mount options hold other words beside them.
const V1_CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
    "rdma",
];

/// CAP_SYS_ADMIN, from capabilities(7).
const CAP_SYS_ADMIN: u32 = 21;

/// A line of /proc/self/mountinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    pub point: PathBuf,
    pub filesystem: String,
    /// Options of the file system, which all its mounts share.
    pub options: Vec<String>,
}

impl Mount {
    pub fn has_option(&self, option: &str) -> bool {
        self.options.iter().any(|other| other == option)
    }

    /// The controllers of a version 1 hierarchy.
    pub fn v1_controllers(&self) -> Vec<String> {
        self.options.iter().filter(|option| V1_CONTROLLERS.contains(&option.as_str())).cloned().collect()
    }
}

/// The mounts of /proc/self/mountinfo, in the order in which they were made.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mount = |line: &str| {
        // "22 27 0:21 / /proc rw,relatime shared:5 - proc proc rw": the dash ends a list of any length.
        let (front, back) = line.split_once(" - ")?;
        let mut back = back.split(' ');
        Some(Mount {
            point: unescape(front.split(' ').nth(4)?),
            filesystem: back.next()?.to_owned(),
            options: back.nth(1)?.split(',').map(str::to_owned).collect(),
        })
    };
    mountinfo.lines().filter_map(mount).collect()
}

/// The mount that a path is on. Of two on one directory the later covers the earlier.
pub(super) fn mount_of<'a>(mounts: &'a [Mount], path: &Path) -> Option<&'a Mount> {
    let covering = mounts.iter().filter(|mount| path.starts_with(&mount.point));
    covering.max_by_key(|mount| mount.point.components().count())
}

/// The kernel writes space, tab, newline and backslash of paths as three octal digits.
fn unescape(path: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.filter(|_| byte == b'\\').and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(escaped.unwrap_or(byte));
        rest = if escaped.is_some() { &after[3..] } else { after };
    }
    PathBuf::from(OsString::from_vec(bytes))
}

/// This process's cgroup in the unified hierarchy, from /proc/self/cgroup: relative to the hierarchy's mount.
pub(super) fn own_cgroup(cgroup: &str) -> Option<&str> {
    let path = cgroup.lines().find_map(|line| line.strip_prefix("0::/"))?;
    // A cgroup outside this process's cgroup namespace is written with "..", and is not to be reached by its path.
    (!path.split('/').any(|part| part == "..")).then_some(path)
}

/// Major and minor of a release like "6.18.44-fc".
pub(super) fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// All swap of /proc/swaps, whose sizes are in KiB.
pub(super) fn swap(swaps: &str) -> Swap {
    let mut swap = Swap::default();
    for line in swaps.lines().skip(1) {
        let mut fields = line.split_whitespace();
        let (Some(device), Some(size)) = (fields.next(), fields.nth(1)) else { continue };
        let Ok(kib) = size.parse::<u64>() else { continue };
        swap.bytes = swap.bytes.saturating_add(kib.saturating_mul(1024));
        swap.zram |= device.starts_with("/dev/zram");
    }
    swap
}

/// Whether /proc/self/status grants CAP_SYS_ADMIN.
pub(super) fn may_mount(status: &str) -> bool {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    effective.is_some_and(|set| set & (1 << CAP_SYS_ADMIN) != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOUNTINFO: &str = "\
22 27 0:21 / /proc rw,relatime - proc proc rw
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,prjquota
33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 master:1 - cgroup cgroup rw,cpu,cpuacct
40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate
42 27 0:39 / /srv/my\\040data rw - xfs /dev/vdb rw
nonsense
43 27 0:40 / /short -
";

    #[test]
    fn mounts_are_read_past_their_optional_fields() {
        let mounts = mounts(MOUNTINFO);
        assert_eq!(mounts.len(), 6);
        assert_eq!(mounts[2].v1_controllers(), ["cpu", "cpuacct"]);
        assert!(mounts[3].v1_controllers().is_empty());
        assert!(mounts[4].has_option("nsdelegate") && !mounts[3].has_option("nsdelegate"));
        assert_eq!(mounts[5].point, Path::new("/srv/my data"));
    }

    #[test]
    fn a_path_is_on_the_deepest_mount_and_on_the_latest_of_equals() {
        let mut mounts = mounts(MOUNTINFO);
        let filesystem = |mounts: &[Mount], path: &str| mount_of(mounts, Path::new(path)).unwrap().filesystem.clone();
        assert_eq!(filesystem(&mounts, "/srv/my data/state"), "xfs");
        assert_eq!(filesystem(&mounts, "/srv/my datastate"), "ext4");
        mounts.push(Mount { point: "/".into(), filesystem: "overlay".to_owned(), options: vec![] });
        assert_eq!(filesystem(&mounts, "/srv"), "overlay");
    }

    #[test]
    fn escapes_that_are_none_stay() {
        assert_eq!(unescape(r"/a\134b"), Path::new(r"/a\b"));
        assert_eq!(unescape(r"/a\9zz\04"), Path::new(r"/a\9zz\04"));
        assert_eq!(unescape("/ü\\é"), Path::new("/ü\\é"));
    }

    #[test]
    fn the_own_cgroup_is_the_unified_line_and_never_leads_outside() {
        assert_eq!(own_cgroup("4:memory:/x\n0::/user.slice/app\n"), Some("user.slice/app"));
        assert_eq!(own_cgroup("0::/\n"), Some(""));
        assert_eq!(own_cgroup("0::/../../other\n"), None);
        assert_eq!(own_cgroup("4:memory:/x\n"), None);
    }

    #[test]
    fn a_release_gives_its_first_two_numbers() {
        assert_eq!(kernel_version("6.18.44-fc-v669"), Some((6, 18)));
        assert_eq!(kernel_version("5.4"), Some((5, 4)));
        assert_eq!(kernel_version("6.1-rc3"), Some((6, 1)));
        assert_eq!(kernel_version("six"), None);
        assert_eq!(kernel_version(""), None);
    }

    #[test]
    fn swap_is_summed_up() {
        let swaps = "Filename Type Size Used Priority\n/dev/zram0 partition 1024 0 100\n/swap file 2048 0 -2\nx\n";
        assert_eq!(swap(swaps), Swap { bytes: 3 << 20, zram: true });
        assert_eq!(swap("Filename Type Size Used Priority\n"), Swap::default());
        assert_eq!(swap(""), Swap::default());
    }

    #[test]
    fn the_right_to_mount_is_one_bit() {
        assert!(may_mount("Name:\tx\nCapEff:\t000001ffffffffff\n"));
        assert!(!may_mount("CapEff:\t00000000a80425fb\n"), "a container of Docker's");
        assert!(!may_mount(""));
    }
}
