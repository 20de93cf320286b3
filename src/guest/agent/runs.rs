//! Which runs there are; starting, signalling and reaping them, and handing them to the next daemon.
//!
//! ```text
//! spawn ─► alive ─► ended ─► release
//! ```
//!
//! A run is kept until it is released, also when its leader has ended: the daemon may have died before it heard of that.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::control::{Control, Request};
use super::ends::{Ends, Kept};
use super::keeper::{Keeper, Report, send_signal};
use super::spawn::{Failure, Launcher, Plan};
use super::stdio::Stdio;
use super::users;
use crate::guest::terminal;
use crate::guest::wire::{Ended, Exited, Held, MAX_ENDED, PtySize, Spawn, Spawned, Step, Swept, from_guest, to_guest};

/// The runs of the sandbox.
pub struct Runs {
    launcher: Launcher,
    null: File,
    runs: HashMap<String, Run>,
    /// How many have ended so far.
    ended: u64,
}

/// A run that was not released.
struct Run {
    /// Of the leader.
    pid: i32,
    leader: Leader,
    kept: Kept,
    /// It was started without a cgroup.
    has_keeper: bool,
    /// While something may be below it.
    keeper: Option<Keeper>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Alive,
    /// How, and which of those that ended it was.
    Ended(Ended, u64),
}

impl Runs {
    /// No runs. With `deny_clone3` they cannot call it.
    pub fn new(deny_clone3: bool) -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { launcher: Launcher::new(deny_clone3), null, runs: HashMap::new(), ended: 0 })
    }

    /// Serves one request.
    pub fn serve(&mut self, control: &mut Control, request: Request) {
        let number = request.number;
        match request.body {
            Some(to_guest::Body::Spawn(spawn)) => match self.spawn(spawn, request.fds) {
                Ok(run) => {
                    let spawned = from_guest::Body::Spawned(Spawned { pid: run.pid });
                    control.answer(number, spawned, run.kept.terminal().into_iter().collect());
                }
                Err(failure) => control.refuse(number, failure.step, failure.errno as i32),
            },
            Some(to_guest::Body::Signal(signal)) => match self.signal(&signal.run, signal.signal) {
                Ok(()) => control.done(number),
                Err(errno) => control.refuse(number, Step::Gone, errno as i32),
            },
            Some(to_guest::Body::Sweep(sweep)) => {
                let swept = self.sweep(&sweep.run, sweep.signal);
                control.answer(number, from_guest::Body::Swept(swept), Vec::new());
            }
            Some(to_guest::Body::CloseInput(close)) => {
                if let Some(run) = self.runs.get_mut(&close.run) {
                    run.kept.close_stdin();
                }
                control.done(number);
            }
            Some(to_guest::Body::Release(release)) => {
                self.runs.remove(&release.run);
                control.done(number);
            }
            Some(to_guest::Body::Takeover(_)) => {
                for (name, run) in &self.runs {
                    control.answer(number, from_guest::Body::Held(run.held(name)), run.kept.fds());
                }
                control.done(number);
            }
            Some(to_guest::Body::Resize(resize)) => match self.resize(&resize.run, resize.size.unwrap_or_default()) {
                Ok(()) => control.done(number),
                Err(errno) => control.refuse(number, Step::Gone, errno as i32),
            },
            // Sockets are not of a run and are served elsewhere; what is `None`, this build does not know.
            Some(to_guest::Body::MakeSocket(_) | to_guest::Body::Listen(_) | to_guest::Body::Connect(_)) | None => {
                control.refuse(number, Step::Request, 0);
            }
        }
    }

    fn spawn(&mut self, spawn: Spawn, fds: Vec<OwnedFd>) -> Result<&Run, Failure> {
        if self.runs.contains_key(&spawn.run) {
            return Err(Failure { step: Step::Request, errno: Errno::EEXIST });
        }
        let user = users::lookup(&spawn.user).map_err(|_| Failure { step: Step::User, errno: Errno::ENOENT })?;
        let Ends { stdio, kept, cgroup } = Ends::take(&spawn, fds, user.uid, &self.null)?;
        let plan = match &spawn.shell {
            Some(line) => Plan::shell(line, &spawn.env, &spawn.cwd, user, stdio)?,
            None => Plan::program(&spawn.argv, &spawn.env, &spawn.cwd, user, stdio)?,
        };
        let (pid, keeper) = if let Some(cgroup) = cgroup {
            (plan.launch(&mut self.launcher, Some(cgroup.as_fd()))?, None)
        } else {
            let (keeper, pid) = Keeper::start(&plan, &mut self.launcher)?;
            (pid, Some(keeper))
        };
        let run = Run { pid, leader: Leader::Alive, kept, has_keeper: keeper.is_some(), keeper };
        Ok(self.runs.entry(spawn.run).or_insert(run))
    }

    /// A leader that has not been reaped keeps its process id, so the signal cannot hit another process.
    fn signal(&self, run: &str, number: i32) -> Result<(), Errno> {
        match self.runs.get(run) {
            // The leader leads a session, and so a group, of its own.
            Some(Run { pid, leader: Leader::Alive, .. }) => send_signal(-pid, number),
            Some(_) | None => Err(Errno::ESRCH),
        }
    }

    fn resize(&self, run: &str, size: PtySize) -> Result<(), Errno> {
        let kept = self.kept(run).ok_or(Errno::ESRCH)?;
        terminal::resize(kept.terminal().ok_or(Errno::ENOTTY)?.as_fd(), size)
    }

    /// The daemon's ends of a run that there is.
    pub fn kept(&self, run: &str) -> Option<&Kept> {
        self.runs.get(run).map(|run| &run.kept)
    }

    fn sweep(&self, run: &str, number: i32) -> Swept {
        // A keeper ends when nothing is left below it.
        let keeper = self.runs.get(run).and_then(|run| run.keeper.as_ref());
        Swept { processes: keeper.map(|keeper| keeper.sweep(number)).unwrap_or_default() }
    }

    /// Takes every process that has ended off the process table, orphans too, and reports the leaders.
    pub fn reap(&mut self, control: &mut Option<Control>, carried: Option<&Stdio>) {
        while let Some((pid, code, status)) = wait_any() {
            let is_leader = |run: &Run| run.keeper.is_none() && run.leader == Leader::Alive && run.pid == pid;
            let run = self.runs.iter().find(|(_, run)| is_leader(run));
            if let Some(name) = run.map(|(name, _)| name.clone()) {
                self.end(control, carried, name, ended(code, status));
            }
        }
    }

    /// What the keepers have to say.
    pub fn hear_keepers(&mut self, control: &mut Option<Control>, carried: Option<&Stdio>) {
        let mut exits = Vec::new();
        for (name, run) in &mut self.runs {
            while let Some(keeper) = run.keeper.as_ref().filter(|keeper| is_readable(keeper.reports())) {
                match keeper.wait_report() {
                    Some(Report::Exited(code, status)) => exits.push((name.clone(), ended(code, status))),
                    // It is gone, or says nothing of use.
                    _ => run.keeper = None,
                }
            }
        }
        for (name, ended) in exits {
            self.end(control, carried, name, ended);
        }
    }

    /// Keeps how a leader ended, and tells the daemon, if there is one. One that takes over hears of it then.
    fn end(&mut self, control: &mut Option<Control>, carried: Option<&Stdio>, name: String, ended: Ended) {
        let Some(run) = self.runs.get_mut(&name) else { return };
        let ended = Ended { written: carried.and_then(|carried| carried.written(&name)), ..ended };
        self.ended += 1;
        run.leader = Leader::Ended(ended, self.ended);
        // Nobody writes to it any more; a child that still reads sees the end.
        run.kept.close_stdin();
        self.forget_surplus();
        if let Some(control) = control {
            control.answer(0, from_guest::Body::Exited(Exited { run: name, ended: Some(ended) }), Vec::new());
        }
    }

    /// Forgets the run that ended first, if there are more than [`MAX_ENDED`].
    fn forget_surplus(&mut self) {
        let ended = self.runs.iter().filter_map(|(name, run)| match run.leader {
            Leader::Ended(_, order) => Some((order, name)),
            Leader::Alive => None,
        });
        if ended.clone().count() > MAX_ENDED
            && let Some(name) = ended.min().map(|(_, name)| name.clone())
        {
            self.runs.remove(&name);
        }
    }

    /// For poll.
    pub fn keepers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.runs.values().filter_map(|run| Some(run.keeper.as_ref()?.reports()))
    }
}

impl Run {
    fn held(&self, name: &str) -> Held {
        Held {
            run: name.to_owned(),
            pid: self.pid,
            ended: match self.leader {
                Leader::Alive => None,
                Leader::Ended(ended, _) => Some(ended),
            },
            keeper: self.has_keeper,
            stdin: self.kept.has_stdin(),
            pty: self.kept.terminal().is_some(),
        }
    }
}

/// `si_code` and `si_status` of waitid(2).
fn ended(code: i32, status: i32) -> Ended {
    match code {
        libc::CLD_EXITED => Ended { code: Some(status), signal: 0, written: None },
        _ => Ended { code: None, signal: status, written: None },
    }
}

/// A child that has ended: its id, `si_code` and `si_status`.
fn wait_any() -> Option<(i32, i32, i32)> {
    // SAFETY: all-zero is a valid siginfo_t, and waitid(2) writes to it only.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let flags = libc::WEXITED | libc::WNOHANG | libc::__WALL;
    // SAFETY: as above.
    Errno::result(unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, flags) }).ok()?;
    // SAFETY: waitid has either filled in the fields of a child that ended or left them zero.
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    (pid != 0).then_some((pid, info.si_code, status))
}

fn is_readable(fd: BorrowedFd<'_>) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    poll(&mut [PollFd::new(fd, PollFlags::POLLIN)], PollTimeout::ZERO).is_ok_and(|count| count > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run() -> Run {
        let null = || std::rc::Rc::new(OwnedFd::from(File::open("/dev/null").unwrap()));
        let kept = Kept::Pipes { stdin: Some(null()), stdout: null(), stderr: null() };
        Run { pid: 7, leader: Leader::Alive, kept, has_keeper: true, keeper: None }
    }

    #[test]
    fn a_run_that_ended_is_kept_with_its_status_and_takes_no_input() {
        let mut runs = Runs::new(false).unwrap();
        runs.runs.insert("a".to_owned(), run());
        let alive = Held { run: "a".to_owned(), pid: 7, ended: None, keeper: true, stdin: true, pty: false };
        assert_eq!(runs.runs["a"].held("a"), alive);
        let ended = ended(libc::CLD_KILLED, libc::SIGKILL);
        runs.end(&mut None, None, "a".to_owned(), ended);
        assert_eq!(runs.runs["a"].held("a"), Held { ended: Some(ended), stdin: false, ..alive });
        assert_eq!(runs.signal("a", libc::SIGTERM), Err(Errno::ESRCH));
    }

    #[test]
    fn of_too_many_that_ended_the_first_is_forgotten_and_none_that_is_alive() {
        let mut runs = Runs::new(false).unwrap();
        runs.runs.insert("alive".to_owned(), run());
        for number in (0..=MAX_ENDED).rev() {
            // All share two descriptors, lest the test needs thousands.
            let null = std::rc::Rc::clone(&runs.runs["alive"].kept.fds()[0]);
            let kept = Kept::Terminal(null);
            runs.runs.insert(number.to_string(), Run { kept, ..run() });
            runs.end(&mut None, None, number.to_string(), ended(libc::CLD_EXITED, 0));
        }
        assert_eq!(runs.runs.len(), MAX_ENDED + 1);
        assert!(runs.runs.contains_key("alive") && runs.runs.contains_key("0"));
        assert!(!runs.runs.contains_key(&MAX_ENDED.to_string()));
    }
}
