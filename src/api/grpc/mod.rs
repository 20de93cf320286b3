//! The gRPC services.
//!
//! A call comes in on a [`connection`], past the [`guard`], which makes a [`call`] of it, and reaches a service, which
//! reaches sandboxes through its [`doors`], and sessions through its [`session_doors`].

use std::pin::Pin;

use futures_util::Stream;
use tonic::Status;

mod authority;
pub mod call;
pub mod connection;
pub mod doors;
mod forward;
pub mod guard;
pub mod hands;
pub mod node;
pub mod sandboxes;
pub mod session_doors;
pub mod sessions;

/// A server stream.
type ReplyStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
