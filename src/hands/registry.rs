//! Which runs a sandbox has: a table of handles, locked for a few instructions at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::run::{Publisher, Run};
use super::{Command, RunError};
use crate::ids::RunId;

/// The runs of one sandbox.
#[derive(Debug)]
pub struct Registry {
    max_runs: usize,
    retained: usize,
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    /// Oldest first.
    runs: VecDeque<Run>,
    keys: HashMap<String, (Command, Run)>,
}

/// What became of a claim.
#[derive(Debug)]
pub enum Claim {
    /// A run to be started.
    New(Run, Publisher),
    /// The run that has this key already.
    Existing(Run),
}

impl Registry {
    /// No runs; at most `max_runs` at once, and `retained` that have ended.
    pub fn new(max_runs: usize, retained: usize) -> Self {
        Self { max_runs, retained, table: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        // No change is made in more than one step that could panic.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for a run, or finds the one that has the key.
    ///
    /// # Errors
    /// [`RunError::Conflict`], [`RunError::TooMany`].
    pub fn claim(&self, command: &Command, key: Option<&str>) -> Result<Claim, RunError> {
        let mut table = self.lock();
        if let Some((first, run)) = key.and_then(|key| table.keys.get(key)) {
            return if first == command { Ok(Claim::Existing(run.clone())) } else { Err(RunError::Conflict) };
        }
        if table.runs.iter().filter(|run| !run.has_ended()).count() >= self.max_runs {
            return Err(RunError::TooMany { limit: self.max_runs });
        }
        let (run, publisher) = Run::new(RunId::random(), key.map(str::to_owned), command.clone());
        table.runs.push_back(run.clone());
        if let Some(key) = key {
            table.keys.insert(key.to_owned(), (command.clone(), run.clone()));
        }
        Ok(Claim::New(run, publisher))
    }

    /// A run that an earlier daemon began.
    pub fn restore(&self, id: RunId, command: Command, key: Option<&str>) -> (Run, Publisher) {
        let (run, publisher) = Run::new(id, key.map(str::to_owned), command.clone());
        let mut table = self.lock();
        table.runs.push_back(run.clone());
        if let Some(key) = key {
            table.keys.insert(key.to_owned(), (command, run.clone()));
        }
        (run, publisher)
    }

    /// Lets go of the oldest runs that have ended, down to those that are retained; their tasks remove them. To be called
    /// when one has ended.
    pub fn evict(&self) {
        let table = self.lock();
        let ended: Vec<&Run> = table.runs.iter().filter(|run| run.has_ended()).collect();
        let surplus = ended.len().saturating_sub(self.retained);
        ended[..surplus].iter().for_each(|run| run.evict());
    }

    /// Forgets a run.
    pub fn remove(&self, id: &RunId, key: Option<&str>) {
        let mut table = self.lock();
        table.runs.retain(|run| run.id() != id);
        if let Some(key) = key.filter(|key| table.keys.get(*key).is_some_and(|(_, run)| run.id() == id)) {
            table.keys.remove(key);
        }
    }

    /// A run that has started.
    pub fn get(&self, id: &RunId) -> Option<Run> {
        self.lock().runs.iter().find(|run| run.id() == id && run.has_started()).cloned()
    }

    /// A run that has started with this key.
    pub fn keyed(&self, key: &str) -> Option<Run> {
        self.lock().keys.get(key).map(|(_, run)| run.clone()).filter(Run::has_started)
    }

    /// The runs that have started, oldest first.
    pub fn list(&self) -> Vec<Run> {
        self.lock().runs.iter().filter(|run| run.has_started()).cloned().collect()
    }

    /// How many runs have not ended.
    pub fn running(&self) -> usize {
        self.lock().runs.iter().filter(|run| !run.has_ended()).count()
    }
}
