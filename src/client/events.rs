//! Events of sessions, for people.

use prost_types::value::Kind;

use crate::api::proto::SessionEvent;

/// What an event tells; empty if its type says it all. It comes from an agent and its commands: whoever shows it on a
/// terminal takes out what a terminal obeys.
#[must_use]
pub fn told(event: &SessionEvent) -> String {
    match event.r#type.as_str() {
        "tool.call" => format!("{} {}", text(event, "tool"), text(event, "args_summary")),
        "exec.completed" => text(event, "summary"),
        "turn.completed" => text(event, "yield_reason"),
        "error.runtime" | "error.model" | "error.task" => text(event, "message"),
        _ => text(event, "text"),
    }
}

/// A text in the body of an event; empty if there is none.
#[must_use]
pub fn text(event: &SessionEvent, field: &str) -> String {
    match event.body.as_ref().and_then(|body| body.fields.get(field)).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}
