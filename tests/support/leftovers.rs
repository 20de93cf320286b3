//! What a daemon can leave behind: cgroups, processes, mounts and files. Only of one daemon, known by its state directory:
//! others may run on the same machine.

use std::fs;
use std::io::BufRead as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use super::process;

/// What a daemon's cgroups and containers are known by.
pub fn instance(state: &Path) -> String {
    let state = state.canonicalize().unwrap_or_else(|_| state.to_owned());
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    digest.iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

/// The cgroup directories of a daemon, one in each mounted hierarchy where it made one.
pub fn cgroups(state: &Path) -> Vec<PathBuf> {
    let instance = instance(state);
    let mounts = fs::read("/proc/self/mountinfo").expect("/proc is mounted");
    let lines = mounts.lines().map_while(Result::ok);
    let hierarchies = lines.filter_map(|line| {
        let (before, after) = line.split_once(" - ")?;
        after.starts_with("cgroup").then(|| before.split(' ').nth(4).map(PathBuf::from))?
    });
    let mut directories: Vec<_> = hierarchies.map(|mount| mount.join("handsd").join(&instance)).collect();
    directories.retain(|directory| directory.is_dir());
    directories
}

/// What there is of sandboxes and runs, in words. Nothing, if the daemon was stopped or has none.
pub fn find(state: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for directory in cgroups(state) {
        found.extend(subdirectories(&directory).iter().map(|path| format!("cgroup {}", path.display())));
    }
    for name in ["sandboxes", "runs"] {
        let entries = fs::read_dir(state.join(name)).into_iter().flatten().flatten();
        found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
    }
    found.extend(processes(state).iter().map(|pid| format!("process {pid} ({})", process::command_line(*pid))));
    let sandboxes = state.join("sandboxes").display().to_string();
    let mounts = process::mounts(std::process::id());
    found.extend(mounts.lines().filter(|line| line.contains(&sandboxes)).map(|line| format!("mount {line}")));
    found
}

/// The processes of a daemon's sandboxes: those in its cgroups, and first processes by their records.
pub fn processes(state: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    for directory in cgroups(state) {
        collect_members(&directory, &mut pids);
    }
    for directory in subdirectories(&state.join("sandboxes")) {
        pids.extend(init(&directory));
    }
    pids.sort_unstable();
    pids.dedup();
    pids
}

/// The first process of a sandbox, on the node, if it is alive.
pub fn init(directory: &Path) -> Option<u32> {
    let record: serde_json::Value = serde_json::from_slice(&fs::read(directory.join("init.json")).ok()?).ok()?;
    let pid = u32::try_from(record["pid"].as_u64()?).ok()?;
    let start_time = record["start_time"].as_u64()?.to_string();
    (process::start_time(pid)? == start_time).then_some(pid)
}

/// Removes all there is, the daemon itself being gone.
pub fn remove(state: &Path) {
    let pids = processes(state);
    pids.iter().for_each(|pid| process::kill(*pid));
    while pids.iter().any(|pid| process::is_alive(*pid)) {
        std::thread::yield_now();
    }
    for directory in cgroups(state) {
        remove_cgroup(&directory);
    }
}

fn collect_members(directory: &Path, pids: &mut Vec<u32>) {
    let members = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    pids.extend(members.lines().filter_map(|line| line.parse::<u32>().ok()));
    for child in subdirectories(directory) {
        collect_members(&child, pids);
    }
}

fn remove_cgroup(directory: &Path) {
    for child in subdirectories(directory) {
        remove_cgroup(&child);
    }
    // A cgroup that is still in use is a leftover that the test has told about.
    let _ = fs::remove_dir(directory);
}

fn subdirectories(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path()).collect()
}
