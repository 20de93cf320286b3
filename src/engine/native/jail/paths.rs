//! What of `/proc` and `/sys` a sandbox does not see, or cannot change.

use std::ffi::{CStr, CString};
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::{fs, io};

/// What Docker hides from a container because it tells of the host or its other containers: an empty read-only
/// directory, or `/dev/null`, is to be mounted over each that is there. [`thermal_paths`] belong to them too.
pub const MASKED_PATHS: &[&CStr] = &[
    c"/proc/acpi",
    c"/proc/asound",
    c"/proc/interrupts",
    c"/proc/kcore",
    c"/proc/keys",
    c"/proc/latency_stats",
    c"/proc/sched_debug",
    c"/proc/scsi",
    c"/proc/timer_list",
    c"/proc/timer_stats",
    c"/sys/devices/virtual/powercap",
    c"/sys/firmware",
];

/// What Docker makes read-only because writing there changes the kernel for everyone: each that is there is to be
/// mounted over itself, read-only.
pub const READONLY_PATHS: &[&CStr] = &[c"/proc/bus", c"/proc/fs", c"/proc/irq", c"/proc/sys", c"/proc/sysrq-trigger"];

/// Where the kernel lists the processors.
const PROCESSORS: &str = "/sys/devices/system/cpu";

/// The directories with the count of each processor's throttlings, by which one container can tell what the others do.
/// Docker masks them like [`MASKED_PATHS`]; on most virtual machines there is none.
///
/// To be called once on the node, before sandboxes are made: which processors there are does not change.
///
/// # Errors
/// The list of processors cannot be read.
pub fn thermal_paths() -> io::Result<Vec<CString>> {
    thermal_paths_below(Path::new(PROCESSORS))
}

fn thermal_paths_below(processors: &Path) -> io::Result<Vec<CString>> {
    let mut paths = Vec::new();
    for processor in fs::read_dir(processors)? {
        let path = processor?.path().join("thermal_throttle");
        if path.is_dir() {
            paths.push(CString::new(path.into_os_string().into_vec())?);
        }
    }
    paths.sort_unstable();
    Ok(paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_processors_that_count_throttlings_are_masked() {
        let root = tempfile::tempdir().unwrap();
        for dir in ["cpu1/thermal_throttle", "cpu0/thermal_throttle", "cpu2/cache", "cpufreq"] {
            fs::create_dir_all(root.path().join(dir)).unwrap();
        }
        let paths = thermal_paths_below(root.path()).unwrap();
        let wanted = ["cpu0", "cpu1"].map(|cpu| {
            CString::new(root.path().join(cpu).join("thermal_throttle").into_os_string().into_vec()).unwrap()
        });
        assert_eq!(paths, wanted);
    }
}
