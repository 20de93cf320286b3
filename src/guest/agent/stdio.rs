//! The guest's end of a trunk, for a sandbox that no unix socket leads into: what the daemon would have made and passed
//! is made here.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::PollFlags;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{dup2_stdin, dup2_stdout};

use super::control::Control;
use super::ends::Kept;
use super::ports::{Port, Ports};
use crate::guest::pipe;
use crate::guest::trunk::{Envelope, Flow, Place, Trunk};
use crate::guest::wire::trunk::Open;
use crate::guest::wire::{Channels, Receiver, Spawn, Written};

/// The end of the trunk, which of its channels are of runs, and ports that are reached by it.
pub struct Stdio {
    /// The trunk.
    pub trunk: Trunk,
    /// The ports.
    pub ports: Ports,
    /// By run: the channels of stdout and stderr.
    outputs: HashMap<String, (u32, u32)>,
}

/// What is to be waited for.
#[derive(Debug, Clone, Copy)]
pub enum Spot {
    /// A place of the trunk.
    Trunk(Place),
    /// A port.
    Port(Port),
}

impl Stdio {
    /// Takes over this process's stdin and stdout.
    ///
    /// # Errors
    /// Those of fcntl(2), dup2(2), and of opening /dev/null.
    pub fn take_over() -> io::Result<Self> {
        // Others get them neither by the descriptors' numbers nor by inheriting them.
        let (input, output) = (duplicate(0)?, duplicate(1)?);
        let null = File::options().read(true).write(true).open("/dev/null")?;
        dup2_stdin(&null)?;
        dup2_stdout(&null)?;
        let mut trunk = Trunk::new(input, output, Envelope::None, Receiver::default())?;
        trunk.say_ready();
        Ok(Self { trunk, ports: Ports::default(), outputs: HashMap::new() })
    }

    /// What to wait for, and with what of it to come back to [`Stdio::serve`].
    pub fn interests(&self) -> impl Iterator<Item = (Spot, BorrowedFd<'_>, PollFlags)> {
        let places = self.trunk.interests().map(|(place, fd, flags)| (Spot::Trunk(place), fd, flags));
        let ports = self.ports.interests(&self.trunk).map(|(port, fd, flags)| (Spot::Port(port), fd, flags));
        places.chain(ports)
    }

    /// Does what can be done without waiting.
    ///
    /// # Errors
    /// As [`Trunk::serve`].
    pub fn serve(&mut self, spot: Spot, control: Option<&mut Control>) -> io::Result<()> {
        match spot {
            Spot::Trunk(place) => self.trunk.serve(place),
            Spot::Port(port) => {
                self.ports.serve(port, &mut self.trunk, control);
                Ok(())
            }
        }
    }

    /// The guest's side of a connection of the daemon's.
    ///
    /// # Errors
    /// Those of socketpair(2).
    pub fn connection(&mut self, open: Open) -> io::Result<OwnedFd> {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        self.trunk.adopt(open.channel, ours, Flow::Both)?;
        Ok(theirs)
    }

    /// What should have come with a request to start a run, in that order: the run's ends of its pipes, and the daemon's.
    /// Of one with a terminal, that is nothing.
    ///
    /// # Errors
    /// Those of pipe(2) and fchmod(2); `InvalidInput` for a channel that there is.
    pub fn lend(&mut self, spawn: &Spawn, channels: Channels) -> io::Result<Vec<OwnedFd>> {
        let (mut theirs, mut ours) = (Vec::with_capacity(6), Vec::with_capacity(3));
        if spawn.stdin {
            let (read, write) = pipe::of_run()?;
            ours.push(write.try_clone()?);
            self.trunk.join(channels.stdin, write, Flow::In)?;
            theirs.push(read);
        }
        let outputs = if spawn.pty.is_some() { &[][..] } else { &[channels.stdout, channels.stderr] };
        for channel in outputs {
            let (read, write) = pipe::of_run()?;
            ours.push(read.try_clone()?);
            self.trunk.join(*channel, read, Flow::Out)?;
            theirs.push(write);
        }
        self.outputs.insert(spawn.run.clone(), (channels.stdout, channels.stderr));
        theirs.append(&mut ours);
        Ok(theirs)
    }

    /// A run that was lent to has begun, and this is kept of it, or it has not. Carries its terminal, if it has one.
    pub fn settle(&mut self, run: &str, kept: Option<&Kept>) {
        let Some(kept) = kept else { return self.forget(run) };
        let (Some(master), Some((channel, _))) = (kept.terminal(), self.outputs.get(run)) else { return };
        let carried = master.try_clone().and_then(|master| self.trunk.join(*channel, master, Flow::Both));
        if carried.is_err() {
            // It goes on unseen; to the daemon, its output is at its end.
            self.trunk.say_closed(*channel);
        }
    }

    /// How much output a run has written so far.
    pub fn written(&self, run: &str) -> Option<Written> {
        let (stdout, stderr) = self.outputs.get(run)?;
        let of = |channel: u32| {
            let waiting = self.trunk.waiting(channel);
            self.trunk.passed(channel).zip(waiting).map_or(u64::MAX, |(passed, waiting)| passed + waiting)
        };
        Some(Written { stdout: of(*stdout), stderr: of(*stderr) })
    }

    /// A run is known no more; what still comes of its output is carried all the same.
    pub fn forget(&mut self, run: &str) {
        self.outputs.remove(run);
    }
}

fn duplicate(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: stdin and stdout are open for as long as this process lives, and the duplicate is nobody else's.
    let copy = unsafe {
        let own = BorrowedFd::borrow_raw(number);
        OwnedFd::from_raw_fd(fcntl(own, FcntlArg::F_DUPFD_CLOEXEC(3))?)
    };
    Ok(copy)
}
