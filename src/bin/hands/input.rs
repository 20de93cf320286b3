//! What goes to a run: the bytes of stdin, its end, and the terminal's size.

use std::fs::File;
use std::os::fd::AsFd as _;

use anyhow::Context as _;
use bytes::BytesMut;
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::input_request::Input;
use handsd::api::proto::{Eof, InputRequest, Resize};
use handsd::client::Channel;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{errors, terminal};

/// Read at a time. The node takes up to 1 MiB a message.
const CHUNK: usize = 64 << 10;
/// Chunks on their way to the transport: one to send while another is read.
const QUEUED_CHUNKS: usize = 2;

/// Where input goes.
#[derive(Debug, Clone)]
pub struct Target {
    /// The sandbox.
    pub sandbox_id: String,
    /// The run in it.
    pub run_id: String,
}

/// What is sent besides the bytes.
pub enum Kind {
    /// Nothing.
    Pipe,
    /// The terminal's size, whenever this signal says that it has changed.
    Terminal(Signal),
}

impl Kind {
    /// For a run with a terminal.
    pub fn terminal() -> anyhow::Result<Self> {
        Ok(Self::Terminal(signal(SignalKind::window_change()).context("cannot watch for SIGWINCH")?))
    }

    /// Whether the terminal was resized; pends for ever if there is none. Cancel-safe, as [`Signal::recv`] is.
    async fn resized(&mut self) {
        if let Self::Terminal(signal) = self
            && signal.recv().await.is_some()
        {
            return;
        }
        std::future::pending().await
    }
}

/// stdin as bytes. Reading it blocks a thread that nothing can wake: the process must end by leaving, not by joining.
pub fn stdin() -> anyhow::Result<tokio::fs::File> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use stdin")?;
    Ok(tokio::fs::File::from_std(File::from(stdin)))
}

/// Sends `source` to the run until it ends, or until the run does not want more. A break is an error: which bytes were
/// taken before it is not known, so that going on could double or lose some.
pub async fn pump(
    mut hands: HandsClient<Channel>,
    target: Target,
    source: impl AsyncRead + Unpin,
    kind: Kind,
) -> anyhow::Result<()> {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let feed = async {
        match feed(sender, &target, source, kind).await {
            // All is sent: what becomes of it is for the call to say.
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    let called = tokio::select! {
        called = hands.input(ReceiverStream::new(receiver)) => called,
        error = feed => return Err(error),
    };
    match called {
        Ok(_) => Ok(()),
        // The run has closed its stdin, or has ended: its own business.
        Err(status) if errors::reason(&status).is_some() => Ok(()),
        Err(status) => {
            let again =
                format!("stdin broke off; the run goes on: hands attach {} {}", target.sandbox_id, target.run_id);
            Err(anyhow::Error::from(status).context(again))
        }
    }
}

/// Ends when the source does, or when nobody takes the messages any more.
async fn feed(
    sender: mpsc::Sender<InputRequest>,
    target: &Target,
    mut source: impl AsyncRead + Unpin,
    mut kind: Kind,
) -> anyhow::Result<()> {
    let message = |input| {
        let Target { sandbox_id, run_id } = target.clone();
        InputRequest { sandbox_id, run_id, input: Some(input) }
    };
    let mut open = true;
    // Without a terminal nothing follows the end of stdin.
    while open || matches!(kind, Kind::Terminal(_)) {
        let mut chunk = BytesMut::with_capacity(CHUNK);
        // Cancel-safe: a dropped read has taken nothing, a dropped wait for a signal leaves it pending.
        let input = tokio::select! {
            read = source.read_buf(&mut chunk), if open => match read.context("cannot read stdin")? {
                0 => { open = false; Some(Input::Eof(Eof {})) }
                _ => Some(Input::Data(chunk.freeze())),
            },
            () = kind.resized() => terminal::size().map(|(rows, cols)| Input::Resize(Resize { rows, cols })),
            () = sender.closed() => return Ok(()),
        };
        if let Some(input) = input
            && sender.send(message(input)).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[tokio::test]
    async fn stdin_arrives_in_order_and_then_its_end() {
        let node = fake::Node::default();
        let (hands, _server) = node.serve().await;
        let target = Target { sandbox_id: "sb".to_owned(), run_id: "run_1".to_owned() };
        let source = b"one ".as_slice().chain(b"two".as_slice());
        pump(hands, target, source, Kind::Pipe).await.expect("it is taken");
        let calls = node.calls();
        let (end, data) = calls.split_last().expect("calls came");
        assert_eq!(end, "Some(Eof(Eof))");
        let text: String = data.iter().filter_map(|call| call.strip_prefix("data run_1 ")).collect();
        assert_eq!(text, "one two");
    }
}
