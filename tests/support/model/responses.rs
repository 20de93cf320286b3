//! Answers as the Responses API gives them. Each uses 100 tokens in and 20 out.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::event;

/// A text in pieces. The first three events come before the second piece.
pub fn text(number: usize, pieces: &[&str]) -> Vec<Bytes> {
    let id = format!("msg_{number}");
    let item = |content: Value| json!({ "type": "message", "role": "assistant", "id": id, "content": content });
    let delta = |text: &&str| {
        let (kind, place) = ("response.output_text.delta", 0);
        json!({ "type": kind, "item_id": id, "output_index": place, "content_index": place, "delta": text })
    };
    let mut events = vec![
        start(number),
        json!({ "type": "response.output_item.added", "output_index": 0, "item": item(json!([])) }),
    ];
    events.extend(pieces.iter().map(delta));
    let content = json!([{ "type": "output_text", "text": pieces.concat() }]);
    events.push(json!({ "type": "response.output_item.done", "output_index": 0, "item": item(content) }));
    events.push(end(number));
    events.iter().map(event).collect()
}

/// A tool is used.
pub fn call(number: usize, tool: &str, input: &Value) -> Vec<Bytes> {
    let (id, call) = (format!("fc_{number}"), format!("call_{number}"));
    let item =
        json!({ "type": "function_call", "id": id, "call_id": call, "name": tool, "arguments": input.to_string() });
    let done = json!({ "type": "response.output_item.done", "output_index": 0, "item": item });
    [start(number), done, end(number)].iter().map(event).collect()
}

fn start(number: usize) -> Value {
    json!({ "type": "response.created", "response": { "id": format!("resp_{number}") } })
}

fn end(number: usize) -> Value {
    let usage = json!({
        "input_tokens": 100, "input_tokens_details": { "cached_tokens": 0 },
        "output_tokens": 20, "output_tokens_details": { "reasoning_tokens": 0 }, "total_tokens": 120,
    });
    json!({ "type": "response.completed", "response": { "id": format!("resp_{number}"), "usage": usage } })
}
