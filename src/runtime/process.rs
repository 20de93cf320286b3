//! A brain's process: a run without a deadline in the brain's sandbox.
//!
//! It is started without a lease, so that a brain that waits for the next message does not keep its sandbox awake. Its
//! stdout is read from the run's spool, line by line, each with the cursor behind it: whoever stores that cursor with what
//! the line meant can go on behind it, in another daemon too.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Program, STATE};
use crate::guest::client::ExitStatus;
use crate::hands::files::{FileError, WriteOptions};
use crate::hands::output::{Chunk, SpoolError, SpoolReader, Stream};
use crate::hands::{
    BackgroundPolicy, Command, Deadline, Exited, Hands, Input, Program as Executable, Run, RunError, Stdio,
};
use crate::ids::RunId;
use crate::sandbox::Lease;

/// Longest line of a brain, in bytes: what a tool is given may be a whole file.
const MAX_LINE: usize = 8 << 20;

/// Bytes of stderr that are kept, to explain an end.
const MAX_COMPLAINT: usize = 2 << 10;

/// Writes that may wait for a brain that does not read. It is given a turn, its steers and answers: more than this means
/// that it hangs.
const WRITES: usize = 256;

/// Between SIGTERM and SIGKILL: nothing that a brain would want to tidy up matters, as it must survive a SIGKILL anyway.
const KILL_GRACE: Duration = Duration::from_millis(200);

/// How long an earlier process may take to be gone.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    /// One of its files could not be written.
    #[error("write the brain's file {path}")]
    File {
        /// Which.
        path: String,
        /// Why.
        #[source]
        source: FileError,
    },
    /// It could not be started, or an earlier one could not be ended.
    #[error("start the brain")]
    Start(#[source] RunError),
    /// An earlier one does not end.
    #[error("the brain of before, {0}, does not end")]
    Before(RunId),
    /// Its output cannot be read.
    #[error("read what the brain says")]
    Output(#[source] SpoolError),
}

/// A line of a brain, or its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line of stdout, without its end, and the cursor behind it.
    Said(Vec<u8>, u64),
    /// There is nothing more, for this reason.
    Over(String),
}

/// A brain's process.
#[derive(Debug)]
pub struct Process {
    run: Run,
    writes: mpsc::Sender<Bytes>,
    reader: SpoolReader,
    /// What came of a line that is not complete, and the cursor behind it.
    partial: Vec<u8>,
    /// How much of `partial` was searched for the end of a line.
    searched: usize,
    /// Of the byte behind `partial`.
    cursor: u64,
    complaint: Vec<u8>,
}

/// Writes to the brain what it is to be told; ends with the brain, or when the process is dropped.
pub struct Writer {
    run: Run,
    writes: mpsc::Receiver<Bytes>,
}

impl Process {
    /// Starts one in a sandbox in which no other brain is left running.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub async fn start(hands: &Hands, program: Program) -> Result<(Self, Writer), ProcessError> {
        // Two brains of one session would write the same state.
        for run in hands.runs().into_iter().filter(|run| run.exited().is_none()) {
            let _ = timeout(KILL_DEADLINE, run.cancel(KILL_GRACE)).await;
            if run.exited().is_none() {
                return Err(ProcessError::Before(run.id().clone()));
            }
        }
        for (path, content) in program.files {
            let failed = |source| ProcessError::File { path: path.clone(), source };
            let path = format!("{STATE}/{path}");
            let options = WriteOptions { path: path.clone(), create_parents: true, ..WriteOptions::default() };
            let mut writing = hands.files().write(options).await.map_err(failed)?;
            writing.push(content.into()).await.map_err(failed)?;
            writing.finish().await.map_err(failed)?;
        }
        let command = Command {
            program: Executable::Argv(program.argv),
            cwd: STATE.to_owned(),
            env: program.env,
            user: None,
            deadline: Deadline::Never,
            stdio: Stdio::Pipes,
            background: BackgroundPolicy::Kill,
        };
        let no_lease: Option<Lease> = None;
        let run = hands.start(command, None, no_lease).await.map_err(ProcessError::Start)?;
        Self::follow(run, 0)
    }

    /// One that was started before, if it has not ended, from a cursor on.
    ///
    /// # Errors
    /// See [`ProcessError`].
    pub fn rejoin(hands: &Hands, id: &RunId, cursor: u64) -> Result<Option<(Self, Writer)>, ProcessError> {
        match hands.run(id) {
            Ok(run) if run.exited().is_none() => Self::follow(run, cursor).map(Some),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    fn follow(run: Run, cursor: u64) -> Result<(Self, Writer), ProcessError> {
        let started = run.started().ok_or_else(|| ProcessError::Start(RunError::NotFound(run.id().clone())))?;
        let reader = started.spool.read_from(cursor).map_err(ProcessError::Output)?;
        let (writes, queue) = mpsc::channel(WRITES);
        let writer = Writer { run: run.clone(), writes: queue };
        let (partial, complaint) = (Vec::new(), Vec::new());
        Ok((Self { run, writes, reader, partial, searched: 0, cursor, complaint }, writer))
    }

    /// Its run.
    #[must_use]
    pub fn id(&self) -> &RunId {
        self.run.id()
    }

    /// It has not ended.
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.run.exited().is_none()
    }

    /// Has it told something, in the order of these calls. `false`: it has not read for long, so that no more can wait.
    #[must_use]
    pub fn write(&self, lines: Vec<u8>) -> bool {
        lines.is_empty() || self.writes.try_send(lines.into()).is_ok()
    }

    /// The next line of stdout. Cancel-safe: what was read is kept here.
    pub async fn next(&mut self) -> Line {
        loop {
            if let Some(line) = self.take_line() {
                return line;
            }
            match self.reader.next().await {
                Ok(Chunk::Output { stream: Stream::Stdout, cursor, data }) => {
                    self.partial.extend_from_slice(&data);
                    self.cursor = cursor + data.len() as u64;
                }
                Ok(Chunk::Output { stream: Stream::Stderr, data, .. }) => self.complain(&data),
                Ok(Chunk::Gap { from, to }) => {
                    return Line::Over(format!("it said {} bytes faster than they could be kept", to - from));
                }
                Ok(Chunk::End) => {
                    let exited = self.run.wait_exited().await;
                    return Line::Over(self.epitaph(&exited));
                }
                Err(_) => return Line::Over("its sandbox is gone".to_owned()),
            }
        }
    }

    /// A line that was read already.
    pub fn take_line(&mut self) -> Option<Line> {
        let end = self.partial[self.searched..].iter().position(|byte| *byte == b'\n');
        let Some(end) = end.map(|end| self.searched + end) else {
            self.searched = self.partial.len();
            let is_too_long = self.partial.len() > MAX_LINE;
            return is_too_long.then(|| Line::Over(format!("it said a line of more than {MAX_LINE} bytes")));
        };
        let mut line: Vec<u8> = self.partial.drain(..=end).collect();
        line.pop();
        self.searched = 0;
        Some(Line::Said(line, self.cursor - self.partial.len() as u64))
    }

    fn complain(&mut self, data: &[u8]) {
        self.complaint.extend_from_slice(data);
        let surplus = self.complaint.len().saturating_sub(MAX_COMPLAINT);
        self.complaint.drain(..surplus);
    }

    /// How it ended, in a sentence.
    fn epitaph(&self, exited: &Exited) -> String {
        let how = match exited.status {
            Some(ExitStatus::Code(code)) => format!("ended with code {code}"),
            Some(ExitStatus::Signal(signal)) => format!("was ended by signal {signal}"),
            None => "was lost with its sandbox".to_owned(),
        };
        let complaint = String::from_utf8_lossy(&self.complaint);
        let complaint = complaint.trim();
        if complaint.is_empty() { format!("the brain {how}") } else { format!("the brain {how}; it said: {complaint}") }
    }

    /// Its end, at once. To be awaited by somebody who has time.
    pub fn kill(&self) -> impl Future<Output = ()> + Send + 'static {
        let run = self.run.clone();
        async move {
            // That it has ended already is what is wanted.
            let _ = timeout(KILL_DEADLINE, run.cancel(KILL_GRACE)).await;
        }
    }
}

impl Writer {
    /// Writes until there is nothing more to write, or nobody to read it.
    pub async fn write_all(mut self) {
        while let Some(lines) = self.writes.recv().await {
            if let Err(error) = self.run.input(Input::Data(lines)).await {
                tracing::debug!(run.id = %self.run.id(), %error, "the brain does not read any more");
                return;
            }
        }
    }
}
