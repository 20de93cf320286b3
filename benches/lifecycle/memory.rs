//! The memory of a sandbox that sleeps, where there is swap in compressed memory.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Holds what is paged out, compressed: more than the sandbox that is measured.
const SIZE: &str = "1G";

/// A swap device in compressed memory, for as long as this lives.
pub struct Zram {
    number: String,
}

impl Zram {
    /// Makes one; `None` where the node has swap already, which does as well.
    pub fn open() -> Result<Option<Self>> {
        if fs::read_to_string("/proc/swaps").context("look for swap")?.lines().count() > 1 {
            return Ok(None);
        }
        let number = fs::read_to_string("/sys/class/zram-control/hot_add").context("this kernel has no zram")?;
        let zram = Self { number: number.trim().to_owned() };
        fs::write(format!("/sys/block/zram{}/disksize", zram.number), SIZE).context("size the device")?;
        for program in ["mkswap", "swapon"] {
            let done = Command::new(program).arg(zram.device()).stdout(Stdio::null()).stderr(Stdio::null()).status();
            ensure!(done.context(program)?.success(), "{program} failed");
        }
        Ok(Some(zram))
    }

    fn device(&self) -> PathBuf {
        format!("/dev/zram{}", self.number).into()
    }
}

impl Drop for Zram {
    fn drop(&mut self) {
        // Before it is swapped on there is nothing to undo.
        let _ = Command::new("swapoff").arg(self.device()).stderr(Stdio::null()).status();
        let _ = fs::write("/sys/class/zram-control/hot_remove", &self.number);
    }
}

/// What a process and all below it have resident, in bytes; of pages that they share with others, such as those of the node's
/// libraries, their share.
pub fn resident(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    let own = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) << 10;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children.split_whitespace().filter_map(|child| child.parse().ok()).map(resident).sum::<u64>()
}
