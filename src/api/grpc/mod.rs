//! The gRPC services.

use std::pin::Pin;

use futures_util::Stream;
use tonic::Status;

pub mod hands;
pub mod node;
pub mod sandboxes;

/// A server stream.
type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
