//! A run's events. Every stream is held to its contract as it is read: `started` comes first and `exited` last, there is
//! one of each, and cursors go on where they ended.

use handsd::api::proto::exited::{Reason, Status as Ending};
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{Exited, OutputStream, RunEvent, Started};
use sha2::{Digest as _, Sha256};
use tonic::{Status, Streaming};

/// A run under way, as one reader sees it.
#[derive(Debug)]
pub struct Running {
    /// Its first event.
    pub started: Started,
    stream: Streaming<RunEvent>,
    /// Where the output is to go on.
    cursor: u64,
}

/// A run as one reader saw it to its end.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The first event.
    pub started: Started,
    /// What was written there.
    pub stdout: Vec<u8>,
    /// What was written there.
    pub stderr: Vec<u8>,
    /// `from` and `to` of what is not kept.
    pub gaps: Vec<(u64, u64)>,
    /// The last event.
    pub exited: Exited,
    /// All events but the first and the last.
    pub events: Vec<Event>,
}

impl Running {
    /// Reads the first event of a stream whose output begins at a cursor.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn begin(mut stream: Streaming<RunEvent>, cursor: u64) -> Result<Self, Status> {
        match stream.message().await?.and_then(|event| event.event) {
            Some(Event::Started(started)) => Ok(Self { started, stream, cursor }),
            other => panic!("the first event is {other:?}"),
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.started.run_id
    }

    /// The position after what was read.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The next event, which is output, a gap, or the end.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn next(&mut self) -> Result<Event, Status> {
        let event = self.stream.message().await?.and_then(|event| event.event).expect("the stream ends without exited");
        match &event {
            Event::Started(started) => panic!("a second {started:?}"),
            Event::Output(output) => {
                assert_eq!(output.cursor, self.cursor, "output goes on where it ended");
                assert!(!output.data.is_empty() && output.data.len() <= 256 << 10, "{} bytes", output.data.len());
                assert_ne!(output.stream(), OutputStream::Unspecified);
                self.cursor += output.data.len() as u64;
            }
            Event::Gap(gap) => {
                assert_eq!(gap.from, self.cursor, "a gap begins where the output ended");
                assert!(gap.to > gap.from, "a gap is not empty");
                self.cursor = gap.to;
            }
            Event::Exited(exited) => {
                assert_eq!(exited.output_bytes, self.cursor, "exited says how much output there was");
                assert!(self.stream.message().await?.is_none(), "nothing follows exited");
            }
        }
        Ok(event)
    }

    /// Reads until at least so many bytes have come; answers them.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn read_bytes(&mut self, least: usize) -> Result<Vec<u8>, Status> {
        let mut bytes = Vec::new();
        while bytes.len() < least {
            match self.next().await? {
                Event::Output(output) => bytes.extend_from_slice(&output.data),
                other => panic!("{other:?} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
        Ok(bytes)
    }

    /// Reads until this text has come; answers all that came.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn read_until(&mut self, text: &str) -> Result<String, Status> {
        let mut seen = String::new();
        while !seen.contains(text) {
            match self.next().await? {
                Event::Output(output) => seen += &String::from_utf8_lossy(&output.data),
                other => panic!("{other:?} instead of {text:?} after {seen:?}"),
            }
        }
        Ok(seen)
    }

    /// Reads to the end and keeps all.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn finish(mut self) -> Result<Outcome, Status> {
        let (mut stdout, mut stderr, mut gaps, mut events) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let exited = loop {
            let event = self.next().await?;
            match &event {
                Event::Output(output) if output.stream() == OutputStream::Stdout => stdout.extend(&output.data),
                Event::Output(output) => stderr.extend(&output.data),
                Event::Gap(gap) => gaps.push((gap.from, gap.to)),
                Event::Exited(exited) => break exited.clone(),
                Event::Started(_) => unreachable!("next refuses a second one"),
            }
            events.push(event);
        };
        Ok(Outcome { started: self.started, stdout, stderr, gaps, exited, events })
    }

    /// Reads to the end and keeps only a checksum, fed from `sha256` on; for output that is large. There must be no gap.
    ///
    /// # Errors
    /// The daemon's.
    pub async fn finish_into(mut self, sha256: &mut Sha256) -> Result<Exited, Status> {
        loop {
            match self.next().await? {
                Event::Output(output) => sha256.update(&output.data),
                Event::Exited(exited) => return Ok(exited),
                other => panic!("{other:?}"),
            }
        }
    }
}

impl Outcome {
    /// The exit code, if it exited.
    pub fn code(&self) -> Option<i32> {
        code(&self.exited)
    }

    /// The signal, if one ended it.
    pub fn signal(&self) -> Option<i32> {
        match self.exited.status {
            Some(Ending::Signal(signal)) => Some(signal),
            _ => None,
        }
    }

    /// Why it ended.
    pub fn reason(&self) -> Reason {
        self.exited.reason()
    }

    /// As text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// As text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Names of the processes that the daemon ended.
    pub fn killed(&self) -> Vec<&str> {
        self.exited.killed.iter().map(|killed| killed.name.as_str()).collect()
    }
}

/// The exit code, if it exited.
pub fn code(exited: &Exited) -> Option<i32> {
    match exited.status {
        Some(Ending::Code(code)) => Some(code),
        _ => None,
    }
}
