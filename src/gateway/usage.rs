//! Tokens, and how many of them an answer used, read off its bytes as they pass. Pure.
//!
//! A stream tells it in its events, several times and each time all of it so far; a document tells it once. What cannot be
//! read counts nothing: the answer is the brain's, and this only looks on.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Provider;

/// Longest line of a stream that is read, in bytes. The events that tell of tokens are short; the last one of the Responses
/// API holds the whole answer.
const MAX_LINE: usize = 8 << 20;

/// Longest document that is read, in bytes.
const MAX_DOCUMENT: usize = 8 << 20;

/// Tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Read by the model.
    pub input_tokens: u64,
    /// Written by the model.
    pub output_tokens: u64,
    /// Put into the model's cache.
    #[serde(default)]
    pub cache_creation_input_tokens: u64,
    /// Read from the model's cache.
    #[serde(default)]
    pub cache_read_input_tokens: u64,
}

impl Usage {
    /// All of them.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        let read = self.cache_creation_input_tokens.saturating_add(self.cache_read_input_tokens);
        self.input_tokens.saturating_add(self.output_tokens).saturating_add(read)
    }

    /// These without others.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        self.with(other, u64::saturating_sub)
    }

    /// Of each kind, the greater number.
    #[must_use]
    pub fn most(self, other: Self) -> Self {
        self.with(other, u64::max)
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.with(other, u64::saturating_add)
    }

    fn with(self, other: Self, join: impl Fn(u64, u64) -> u64) -> Self {
        Self {
            input_tokens: join(self.input_tokens, other.input_tokens),
            output_tokens: join(self.output_tokens, other.output_tokens),
            cache_creation_input_tokens: join(self.cache_creation_input_tokens, other.cache_creation_input_tokens),
            cache_read_input_tokens: join(self.cache_read_input_tokens, other.cache_read_input_tokens),
        }
    }
}

/// Looks on while an answer passes.
#[derive(Debug)]
pub struct Reading {
    provider: Provider,
    is_stream: bool,
    /// The line that is not complete, or the document.
    bytes: Vec<u8>,
    /// It is too long to be read.
    is_skipped: bool,
    /// All that was told so far.
    total: Usage,
}

impl Reading {
    /// Of an answer with this content type.
    #[must_use]
    pub fn new(provider: Provider, content_type: &str) -> Self {
        let is_stream = content_type.starts_with("text/event-stream");
        Self { provider, is_stream, bytes: Vec::new(), is_skipped: false, total: Usage::default() }
    }

    /// Takes the next bytes; answers what they tell was used beyond what was known.
    pub fn take(&mut self, mut bytes: &[u8]) -> Usage {
        if !self.is_stream {
            self.keep(bytes, MAX_DOCUMENT);
            return Usage::default();
        }
        let before = self.total;
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end], MAX_LINE);
            self.line();
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes, MAX_LINE);
        self.total.minus(before)
    }

    /// The answer is complete.
    pub fn end(&mut self) -> Usage {
        let before = self.total;
        if self.is_stream {
            self.line();
        } else if !self.is_skipped {
            let document: Value = serde_json::from_slice(&self.bytes).unwrap_or_default();
            self.learn(&document["usage"]);
        }
        self.total.minus(before)
    }

    fn keep(&mut self, bytes: &[u8], most: usize) {
        self.is_skipped |= self.bytes.len() + bytes.len() > most;
        if self.is_skipped {
            self.bytes = Vec::new();
        } else {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn line(&mut self) {
        let line = std::mem::take(&mut self.bytes);
        let is_skipped = std::mem::replace(&mut self.is_skipped, false);
        let Some(data) = line.strip_prefix(b"data:").filter(|_| !is_skipped) else { return };
        let event: Value = serde_json::from_slice(data).unwrap_or_default();
        match (self.provider, event["type"].as_str()) {
            (Provider::Anthropic, Some("message_start")) => self.learn(&event["message"]["usage"]),
            (Provider::Anthropic, Some("message_delta")) => self.learn(&event["usage"]),
            (Provider::OpenAi, Some("response.completed" | "response.incomplete" | "response.failed")) => {
                self.learn(&event["response"]["usage"]);
            }
            _ => {}
        }
    }

    /// What is told is all so far, and a field that is left out has not changed.
    fn learn(&mut self, usage: &Value) {
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        let told = match self.provider {
            Provider::Anthropic => Usage {
                input_tokens: count(&usage["input_tokens"]),
                output_tokens: count(&usage["output_tokens"]),
                cache_creation_input_tokens: count(&usage["cache_creation_input_tokens"]),
                cache_read_input_tokens: count(&usage["cache_read_input_tokens"]),
            },
            Provider::OpenAi => {
                let cached = count(&usage["input_tokens_details"]["cached_tokens"]);
                Usage {
                    input_tokens: count(&usage["input_tokens"]).saturating_sub(cached),
                    output_tokens: count(&usage["output_tokens"]),
                    cache_creation_input_tokens: 0,
                    cache_read_input_tokens: cached,
                }
            }
        };
        self.total = self.total.most(told);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MESSAGES: &str = concat!(
        "event: message_start\n",
        r#"data: {"type":"message_start","message":{"usage":{"input_tokens":10,"cache_read_input_tokens":5,"output_tokens":1}}}"#,
        "\n\nevent: ping\ndata: {\"type\":\"ping\"}\n\n",
        r#"data: {"type":"message_delta","usage":{"output_tokens":7}}"#,
        "\r\n\n",
    );
    const RESPONSES: &str = concat!(
        "data: {\"type\":\"response.output_text.delta\",\"delta\":\"x\"}\n\n",
        r#"data: {"type":"response.completed","response":{"usage":{"input_tokens":15,"input_tokens_details":{"cached_tokens":5},"output_tokens":7}}}"#,
    );

    fn used(input: u64, cached: u64, output: u64) -> Usage {
        Usage { input_tokens: input, output_tokens: output, cache_read_input_tokens: cached, ..Usage::default() }
    }

    fn read_in_pieces(provider: Provider, kind: &str, text: &str, size: usize) -> Usage {
        let mut reading = Reading::new(provider, kind);
        let pieces = text.as_bytes().chunks(size.max(1));
        let told = pieces.map(|piece| reading.take(piece)).fold(Usage::default(), Usage::plus);
        told.plus(reading.end())
    }

    proptest! {
        #[test]
        fn a_stream_is_counted_once_however_it_is_cut(size in 1..400_usize) {
            for (provider, text) in [(Provider::Anthropic, MESSAGES), (Provider::OpenAi, RESPONSES)] {
                prop_assert_eq!(read_in_pieces(provider, "text/event-stream; charset=utf-8", text, size), used(10, 5, 7));
            }
        }

        #[test]
        fn any_bytes_are_survived(bytes: Vec<u8>, is_stream: bool) {
            let mut reading = Reading::new(Provider::Anthropic, if is_stream { "text/event-stream" } else { "" });
            prop_assert_eq!(reading.take(&bytes).plus(reading.end()), Usage::default());
        }
    }

    #[test]
    fn a_document_tells_at_its_end() {
        let text = r#"{"content":[],"usage":{"input_tokens":3,"output_tokens":4}}"#;
        assert_eq!(read_in_pieces(Provider::Anthropic, "application/json", text, 9), used(3, 0, 4));
    }

    #[test]
    fn what_began_and_was_cut_off_is_counted_as_far_as_it_was_told() {
        let mut reading = Reading::new(Provider::Anthropic, "text/event-stream");
        let begun = MESSAGES.find("event: ping").unwrap();
        assert_eq!(reading.take(&MESSAGES.as_bytes()[..begun]), used(10, 5, 1));
    }

    #[test]
    fn a_line_without_end_is_passed_over_and_the_next_is_read() {
        let mut reading = Reading::new(Provider::Anthropic, "text/event-stream");
        for _ in 0..=(MAX_LINE >> 20) {
            reading.take(&vec![b'x'; 1 << 20]);
        }
        assert!(reading.bytes.is_empty());
        assert_eq!(reading.take(format!("\n{MESSAGES}").as_bytes()), used(10, 5, 7));
    }
}
