//! A subreaper above a run that has no cgroup.
//!
//! Where the host offers no cgroup, the processes of a run are known by descent: the keeper is a forked process that
//! starts the run's leader, adopts whatever the leader's children leave behind (`PR_SET_CHILD_SUBREAPER`), and ends when
//! nothing is left below it. What is below it at a given moment is read from /proc; a process that forks faster than
//! that walk can escape it, which is why such a run is reported as degraded.

use std::collections::HashMap;
use std::fs;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::unistd::{ForkResult, Pid, fork, pipe2, read, write};

use super::spawn::{Failure, Launcher, Plan};
use crate::guest::wire::{Process, Step};

/// The guest's side of a keeper.
pub struct Keeper {
    pid: Pid,
    reports: OwnedFd,
}

/// What a keeper says, as three native-endian words: a kind and its two values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Report {
    /// The leader runs; its process id.
    Started(i32),
    /// It could not be started: step and errno.
    Failed(i32, i32),
    /// It has ended: `si_code` and `si_status` of waitid(2).
    Exited(i32, i32),
}

const REPORT: usize = 12;

impl Report {
    fn to_bytes(self) -> [u8; REPORT] {
        let words = match self {
            Self::Started(pid) => [0, pid, 0],
            Self::Failed(step, errno) => [1, step, errno],
            Self::Exited(code, status) => [2, code, status],
        };
        let mut bytes = [0; REPORT];
        for (chunk, word) in bytes.chunks_exact_mut(4).zip(words) {
            chunk.copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }

    fn from_bytes(bytes: [u8; REPORT]) -> Option<Self> {
        let [kind, first, second] =
            [0, 4, 8].map(|at| i32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]));
        match kind {
            0 => Some(Self::Started(first)),
            1 => Some(Self::Failed(first, second)),
            2 => Some(Self::Exited(first, second)),
            _ => None,
        }
    }
}

impl Keeper {
    /// Forks a keeper, which starts the process; answers the keeper and the process's id.
    pub fn start(plan: &Plan, launcher: &mut Launcher) -> Result<(Self, i32), Failure> {
        let (reports, sink) = pipe2(OFlag::O_CLOEXEC).map_err(Failure::of(Step::Fork))?;
        let pointers = plan.pointers();
        // SAFETY: the child only makes system calls on what was prepared above; it allocates nothing, although another
        // thread may have held the allocator's lock at the fork.
        match unsafe { fork() }.map_err(Failure::of(Step::Fork))? {
            ForkResult::Child => keep(plan, &pointers, launcher, sink.as_fd()),
            ForkResult::Parent { child } => {
                drop(sink);
                let keeper = Self { pid: child, reports };
                match keeper.wait_report() {
                    Some(Report::Started(pid)) => Ok((keeper, pid)),
                    Some(Report::Failed(step, errno)) => Err(Failure {
                        step: Step::try_from(step).unwrap_or(Step::Unspecified),
                        errno: Errno::from_raw(errno),
                    }),
                    Some(Report::Exited(..)) | None => Err(Failure { step: Step::Fork, errno: Errno::ECHILD }),
                }
            }
        }
    }

    /// For poll: readable when the leader has ended.
    pub fn reports(&self) -> BorrowedFd<'_> {
        self.reports.as_fd()
    }

    /// The next report. Blocks until there is one or the keeper is gone.
    pub fn wait_report(&self) -> Option<Report> {
        let mut bytes = [0; REPORT];
        loop {
            match read(&self.reports, &mut bytes) {
                // Reports are shorter than PIPE_BUF, so they come whole (pipe(7)).
                Ok(REPORT) => return Report::from_bytes(bytes),
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return None,
            }
        }
    }

    /// Signals every process below the keeper (0 only looks), which itself ends when it is alone; answers what was there.
    pub fn sweep(&self, signal: i32) -> Vec<Process> {
        let parents = parents();
        let below: Vec<i32> =
            parents.keys().copied().filter(|pid| is_below(*pid, self.pid.as_raw(), &parents)).collect();
        let mut found = Vec::with_capacity(below.len());
        for pid in below {
            let name = comm(pid);
            if send_signal(pid, signal).is_ok() {
                found.push(Process { pid, name });
            }
        }
        found
    }
}

/// The keeper's life.
fn keep(
    plan: &Plan,
    pointers: &(Vec<*const libc::c_char>, Vec<*const libc::c_char>),
    launcher: &mut Launcher,
    sink: BorrowedFd<'_>,
) -> ! {
    // SAFETY: a plain system call with an int by value.
    unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) };
    let leader = match plan.launch_with(&pointers.0, &pointers.1, launcher, None) {
        Ok(pid) => pid,
        Err(failure) => {
            report(sink, Report::Failed(failure.step.into(), failure.errno as i32));
            exit();
        }
    };
    close_all_but(sink);
    report(sink, Report::Started(leader));
    loop {
        // SAFETY: all-zero is a valid siginfo_t, and waitid(2) writes to it only.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let result = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, libc::WEXITED | libc::__WALL) };
        match Errno::result(result) {
            Ok(_) => {
                // SAFETY: waitid has filled in the fields of a child that ended.
                let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
                if pid == leader {
                    report(sink, Report::Exited(info.si_code, status));
                }
            }
            Err(Errno::EINTR) => {}
            // ECHILD: nothing is left below us.
            Err(_) => exit(),
        }
    }
}

/// A keeper executes no program, so what was open in the guest at the fork stays open in it: ends of this run's pipes and
/// of others, which would never see their end, and the daemon's connection.
fn close_all_but(sink: BorrowedFd<'_>) {
    let sink = sink.as_raw_fd().cast_unsigned();
    // SAFETY: plain system calls on values; nothing in this process uses what they close.
    unsafe {
        libc::close_range(STDERR + 1, sink - 1, 0);
        libc::close_range(sink + 1, libc::c_uint::MAX, 0);
    }
}

/// Standard error, the last descriptor that a keeper shares with the guest.
const STDERR: libc::c_uint = 2;

fn report(sink: BorrowedFd<'_>, report: Report) {
    // A guest that is gone has ended the sandbox, and us with it.
    let _ = write(sink, &report.to_bytes());
}

fn exit() -> ! {
    // SAFETY: leaves without running what the guest registered for its own exit.
    unsafe { libc::_exit(0) }
}

/// kill(2) by number: nix has no names for the real-time signals.
pub fn send_signal(pid: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: a plain system call on values.
    Errno::result(unsafe { libc::kill(pid, number) }).map(drop)
}

/// The parent of every process there is.
fn parents() -> HashMap<i32, i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(|pid| Some((pid, parent(pid)?))).collect()
}

/// The fourth field of /proc/PID/stat; the second, the name, is in parentheses and may hold anything (proc_pid_stat(5)).
fn parent(pid: i32) -> Option<i32> {
    let stat = read_short(&format!("/proc/{pid}/stat"))?;
    let after_name = &stat[stat.iter().rposition(|byte| *byte == b')')? + 1..];
    let mut fields = std::str::from_utf8(after_name).ok()?.split_ascii_whitespace();
    let state = fields.next()?;
    let parent = fields.next()?.parse().ok()?;
    (state != "Z").then_some(parent)
}

fn is_below(mut pid: i32, root: i32, parents: &HashMap<i32, i32>) -> bool {
    // The walk is bounded: pids change hands while the map is read, which could make a circle.
    for _ in 0..parents.len() {
        match parents.get(&pid) {
            Some(parent) if *parent == root => return true,
            Some(parent) => pid = *parent,
            None => return false,
        }
    }
    false
}

fn comm(pid: i32) -> String {
    let name = read_short(&format!("/proc/{pid}/comm")).unwrap_or_default();
    String::from_utf8_lossy(name.trim_ascii_end()).into_owned()
}

fn read_short(path: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_read_back() {
        for report in [Report::Started(7), Report::Failed(4, libc::ENOMEM), Report::Exited(libc::CLD_KILLED, 9)] {
            assert_eq!(Report::from_bytes(report.to_bytes()), Some(report));
        }
    }

    #[test]
    fn descent_is_followed_to_the_root_and_no_further() {
        let parents = HashMap::from([(2, 1), (3, 2), (4, 3), (5, 1), (6, 7), (7, 6)]);
        let below: Vec<i32> = (1..=7).filter(|pid| is_below(*pid, 2, &parents)).collect();
        assert_eq!(below, [3, 4]);
    }

    #[test]
    fn our_own_parent_is_found() {
        let me = i32::try_from(std::process::id()).expect("pids are small");
        assert_eq!(parent(me), Some(nix::unistd::getppid().as_raw()));
        assert_eq!(parents().get(&me), Some(&nix::unistd::getppid().as_raw()));
    }
}
