//! The events of one run, each byte once, over as many connections as it takes.
//!
//! ```text
//! Bash ──► started ──► output … ──► exited
//!   │          │           │
//!   └ broken ──┴─ broken ──┴─► pause ─► Bash with the same key, or Attach at the cursor
//! ```

use std::time::Duration;

use anyhow::bail;
use bytes::Buf as _;
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::run_event::Event;
use handsd::api::proto::{AttachRequest, BashRequest, RunEvent};
use handsd::client::Channel;
use tonic::{Code, Status, Streaming};

use crate::errors;

/// Breaks in a row, without a new byte between them, after which the connection is given up. With the pauses below this
/// lasts for 12 s, in which a daemon restarts many times over.
const MOST_BREAKS: u32 = 6;
/// After the first break; doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Follows one run to its end.
pub struct Follow {
    hands: HandsClient<Channel>,
    sandbox_id: String,
    /// Sent until `started` came; its idempotency key makes that harmless.
    bash: Option<BashRequest>,
    progress: Progress,
    stream: Option<Streaming<RunEvent>>,
    breaks: u32,
    first_pause: Duration,
}

impl Follow {
    /// Starts a run. `request` must have an idempotency key.
    pub fn bash(hands: HandsClient<Channel>, request: BashRequest) -> Self {
        Self::new(hands, request.sandbox_id.clone(), Some(request), Progress::default())
    }

    /// Takes up a run from `cursor`.
    pub fn attach(hands: HandsClient<Channel>, sandbox_id: String, run_id: String, cursor: u64) -> Self {
        Self::new(hands, sandbox_id, None, Progress { run_id: Some(run_id), started: false, cursor })
    }

    fn new(hands: HandsClient<Channel>, sandbox_id: String, bash: Option<BashRequest>, progress: Progress) -> Self {
        Self { hands, sandbox_id, bash, progress, stream: None, breaks: 0, first_pause: FIRST_PAUSE }
    }

    /// The next event that was not seen yet; `exited` is the last. Cancel-safe: what a dropped call would have returned,
    /// the next one does.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        loop {
            match self.receive().await {
                Ok(event) => {
                    let before = self.progress.cursor;
                    let fresh = self.progress.accept(event)?;
                    if self.progress.cursor > before {
                        self.breaks = 0;
                    }
                    if let Some(event) = fresh {
                        return Ok(event);
                    }
                }
                Err(status) if is_break(&status) && self.breaks < MOST_BREAKS => {
                    self.breaks += 1;
                    if self.breaks == 1 {
                        self.note_break(&status);
                    }
                    tokio::time::sleep(self.first_pause * 2_u32.pow(self.breaks - 1)).await;
                }
                Err(status) => return Err(self.give_up(status)),
            }
        }
    }

    /// A run that was started goes on without us, so say how to find it again.
    fn give_up(&self, status: Status) -> anyhow::Error {
        let error = anyhow::Error::from(status);
        match &self.progress.run_id {
            Some(run) if self.breaks > 0 => {
                let attach = format!("hands attach {} {run} --from {}", self.sandbox_id, self.progress.cursor);
                error.context(format!("the connection is lost, the run may go on ({attach})"))
            }
            _ => error,
        }
    }

    fn note_break(&self, status: &Status) {
        let why = crate::output::printable(status.message());
        match &self.progress.run_id {
            Some(run) => errors::note(&format!("{why}; taking up {run} again at byte {}", self.progress.cursor)),
            None => errors::note(&format!("{why}; asking again")),
        }
    }

    async fn receive(&mut self) -> Result<Event, Status> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.open().await?;
                self.stream.insert(stream)
            }
        };
        let status = match stream.message().await {
            Ok(Some(event)) => match event.event {
                Some(event) => return Ok(event),
                None => Status::unimplemented("the node sent an event that is newer than this client"),
            },
            Ok(None) => Status::unavailable("the stream ended before the run"),
            Err(status) => status,
        };
        self.stream = None;
        Err(status)
    }

    async fn open(&mut self) -> Result<Streaming<RunEvent>, Status> {
        let opened = match (&self.progress.run_id, &self.bash) {
            (None, Some(request)) => self.hands.bash(request.clone()).await,
            (run_id, _) => {
                let run_id = run_id.clone().unwrap_or_default();
                let cursor = self.progress.cursor;
                self.hands.attach(AttachRequest { sandbox_id: self.sandbox_id.clone(), run_id, cursor }).await
            }
        };
        opened.map(tonic::Response::into_inner)
    }
}

/// Whether the connection broke, rather than the node having answered with an error: those have a reason. A daemon that
/// shuts down comes back, and its runs with it.
fn is_break(status: &Status) -> bool {
    match errors::reason(status) {
        Some(reason) => reason == "SHUTTING_DOWN",
        None => matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled),
    }
}

/// What was seen of a run.
#[derive(Debug, Default)]
struct Progress {
    run_id: Option<String>,
    started: bool,
    /// All output before it was seen, or is known to be gone.
    cursor: u64,
}

impl Progress {
    /// What is new in the event, if anything. Bytes that were seen are cut off.
    fn accept(&mut self, event: Event) -> anyhow::Result<Option<Event>> {
        match event {
            Event::Started(started) => {
                self.run_id = Some(started.run_id.clone());
                let first = !std::mem::replace(&mut self.started, true);
                Ok(first.then_some(Event::Started(started)))
            }
            Event::Output(mut output) => {
                if output.cursor > self.cursor {
                    bail!("the node left out bytes {} to {} of the output", self.cursor, output.cursor);
                }
                let seen = self.cursor - output.cursor;
                match usize::try_from(seen) {
                    Ok(seen) if seen < output.data.len() => output.data.advance(seen),
                    _ => return Ok(None),
                }
                output.cursor = self.cursor;
                self.cursor = self.cursor.saturating_add(output.data.len() as u64);
                Ok(Some(Event::Output(output)))
            }
            Event::Gap(mut gap) => {
                gap.from = gap.from.max(self.cursor);
                if gap.to <= gap.from {
                    return Ok(None);
                }
                self.cursor = gap.to;
                Ok(Some(Event::Gap(gap)))
            }
            Event::Exited(exited) => Ok(Some(Event::Exited(exited))),
        }
    }
}

#[cfg(test)]
mod tests {
    use handsd::api::proto::Gap;

    use super::*;
    use crate::fake::{self, exited, output, started};

    #[test]
    fn a_byte_that_was_seen_is_cut_off() -> anyhow::Result<()> {
        let mut progress = Progress::default();
        assert_eq!(progress.accept(output(0, b"hello"))?, Some(output(0, b"hello")));
        assert_eq!(progress.accept(output(3, b"lo wor"))?, Some(output(5, b" wor")));
        assert_eq!(progress.accept(output(0, b"hello"))?, None);
        assert_eq!(progress.accept(output(9, b"ld"))?, Some(output(9, b"ld")));
        Ok(())
    }

    #[test]
    fn a_byte_that_is_missing_without_a_gap_is_an_error() -> anyhow::Result<()> {
        let mut progress = Progress::default();
        assert!(progress.accept(output(1, b"x")).is_err());
        let gap = Event::Gap(Gap { from: 0, to: 4 });
        assert_eq!(progress.accept(gap.clone())?, Some(gap.clone()));
        assert_eq!(progress.accept(gap)?, None);
        assert_eq!(progress.accept(output(4, b"x"))?, Some(output(4, b"x")));
        Ok(())
    }

    #[test]
    fn started_is_told_once() -> anyhow::Result<()> {
        let mut progress = Progress::default();
        assert_eq!(progress.accept(started())?, Some(started()));
        assert_eq!(progress.accept(started())?, None);
        Ok(())
    }

    #[test]
    fn an_error_with_a_reason_is_an_answer_and_no_break() {
        assert!(is_break(&Status::unavailable("reset by peer")));
        assert!(is_break(&fake::error(Code::Unavailable, "SHUTTING_DOWN")));
        assert!(!is_break(&fake::error(Code::Unavailable, "SANDBOX_LOST")));
        assert!(!is_break(&Status::unimplemented("no such method")));
    }

    async fn events(mut follow: Follow) -> anyhow::Result<Vec<Event>> {
        follow.first_pause = Duration::from_millis(1);
        let mut events = Vec::new();
        while !matches!(events.last(), Some(Event::Exited(_))) {
            events.push(follow.next().await?);
        }
        Ok(events)
    }

    fn request() -> BashRequest {
        BashRequest { sandbox_id: "sb".to_owned(), idempotency_key: "key".to_owned(), ..Default::default() }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_goes_on_at_the_cursor() {
        let node = fake::Node::new([
            fake::Stream::broken([started(), output(0, b"one ")]),
            // The node may begin earlier than it was asked to.
            fake::Stream::broken([started(), output(2, b"e two ")]),
            fake::Stream::whole([started(), output(8, b"o three"), exited(3)]),
        ]);
        let (hands, _server) = node.serve().await;
        let seen = events(Follow::bash(hands, request())).await.expect("it goes on");
        let whole = [started(), output(0, b"one "), output(4, b"two "), output(8, b"o three"), exited(3)];
        assert_eq!(seen, whole);
        assert_eq!(node.calls(), ["bash key", "attach run_1 4", "attach run_1 8"]);
    }

    #[tokio::test]
    async fn a_break_before_the_start_asks_again_with_the_same_key() {
        let node = fake::Node::new([fake::Stream::broken([]), fake::Stream::whole([started(), exited(0)])]);
        let (hands, _server) = node.serve().await;
        assert_eq!(events(Follow::bash(hands, request())).await.expect("it goes on"), [started(), exited(0)]);
        assert_eq!(node.calls(), ["bash key", "bash key"]);
    }

    #[tokio::test]
    async fn a_stream_that_ends_without_exited_was_broken() {
        let node = fake::Node::new([fake::Stream::whole([started()]), fake::Stream::whole([started(), exited(0)])]);
        let (hands, _server) = node.serve().await;
        assert_eq!(events(Follow::bash(hands, request())).await.expect("it goes on"), [started(), exited(0)]);
    }

    #[tokio::test]
    async fn a_node_that_keeps_breaking_is_given_up() {
        let node = fake::Node::new(std::iter::repeat_with(|| fake::Stream::broken([started()])).take(20));
        let (hands, _server) = node.serve().await;
        let error = events(Follow::bash(hands, request())).await.expect_err("it gives up");
        assert!(error.to_string().contains("hands attach sb run_1 --from 0"), "{error}");
        assert_eq!(node.calls().len(), 1 + MOST_BREAKS as usize);
    }

    #[tokio::test]
    async fn an_attach_begins_where_it_was_told() {
        let node = fake::Node::new([fake::Stream::whole([started(), output(2, b"rest"), exited(0)])]);
        let (hands, _server) = node.serve().await;
        let follow = Follow::attach(hands, "sb".to_owned(), "run_1".to_owned(), 2);
        assert_eq!(events(follow).await.expect("it goes on"), [started(), output(2, b"rest"), exited(0)]);
        assert_eq!(node.calls(), ["attach run_1 2"]);
    }
}
