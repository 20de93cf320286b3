//! A run over a WebSocket: its output from a cursor on, and what the client types.
//!
//! The two directions do not wait for each other: a command that reads nothing still shows what it writes. Whoever reads
//! too slowly is cut off, and can come back with a cursor; the run does not notice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::extract::WebSocketUpgrade;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Shared;
use super::convert;
use super::problem::Problem;
use crate::api::convert::MAX_CHUNK;
use crate::api::status::Fault;
use crate::hands::output::Stream;
use crate::hands::{Event, Events, Exited, Input, Run};
use crate::ids::RunId;

/// How long a client may take to read a message. One that is slower is gone, or might as well be.
const SEND_DEADLINE: Duration = Duration::from_secs(60);
/// Between two signs of life on a quiet connection, so that nothing on the way forgets it.
const PING_INTERVAL: Duration = Duration::from_secs(20);
/// How long a client may take to say goodbye, after which the connection is closed all the same.
const CLOSE_DEADLINE: Duration = Duration::from_secs(2);

/// The first byte of a message tells what it is.
const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const EXIT: u8 = 3;
const SCROLLBACK_END: u8 = 4;

/// How messages are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// The first byte of each tells what it is.
    Numbered,
    /// They are what the terminal shows, and what is typed.
    Raw,
}

/// How many clients are attached to each run. A leaf, locked for a few instructions.
#[derive(Debug, Clone, Default)]
pub struct Viewers {
    counts: Arc<Mutex<HashMap<RunId, usize>>>,
}

/// A client that is attached.
struct Viewer {
    viewers: Viewers,
    run: RunId,
}

impl Viewers {
    /// How many there are of a run.
    #[must_use]
    pub fn of(&self, run: &RunId) -> usize {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).get(run).copied().unwrap_or(0)
    }

    fn enter(&self, run: &RunId) -> Viewer {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner).entry(run.clone()).or_insert(0) += 1;
        Viewer { viewers: self.clone(), run: run.clone() }
    }
}

impl Drop for Viewer {
    fn drop(&mut self) {
        let mut counts = self.viewers.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.run) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.run);
            }
        }
    }
}

/// Attaches the client that asks for an upgrade to a run.
///
/// # Errors
/// The cursor is beyond the end.
pub fn attach(
    surface: &Shared,
    upgrade: WebSocketUpgrade,
    run: Run,
    cursor: u64,
    framing: Framing,
) -> Result<Response, Problem> {
    let events = Events::from(run.clone(), cursor).map_err(Fault::from)?;
    let viewer = surface.viewers.enter(run.id());
    let (tasks, stop) = (surface.tasks.clone(), surface.stop.clone());
    let upgrade = upgrade.max_message_size(MAX_CHUNK + 1).max_frame_size(MAX_CHUNK + 1);
    Ok(upgrade.on_upgrade(move |socket| {
        // The server's own task for it is nobody's; the tracker is waited for when the daemon ends.
        tasks.track_future(async move {
            stop.run_until_cancelled(converse(socket, run, events, framing)).await;
            drop(viewer);
        })
    }))
}

async fn converse(socket: WebSocket, run: Run, events: Events, framing: Framing) {
    let (sink, mut source) = socket.split();
    let is_over = {
        let output = send_output(sink, &run, events, framing);
        let input = take_input(&mut source, &run, framing);
        tokio::select! {
            sent = output => sent.is_ok(),
            () = input => false,
        }
    };
    if is_over {
        // The client closes, unless it is in no hurry.
        let _ = timeout(CLOSE_DEADLINE, async { while let Some(Ok(_)) = source.next().await {} }).await;
    }
}

/// The client cannot be reached any more, or not fast enough, or the output cannot be read.
struct Gone;

async fn send_output(
    mut sink: SplitSink<WebSocket, Message>,
    run: &Run,
    mut events: Events,
    framing: Framing,
) -> Result<(), Gone> {
    // What was there before the client came, it may want to tell from what comes now.
    let mut scrollback = Some(run.started().map_or(0, |started| started.spool.len()));
    let mut pings = interval(PING_INTERVAL);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        // Both are cancel-safe.
        let event = tokio::select! {
            event = events.next() => event.map_err(|_| Gone)?,
            _ = pings.tick() => {
                send(&mut sink, Message::Ping(Bytes::new())).await?;
                continue;
            }
        };
        match event {
            Some(Event::Started(_)) => end_scrollback(&mut sink, &mut scrollback, 0, framing).await?,
            Some(Event::Gap { to, .. }) => end_scrollback(&mut sink, &mut scrollback, to, framing).await?,
            Some(Event::Output { stream, cursor, mut data }) => {
                let end = cursor + data.len() as u64;
                if let Some(old) = scrollback.filter(|old| (cursor + 1..end).contains(old)) {
                    let old = data.split_to(usize::try_from(old - cursor).expect("less than the chunk"));
                    send(&mut sink, output(stream, &old, framing)).await?;
                    end_scrollback(&mut sink, &mut scrollback, end, framing).await?;
                }
                send(&mut sink, output(stream, &data, framing)).await?;
                end_scrollback(&mut sink, &mut scrollback, end, framing).await?;
            }
            Some(Event::Exited(exited)) => {
                end_scrollback(&mut sink, &mut scrollback, u64::MAX, framing).await?;
                return say_goodbye(&mut sink, &exited, framing).await;
            }
            None => return Ok(()),
        }
    }
}

/// Tells once that what was there before is over, if it is at `cursor`.
async fn end_scrollback(
    sink: &mut SplitSink<WebSocket, Message>,
    scrollback: &mut Option<u64>,
    cursor: u64,
    framing: Framing,
) -> Result<(), Gone> {
    if scrollback.take_if(|end| *end <= cursor).is_some() && framing == Framing::Numbered {
        send(sink, Message::Binary(Bytes::from_static(&[SCROLLBACK_END]))).await?;
    }
    Ok(())
}

async fn say_goodbye(sink: &mut SplitSink<WebSocket, Message>, exited: &Exited, framing: Framing) -> Result<(), Gone> {
    if framing == Framing::Numbered {
        let mut message = BytesMut::with_capacity(5);
        message.put_u8(EXIT);
        message.put_i32(convert::exit_code(exited));
        send(sink, Message::Binary(message.freeze())).await?;
    }
    let frame = CloseFrame { code: close_code::NORMAL, reason: "exec completed".into() };
    send(sink, Message::Close(Some(frame))).await
}

async fn send(sink: &mut SplitSink<WebSocket, Message>, message: Message) -> Result<(), Gone> {
    timeout(SEND_DEADLINE, sink.send(message)).await.map_err(|_| Gone)?.map_err(|_| Gone)
}

fn output(stream: Stream, data: &Bytes, framing: Framing) -> Message {
    if framing == Framing::Raw {
        return Message::Binary(data.clone());
    }
    let mut message = BytesMut::with_capacity(1 + data.len());
    message.put_u8(match stream {
        Stream::Stdout => STDOUT,
        Stream::Stderr => STDERR,
    });
    message.extend_from_slice(data);
    Message::Binary(message.freeze())
}

/// Takes what the client sends until it leaves.
async fn take_input(source: &mut SplitStream<WebSocket>, run: &Run, framing: Framing) {
    while let Some(Ok(message)) = source.next().await {
        let data = match (message, framing) {
            (Message::Close(_), _) => return,
            (Message::Ping(_) | Message::Pong(_), _) => continue,
            (Message::Binary(data), Framing::Raw) => data,
            (Message::Text(text), Framing::Raw) => Bytes::from(text),
            (Message::Binary(data), Framing::Numbered) if data.first() == Some(&STDIN) => data.slice(1..),
            (Message::Binary(_) | Message::Text(_), Framing::Numbered) => continue,
        };
        // A command that takes no input any more still has output to show.
        if !data.is_empty() && run.input(Input::Data(data)).await.is_err() {
            tracing::debug!(run.id = %run.id(), "input for a command that takes none");
        }
    }
}
