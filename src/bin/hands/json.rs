//! The messages of the API as JSON, for `--json`.
//!
//! Fields have the names of the protobufs and are always there; what is unset is `null`. Times are RFC 3339 in UTC,
//! spans of time are seconds. Bytes are a string `data`; if they are no UTF-8, `data` holds U+FFFD where they are not,
//! and `data_base64` has them exactly.

use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use handsd::api::proto;
use handsd::api::proto::run_event::Event;
use serde_json::{Value, json};

/// Where a secret goes.
fn secret(secret: &proto::BoundSecret) -> Value {
    json!({ "name": secret.name, "header": secret.header, "plain": secret.plain })
}

/// A sandbox.
pub fn sandbox(sandbox: &proto::Sandbox) -> Value {
    json!({
        "id": sandbox.id,
        "phase": sandbox.phase().as_str_name(),
        "generation": sandbox.generation,
        "image": sandbox.image,
        "secret_env": sandbox.secret_env,
        "env": sandbox.env,
        "labels": sandbox.labels,
        "limits": sandbox.limits.as_ref().map(limits),
        "user": sandbox.user,
        "workspace": sandbox.workspace,
        "network": sandbox.network.as_ref().map(|network| network.mode().as_str_name()),
        "network_allow": sandbox.network.as_ref().map(|network| &network.allow),
        "secrets": sandbox.secrets.iter().map(secret).collect::<Vec<_>>(),
        "network_usage": sandbox.network_usage.as_ref().map(|usage| json!({
            "connected": usage.connected,
            "refused": usage.refused,
            "sent_bytes": usage.sent_bytes,
            "received_bytes": usage.received_bytes,
        })),
        "created_at": time(sandbox.created_at),
        "engine": sandbox.engine,
        "failure": sandbox.failure.as_ref().map(|failure| json!({ "reason": failure.reason, "message": failure.message })),
        "running": sandbox.running,
        "tier": (sandbox.tier() != proto::Tier::Unspecified).then(|| sandbox.tier().as_str_name()),
        "idle_timeout_seconds": seconds(sandbox.idle_timeout),
        "runtime": sandbox.runtime_status.as_ref().map(runtime),
    })
}

fn limits(limits: &proto::Limits) -> Value {
    json!({
        "memory_bytes": limits.memory_bytes,
        "cpus": limits.cpus,
        "pids": limits.pids,
        "disk_bytes": limits.disk_bytes,
        "bandwidth": limits.bandwidth,
    })
}

/// A node.
pub fn node(node: &proto::NodeInfo) -> Value {
    json!({
        "version": node.version,
        "engine": node.engine,
        "kernel": node.kernel,
        "cgroup": node.cgroup,
        "rootless": node.rootless,
        "lacks": node.lacks,
        "cpus": node.cpus,
        "memory_bytes": node.memory_bytes,
        "boot_id": node.boot_id,
        "started_at": time(node.started_at),
        "sandboxes": node.sandboxes,
        "running": node.running,
        "http_address": node.http_address,
        "http_key_file": node.http_key_file,
        "defaults": node.defaults.as_ref().map(|defaults| json!({
            "image": defaults.image,
            "timeout_seconds": seconds(defaults.timeout),
            "kill_grace_seconds": seconds(defaults.kill_grace),
            "retention_seconds": seconds(defaults.retention),
            "output_cap_bytes": defaults.output_cap_bytes,
        })),
    })
}

/// A run.
pub fn run(run: &proto::Run) -> Value {
    json!({
        "run_id": run.run_id,
        "sandbox_id": run.sandbox_id,
        "command": run.command,
        "argv": run.argv,
        "pid": run.pid,
        "started_at": time(run.started_at),
        "deadline": time(run.deadline),
        "output_bytes": run.output_bytes,
        "exited": run.exited.as_ref().map(exited),
        "pty": run.pty,
        "runtime": run.runtime,
    })
}

/// How the runtime of a sandbox stands.
pub fn runtime(status: &proto::RuntimeStatus) -> Value {
    json!({
        "state": status.state().as_str_name(),
        "run_id": status.run_id,
        "starts": status.starts,
        "next_start": time(status.next_start),
        "last_exit": status.last_exit.as_ref().map(runtime_exit),
        "failure": status.failure.as_ref().map(|it| json!({ "reason": it.reason, "message": it.message })),
    })
}

fn runtime_exit(exit: &proto::RuntimeExit) -> Value {
    use proto::runtime_exit::Status;
    json!({
        "reason": exit.reason().as_str_name(),
        "code": match exit.status { Some(Status::Code(code)) => Some(code), _ => None },
        "signal": match exit.status { Some(Status::Signal(signal)) => Some(signal), _ => None },
        "message": exit.message,
        "at": time(exit.at),
    })
}

/// How a run ended.
pub fn exited(exited: &proto::Exited) -> Value {
    let (code, signal) = match exited.status {
        Some(proto::exited::Status::Code(code)) => (Some(code), None),
        Some(proto::exited::Status::Signal(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    json!({
        "code": code,
        "signal": signal,
        "reason": exited.reason().as_str_name(),
        "output_bytes": exited.output_bytes,
        "killed": exited.killed.iter().map(|it| json!({ "pid": it.pid, "name": it.name })).collect::<Vec<_>>(),
        "degraded": exited.degraded,
        "elapsed_seconds": seconds(exited.elapsed),
    })
}

/// An event of a run: what it is under "event", and its fields beside that.
pub fn event(event: &Event) -> Value {
    match event {
        Event::Started(started) => tagged(
            "started",
            json!({ "run_id": started.run_id, "pid": started.pid, "deadline": time(started.deadline) }),
        ),
        Event::Output(output) => {
            let stream = output.stream().as_str_name().to_ascii_lowercase();
            let value = data(json!({ "stream": stream, "cursor": output.cursor }), &output.data);
            tagged("output", value)
        }
        Event::Gap(gap) => tagged("gap", json!({ "from": gap.from, "to": gap.to })),
        Event::Exited(how) => tagged("exited", exited(how)),
    }
}

/// A file's name and attributes.
pub fn file(file: &proto::FileInfo) -> Value {
    json!({
        "name": file.name,
        "path": file.path,
        "type": file.r#type().as_str_name(),
        "size": file.size,
        "mode": file.mode,
        "mtime": time(file.mtime),
        "target": file.target,
        "uid": file.uid,
        "gid": file.gid,
    })
}

/// An agent.
pub fn agent(agent: &proto::Agent) -> Value {
    json!({
        "id": agent.id,
        "name": agent.name,
        "runtime": agent.runtime,
        "model": agent.model,
        "prompt": agent.prompt,
        "limits": agent.limits.as_ref().map(session_limits),
        "image": agent.image,
        "credential_id": agent.credential_id,
        "revision": agent.revision,
        "created_at": time(agent.created_at),
    })
}

/// A credential.
pub fn credential(credential: &proto::Credential) -> Value {
    json!({
        "id": credential.id,
        "name": credential.name,
        "provider": credential.provider,
        "is_default": credential.is_default,
        "last4": credential.last4,
        "created_at": time(credential.created_at),
        "updated_at": time(credential.updated_at),
    })
}

fn session_limits(limits: &proto::SessionLimits) -> Value {
    json!({ "turns": limits.turns, "turn_seconds": limits.turn_seconds, "tokens": limits.tokens })
}

/// A session.
pub fn session(session: &proto::Session) -> Value {
    json!({
        "id": session.id,
        "status": session.status().as_str_name(),
        "head": session.head,
        "agent": session.agent.as_ref().map(agent),
        "limits": session.limits.as_ref().map(session_limits),
        "metadata": structure(session.metadata.as_ref()),
        "key": session.key,
        "labels": session.labels,
        "created_at": time(session.created_at),
        "active_turn": session.active_turn.as_ref().map(turn),
        "last_turn": session.last_turn.as_ref().map(turn),
        "usage": session.usage.as_ref().map(usage),
        "active_ms": session.active_ms,
        "turns": session.turns,
        "brain_sandbox_id": session.brain_sandbox_id,
        "hands_sandbox_id": session.hands_sandbox_id,
        "failure": session.failure.as_ref().map(failure),
    })
}

/// A turn of a session.
pub fn turn(turn: &proto::Turn) -> Value {
    json!({
        "id": turn.id,
        "number": turn.number,
        "input_from_seq": turn.input_from_seq,
        "input_to_seq": turn.input_to_seq,
        "started_at": time(turn.started_at),
        "completed_at": time(turn.completed_at),
        "yield_reason": turn.yield_reason,
        "attempts": turn.attempts,
        "usage": turn.usage.as_ref().map(usage),
        "failure": turn.failure.as_ref().map(failure),
        "result_event_id": turn.result_event_id,
    })
}

fn usage(usage: &proto::SessionUsage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "tokens": usage.tokens,
    })
}

fn failure(failure: &proto::SessionFailure) -> Value {
    json!({ "code": failure.code, "message": failure.message })
}

/// An event of a session.
pub fn session_event(event: &proto::SessionEvent) -> Value {
    json!({
        "id": event.id,
        "seq": event.seq,
        "at": time(event.at),
        "session_id": event.session_id,
        "level": event.level().as_str_name(),
        "type": event.r#type,
        "actor": { "type": event.actor_type, "id": event.actor_id },
        "turn_id": event.turn_id,
        "body": structure(event.body.as_ref()),
        "refs": structure(event.refs.as_ref()),
        "content_bytes": event.content_bytes,
    })
}

/// A structure as the object that it is; null if there is none.
pub fn structure(value: Option<&prost_types::Struct>) -> Value {
    let Some(value) = value else { return Value::Null };
    value.fields.iter().map(|(key, value)| (key.clone(), plain(value))).collect()
}

fn plain(value: &prost_types::Value) -> Value {
    use prost_types::value::Kind;
    match &value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(is)) => (*is).into(),
        // All numbers of the wire are floats; one that is whole is shown so.
        #[expect(clippy::cast_possible_truncation, reason = "whole, and within what a float has exactly")]
        Some(Kind::NumberValue(number)) if number.fract() == 0.0 && number.abs() < 9e15 => (*number as i64).into(),
        Some(Kind::NumberValue(number)) => (*number).into(),
        Some(Kind::StringValue(text)) => text.as_str().into(),
        Some(Kind::StructValue(value)) => structure(Some(value)),
        Some(Kind::ListValue(list)) => list.values.iter().map(plain).collect(),
    }
}

/// The object with "event" before its other fields.
pub fn tagged(event: &str, mut fields: Value) -> Value {
    fields["event"] = event.into();
    fields
}

/// The object with `data`, and `data_base64` if that is needed.
pub fn data(mut fields: Value, bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    if matches!(text, std::borrow::Cow::Owned(_)) {
        fields["data_base64"] = BASE64_STANDARD.encode(bytes).into();
    }
    fields["data"] = text.into();
    fields
}

pub fn time(time: Option<prost_types::Timestamp>) -> Option<String> {
    let time = SystemTime::try_from(time?).ok()?;
    // humantime writes no years before 1970 or after 9999: a hostile mtime must not be our panic.
    let since = time.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    (since < Duration::from_secs(253_402_300_800)).then(|| humantime::format_rfc3339_millis(time).to_string())
}

fn seconds(span: Option<prost_types::Duration>) -> Option<f64> {
    Duration::try_from(span?).ok().map(|span| span.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(bytes: &'static [u8]) -> Value {
        let stream = proto::OutputStream::Stderr.into();
        event(&Event::Output(proto::Output { stream, cursor: 7, data: bytes.into() }))
    }

    #[test]
    fn output_that_is_text_is_a_string_only() {
        let text = "{\"cursor\":7,\"data\":\"grün\\n\",\"event\":\"output\",\"stream\":\"stderr\"}";
        assert_eq!(output("grün\n".as_bytes()).to_string(), text);
    }

    #[test]
    fn output_that_is_no_text_comes_exactly_as_base64_too() {
        let value = output(b"a\xffb");
        assert_eq!(value["data"], "a\u{fffd}b");
        assert_eq!(value["data_base64"], "Yf9i");
    }

    #[test]
    fn how_a_run_ended_has_a_code_or_a_signal_and_null_for_the_other() {
        let exited = proto::Exited {
            status: Some(proto::exited::Status::Signal(9)),
            reason: proto::exited::Reason::TimedOut.into(),
            elapsed: Some(prost_types::Duration { seconds: 1, nanos: 500_000_000 }),
            ..Default::default()
        };
        let value = event(&Event::Exited(exited));
        assert_eq!(value["event"], "exited");
        assert_eq!(value["code"], Value::Null);
        assert_eq!(value["signal"], 9);
        assert_eq!(value["reason"], "TIMED_OUT");
        assert_eq!(value["elapsed_seconds"], 1.5);
    }

    #[test]
    fn times_are_rfc_3339_and_one_nobody_can_write_is_null() {
        let at = |seconds| time(Some(prost_types::Timestamp { seconds, nanos: 0 }));
        assert_eq!(at(0).as_deref(), Some("1970-01-01T00:00:00.000Z"));
        assert_eq!(at(i64::MAX), None);
        assert_eq!(at(-1), None);
    }
}
