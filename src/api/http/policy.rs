//! Who may ask for what. Pure.
//!
//! A key in a header is nothing that a browser sends by itself, so no other site can make it act on this node. What is
//! checked of `Host` and `Origin` keeps a page that has learned a key, or whose name was made to point here, from using it.

use std::net::{Ipv4Addr, Ipv6Addr};

use axum::http::Method;

use super::token::Scope;

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need<'a> {
    /// Nothing: it is a probe, and tells no more than that.
    Probe,
    /// Nothing: it is the page, which is the same on every node and holds nothing of this one.
    Page,
    /// The key, or a token of this session with this scope.
    Session(&'a str, Scope),
    /// The key.
    Key,
}

/// What a request for this path needs; the key, if nobody has said otherwise.
#[must_use]
pub fn need<'a>(method: &Method, path: &'a str) -> Need<'a> {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match path {
        "/livez" | "/readyz" if reads => Need::Probe,
        "/" if reads => Need::Page,
        _ => session_need(method, path),
    }
}

/// The log of a session can be read with its token, messages sent, and its hands used; nothing else.
fn session_need<'a>(method: &Method, path: &'a str) -> Need<'a> {
    if let Some(id) = path.strip_prefix("/mcp/sessions/").filter(|id| !id.is_empty() && !id.contains('/')) {
        return Need::Session(id, Scope::Tools);
    }
    let mut parts = path.strip_prefix("/v3/sessions/").unwrap_or_default().split('/');
    match (method.as_str(), parts.next(), parts.next()) {
        ("GET" | "HEAD", Some(id), Some("events" | "messages")) if !id.is_empty() => Need::Session(id, Scope::Read),
        ("POST", Some(id), Some("messages")) if !id.is_empty() && parts.next().is_none() => {
            Need::Session(id, Scope::Steer)
        }
        _ => Need::Key,
    }
}

/// Whether the key may stand in the query: a browser cannot set headers where it opens a WebSocket or an event stream,
/// which it does with GET.
#[must_use]
pub fn takes_key_in_query(method: &Method) -> bool {
    *method == Method::GET
}

/// Whether a request was meant for this node: its `Host` is an address, which no name server can have pointed here, or
/// "localhost", or one of the configured names.
#[must_use]
pub fn is_own_host(host: &str, names: &[String]) -> bool {
    let name = without_port(host).to_ascii_lowercase();
    let bracketed = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    bracketed.is_some_and(|address| address.parse::<Ipv6Addr>().is_ok())
        || name.parse::<Ipv4Addr>().is_ok()
        || name == "localhost"
        || name.ends_with(".localhost")
        || names.contains(&name)
}

/// Whether a page of this origin may ask: it is the node's own page, or of a site that was configured.
#[must_use]
pub fn is_allowed_origin(origin: &str, host: Option<&str>, origins: &[String]) -> bool {
    let origin = origin.to_ascii_lowercase();
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let is_own = authority.zip(host).is_some_and(|(authority, host)| authority == host.to_ascii_lowercase());
    is_own || origins.iter().any(|allowed| allowed == "*" || *allowed == origin)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if !port.contains(']') => name,
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_a_probe_or_the_page_needs_the_key() {
        assert_eq!(need(&Method::GET, "/livez"), Need::Probe);
        assert_eq!(need(&Method::GET, "/"), Need::Page);
        for (method, path) in [
            (Method::POST, "/livez"),
            (Method::GET, "/metrics"),
            (Method::POST, "/"),
            (Method::GET, "/livez/"),
            (Method::GET, "//"),
            (Method::GET, "/api/sandboxes"),
            (Method::GET, "/api/../livez"),
            (Method::GET, "/nowhere"),
        ] {
            assert_eq!(need(&method, path), Need::Key, "{method} {path}");
        }
    }

    #[test]
    fn a_token_reads_steers_and_serves_its_session_and_no_more() {
        let read = Need::Session("ses_1", Scope::Read);
        for (method, path, expected) in [
            (Method::GET, "/v3/sessions/ses_1/events", read),
            (Method::GET, "/v3/sessions/ses_1/events/evt_1/content", read),
            (Method::GET, "/v3/sessions/ses_1/messages", read),
            (Method::POST, "/v3/sessions/ses_1/messages", Need::Session("ses_1", Scope::Steer)),
            (Method::POST, "/mcp/sessions/ses_1", Need::Session("ses_1", Scope::Tools)),
            (Method::DELETE, "/mcp/sessions/ses_1", Need::Session("ses_1", Scope::Tools)),
            (Method::POST, "/mcp/sessions/ses_1/x", Need::Key),
            (Method::POST, "/mcp/sessions/", Need::Key),
            (Method::POST, "/mcp/sandboxes/ses_1", Need::Key),
            (Method::GET, "/v3/sessions/ses_1", Need::Key),
            (Method::POST, "/v3/sessions/ses_1/events", Need::Key),
            (Method::POST, "/v3/sessions/ses_1/cancel", Need::Key),
            (Method::POST, "/v3/sessions/ses_1/messages/x", Need::Key),
            (Method::POST, "/v3/sessions/ses_1/client-tokens", Need::Key),
            (Method::GET, "/v3/sessions//events", Need::Key),
            (Method::GET, "/v3/sessions", Need::Key),
            (Method::GET, "/api/sandboxes/ses_1/events", Need::Key),
        ] {
            assert_eq!(need(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn a_name_that_was_made_to_point_here_is_not_ours() {
        let names = ["node1.example".to_owned()];
        for host in
            ["127.0.0.1", "127.0.0.1:7421", "[::1]:7421", "[::1]", "localhost:1", "a.localhost", "Node1.Example:80"]
        {
            assert!(is_own_host(host, &names), "{host}");
        }
        for host in
            ["", "evil.example", "evil.example:7421", "127.0.0.1.evil.example", "localhost.evil", "[evil]:1", "::1"]
        {
            assert!(!is_own_host(host, &names), "{host}");
        }
    }

    #[test]
    fn only_the_own_page_and_configured_sites_may_ask() {
        let origins = ["https://app.example".to_owned()];
        let is_allowed = |origin| is_allowed_origin(origin, Some("127.0.0.1:7421"), &origins);
        assert!(is_allowed("http://127.0.0.1:7421"));
        assert!(is_allowed("https://APP.example"));
        for origin in
            ["null", "", "http://127.0.0.1", "http://127.0.0.1:80", "http://app.example", "https://app.example.evil"]
        {
            assert!(!is_allowed(origin), "{origin}");
        }
        assert!(!is_allowed_origin("null", None, &[]));
        assert!(is_allowed_origin("null", None, &["*".to_owned()]));
    }
}
