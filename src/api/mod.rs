//! The gRPC and HTTP surface: decode, call a handle, encode; no decisions.

/// The generated protobufs of package `hands.v1`.
#[expect(missing_docs, reason = "generated; the .proto files are the reference")]
#[expect(clippy::doc_markdown, clippy::pedantic, reason = "generated")]
pub mod proto {
    tonic::include_proto!("hands.v1");
    /// The compiled descriptors, for reflection.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hands.v1.bin"));
}
