//! Our tools as the MCP server that the program asks for them, in requests of its own protocol.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::super::{Answer, Call, Said, Tool};
use super::bytes;

/// A call that waits for its answer.
#[derive(Debug)]
pub struct Waiting {
    /// The request that it came in.
    request: String,
    /// The message in that.
    id: Value,
}

impl Waiting {
    /// The line that answers it.
    pub fn result(&self, answer: &Answer) -> Value {
        let content = json!([{ "type": "text", "text": answer.text }]);
        reply(&self.request, &self.id, "result", json!({ "content": content, "isError": !answer.is_ok }))
    }
}

/// What a request means.
pub fn request(line: &Value, tools: &[Tool], calls: &mut BTreeMap<String, Waiting>) -> Vec<Said> {
    let request = line["request_id"].as_str().unwrap_or_default();
    let subtype = line["request"]["subtype"].as_str().unwrap_or_default();
    if subtype != "mcp_message" {
        let error = format!("there is no {subtype:.64} here");
        let response = json!({ "subtype": "error", "request_id": request, "error": error });
        return vec![Said::Reply(bytes(&json!({ "type": "control_response", "response": response })))];
    }
    let message = &line["request"]["message"];
    let (id, parameters) = (&message["id"], &message["params"]);
    let result = match message["method"].as_str() {
        Some("initialize") => json!({
            "protocolVersion": parameters["protocolVersion"],
            "capabilities": { "tools": {} },
            "serverInfo": { "name": super::SERVER, "version": env!("CARGO_PKG_VERSION") },
        }),
        Some("tools/list") => {
            let tool =
                |tool: &Tool| json!({ "name": tool.name, "description": tool.description, "inputSchema": tool.input });
            json!({ "tools": tools.iter().map(tool).collect::<Vec<_>>() })
        }
        Some("tools/call") => {
            // The model's name for it, by which it is known after a crash too.
            let call = parameters["_meta"]["claudecode/toolUseId"].as_str().unwrap_or(request).to_owned();
            let tool = parameters["name"].as_str().unwrap_or_default().to_owned();
            let input = parameters["arguments"].clone();
            calls.insert(call.clone(), Waiting { request: request.to_owned(), id: id.clone() });
            return vec![Said::Called(Call { id: call, tool, input })];
        }
        // Notifications and pings. What it does not want any more ends with its turn.
        Some("ping") => json!({}),
        _ if id.is_null() => json!({}),
        other => {
            let error = json!({ "code": -32601, "message": format!("no method {:.64}", other.unwrap_or_default()) });
            return vec![Said::Reply(bytes(&reply(request, id, "error", error)))];
        }
    };
    vec![Said::Reply(bytes(&reply(request, id, "result", result)))]
}

/// A line that answers the message in a request.
fn reply(request: &str, id: &Value, kind: &str, content: Value) -> Value {
    let id = if id.is_null() { &json!(0) } else { id };
    let message = json!({ "jsonrpc": "2.0", "id": id, kind: content });
    let response = json!({ "subtype": "success", "request_id": request, "response": { "mcp_response": message } });
    json!({ "type": "control_response", "response": response })
}
