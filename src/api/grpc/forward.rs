//! `Sandboxes.Forward`: a connection to a port of a sandbox as a stream of messages.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, future, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tonic::{Status, Streaming};

use crate::api::convert;
use crate::api::proto::{ForwardEnd, ForwardOpen, ForwardOpened, ForwardRequest, ForwardResponse};
use crate::api::proto::{forward_request, forward_response};
use crate::api::status::Fault;
use crate::sandbox::Connection;

/// Bytes of one message: few enough to follow a slow reader, enough for the cost of a message not to matter.
const CHUNK: usize = 64 << 10;

/// What the first message opens.
pub async fn open(messages: &mut Streaming<ForwardRequest>) -> Result<ForwardOpen, Status> {
    match messages.message().await?.and_then(|message| message.part) {
        Some(forward_request::Part::Open(open)) => Ok(open),
        Some(forward_request::Part::Data(_)) | None => Err(Fault::argument("open", "must come first").into()),
    }
}

/// Both directions of a connection: the caller's messages go in, what comes out is answered. The caller's messages are
/// taken while its answers are asked for, so that nothing goes on when it has hung up.
pub fn relay(
    messages: Streaming<ForwardRequest>,
    connection: Connection,
) -> impl Stream<Item = Result<ForwardResponse, Status>> + Send {
    let (reader, writer) = tokio::io::split(connection);
    let opened = stream::iter([Ok(forward_response::Part::Opened(ForwardOpened {}))]);
    let taking = stream::once(take(messages, writer)).filter_map(|taken| future::ready(taken.err().map(Err)));
    let parts = opened.chain(stream::select(answers(reader), taking));
    parts.map(|part| part.map(|part| ForwardResponse { part: Some(part) }))
}

/// Writes what the caller sends, up to its end. A sandbox that does not read any more is no fault of the call: it may have
/// more to say.
async fn take(mut messages: Streaming<ForwardRequest>, mut writer: WriteHalf<Connection>) -> Result<(), Status> {
    while let Some(message) = messages.message().await? {
        match message.part {
            Some(forward_request::Part::Data(data)) => {
                convert::check_chunk(data.len())?;
                if writer.write_all(&data).await.is_err() {
                    return Ok(());
                }
            }
            Some(forward_request::Part::Open(_)) => return Err(Fault::argument("open", "came twice").into()),
            None => {}
        }
    }
    // Of a connection that is gone, the reader hears.
    let _ = writer.shutdown().await;
    Ok(())
}

/// What the sandbox sends, and the end of it.
fn answers(reader: ReadHalf<Connection>) -> impl Stream<Item = Result<forward_response::Part, Status>> + Send {
    stream::unfold(Some(reader), |reader| async move {
        let mut reader = reader?;
        let mut chunk = BytesMut::with_capacity(CHUNK);
        match reader.read_buf(&mut chunk).await {
            Ok(0) => Some((Ok(forward_response::Part::End(ForwardEnd {})), None)),
            Ok(_) => Some((Ok(forward_response::Part::Data(Bytes::from(chunk))), Some(reader))),
            Err(error) => {
                let message = format!("the connection into the sandbox broke: {error}");
                let fault =
                    Fault::new(tonic::Code::Unavailable, crate::api::proto::ErrorReason::ConnectionLost, message);
                Some((Err(fault.into()), None))
            }
        }
    })
}
