//! JSON-RPC, as far as it is spoken here. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use super::super::LineError;

/// Longest id of a request, in bytes.
const MAX_ID: usize = 256;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    code: i32,
    message: String,
}

impl Fault {
    /// There is no such method.
    pub fn method(method: &str) -> Self {
        Self { code: -32601, message: format!("there is no method {method:.64}") }
    }

    /// A parameter is wrong; the message names it.
    pub fn parameters(message: impl Into<String>) -> Self {
        Self { code: -32602, message: message.into() }
    }

    /// It was tried, and failed.
    pub fn failed(message: impl Into<String>) -> Self {
        Self { code: -32603, message: message.into() }
    }
}

/// The parameters of a request.
///
/// # Errors
/// They are none of this kind.
pub fn parameters<'a, T: Deserialize<'a>>(parameters: &'a Value) -> Result<T, Fault> {
    T::deserialize(parameters).map_err(|error| Fault::parameters(error.to_string()))
}

/// The id of a request, which is kept until the request is answered.
///
/// # Errors
/// It is neither a number nor a short text.
pub fn checked(id: &Value) -> Result<Value, LineError> {
    let is_good = id.is_number() || id.as_str().is_some_and(|id| id.len() <= MAX_ID);
    let wrong = || LineError { message: "the id of a request is a number or a short text".to_owned() };
    if is_good { Ok(id.clone()) } else { Err(wrong()) }
}

/// A request of ours.
pub fn request(id: &str, method: &str, parameters: &Value) -> Vec<u8> {
    line(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }))
}

/// A notification.
pub fn notification(method: &str, parameters: &Value) -> Vec<u8> {
    line(&json!({ "jsonrpc": "2.0", "method": method, "params": parameters }))
}

/// The response to a request.
pub fn response(id: &Value, outcome: Result<Value, Fault>) -> Vec<u8> {
    line(&match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(Fault { code, message }) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
    })
}

fn line(message: &Value) -> Vec<u8> {
    format!("{message}\n").into_bytes()
}
