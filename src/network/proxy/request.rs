//! The head of an HTTP request to the proxy. Pure.

use crate::network::target::{Target, TargetError};

/// Most bytes of a head.
pub const MAX_HEAD: usize = 64 << 10;

/// Most headers.
const MAX_HEADERS: usize = 128;

/// The port of a URI that names none.
const HTTP_PORT: u16 = 80;

/// Headers that are between a client and its proxy and go no further (RFC 9110, section 7.6.1). What `Connection` names
/// besides goes no further either.
const HOP_BY_HOP: [&str; 7] =
    ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "upgrade"];

/// Headers that say where a request ends, and so go where it goes.
const FRAMING: [&str; 2] = ["content-length", "transfer-encoding"];

/// A header that a request gets, whatever the client says in it.
pub type Extra = (String, Vec<u8>);

/// What a client wants.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where to.
    pub target: Target,
    /// What the host is sent before anything else: the rewritten head, and what came after it.
    pub first: Vec<u8>,
    /// It asks for a connection, over which it says what it likes.
    pub is_tunnel: bool,
}

/// Why a request cannot be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadRequest {
    /// The client left in the middle of it.
    #[error("its head is not whole")]
    Incomplete,
    /// It is longer than [`MAX_HEAD`], or has more than [`MAX_HEADERS`].
    #[error("its head is too long")]
    TooLong,
    /// It is no request.
    #[error("its head is malformed")]
    Malformed,
    /// It is one to a server, not to a proxy; or it is to be carried by TLS, which is what CONNECT is for.
    #[error("it names no http:// URI, and is no CONNECT")]
    NoProxyRequest,
    /// Where it ends is said twice, or in a way that another may read otherwise: what follows could be taken for another request.
    #[error("its length is ambiguous")]
    Ambiguous,
    /// It names no host and port.
    #[error("its host")]
    Target(#[source] TargetError),
    /// It asks for something else than a connection, or for its own secrets.
    #[error("only connections are made")]
    Unsupported,
}

impl Asked {
    /// A tunnel, to nothing but what the client sends.
    pub fn tunnel(target: Target, first: Vec<u8>) -> Self {
        Self { target, first, is_tunnel: true }
    }

    /// What the client hears once the host is connected.
    pub fn answer(&self) -> &'static [u8] {
        if self.is_tunnel { b"HTTP/1.1 200 Connection established\r\n\r\n" } else { b"" }
    }
}

/// The request that `bytes` begin with; `None` until all of its head has come. `extras` says what headers the requests to a
/// target get.
///
/// # Errors
/// It is none for a proxy.
pub fn parse(bytes: &[u8], extras: impl FnOnce(&Target) -> Vec<Extra>) -> Result<Option<Asked>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Some(head) = parse_head(&mut request, bytes)? else { return Ok(None) };
    let (Some(method), Some(uri)) = (request.method, request.path) else { return Err(BadRequest::Malformed) };
    let rest = &bytes[head..];
    if method == "CONNECT" {
        let target = uri.parse().map_err(BadRequest::Target)?;
        return Ok(Some(Asked::tunnel(target, rest.to_vec())));
    }
    let (authority, path) = split_uri(uri)?;
    let target = Target::parse(authority, HTTP_PORT).map_err(BadRequest::Target)?;
    let extras = extras(&target);
    check_method(method, &extras)?;
    let first = rewritten(method, &path, &host(&target, HTTP_PORT), request.headers, &extras, rest);
    Ok(Some(Asked { target, first, is_tunnel: false }))
}

/// The request in a tunnel to `target` that `bytes` begin with, as it is sent on: for this host, whichever it names, and with
/// these headers. `None` until all of its head has come.
///
/// # Errors
/// It is none for a server.
pub fn parse_in_tunnel(
    bytes: &[u8],
    target: &Target,
    default_port: u16,
    extras: &[Extra],
) -> Result<Option<Vec<u8>>, BadRequest> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    let Some(head) = parse_head(&mut request, bytes)? else { return Ok(None) };
    match (request.method, request.path) {
        (Some(method), Some(path)) if path.starts_with('/') || path == "*" => {
            check_method(method, extras)?;
            let host = host(target, default_port);
            Ok(Some(rewritten(method, path, &host, request.headers, extras, &bytes[head..])))
        }
        _ => Err(BadRequest::Malformed),
    }
}

/// What is put into a header is not for the client, and TRACE would have the host send it back.
fn check_method(method: &str, extras: &[Extra]) -> Result<(), BadRequest> {
    if method == "TRACE" && !extras.is_empty() { Err(BadRequest::Unsupported) } else { Ok(()) }
}

/// The length of the head; `None` until all of it has come.
fn parse_head<'b>(request: &mut httparse::Request<'_, 'b>, bytes: &'b [u8]) -> Result<Option<usize>, BadRequest> {
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => check_framing(request.headers).map(|()| Some(head)),
        Ok(httparse::Status::Partial) => Ok(None),
        Err(httparse::Error::TooManyHeaders) => Err(BadRequest::TooLong),
        Err(_) => Err(BadRequest::Malformed),
    }
}

/// At most one length, in digits, or chunks and nothing else (RFC 9112, section 6).
fn check_framing(headers: &[httparse::Header<'_>]) -> Result<(), BadRequest> {
    let values =
        |name: &'static str| headers.iter().filter(move |it| it.name.eq_ignore_ascii_case(name)).map(|it| it.value);
    let [mut lengths, mut encodings] = FRAMING.map(values);
    let is_one = match (lengths.next(), encodings.next()) {
        (None, None) => true,
        (Some(length), None) => !length.is_empty() && length.iter().all(u8::is_ascii_digit),
        (None, Some(encoding)) => encoding.eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    let is_clear = is_one && lengths.next().is_none() && encodings.next().is_none();
    if is_clear { Ok(()) } else { Err(BadRequest::Ambiguous) }
}

/// A request as it is sent on: one only, to this host.
fn rewritten(
    method: &str,
    path: &str,
    host: &str,
    headers: &[httparse::Header<'_>],
    extras: &[Extra],
    rest: &[u8],
) -> Vec<u8> {
    let mut first = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\n").into_bytes();
    append_headers(&mut first, headers, extras);
    first.extend_from_slice(rest);
    first
}

/// Authority and path of an absolute URI.
fn split_uri(uri: &str) -> Result<(&str, String), BadRequest> {
    let scheme = uri.get(..7).filter(|scheme| scheme.eq_ignore_ascii_case("http://"));
    let rest = scheme.map(|_| &uri[7..]).ok_or(BadRequest::NoProxyRequest)?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    // A fragment is for the client itself.
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((authority, format!("{slash}{path}")))
}

fn host(target: &Target, default_port: u16) -> String {
    let whole = target.to_string();
    let default = format!(":{default_port}");
    whole.strip_suffix(&default).map_or_else(|| whole.clone(), str::to_owned)
}

fn append_headers(head: &mut Vec<u8>, headers: &[httparse::Header<'_>], extras: &[Extra]) {
    let connection: Vec<String> = headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("connection"))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .map(|option| String::from_utf8_lossy(option).trim().to_ascii_lowercase())
        .collect();
    let is_named = |name: &str| connection.iter().any(|option| option == name);
    let upgrade = headers.iter().find(|header| header.name.eq_ignore_ascii_case("upgrade"));
    let upgrade = upgrade.filter(|_| is_named("upgrade"));
    for header in headers {
        let name = header.name.to_ascii_lowercase();
        let is_replaced = name == "host" || extras.iter().any(|(extra, _)| *extra == name);
        let is_for_us = is_named(&name) && !FRAMING.contains(&name.as_str());
        if !is_replaced && !HOP_BY_HOP.contains(&name.as_str()) && !is_for_us {
            append(head, header.name, header.value);
        }
    }
    for (name, value) in extras {
        append(head, name, value);
    }
    match upgrade {
        Some(upgrade) => {
            append(head, "Connection", b"Upgrade");
            append(head, upgrade.name, upgrade.value);
        }
        None => append(head, "Connection", b"close"),
    }
    head.extend_from_slice(b"\r\n");
}

fn append(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        head.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn asked(text: &str) -> Result<Option<Asked>, BadRequest> {
        parse(text.as_bytes(), |_| Vec::new())
    }

    #[test]
    fn a_header_of_ours_replaces_all_of_the_clients() {
        let extras = [("authorization".to_owned(), b"real".to_vec())];
        let text = "GET http://a.com/ HTTP/1.1\r\nAUTHORIZATION: mine\r\nauthorization: too\r\nX: 1\r\n\r\n";
        let asked = parse(text.as_bytes(), |_| extras.to_vec()).unwrap().unwrap();
        let expected = "GET / HTTP/1.1\r\nHost: a.com\r\nX: 1\r\nauthorization: real\r\nConnection: close\r\n\r\n";
        assert_eq!(String::from_utf8(asked.first).unwrap(), expected);
        let target = "a.com:443".parse().unwrap();
        let text = "POST /p HTTP/1.1\r\nHost: b.com\r\nAuthorization: mine\r\n\r\nbody";
        let first = parse_in_tunnel(text.as_bytes(), &target, 443, &extras).unwrap().unwrap();
        let expected = "POST /p HTTP/1.1\r\nHost: a.com\r\nauthorization: real\r\nConnection: close\r\n\r\nbody";
        assert_eq!(String::from_utf8(first).unwrap(), expected);
        let foreign = parse_in_tunnel(b"GET http://b.com/ HTTP/1.1\r\n\r\n", &target, 443, &extras);
        assert_eq!(foreign, Err(BadRequest::Malformed));
    }

    fn first(text: &str) -> String {
        String::from_utf8(asked(text).unwrap().unwrap().first).unwrap()
    }

    #[test]
    fn a_request_is_sent_on_with_its_body_and_without_what_is_for_the_proxy() {
        let text = "POST http://Example.com/a?b=c#d HTTP/1.1\r\nHost: other\r\nProxy-Connection: keep-alive\r\n\
                    Connection: keep-alive, X-Own\r\nX-Own: 1\r\nContent-Length: 4\r\n\r\nbody";
        let expected =
            "POST /a?b=c HTTP/1.1\r\nHost: example.com\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody";
        assert_eq!(first(text), expected);
        assert_eq!(asked(text).unwrap().unwrap().target.to_string(), "example.com:80");
    }

    #[test]
    fn an_upgrade_is_asked_for_and_nothing_is_upgraded_that_was_not() {
        let head = "GET http://a.com:8080?x HTTP/1.1\r\nUpgrade: websocket\r\n";
        let upgraded = "GET /?x HTTP/1.1\r\nHost: a.com:8080\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(first(&format!("{head}Connection: Upgrade\r\n\r\n")), upgraded);
        assert!(first(&format!("{head}\r\n")).ends_with("a.com:8080\r\nConnection: close\r\n\r\n"));
    }

    #[test]
    fn a_tunnel_has_what_follows_its_head_and_nothing_else() {
        let tunnel = asked("CONNECT a.com:443 HTTP/1.1\r\nHost: b.com\r\n\r\nhello").unwrap().unwrap();
        assert_eq!(tunnel, Asked::tunnel("a.com:443".parse().unwrap(), b"hello".to_vec()));
    }

    #[test]
    fn what_another_could_read_as_two_requests_is_refused() {
        for headers in [
            "Content-Length: 4\r\nTransfer-Encoding: chunked",
            "Content-Length: 4\r\ncontent-length: 4",
            "Content-Length: 4, 4",
            "Content-Length: +4",
            "Content-Length: ",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
            "Transfer-Encoding: chunked, identity",
            "Transfer-Encoding: xchunked",
        ] {
            let text = format!("POST http://a.com/ HTTP/1.1\r\n{headers}\r\n\r\nbody");
            assert_eq!(asked(&text), Err(BadRequest::Ambiguous), "{headers}");
        }
        // Nor is the length taken off as if it were for the proxy.
        let text = "POST http://a.com/ HTTP/1.1\r\nConnection: Content-Length\r\nContent-Length: 4\r\n\r\nbody";
        assert!(first(text).contains("Content-Length: 4\r\n"));
    }

    #[test]
    fn what_is_for_no_proxy_is_refused() {
        for (text, bad) in [
            ("GET / HTTP/1.1\r\n\r\n", BadRequest::NoProxyRequest),
            ("GET https://a.com/ HTTP/1.1\r\n\r\n", BadRequest::NoProxyRequest),
            ("GET http:///x HTTP/1.1\r\n\r\n", BadRequest::Target(TargetError::Name)),
            ("GET http://user@a.com/ HTTP/1.1\r\n\r\n", BadRequest::Target(TargetError::Name)),
            ("GET http://127.1/ HTTP/1.1\r\n\r\n", BadRequest::Target(TargetError::Name)),
            ("CONNECT a.com HTTP/1.1\r\n\r\n", BadRequest::Target(TargetError::NoPort)),
            ("\x16\x03\x01\x02", BadRequest::Malformed),
            ("GET http://a.com/ HTTP/1.1\r\nA: b\r\n C\r\n\r\n", BadRequest::Malformed),
        ] {
            assert_eq!(asked(text), Err(bad), "{text:?}");
        }
        let many = format!("GET http://a.com/ HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(MAX_HEADERS + 1));
        assert_eq!(asked(&many), Err(BadRequest::TooLong));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes, |_| Vec::new());
        }

        #[test]
        fn the_part_of_a_request_is_none(cut in 0..60_usize) {
            let text = "GET http://a.com/long/path?query HTTP/1.1\r\nAccept: */*\r\n\r\n";
            prop_assert_eq!(parse(&text.as_bytes()[..cut.min(text.len() - 1)], |_| Vec::new()), Ok(None));
        }
    }
}
