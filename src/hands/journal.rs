//! What the next daemon has to know of a sandbox's runs: a file beside their spools, to which a line is added for every
//! step of a run.
//!
//! ```text
//! begun ─► (ending, if it is ended by us) ─► ended ─► removed
//! ```
//!
//! A line is written before what it tells of can be seen: `begun` before the leader is spawned, `ending` before the first
//! signal, `ended` before anybody is told and before the guest forgets the run. The file is not synced: it is to outlive
//! the daemon, and runs do not outlive the machine. Every line begins with a line feed, so that one which a full disk cut
//! short spoils no other. When it has grown, what is no longer needed is left out.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Command;
use super::outcome::{Cause, Exited};
use crate::ids::RunId;

/// Size from which on the file is compacted, if that may halve it: below, it is not worth the writing.
const COMPACT_FROM: u64 = 1 << 20;

/// A step of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Step {
    /// It is about to be spawned.
    Begun(Begun),
    /// We are about to end it.
    Ending {
        /// Which.
        run: RunId,
        /// Why.
        cause: Cause,
    },
    /// It has ended.
    Ended {
        /// Which.
        run: RunId,
        /// How.
        end: Ended,
    },
    /// It is no longer kept, or was never spawned.
    Removed {
        /// Which.
        run: RunId,
    },
}

/// A run that was about to be spawned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begun {
    /// Its id.
    pub run: RunId,
    /// Its idempotency key.
    pub key: Option<String>,
    /// What was asked for.
    pub command: Command,
    /// When.
    pub at: SystemTime,
    /// The sandbox's count of kills for want of memory at that time.
    pub oom_kills: u64,
    /// It keeps the sandbox awake.
    pub is_activity: bool,
    /// Which guest was to spawn it; empty if that is not known.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub guest: String,
}

/// The end of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Its leader's process id inside the sandbox.
    pub pid: u32,
    /// How it ended.
    pub exited: Exited,
    /// When.
    pub at: SystemTime,
}

/// How far a run had come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// Its beginning.
    pub begun: Begun,
    /// We had set out to end it.
    pub cause: Option<Cause>,
    /// Its end, if it was known.
    pub ended: Option<Ended>,
}

/// The file. A leaf, locked while a line is written.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Made with the first line.
    file: Option<File>,
    len: u64,
    /// Size after the last compaction.
    compacted: u64,
}

impl Journal {
    /// The journal in a sandbox's directory of spools, which need not exist.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { path: directory.join("journal"), state: Mutex::default() }
    }

    /// What an earlier daemon left, in the order in which the runs began.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn read(&self) -> io::Result<Vec<Left>> {
        match fs::read(&self.path) {
            Ok(text) => Ok(fold(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// Adds a step. One that cannot be written is logged, and no obstacle: a run must be possible on a full disk, to make
    /// room. If the daemon dies then, the run is lost.
    pub fn add(&self, step: &Step) {
        // No change is made in more than one step that could panic.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = state.add(&self.path, step) {
            tracing::warn!(path = %self.path.display(), %error, "a step of a run is not in the journal");
        }
    }
}

impl State {
    fn add(&mut self, path: &Path, step: &Step) -> io::Result<()> {
        let line = line(step)?;
        self.opened(path)?.write_all(&line)?;
        self.len += line.len() as u64;
        if self.len >= COMPACT_FROM.max(2 * self.compacted) {
            self.compact(path)?;
        }
        Ok(())
    }

    fn opened(&mut self, path: &Path) -> io::Result<&mut File> {
        if self.file.is_none() {
            if let Some(parent) = path.parent() {
                DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            }
            let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
            self.len = file.metadata()?.len();
            self.file = Some(file);
        }
        self.file.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes it anew with what is still needed, and takes the place of the old one.
    fn compact(&mut self, path: &Path) -> io::Result<()> {
        let mut text = Vec::new();
        for step in fold(&fs::read(path)?).into_iter().flat_map(Left::steps) {
            text.extend(line(&step)?);
        }
        let beside = path.with_extension("new");
        let mut file = OpenOptions::new().append(true).create(true).mode(0o600).open(&beside)?;
        file.set_len(0)?;
        file.write_all(&text)?;
        fs::rename(&beside, path)?;
        *self = Self { file: Some(file), len: text.len() as u64, compacted: text.len() as u64 };
        Ok(())
    }
}

impl Left {
    /// The daemon was killed before it had it spawned, as this guest, which does not hold it, would otherwise do.
    #[must_use]
    pub fn was_never_spawned(&self, guest: &str) -> bool {
        self.ended.is_none() && !guest.is_empty() && self.begun.guest == guest
    }

    /// The steps that say this.
    fn steps(self) -> impl Iterator<Item = Step> {
        let run = self.begun.run.clone();
        let ending = self.cause.map(|cause| Step::Ending { run: run.clone(), cause });
        let ended = self.ended.map(|end| Step::Ended { run, end });
        [Some(Step::Begun(self.begun)), ending, ended].into_iter().flatten()
    }
}

fn line(step: &Step) -> io::Result<Vec<u8>> {
    let mut line = vec![b'\n'];
    serde_json::to_writer(&mut line, step)?;
    line.push(b'\n');
    Ok(line)
}

/// What the steps come to. A line that is none, because a kill or a full disk cut it short, says nothing.
fn fold(text: &[u8]) -> Vec<Left> {
    let mut order = Vec::new();
    let mut runs = BTreeMap::new();
    for step in text.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()) {
        match step {
            Step::Begun(begun) => {
                order.push(begun.run.clone());
                runs.insert(begun.run.clone(), Left { begun, cause: None, ended: None });
            }
            Step::Ending { run, cause } => {
                runs.entry(run).and_modify(|left| left.cause = Some(cause));
            }
            Step::Ended { run, end } => {
                runs.entry(run).and_modify(|left| left.ended = Some(end));
            }
            Step::Removed { run } => drop(runs.remove(&run)),
        }
    }
    order.iter().filter_map(|run| runs.remove(run)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::{BackgroundPolicy, Deadline, Program, Stdio};
    use super::*;

    fn begun(word: &str) -> Begun {
        let command = Command {
            program: Program::Shell(word.to_owned()),
            cwd: String::new(),
            env: BTreeMap::from([("KEY".to_owned(), "value".to_owned())]),
            user: None,
            deadline: Deadline::After(Duration::from_secs(3)),
            stdio: Stdio::Output,
            background: BackgroundPolicy::Keep,
        };
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_500);
        Begun { run: RunId::random(), key: None, command, at, oom_kills: 0, is_activity: true, guest: "g".to_owned() }
    }

    fn ended() -> Ended {
        Ended { pid: 7, exited: Exited::lost(), at: SystemTime::UNIX_EPOCH }
    }

    fn journal() -> (tempfile::TempDir, Journal) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(&directory.path().join("sb"));
        (directory, journal)
    }

    #[test]
    fn what_was_added_is_left() {
        let (_directory, journal) = journal();
        assert_eq!(journal.read().unwrap(), []);
        let (one, two, three) = (begun("one"), begun("two"), begun("three"));
        for begun in [&one, &two, &three] {
            journal.add(&Step::Begun(begun.clone()));
        }
        journal.add(&Step::Ending { run: two.run.clone(), cause: Cause::Deadline });
        journal.add(&Step::Ended { run: two.run.clone(), end: ended() });
        journal.add(&Step::Removed { run: one.run.clone() });
        let two = Left { begun: two, cause: Some(Cause::Deadline), ended: Some(ended()) };
        let three = Left { begun: three, cause: None, ended: None };
        assert_eq!(journal.read().unwrap(), [two, three]);
    }

    #[test]
    fn a_line_that_was_cut_short_spoils_no_other() {
        let (_directory, journal) = journal();
        let (one, two) = (begun("one"), begun("two"));
        journal.add(&Step::Begun(one.clone()));
        let half = line(&Step::Ended { run: one.run.clone(), end: ended() }).unwrap();
        let mut file = OpenOptions::new().append(true).open(&journal.path).unwrap();
        file.write_all(&half[..half.len() / 2]).unwrap();
        journal.add(&Step::Begun(two.clone()));
        let left = [one, two].map(|begun| Left { begun, cause: None, ended: None });
        assert_eq!(journal.read().unwrap(), left);
    }

    #[test]
    fn it_does_not_grow_with_what_is_no_longer_kept() {
        let (_directory, journal) = journal();
        let kept = begun("kept");
        journal.add(&Step::Begun(kept.clone()));
        for _ in 0..40 {
            let large = begun(&"x".repeat(100_000));
            let run = large.run.clone();
            journal.add(&Step::Begun(large));
            journal.add(&Step::Ended { run: run.clone(), end: ended() });
            journal.add(&Step::Removed { run });
        }
        assert!(fs::metadata(&journal.path).unwrap().len() < 2 * COMPACT_FROM);
        assert_eq!(journal.read().unwrap(), [Left { begun: kept, cause: None, ended: None }]);
        // And goes on in the new file.
        let last = begun("last");
        journal.add(&Step::Begun(last.clone()));
        assert_eq!(journal.read().unwrap().last().unwrap().begun, last);
    }

    #[test]
    fn its_format_is_that_of_earlier_daemons() {
        let golden = concat!(
            r#"{"step":"begun","run":"run_0123456789abcdefghij","key":"k","command":{"program":{"argv":["true"]},"#,
            r#""cwd":"","env":{},"user":null,"deadline":"never","stdio":{"terminal":{"size":{"rows":24,"cols":80},"#,
            r#""term":"xterm"}},"background":"kill"},"at":{"secs_since_epoch":1,"nanos_since_epoch":0},"#,
            r#""oom_kills":2,"is_activity":false}"#,
        );
        let step: Step = serde_json::from_str(golden).unwrap();
        let Step::Begun(begun) = &step else { panic!("{step:?}") };
        assert_eq!(begun.command.program, Program::Argv(vec!["true".to_owned()]));
        assert_eq!(serde_json::to_string(&step).unwrap(), golden);
        let golden = concat!(
            r#"{"step":"ended","run":"run_0123456789abcdefghij","end":{"pid":7,"exited":{"status":{"code":3},"#,
            r#""reason":"exited","output_bytes":9,"killed":[{"pid":8,"name":"sleep"}],"degraded":false,"#,
            r#""elapsed":{"secs":1,"nanos":5}},"at":{"secs_since_epoch":1,"nanos_since_epoch":0}}}"#,
        );
        let step: Step = serde_json::from_str(golden).unwrap();
        assert_eq!(serde_json::to_string(&step).unwrap(), golden);
    }
}
