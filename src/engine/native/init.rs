//! A sandbox's first process, as it is known after the daemon that started it is gone.
//!
//! Process ids are used again, so one alone says nothing. With the time at which the process started and the boot in which
//! that was, it names a process for good.

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::path::Path;
use std::time::Duration;

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;

use super::sys;
use crate::guest::readiness;

/// The record's file in the sandbox's directory.
const FILE: &str = "init.json";

/// Names a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Init {
    /// Its id on the node.
    pid: u32,
    /// When it started, in clock ticks since the boot (proc_pid_stat(5), field 22).
    start_time: u64,
    /// Which boot.
    boot_id: String,
}

impl Init {
    /// The process that has this id now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: u32) -> io::Result<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let start_time = start_time(&stat).ok_or(io::ErrorKind::InvalidData)?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        Ok(Self { pid, start_time, boot_id })
    }

    /// Writes the record. It need not outlive the boot, so it is not synced.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn save(&self, directory: &Path) -> io::Result<()> {
        fs::write(directory.join(FILE), serde_json::to_vec(self)?)
    }

    /// Reads the record; `None` if there is none, or only a part of one: then the process was never handed out.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn load(directory: &Path) -> io::Result<Option<Self>> {
        match fs::read(directory.join(FILE)) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes the record.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn forget(directory: &Path) -> io::Result<()> {
        match fs::remove_file(directory.join(FILE)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        }
    }

    /// Kills the process if it is still there, and waits until it is gone.
    ///
    /// # Errors
    /// `TimedOut` after the deadline.
    pub async fn end(&self, deadline: Duration) -> io::Result<()> {
        let Some(pidfd) = self.open()? else { return Ok(()) };
        // SAFETY: a plain system call on a descriptor that we hold.
        let sent = unsafe { libc::syscall(libc::SYS_pidfd_send_signal, raw(&pidfd), libc::SIGKILL, 0, 0) };
        match Errno::result(sent) {
            Ok(_) | Err(Errno::ESRCH) => {}
            Err(error) => return Err(error.into()),
        }
        let pidfd = readiness::watch(pidfd, Interest::READABLE)?;
        let ended = tokio::time::timeout(deadline, pidfd.readable()).await;
        ended.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??.retain_ready();
        super::wait_for_exit(pidfd.get_ref())
    }

    /// Its id on the node.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// A descriptor of the process; `None` if it has ended.
    ///
    /// # Errors
    /// Those of pidfd_open(2).
    pub fn open(&self) -> io::Result<Option<OwnedFd>> {
        let pidfd = match sys::pidfd_open(self.pid) {
            Ok(pidfd) => pidfd,
            Err(Errno::ESRCH | Errno::EINVAL) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Looked at after opening: the descriptor cannot change hands any more. One that has ended is still there, and
        // readable, until somebody else has waited for it.
        let has_ended = poll(&mut [PollFd::new(pidfd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO)? > 0;
        Ok((!has_ended && Self::of(self.pid).is_ok_and(|now| now == *self)).then_some(pidfd))
    }
}

fn raw(fd: &OwnedFd) -> RawFd {
    std::os::fd::AsRawFd::as_raw_fd(fd)
}

/// The second field, the name, is in parentheses and may hold anything.
fn start_time(stat: &str) -> Option<u64> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_again_and_another_is_not() {
        let me = Init::of(std::process::id()).unwrap();
        assert!(me.open().unwrap().is_some());
        let before = Init { start_time: me.start_time - 1, ..me.clone() };
        assert!(before.open().unwrap().is_none());
        let other_boot = Init { boot_id: "another".to_owned(), ..me };
        assert!(other_boot.open().unwrap().is_none());
    }

    #[test]
    fn a_torn_record_is_none() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(Init::load(directory.path()).unwrap(), None);
        fs::write(directory.path().join(FILE), "{\"pid\":1,").unwrap();
        assert_eq!(Init::load(directory.path()).unwrap(), None);
        let me = Init::of(std::process::id()).unwrap();
        me.save(directory.path()).unwrap();
        assert_eq!(Init::load(directory.path()).unwrap(), Some(me));
    }

    #[test]
    fn the_start_time_is_found_behind_any_name() {
        let stat = format!("7 (a) b) S {} 4711 0", vec!["1"; 18].join(" "));
        assert_eq!(start_time(&stat), Some(4711));
    }
}
