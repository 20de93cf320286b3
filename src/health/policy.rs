//! What follows from what was seen of the node. Pure.

use std::fmt;

/// What has to be left, in bytes, for the node to take more work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Floors {
    /// Of the disk of the state directory.
    pub disk: u64,
    /// Of memory.
    pub memory: u64,
}

/// What there is of something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be had.
    pub available: u64,
}

/// What was seen.
#[derive(Debug, Clone)]
pub struct Readings {
    /// What the engine answered; `None` if nothing in time.
    pub engine: Option<Result<(), String>>,
    /// What the store answered; `None` if nothing in time.
    pub store: Option<Result<(), String>>,
    /// What became of a write to the state directory, and what is left there; `None` if nothing in time.
    pub disk: Option<Result<Space, String>>,
    /// What is left of memory; `None` if the kernel does not tell.
    pub memory: Option<Space>,
    /// The daemon takes no more work.
    pub is_draining: bool,
}

/// What is the matter with something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// It does not answer.
    Silent,
    /// It answers, and not well.
    Bad(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Silent => formatter.write_str("no answer in time"),
            Self::Bad(fault) => formatter.write_str(fault),
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// What is the matter with it, if anything.
    pub fault: Option<Fault>,
}

/// All that was looked at. Before the first look, nothing is known to be wrong.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Always the same ones, in the same order.
    pub checks: Vec<Check>,
}

/// The name of the check that fails while the daemon ends, which is nobody's fault.
pub(super) const SERVING: &str = "serving";
/// What it says.
const ENDING: &str = "the daemon ends";

impl Report {
    /// The node takes work.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.checks.iter().all(|check| check.fault.is_none())
    }

    /// What the daemon depends on answers, well or not. If not, a restart may mend it.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        !self.checks.iter().any(|check| check.fault == Some(Fault::Silent))
    }

    /// The daemon ends, and takes no more work.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.checks.iter().any(|check| check.name == SERVING && check.fault.is_some())
    }
}

/// Judges what was seen.
#[must_use]
pub fn judge(readings: Readings, floors: &Floors) -> Report {
    let Readings { engine, store, disk, memory, is_draining } = readings;
    let answer = |answer: Option<Result<(), String>>| match answer {
        None => Some(Fault::Silent),
        Some(answer) => answer.err().map(Fault::Bad),
    };
    let above = |space: Option<Space>, floor: u64, what: &str| {
        let short = space.filter(|space| space.available < floor);
        short.map(|space| Fault::Bad(format!("{} bytes of {what} are left, of at least {floor}", space.available)))
    };
    let space = disk.as_ref().and_then(|disk| disk.as_ref().ok()).copied();
    let checks = [
        ("engine", answer(engine)),
        ("store", answer(store)),
        ("state", answer(disk.map(|disk| disk.map(|_| ())))),
        ("disk", above(space, floors.disk, "disk")),
        ("memory", above(memory, floors.memory, "memory")),
        (SERVING, is_draining.then(|| Fault::Bad(ENDING.to_owned()))),
    ];
    Report { checks: checks.map(|(name, fault)| Check { name, fault }).into() }
}

/// What is told of a daemon that ends.
#[must_use]
pub fn ending() -> Report {
    Report { checks: vec![Check { name: SERVING, fault: Some(Fault::Bad(ENDING.to_owned())) }] }
}

/// `MemAvailable` of /proc/meminfo.
#[must_use]
pub fn available_memory(meminfo: &str) -> Option<Space> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(Space { available: kib.saturating_mul(1024) })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOORS: Floors = Floors { disk: 100, memory: 10 };

    fn good() -> Readings {
        Readings {
            engine: Some(Ok(())),
            store: Some(Ok(())),
            disk: Some(Ok(Space { available: 100 })),
            memory: Some(Space { available: 10 }),
            is_draining: false,
        }
    }

    fn failing(readings: Readings) -> (Vec<&'static str>, bool) {
        let report = judge(readings, &FLOORS);
        let failing = report.checks.iter().filter(|check| check.fault.is_some()).map(|check| check.name).collect();
        (failing, report.is_alive())
    }

    #[test]
    fn each_cause_is_told_by_its_name() {
        let bad = || Some(Err("no".to_owned()));
        assert_eq!(failing(good()), (vec![], true));
        assert_eq!(failing(Readings { engine: bad(), ..good() }), (vec!["engine"], true));
        assert_eq!(failing(Readings { store: bad(), ..good() }), (vec!["store"], true));
        assert_eq!(failing(Readings { disk: Some(Err("no".to_owned())), ..good() }), (vec!["state"], true));
        assert_eq!(failing(Readings { disk: Some(Ok(Space { available: 99 })), ..good() }), (vec!["disk"], true));
        assert_eq!(failing(Readings { memory: Some(Space { available: 9 }), ..good() }), (vec!["memory"], true));
        assert_eq!(failing(Readings { is_draining: true, ..good() }), (vec!["serving"], true));
        assert!(judge(Readings { is_draining: true, ..good() }, &FLOORS).is_draining());
    }

    #[test]
    fn only_what_does_not_answer_is_not_alive() {
        assert_eq!(failing(Readings { engine: None, ..good() }), (vec!["engine"], false));
        assert_eq!(failing(Readings { store: None, ..good() }), (vec!["store"], false));
        assert_eq!(failing(Readings { disk: None, ..good() }), (vec!["state"], false));
        assert_eq!(failing(Readings { memory: None, ..good() }), (vec![], true));
    }

    #[test]
    fn memory_is_what_the_kernel_says_is_available() {
        let text = "MemTotal:       24590000 kB\nMemFree:  1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available_memory(text), Some(Space { available: 2 << 20 }));
        assert_eq!(available_memory("MemAvailable: many kB"), None);
    }
}
