//! Answers as the Messages API gives them. Each uses 100 tokens in and 20 out.

use axum::body::Bytes;
use serde_json::{Value, json};

use super::event;

/// In front of the names of our tools, as the program tells them to its model.
pub const PREFIX: &str = "mcp__hands__";

/// A text in pieces. The first three events come before the second piece.
pub fn text(number: usize, pieces: &[&str]) -> Vec<Bytes> {
    let delta = |text: &&str| {
        let delta = json!({ "type": "text_delta", "text": text });
        json!({ "type": "content_block_delta", "index": 0, "delta": delta })
    };
    let block = json!({ "type": "text", "text": "" });
    let mut events = vec![start(number), json!({ "type": "content_block_start", "index": 0, "content_block": block })];
    events.extend(pieces.iter().map(delta));
    events.extend([json!({ "type": "content_block_stop", "index": 0 })]);
    events.extend(end("end_turn"));
    events.iter().map(event).collect()
}

/// A tool is used.
pub fn call(number: usize, tool: &str, input: &Value) -> Vec<Bytes> {
    let block = json!({ "type": "tool_use", "id": format!("toolu_{number}"), "name": tool, "input": {} });
    let delta = json!({ "type": "input_json_delta", "partial_json": input.to_string() });
    let mut events = vec![
        start(number),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        json!({ "type": "content_block_delta", "index": 0, "delta": delta }),
        json!({ "type": "content_block_stop", "index": 0 }),
    ];
    events.extend(end("tool_use"));
    events.iter().map(event).collect()
}

/// A text as a document.
pub fn document(number: usize, text: &str) -> Value {
    let content = json!([{ "type": "text", "text": text }]);
    json!({
        "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": "scripted", "content": content,
        "stop_reason": "end_turn", "stop_sequence": null, "usage": { "input_tokens": 100, "output_tokens": 20 },
    })
}

fn start(number: usize) -> Value {
    let message = json!({
        "id": format!("msg_{number}"), "type": "message", "role": "assistant", "model": "scripted", "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": { "input_tokens": 100, "output_tokens": 1 },
    });
    json!({ "type": "message_start", "message": message })
}

fn end(reason: &str) -> [Value; 2] {
    let delta = json!({ "stop_reason": reason, "stop_sequence": null });
    [
        json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": 20 } }),
        json!({ "type": "message_stop" }),
    ]
}
