//! The bytes of one file, to a sandbox and from it.

use std::io::Write;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::read_response::Part;
use handsd::api::proto::write_request::Part as WritePart;
use handsd::api::proto::{FileInfo, ReadEnd, ReadRequest, WriteHeader, WriteRequest, WriteResponse};
use handsd::client::Channel;
use indicatif::ProgressBar;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Sent at a time. The node takes up to 1 MiB a message.
const CHUNK: usize = 256 << 10;
/// Chunks on their way to the transport: enough to read on while the node writes.
const QUEUED_CHUNKS: usize = 4;

type Sender = mpsc::Sender<WriteRequest>;

/// Writes `source` to the file that `header` names, and checks that the node got what was read.
pub async fn upload(
    hands: &mut HandsClient<Channel>,
    header: WriteHeader,
    source: impl AsyncRead + Unpin,
    progress: &ProgressBar,
) -> anyhow::Result<WriteResponse> {
    let (sender, receiver) = mpsc::channel(QUEUED_CHUNKS);
    let call = hands.write(ReceiverStream::new(receiver));
    let feed = feed(sender, header, source, progress);
    // The end of the messages means "this is the whole file", so a source that fails must not let go of the sender
    // before the call is gone: the error carries it out of here, and `try_join!` has dropped the call by then.
    let call = async { call.await.map_err(|status| (anyhow::Error::from(status), None)) };
    let feed = async { feed.await.map_err(|(error, sender)| (error, Some(sender))) };
    let (response, sum) = tokio::try_join!(call, feed).map_err(|(error, _sender)| error)?;
    let response = response.into_inner();
    if !response.sha256.is_empty() && !response.sha256.eq_ignore_ascii_case(&sum) {
        bail!("the node got other bytes than were sent: SHA-256 {} instead of {sum}", response.sha256);
    }
    Ok(response)
}

/// Sends all messages; the sum of the bytes. If nobody takes them any more, the call has the reason.
async fn feed(
    sender: Sender,
    header: WriteHeader,
    mut source: impl AsyncRead + Unpin,
    progress: &ProgressBar,
) -> Result<String, (anyhow::Error, Sender)> {
    let mut sum = Sha256::new();
    let mut part = WritePart::Header(header);
    while sender.send(WriteRequest { part: Some(part) }).await.is_ok() {
        match chunk(&mut source).await {
            Ok(bytes) if bytes.is_empty() => break,
            Ok(bytes) => {
                sum.update(&bytes);
                progress.inc(bytes.len() as u64);
                part = WritePart::Data(bytes);
            }
            Err(error) => return Err((anyhow::Error::from(error).context("cannot read the source"), sender)),
        }
    }
    Ok(hexadecimal(&sum.finalize()))
}

/// Fills a chunk, so that a pipe's small writes do not become small messages; empty at the end.
async fn chunk(source: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Bytes> {
    let mut chunk = BytesMut::with_capacity(CHUNK);
    while chunk.len() < chunk.capacity() {
        if source.read_buf(&mut chunk).await? == 0 {
            break;
        }
    }
    Ok(chunk.freeze())
}

/// A file being read: `stat` has come.
pub struct Download {
    /// The file as it was when it was opened.
    pub stat: FileInfo,
    stream: Streaming<handsd::api::proto::ReadResponse>,
}

/// A piece of a file that is read.
#[derive(Debug)]
pub enum Piece {
    /// The next bytes.
    Data(Bytes),
    /// There are no more.
    End(ReadEnd),
}

impl Download {
    /// Begins to read.
    pub async fn open(hands: &mut HandsClient<Channel>, request: ReadRequest) -> anyhow::Result<Self> {
        let mut stream = hands.read(request).await?.into_inner();
        match stream.message().await?.and_then(|response| response.part) {
            Some(Part::Stat(stat)) => Ok(Self { stat, stream }),
            _ => bail!("the node did not begin with the file's attributes"),
        }
    }

    /// The next piece. A stream that breaks off before its end is an error, so that half a file is never taken for all.
    pub async fn next(&mut self) -> anyhow::Result<Piece> {
        match self.stream.message().await?.and_then(|response| response.part) {
            Some(Part::Data(bytes)) => Ok(Piece::Data(bytes)),
            Some(Part::End(end)) => Ok(Piece::End(end)),
            Some(Part::Stat(_)) => bail!("the node sent the file's attributes twice"),
            None => bail!("the file broke off"),
        }
    }

    /// All that is left, into `target`.
    pub async fn copy(&mut self, target: &mut impl Write, progress: &ProgressBar) -> anyhow::Result<u64> {
        let mut copied = 0;
        while let Piece::Data(bytes) = self.next().await? {
            target.write_all(&bytes).context("cannot write the copy")?;
            progress.inc(bytes.len() as u64);
            copied += bytes.len() as u64;
        }
        Ok(copied)
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The SHA-256 of the bytes, in hexadecimal.
#[cfg(test)]
pub fn sha256(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::ReadBuf;

    use super::*;
    use crate::fake;

    fn header(path: &str) -> WriteHeader {
        WriteHeader { path: path.to_owned(), ..Default::default() }
    }

    /// Fails after what comes before it.
    struct Failing;

    impl AsyncRead for Failing {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
            Poll::Ready(Err(std::io::Error::other("the disk is broken")))
        }
    }

    #[tokio::test]
    async fn what_is_written_reads_back() {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let content: Vec<u8> = (0..=250).cycle().take(CHUNK + 5).collect();
        let written = upload(&mut hands, header("a"), content.as_slice(), &ProgressBar::hidden()).await.expect("taken");
        assert_eq!(written.size, content.len() as u64);
        assert_eq!(node.file("a"), Some(content.clone()));
        let request = ReadRequest { path: "a".to_owned(), ..Default::default() };
        let mut download = Download::open(&mut hands, request).await.expect("it is there");
        let mut copy = Vec::new();
        download.copy(&mut copy, &ProgressBar::hidden()).await.expect("it is whole");
        assert!(copy == content);
    }

    #[tokio::test]
    async fn a_source_that_fails_does_not_become_a_short_file() {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let source = b"half".as_slice().chain(Failing);
        let error = upload(&mut hands, header("a"), source, &ProgressBar::hidden()).await.expect_err("it fails");
        assert_eq!(error.to_string(), "cannot read the source");
        assert_eq!(node.file("a"), None);
        // The node is still there, and a later call orders this after the broken one.
        upload(&mut hands, header("b"), b"x".as_slice(), &ProgressBar::hidden()).await.expect("taken");
        assert_eq!(node.file("a"), None);
    }

    #[tokio::test]
    async fn a_read_that_breaks_off_is_an_error() {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        upload(&mut hands, header("cut"), b"content".as_slice(), &ProgressBar::hidden()).await.expect("taken");
        let request = ReadRequest { path: "cut".to_owned(), ..Default::default() };
        let mut download = Download::open(&mut hands, request).await.expect("it is there");
        assert!(download.copy(&mut Vec::new(), &ProgressBar::hidden()).await.is_err());
    }

    #[test]
    fn a_sum_is_written_as_sha256sum_does() {
        assert_eq!(sha256(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    }
}
