//! What was asked of the daemon, for a collector of traces: each call is a span once it has ended.
//!
//! Who ends one hands it over by [`Spans::ended`], which never waits: what the queue does not hold is lost, and counted.

use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;

use super::trace::TraceContext;
use crate::metrics::metrics;

/// Spans that wait: some seconds of a busy node, in a few megabytes.
const QUEUE: usize = 4096;

/// Something that was done for a caller.
#[derive(Debug, Clone, PartialEq)]
pub struct Span {
    /// What: one of few names.
    pub name: String,
    /// The caller's span, if it keeps a trace.
    pub parent: Option<TraceContext>,
    /// When it began.
    pub began: SystemTime,
    /// How long it took.
    pub taken: Duration,
    /// What it was about. Never what it carried.
    pub attributes: Vec<(&'static str, Value)>,
    /// It failed by a fault that was not the caller's.
    pub is_fault: bool,
}

/// A value of an attribute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A text.
    Text(String),
    /// A number.
    Number(i64),
}

/// Where spans are handed over. Clones share the queue; the default has none, and forgets them.
#[derive(Debug, Clone, Default)]
pub struct Spans {
    queue: Option<mpsc::Sender<Span>>,
}

impl Spans {
    /// A queue for spans, and its other end.
    pub(super) fn queue() -> (Self, mpsc::Receiver<Span>) {
        let (sender, spans) = mpsc::channel(QUEUE);
        (Self { queue: Some(sender) }, spans)
    }

    /// Somebody collects them.
    #[must_use]
    pub fn are_wanted(&self) -> bool {
        self.queue.is_some()
    }

    /// Hands over a span, unless its caller keeps no record of the trace. Does not wait.
    pub fn ended(&self, span: Span) {
        let Some(queue) = &self.queue else { return };
        let is_recorded = span.parent.as_ref().is_none_or(|parent| parent.is_sampled);
        if is_recorded && queue.try_send(span).is_err() {
            metrics().spans_lost(1);
        }
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<i64> for Value {
    fn from(number: i64) -> Self {
        Self::Number(number)
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::Number(number.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Census;

    fn lost() -> u64 {
        let text = metrics().render(&Census::default()).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("handsd_spans_total{outcome=\"lost\"} ")).unwrap();
        line.parse().unwrap()
    }

    #[tokio::test]
    async fn a_full_queue_holds_nobody_up_and_what_it_does_not_hold_is_counted() {
        let (spans, _waiting) = Spans::queue();
        let span = Span {
            name: "a".to_owned(),
            parent: None,
            began: SystemTime::now(),
            taken: Duration::ZERO,
            attributes: Vec::new(),
            is_fault: false,
        };
        let before = lost();
        for _ in 0..QUEUE + 3 {
            spans.ended(span.clone());
        }
        assert_eq!(lost(), before + 3);
        Spans::default().ended(span);
        assert_eq!(lost(), before + 3, "nobody collects, so none is lost");
    }
}
