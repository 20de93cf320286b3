//! What is sent: the body, and its signature (Standard Webhooks).

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::session::{Actor, Event, Level, Session};

/// What secrets of Standard Webhooks begin with.
const PREFIX: &str = "whsec_";

/// An event as HTTP has it, in answers and in deliveries.
#[derive(Debug, Serialize, Deserialize)]
pub struct EventView {
    id: String,
    seq: u64,
    ts: String,
    session: String,
    actor: Actor,
    r#type: String,
    level: Level,
    #[serde(skip_serializing_if = "Option::is_none")]
    turn_id: Option<String>,
    body: Map<String, Value>,
    /// Where all of the body is, if this is not.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_ref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_truncated: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    body_bytes: Option<u64>,
    refs: Map<String, Value>,
}

/// An event.
#[must_use]
pub fn event(event: Event) -> EventView {
    let Event { id, seq, at, session, actor, level, kind, turn, body, refs, content_bytes } = event;
    EventView {
        content_ref: content_bytes.map(|_| format!("/v3/sessions/{session}/events/{id}/content")),
        body_truncated: content_bytes.map(|_| true),
        body_bytes: content_bytes,
        id: id.to_string(),
        seq,
        ts: time(at),
        session: session.to_string(),
        actor,
        r#type: kind,
        level,
        turn_id: turn.map(|turn| turn.to_string()),
        body: object(body),
        refs: object(refs),
    }
}

impl EventView {
    /// Somebody said something.
    #[must_use]
    pub fn is_message(&self) -> bool {
        self.r#type.ends_with(".message")
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// A time as RFC 3339 writes it, in UTC.
#[must_use]
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The body of a delivery. `include_raw`: with what a message came from.
#[must_use]
pub fn body(session: &Session, event: &Event, include_raw: bool) -> String {
    let mut told = self::event(event.clone());
    if !include_raw {
        told.body.remove("raw");
    }
    json!({
        "type": told.r#type,
        "sessionId": told.session,
        "eventId": told.id,
        "metadata": session.profile.metadata,
        "event": told,
    })
    .to_string()
}

/// The signature of a body that is sent at `seconds` since 1970.
#[must_use]
pub fn signature(secret: &[u8], id: &str, seconds: u64, body: &str) -> String {
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key(secret)), format!("{id}.{seconds}.{body}").as_bytes());
    format!("v1,{}", STANDARD.encode(tag))
}

/// The bytes behind a secret: those that its base64 stands for, or if it is none, its own.
fn key(secret: &[u8]) -> Vec<u8> {
    let encoded = secret.strip_prefix(PREFIX.as_bytes()).unwrap_or(secret);
    match STANDARD.decode(encoded) {
        Ok(bytes) if !bytes.is_empty() => bytes,
        Ok(_) | Err(_) => secret.to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_is_that_of_the_standard() {
        // From the specification's own test.
        let secret = b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
        let body = r#"{"test": 2432232314}"#;
        let signed = signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn a_secret_that_is_no_base64_is_itself() {
        assert_eq!(key(b"whsec_!"), b"whsec_!");
        assert_eq!(key(b"whsec_AAEC"), [0, 1, 2]);
    }
}
