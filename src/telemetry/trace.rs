//! What a caller says of its request: which trace it belongs to (W3C Trace Context), and how it is called in the caller's logs.
//!
//! Both come from a stranger and go into our logs, so that they are held to their form.

/// The header of the trace.
pub const TRACEPARENT: &str = "traceparent";
/// The header of the request's name, in both directions.
pub const REQUEST_ID: &str = "x-request-id";

/// The flag of a trace that its caller keeps a record of.
const SAMPLED: u8 = 1;

/// Longest name of a request; a UUID has 36 letters.
const MAX_REQUEST_ID: usize = 64;

/// The trace that a request is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace; not 0.
    pub trace_id: u128,
    /// The span of the caller; not 0.
    pub parent_id: u64,
    /// The caller keeps a record of the trace.
    pub is_sampled: bool,
}

impl TraceContext {
    /// Reads `version-trace-parent-flags`. Versions after the first may have more fields, and the first ones mean the same.
    /// What is malformed is as good as absent, as the specification wants it.
    #[must_use]
    pub fn parse(header: &str) -> Option<Self> {
        let mut fields = header.split('-');
        let (version, trace, parent, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        let is_hex = |text: &str, length: usize| {
            text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        };
        let has_form = is_hex(version, 2) && is_hex(trace, 32) && is_hex(parent, 16) && is_hex(flags, 2);
        let has_no_more = version != "00" || fields.next().is_none();
        if !has_form || !has_no_more || version == "ff" {
            return None;
        }
        let (trace_id, parent_id) = (u128::from_str_radix(trace, 16).ok()?, u64::from_str_radix(parent, 16).ok()?);
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
        (trace_id != 0 && parent_id != 0).then_some(Self { trace_id, parent_id, is_sampled })
    }
}

/// The caller's name for its request, if it can stand in a log.
#[must_use]
pub fn request_id(header: &str) -> Option<&str> {
    let is_plain = header.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(&byte));
    (is_plain && (1..=MAX_REQUEST_ID).contains(&header.len())).then_some(header)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_is_read_from_any_version_that_has_its_fields() {
        let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let (trace_id, parent_id) = (0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736, 0x00f0_67aa_0ba9_02b7);
        let expected = |is_sampled| Some(TraceContext { trace_id, parent_id, is_sampled });
        assert_eq!(TraceContext::parse(&format!("00-{trace}-{parent}-01")), expected(true));
        assert_eq!(TraceContext::parse(&format!("00-{trace}-{parent}-02")), expected(false));
        assert_eq!(TraceContext::parse(&format!("cc-{trace}-{parent}-01-what-comes")), expected(true));
        for header in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("00-{trace}-{parent}-01-more"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-{parent}-é"),
        ] {
            assert_eq!(TraceContext::parse(&header), None, "{header}");
        }
    }

    #[test]
    fn a_name_that_could_forge_a_log_line_is_not_taken() {
        assert_eq!(request_id("req-1"), Some("req-1"));
        for header in ["", "a b", "a\nb", "\"", "\u{1b}[31m", &"x".repeat(65)] {
            assert_eq!(request_id(header), None, "{header}");
        }
    }
}
