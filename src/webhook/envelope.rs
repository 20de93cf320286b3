//! What is sent: the body, and its signature (Standard Webhooks).

use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use serde_json::{Value, json};

use crate::session::{Event, Session};

/// What secrets of Standard Webhooks begin with.
const PREFIX: &str = "whsec_";

/// An event as every wire has it.
#[must_use]
pub fn event(event: &Event) -> Value {
    let mut value = json!({
        "id": event.id.to_string(),
        "seq": event.seq,
        "ts": time(event.at),
        "session": event.session.as_str(),
        "actor": event.actor,
        "type": event.kind,
        "level": event.level.name(),
        "body": event.body,
        "refs": if event.refs.is_null() { json!({}) } else { event.refs.clone() },
    });
    if let Some(turn) = &event.turn {
        value["turn_id"] = json!(turn.as_str());
    }
    if let Some(bytes) = event.content_bytes {
        value["content_ref"] = json!(format!("/v3/sessions/{}/events/{}/content", event.session, event.id));
        value["body_truncated"] = json!(true);
        value["body_bytes"] = json!(bytes);
    }
    value
}

/// A time as RFC 3339 writes it, in UTC.
#[must_use]
pub fn time(at: SystemTime) -> String {
    humantime::format_rfc3339_millis(at).to_string()
}

/// The body of a delivery. `include_raw`: with what a message came from.
#[must_use]
pub fn body(session: &Session, event: &Event, include_raw: bool) -> String {
    let mut told = self::event(event);
    if let (false, Some(body)) = (include_raw, told["body"].as_object_mut()) {
        body.remove("raw");
    }
    json!({
        "type": event.kind,
        "sessionId": session.id.as_str(),
        "eventId": event.id.to_string(),
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
