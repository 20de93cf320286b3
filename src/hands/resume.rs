//! Runs that an earlier daemon began: what goes on goes on where it was, and what has ended is kept as long as it would have
//! been.
//!
//! The journal says which runs there are, the guest which of them it still holds. One that ended unheard is heard now; one
//! that the guest does not hold and whose end is not known went with another guest, and is lost; if it was this one's, it was
//! never spawned, nobody was told of it, and whoever comes again with its key starts it. What the guest holds and the journal
//! does not know was never told to anybody either, and is ended.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::time::Instant;

use super::input::{Sender, Sink, Writer};
use super::journal::{Begun, Ended, Left, Step};
use super::output::{Sources, Spool, SpoolError, SpoolWriter};
use super::reach::Reach;
use super::run::Started;
use super::task::{Live, Task, remove_spools};
use super::{Exited, Shared};
use crate::guest::client::{GuestError, HeldOutput, HeldRun};
use crate::ids::RunId;
use crate::telemetry::chain;

/// Takes over what there is. `lease` keeps the sandbox awake, for those that do.
pub async fn resume<L: Send + 'static>(shared: &Arc<Shared>, lease: impl Fn() -> Option<L>) -> Result<(), GuestError> {
    let left = shared.journal.read().unwrap_or_else(|error| {
        tracing::error!(directory = %shared.directory.display(), %error, "the journal of runs cannot be read");
        Vec::new()
    });
    if left.is_empty() {
        return Ok(());
    }
    let held = shared.guest.takeover().await?;
    let mut held: HashMap<RunId, HeldRun> = held.into_iter().map(|held| (held.run.clone(), held)).collect();
    for left in left {
        let held = held.remove(&left.begun.run);
        if held.is_none() && left.was_never_spawned(&shared.settings.guest) {
            shared.journal.add(&Step::Removed { run: left.begun.run.clone() });
            remove_spools(shared.directory.join(left.begun.run.as_str())).await;
            continue;
        }
        let Begun { run, key, command, is_activity, .. } = left.begun.clone();
        let (run, publisher) = shared.registry.restore(run, command, key.as_deref());
        let task = Task::new(Arc::clone(shared), run, publisher, key);
        match (left.ended, held) {
            (Some(end), held) => task.keep(left.begun, end, held),
            (None, Some(held)) => {
                let lease = if is_activity { lease() } else { None };
                task.go_on(Left { ended: None, ..left }, held, lease);
            }
            (None, None) => task.lose(left.begun),
        }
    }
    for stranger in held.into_values() {
        tracing::warn!(run.id = %stranger.run, "ending a run that nobody was told of");
        let owner = Arc::clone(shared);
        shared.tasks.spawn(async move { end_stranger(&owner, stranger).await });
    }
    Ok(())
}

async fn end_stranger(shared: &Arc<Shared>, held: HeldRun) {
    let reach = reach(shared, &held);
    reach.end(shared.settings.kill_grace).await;
    match sources(held.output) {
        Ok((sources, _)) => shared.leave(held.run, reach, sources),
        Err(error) => tracing::warn!(run.id = %held.run, %error, "a run cannot be taken over"),
    }
}

impl Task {
    /// A run that had ended: it is kept for the rest of its retention, and what it left in the sandbox is looked after.
    fn keep(mut self, begun: Begun, end: Ended, held: Option<HeldRun>) {
        if let Some(held) = held {
            let reach = reach(&self.shared, &held);
            match sources(held.output) {
                Ok((sources, _)) => self.shared.leave(held.run, reach, sources),
                Err(error) => tracing::warn!(run.id = %held.run, %error, "a run cannot be taken over"),
            }
        }
        let (writer, spool) = self.open_spool();
        writer.close();
        let kept = SystemTime::now().duration_since(end.at).unwrap_or_default();
        let rest = self.shared.settings.retention.saturating_sub(kept);
        self.restore_ended(started(&begun, end.pid, spool, None), end.exited);
        self.shared.tasks.clone().spawn(self.retain(rest));
    }

    /// A run whose end was not heard of and never will be.
    fn lose(mut self, begun: Begun) {
        let (writer, spool) = self.open_spool();
        writer.close();
        let exited = Exited { output_bytes: spool.len(), ..Exited::lost() };
        self.publish_ended(started(&begun, 0, spool, None), exited, None::<()>);
        let retention = self.shared.settings.retention;
        self.shared.tasks.clone().spawn(self.retain(retention));
    }

    /// A run that goes on, or has ended unheard.
    fn go_on(mut self, left: Left, held: HeldRun, lease: Option<impl Send + 'static>) {
        let pid = held.pid;
        let live = match self.take_up(&left, held) {
            Ok(live) => live,
            Err(error) => {
                tracing::error!(run.id = %left.begun.run, pid, %error, "a run cannot be taken over");
                return self.lose(left.begun);
            }
        };
        self.publish_running(&live);
        self.shared.tasks.clone().spawn(async move {
            self.drive(live, lease).await;
            let retention = self.shared.settings.retention;
            self.retain(retention).await;
        });
    }

    fn take_up(&self, left: &Left, held: HeldRun) -> io::Result<Live> {
        let Begun { run, at, oom_kills, command, .. } = &left.begun;
        let reach = reach(&self.shared, &held);
        let (sources, terminal) = sources(held.output)?;
        let sink = terminal.or_else(|| held.stdin.map(Sink::Pipe));
        let stdin = sink.map(|sink| Writer::new(sink, self.shared.guest.clone(), run.clone())).transpose()?;
        let (stdin, input) = stdin.unzip();
        let (writer, spool) = self.open_spool();
        Ok(Live {
            started: started(&left.begun, held.pid, spool, input),
            began: instant(*at),
            deadline: command.deadline.after().map(|after| instant(*at + after)),
            cause: left.cause,
            reach,
            exit: held.exit,
            oom_kills_before: *oom_kills,
            writer,
            sources,
            stdin,
        })
    }

    /// The spool as it was left. A run that was silent has none yet.
    fn open_spool(&self) -> (SpoolWriter, Spool) {
        let directory = self.directory();
        match SpoolWriter::open(&directory) {
            Ok(spool) => spool,
            Err(SpoolError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                SpoolWriter::create(&directory, self.shared.settings.output_cap)
            }
            Err(error) => {
                tracing::error!(run.id = %self.run.id(), error = %chain(&error), "the output of a run is lost");
                // Beside files that are of no use, it counts what comes and drops it.
                SpoolWriter::create(&directory, self.shared.settings.output_cap)
            }
        }
    }
}

fn started(begun: &Begun, pid: u32, spool: Spool, input: Option<Sender>) -> Started {
    let deadline = begun.command.deadline.after().map(|after| begun.at + after);
    Started { id: begun.run.clone(), pid, at: begun.at, deadline, spool, input }
}

fn reach(shared: &Shared, held: &HeldRun) -> Reach {
    match &shared.cgroup {
        Some(cgroup) if !held.has_keeper => Reach::Cgroup(cgroup.run(&held.run)),
        _ => Reach::Keeper(shared.guest.clone(), held.run.clone()),
    }
}

/// Where a run's output comes from; and where its input goes, if that is the same terminal.
fn sources(output: HeldOutput) -> io::Result<(Sources, Option<Sink>)> {
    match output {
        HeldOutput::Pipes { stdout, stderr } => Ok((Sources::pipes(stdout, stderr)?, None)),
        HeldOutput::Terminal(master) => {
            let copy = master.try_clone()?;
            Ok((Sources::terminal(master)?, Some(Sink::Terminal(copy))))
        }
    }
}

/// A time of day by the clock that never jumps.
fn instant(at: SystemTime) -> Instant {
    let now = Instant::now();
    match SystemTime::now().duration_since(at) {
        Ok(since) => now.checked_sub(since).unwrap_or(now),
        Err(ahead) => now + ahead.duration(),
    }
}
