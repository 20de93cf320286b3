//! Spans as collectors take them: OTLP over HTTP, in protobuf (<https://opentelemetry.io/docs/specs/otlp>).
//!
//! Of the protocol, a sender of spans needs these nine messages and a few fields of each, so they are written down here; its
//! SDK would bring seven crates, a thread, and settings from the environment.

use std::time::{SystemTime, UNIX_EPOCH};

use super::spans;

/// What a collector is sent (`ExportTraceServiceRequest`).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Batch {
    /// Spans by where they come from.
    #[prost(message, repeated, tag = "1")]
    pub resource_spans: Vec<ResourceSpans>,
}

/// Spans of one daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ResourceSpans {
    /// Which.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// Spans by what in it made them.
    #[prost(message, repeated, tag = "2")]
    pub scope_spans: Vec<ScopeSpans>,
}

/// A daemon.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Resource {
    /// What it is.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// Spans of one library; there is only one.
#[derive(Clone, PartialEq, prost::Message)]
pub struct ScopeSpans {
    /// The spans.
    #[prost(message, repeated, tag = "2")]
    pub spans: Vec<Span>,
}

/// A span.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Span {
    /// Of its trace: 16 bytes.
    #[prost(bytes = "vec", tag = "1")]
    pub trace_id: Vec<u8>,
    /// Its own: 8 bytes.
    #[prost(bytes = "vec", tag = "2")]
    pub span_id: Vec<u8>,
    /// Its parent's: 8 bytes, or none.
    #[prost(bytes = "vec", tag = "4")]
    pub parent_span_id: Vec<u8>,
    /// What was done.
    #[prost(string, tag = "5")]
    pub name: String,
    /// [`SERVER`].
    #[prost(int32, tag = "6")]
    pub kind: i32,
    /// When it began, in nanoseconds since 1970.
    #[prost(fixed64, tag = "7")]
    pub start_time_unix_nano: u64,
    /// When it ended.
    #[prost(fixed64, tag = "8")]
    pub end_time_unix_nano: u64,
    /// What it was about.
    #[prost(message, repeated, tag = "9")]
    pub attributes: Vec<KeyValue>,
    /// How it ended, if not well.
    #[prost(message, optional, tag = "15")]
    pub status: Option<Status>,
}

/// How a span ended.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Status {
    /// [`FAULT`].
    #[prost(int32, tag = "3")]
    pub code: i32,
}

/// An attribute.
#[derive(Clone, PartialEq, prost::Message)]
pub struct KeyValue {
    /// Its name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// Its value.
    #[prost(message, optional, tag = "2")]
    pub value: Option<AnyValue>,
}

/// A value of one of some kinds.
#[derive(Clone, PartialEq, prost::Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Value", tags = "1, 3")]
    pub value: Option<Value>,
}

/// A value.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// A number.
    #[prost(int64, tag = "3")]
    Number(i64),
}

/// The kind of a span that answers a request (`SPAN_KIND_SERVER`).
pub const SERVER: i32 = 2;
/// The code of a span that failed (`STATUS_CODE_ERROR`).
pub const FAULT: i32 = 2;

/// Ids for a span: of a trace of its own, and its own.
pub fn random_ids() -> (u128, u64) {
    let mut bytes = [0; 24];
    getrandom::fill(&mut bytes).expect("the kernel has random bytes");
    let (trace, span) = bytes.split_at(16);
    let (trace, span) = (trace.try_into().expect("16 bytes"), span.try_into().expect("8 bytes"));
    // Zero means none.
    (u128::from_be_bytes(trace).max(1), u64::from_be_bytes(span).max(1))
}

impl Batch {
    /// These spans, with ids that `ids` makes.
    #[must_use]
    pub fn of(spans: Vec<spans::Span>, mut ids: impl FnMut() -> (u128, u64)) -> Self {
        let mut attributes =
            vec![("service.name", "handsd".into()), ("service.version", env!("CARGO_PKG_VERSION").into())];
        let host = nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
        attributes.extend(host.map(|host| ("host.name", host.into())));
        let resource = Resource { attributes: attributes.into_iter().map(KeyValue::from).collect() };
        let spans = spans.into_iter().map(|span| Span::new(span, ids())).collect();
        let scope_spans = vec![ScopeSpans { spans }];
        Self { resource_spans: vec![ResourceSpans { resource: Some(resource), scope_spans }] }
    }
}

impl Span {
    fn new(span: spans::Span, (trace_id, span_id): (u128, u64)) -> Self {
        let spans::Span { name, parent, began, taken, attributes, is_fault } = span;
        Self {
            trace_id: parent.as_ref().map_or(trace_id, |parent| parent.trace_id).to_be_bytes().to_vec(),
            span_id: span_id.to_be_bytes().to_vec(),
            parent_span_id: parent.map(|parent| parent.parent_id.to_be_bytes().to_vec()).unwrap_or_default(),
            name,
            kind: SERVER,
            start_time_unix_nano: nanoseconds(began),
            end_time_unix_nano: nanoseconds(began + taken),
            attributes: attributes.into_iter().map(KeyValue::from).collect(),
            status: is_fault.then_some(Status { code: FAULT }),
        }
    }
}

impl From<(&str, spans::Value)> for KeyValue {
    fn from((key, value): (&str, spans::Value)) -> Self {
        let value = match value {
            spans::Value::Text(text) => Value::Text(text),
            spans::Value::Number(number) => Value::Number(number),
        };
        Self { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }) }
    }
}

/// Since 1970; until the year 2554.
fn nanoseconds(time: SystemTime) -> u64 {
    u64::try_from(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prost::Message as _;

    use super::*;
    use crate::telemetry::trace::TraceContext;

    /// The bytes are those of the crate `opentelemetry-proto` for the same span.
    #[test]
    fn a_span_is_written_as_the_protocol_has_it() {
        let parent = TraceContext {
            trace_id: 0x1111_1111_1111_1111_1111_1111_1111_1111,
            parent_id: 0x3333_3333_3333_3333,
            is_sampled: true,
        };
        let span = spans::Span {
            name: "hands.v1.Node/Info".to_owned(),
            parent: Some(parent),
            began: UNIX_EPOCH + Duration::from_secs(1),
            taken: Duration::from_millis(500),
            attributes: vec![("request.id", "r".into()), ("rpc.grpc.status_code", 13.into())],
            is_fault: true,
        };
        let written = Span::new(span, (1, 0x2222_2222_2222_2222)).encode_to_vec();
        let written: String = written.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            written,
            "0a10111111111111111111111111111111111208222222222222222222083333333333333333\
             2a1268616e64732e76312e4e6f64652f496e666f30023900ca9a3b0000000041002f685900000000\
             4a110a0a726571756573742e696412030a01724a1a0a147270632e677270632e7374617475735f636f64651202180d7a021802"
        );
    }
}
