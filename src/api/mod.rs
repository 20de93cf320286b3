//! The surface: decode, call a handle, encode; no decisions.
//!
//! [`convert`] and [`status`] are pure and the only maps between the protobufs and the domain; [`grpc`] and [`http`] carry.

pub mod convert;
pub mod grpc;
pub mod http;
pub mod status;

/// The generated protobufs of package `hands.v1`.
#[expect(missing_docs, clippy::pedantic, reason = "generated; the .proto files are the reference")]
pub mod proto {
    tonic::include_proto!("hands.v1");
    /// The compiled descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hands.v1.bin"));
}
