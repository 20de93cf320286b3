//! What a client sees of a run.

use anyhow::bail;
use handsd::api::proto::exited::{Reason, Status};
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{Exited, Output, OutputStream, RunEvent, Started};
use tonic::Streaming;

use super::timeline::{Step, Timeline};

/// The events of a run, as one client gets them.
pub struct Follower {
    events: Streaming<RunEvent>,
    received: Received,
}

/// What a client has when it hangs up.
pub struct Received {
    /// The run.
    pub run_id: String,
    /// All output so far, stdout and stderr as they came.
    pub output: Vec<u8>,
    /// Position after the last byte received: where to attach again.
    pub cursor: u64,
}

impl Follower {
    /// Follows a run whose next byte is at `cursor`.
    ///
    /// # Errors
    /// The stream does not begin as it must.
    pub async fn begin(mut events: Streaming<RunEvent>, cursor: u64) -> anyhow::Result<Self> {
        match event(&mut events).await? {
            Event::Started(Started { run_id, .. }) => {
                Ok(Self { events, received: Received { run_id, output: Vec::new(), cursor } })
            }
            other => bail!("expected the run to start, got {other:?}"),
        }
    }

    /// Output so far, from where it began.
    pub fn output(&self) -> &[u8] {
        &self.received.output
    }

    /// Position after it.
    pub fn cursor(&self) -> u64 {
        self.received.cursor
    }

    /// Ends the stream, not the run.
    pub fn hang_up(self) -> Received {
        self.received
    }

    /// The next output, or how the run ended.
    ///
    /// # Errors
    /// The stream broke off, or bytes are missing in it.
    pub async fn next(&mut self) -> anyhow::Result<Followed> {
        match event(&mut self.events).await? {
            Event::Output(output) if output.cursor == self.received.cursor => {
                self.received.cursor += output.data.len() as u64;
                self.received.output.extend_from_slice(&output.data);
                Ok(Followed::Output(output))
            }
            Event::Exited(exited) => Ok(Followed::Exited(exited)),
            other => bail!("expected the byte at {}, got {other:?}", self.received.cursor),
        }
    }

    /// Follows to the end.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub async fn finish(&mut self) -> anyhow::Result<Exited> {
        loop {
            if let Followed::Exited(exited) = self.next().await? {
                return Ok(exited);
            }
        }
    }

    /// Follows to the end and shows every line.
    ///
    /// # Errors
    /// As [`Self::next`]; and nobody reads the timeline any more.
    pub async fn show(&mut self, step: Step, timeline: &mut Timeline) -> anyhow::Result<Exited> {
        loop {
            match self.next().await? {
                Followed::Output(output) => {
                    let name = if output.stream() == OutputStream::Stderr { "stderr" } else { "stdout" };
                    for line in String::from_utf8_lossy(&output.data).lines() {
                        timeline.show(step, name, line)?;
                    }
                }
                Followed::Exited(exited) => return Ok(exited),
            }
        }
    }
}

/// What comes after `started`.
pub enum Followed {
    /// Bytes.
    Output(Output),
    /// The end.
    Exited(Exited),
}

async fn event(events: &mut Streaming<RunEvent>) -> anyhow::Result<Event> {
    match events.message().await.map_err(|status| refused(&status))?.and_then(|event| event.event) {
        Some(event) => Ok(event),
        None => bail!("the stream ended before the run did"),
    }
}

/// How a run ended, in words.
pub fn ending(exited: &Exited) -> String {
    let status = match exited.status {
        Some(Status::Code(code)) => format!("exit code {code}"),
        Some(Status::Signal(number)) => format!("signal {number}"),
        None => "no status".to_owned(),
    };
    match exited.reason() {
        Reason::Exited | Reason::Signaled => status,
        other => format!("{status} ({})", other.as_str_name()),
    }
}

/// An error of a call, without the details that are for programs.
pub fn refused(status: &tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}: {}", status.code(), status.message())
}
