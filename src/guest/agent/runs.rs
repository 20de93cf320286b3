//! Which runs there are; starting, signalling and reaping them.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use nix::errno::Errno;

use super::control::Control;
use super::keeper::{Keeper, Report};
use super::spawn::{Failure, Launcher, Plan, Stdio};
use super::users;
use crate::guest::terminal::open_terminal;
use crate::guest::wire::{Exited, Spawn, Spawned, Step, Swept, from_guest, to_guest};

/// The runs of the sandbox.
pub struct Runs {
    launcher: Launcher,
    null: File,
    runs: HashMap<String, Run>,
}

/// A run whose leader is alive, or whose keeper is.
struct Run {
    leader: Leader,
    keeper: Option<Keeper>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Leader {
    Alive(i32),
    Ended,
}

impl Runs {
    /// No runs.
    pub fn new() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { launcher: Launcher::new(), null, runs: HashMap::new() })
    }

    /// Serves one request.
    pub fn serve(&mut self, control: &mut Control, request: u64, body: Option<to_guest::Body>) {
        match body {
            Some(to_guest::Body::Spawn(spawn)) => self.spawn(control, request, spawn),
            Some(to_guest::Body::Signal(signal)) => match self.signal(&signal.run, signal.signal) {
                Ok(()) => control.done(request),
                Err(errno) => control.refuse(request, Step::Gone, errno as i32),
            },
            Some(to_guest::Body::Sweep(sweep)) => self.sweep(control, request, &sweep.run, sweep.signal),
            None => control.refuse(request, Step::Request, 0),
        }
    }

    fn spawn(&mut self, control: &mut Control, request: u64, spawn: Spawn) {
        match self.start(control, &spawn) {
            Ok((run, pid, master)) => {
                self.runs.insert(spawn.run, run);
                control.answer(request, from_guest::Body::Spawned(Spawned { pid }), master);
            }
            Err(failure) => control.refuse(request, failure.step, failure.errno as i32),
        }
    }

    fn start(&mut self, control: &mut Control, spawn: &Spawn) -> Result<(Run, i32, Option<OwnedFd>), Failure> {
        let user = users::lookup(&spawn.user).map_err(|_| Failure { step: Step::User, errno: Errno::ENOENT })?;
        let (stdio, master) = self.stdio(control, spawn, user.uid)?;
        let cgroup = if spawn.cgroup { Some(take_fd(control)?) } else { None };
        let plan = match &spawn.shell {
            Some(line) => Plan::shell(line, &spawn.env, &spawn.cwd, user, stdio)?,
            None => Plan::program(&spawn.argv, &spawn.env, &spawn.cwd, user, stdio)?,
        };
        let (pid, keeper) = if let Some(cgroup) = cgroup {
            (plan.launch(&mut self.launcher, Some(std::os::fd::AsFd::as_fd(&cgroup)))?, None)
        } else {
            let (keeper, pid) = Keeper::start(&plan, &mut self.launcher)?;
            (pid, Some(keeper))
        };
        Ok((Run { leader: Leader::Alive(pid), keeper }, pid, master))
    }

    fn stdio(&self, control: &mut Control, spawn: &Spawn, uid: u32) -> Result<(Stdio, Option<OwnedFd>), Failure> {
        if let Some(size) = spawn.pty {
            let terminal = open_terminal(size, uid).map_err(Failure::of(Step::Pty))?;
            return Ok((Stdio::Terminal(terminal.slave), Some(terminal.master)));
        }
        let stdin = if spawn.stdin { take_fd(control)? } else { self.null()? };
        let stdout = take_fd(control)?;
        let stderr = take_fd(control)?;
        Ok((Stdio::Pipes(stdin, stdout, stderr), None))
    }

    fn null(&self) -> Result<OwnedFd, Failure> {
        let copy = self.null.try_clone();
        copy.map(OwnedFd::from).map_err(|_| Failure { step: Step::Fork, errno: Errno::EMFILE })
    }

    /// A leader that has not been reaped keeps its process id, so the signal cannot hit another process.
    fn signal(&self, run: &str, number: i32) -> Result<(), Errno> {
        match self.runs.get(run).map(|run| run.leader) {
            // The leader leads a session, and so a group, of its own.
            Some(Leader::Alive(pid)) => send_signal(-pid, number),
            Some(Leader::Ended) | None => Err(Errno::ESRCH),
        }
    }

    fn sweep(&self, control: &mut Control, request: u64, run: &str, number: i32) {
        // A keeper ends when nothing is left below it.
        let keeper = self.runs.get(run).and_then(|run| run.keeper.as_ref());
        let processes = keeper.map(|keeper| keeper.sweep(number)).unwrap_or_default();
        control.answer(request, from_guest::Body::Swept(Swept { processes }), None);
    }

    /// Takes every process that has ended off the process table, orphans too, and reports the leaders.
    pub fn reap(&mut self, control: &mut Option<Control>) {
        while let Some((pid, code, status)) = wait_any() {
            let run = self.runs.iter().find(|(_, run)| run.keeper.is_none() && run.leader == Leader::Alive(pid));
            if let Some(name) = run.map(|(name, _)| name.clone()) {
                self.runs.remove(&name);
                report_exit(control, name, code, status);
            }
        }
    }

    /// What the keepers have to say; they are forgotten when they are gone.
    pub fn hear_keepers(&mut self, control: &mut Option<Control>) {
        for (name, run) in &mut self.runs {
            let Some(keeper) = &run.keeper else { continue };
            while is_readable(keeper.reports()) {
                if let Some(Report::Exited(code, status)) = keeper.wait_report() {
                    run.leader = Leader::Ended;
                    report_exit(control, name.clone(), code, status);
                } else {
                    run.keeper = None;
                    break;
                }
            }
        }
        self.runs.retain(|_, run| run.keeper.is_some() || run.leader != Leader::Ended);
    }

    /// For poll.
    pub fn keepers(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.runs.values().filter_map(|run| Some(run.keeper.as_ref()?.reports()))
    }
}

/// kill(2) by number: nix has no names for the real-time signals.
pub fn send_signal(pid: i32, number: i32) -> Result<(), Errno> {
    // SAFETY: a plain system call on values.
    Errno::result(unsafe { libc::kill(pid, number) }).map(drop)
}

fn report_exit(control: &mut Option<Control>, run: String, code: i32, status: i32) {
    let exited = match code {
        libc::CLD_EXITED => Exited { run, code: Some(status), signal: 0 },
        _ => Exited { run, code: None, signal: status },
    };
    if let Some(control) = control {
        control.answer(0, from_guest::Body::Exited(exited), None);
    }
}

fn take_fd(control: &mut Control) -> Result<OwnedFd, Failure> {
    control.take_fd().ok_or(Failure { step: Step::Request, errno: Errno::EBADF })
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
