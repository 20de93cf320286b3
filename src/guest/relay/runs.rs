//! The runs of a guest, as the daemon is to see them: with their pipes, which are here, or with a socket that stands for a
//! terminal, and with an end that comes after their output.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use nix::errno::Errno;

use super::ports::pair;
use crate::guest::agent::control::Control;
use crate::guest::agent::ends::{Ends, Kept};
use crate::guest::agent::spawn::Stdio;
use crate::guest::trunk::{Flow, Trunk};
use crate::guest::wire::{Channels, Ended, Exited, FromGuest, Held, Spawn, Step, Written, from_guest};

/// The runs that were not released.
#[derive(Debug)]
pub struct Runs {
    null: File,
    runs: HashMap<String, Run>,
    /// Those that are being started, by the number of the request.
    starting: HashMap<u64, String>,
}

#[derive(Debug)]
struct Run {
    channels: Channels,
    kept: Kept,
    /// Known, and not told yet: some of the output is still on its way.
    end: Option<Ended>,
}

impl Runs {
    /// None.
    ///
    /// # Errors
    /// Those of opening /dev/null.
    pub fn new() -> io::Result<Self> {
        let null = File::options().read(true).write(true).open("/dev/null")?;
        Ok(Self { null, runs: HashMap::new(), starting: HashMap::new() })
    }

    /// Joins the ends of a run that is about to be started to channels, and has the request name those.
    ///
    /// # Errors
    /// What the guest would refuse.
    pub fn begin(
        &mut self,
        trunk: &mut Trunk,
        number: u64,
        spawn: &mut Spawn,
        fds: Vec<OwnedFd>,
        channels: [u32; 3],
    ) -> Result<(), (Step, Errno)> {
        if spawn.cgroup || self.runs.contains_key(&spawn.run) {
            return Err((Step::Request, Errno::EEXIST));
        }
        let [to_stdin, to_stdout, to_stderr] = channels;
        let (kept, joints) = if spawn.pty.is_some() {
            let (ours, theirs) = pair().map_err(|errno| (Step::Pty, errno))?;
            (Kept::Terminal(Rc::new(theirs)), vec![(to_stdout, ours, Flow::Both)])
        } else {
            let ends = Ends::take(spawn, fds, 0, &self.null).map_err(|failure| (failure.step, failure.errno))?;
            let Stdio::Pipes(stdin, stdout, stderr) = ends.stdio else { return Err((Step::Request, Errno::EINVAL)) };
            let stdin = spawn.stdin.then_some((to_stdin, stdin, Flow::Out));
            let outputs = [(to_stdout, stdout, Flow::In), (to_stderr, stderr, Flow::In)];
            (ends.kept, outputs.into_iter().chain(stdin).collect())
        };
        let joined = joints.into_iter().try_for_each(|(channel, end, flow)| trunk.join(channel, end, flow));
        if joined.is_err() {
            channels.into_iter().for_each(|channel| trunk.close(channel));
            return Err((Step::Fork, Errno::EMFILE));
        }
        let channels = Channels { stdin: to_stdin, stdout: to_stdout, stderr: to_stderr };
        spawn.channels = Some(channels);
        self.starting.insert(number, spawn.run.clone());
        self.runs.insert(spawn.run.clone(), Run { channels, kept, end: None });
        Ok(())
    }

    /// Closes what is kept of a run's stdin.
    pub fn close_input(&mut self, run: &str) {
        if let Some(run) = self.runs.get_mut(run) {
            run.kept.close_stdin();
        }
    }

    /// Forgets a run. What still comes of its output goes where it went.
    pub fn forget(&mut self, run: &str) {
        self.runs.remove(run);
    }

    /// The daemon that asked is gone. What it was about to start is held by the guest, or was never begun.
    pub fn forget_questions(&mut self) {
        self.starting.clear();
    }

    /// Tells the daemon what the guest has said.
    pub fn tell(&mut self, trunk: &Trunk, control: &mut Control, message: FromGuest) {
        let FromGuest { request, body, .. } = message;
        let mut fds = Vec::new();
        let body = match body {
            Some(from_guest::Body::Exited(Exited { run, ended })) => return self.end(&run, ended),
            Some(from_guest::Body::Held(held)) => {
                let Some(run) = self.runs.get_mut(&held.run) else { return };
                fds = run.kept.fds();
                from_guest::Body::Held(run.held(trunk, held))
            }
            Some(from_guest::Body::Spawned(spawned)) => {
                let run = self.starting.remove(&request).and_then(|run| self.runs.get(&run));
                fds.extend(run.and_then(|run| run.kept.terminal()));
                from_guest::Body::Spawned(spawned)
            }
            Some(from_guest::Body::Refused(refused)) => {
                if let Some(run) = self.starting.remove(&request) {
                    self.runs.remove(&run);
                }
                from_guest::Body::Refused(refused)
            }
            Some(body @ (from_guest::Body::Done(_) | from_guest::Body::Swept(_))) => body,
            // Of a socket that nobody waits for any more, or a newer guest's word, which is not ours to pass on.
            Some(from_guest::Body::SocketMade(_)) | None => return,
        };
        control.answer(request, body, fds);
    }

    /// The runs whose ends can be told now.
    pub fn due(&mut self, trunk: &Trunk) -> Vec<(String, Ended)> {
        let due = |run: &mut Run| {
            let is_due = run.end.is_some_and(|ended| run.has_delivered(trunk, ended));
            if is_due { run.end.take() } else { None }
        };
        self.runs.iter_mut().filter_map(|(name, run)| Some((name.clone(), due(run)?))).collect()
    }

    /// Notes how a run ended, which is told when its output has come.
    fn end(&mut self, run: &str, ended: Option<Ended>) {
        if let Some(run) = self.runs.get_mut(run) {
            run.end = ended;
            // As in the guest: nobody writes to it any more.
            run.kept.close_stdin();
        }
    }
}

impl Run {
    /// How the guest holds it, with what of that is here. An end that cannot be told yet is left for later.
    fn held(&mut self, trunk: &Trunk, held: Held) -> Held {
        let (now, later) = match held.ended {
            Some(ended) if !self.has_delivered(trunk, ended) => (None, Some(ended)),
            ended => (ended, None),
        };
        self.end = later;
        Held { ended: now, stdin: self.kept.has_stdin(), ..held }
    }

    /// All of the output that was there at its end has got to where the daemon reads it.
    fn has_delivered(&self, trunk: &Trunk, ended: Ended) -> bool {
        let Some(Written { stdout, stderr }) = ended.written else { return true };
        let has = |channel: u32, bytes: u64| trunk.passed(channel).is_none_or(|passed| passed >= bytes);
        has(self.channels.stdout, stdout) && has(self.channels.stderr, stderr)
    }
}
