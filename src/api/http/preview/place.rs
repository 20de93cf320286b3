//! Which preview a request is for, and the token that it brings. Pure.

use axum::http::Uri;

use crate::ids::SandboxId;

/// The parameter of the query that carries the token.
pub const PARAMETER: &str = "hands_token";

/// The cookie that carries it from then on.
pub const COOKIE: &str = "hands_preview";

/// A port of a sandbox, and what is asked of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The port.
    pub port: u16,
    /// How it is named.
    pub way: Way,
    /// Path and query as the server inside sees them.
    pub path: String,
}

/// How a preview is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// By the host.
    Name,
    /// By the beginning of the path.
    Path,
}

impl Place {
    /// What its cookie is for.
    pub fn cookie_path(&self) -> String {
        match self.way {
            Way::Name => "/".to_owned(),
            Way::Path => format!("/preview/{}/{}/", self.sandbox, self.port),
        }
    }
}

/// `/preview/SANDBOX/PORT/…`
pub fn by_path(uri: &Uri) -> Option<Place> {
    let rest = uri.path().strip_prefix("/preview/")?;
    let (sandbox, rest) = rest.split_once('/')?;
    let (port, path) = rest.split_once('/').unwrap_or((rest, ""));
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    Some(Place {
        sandbox: sandbox.parse().ok()?,
        port: parse_port(port)?,
        way: Way::Path,
        path: format!("/{path}{query}"),
    })
}

/// `PORT-SANDBOX.DOMAIN`, with or without the port of the listener.
pub fn by_name(host: &str, domain: &str, uri: &Uri) -> Option<Place> {
    let host = host.split_once(':').map_or(host, |(host, _)| host).to_ascii_lowercase();
    let label = host.strip_suffix(domain)?.strip_suffix('.')?;
    let (port, sandbox) = label.split_once('-')?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    Some(Place { sandbox: sandbox.parse().ok()?, port: parse_port(port)?, way: Way::Name, path })
}

/// As it is written by us, so that a preview has one name only.
fn parse_port(text: &str) -> Option<u16> {
    let port = text.parse::<u16>().ok().filter(|port| *port > 0)?;
    (port.to_string() == text).then_some(port)
}

/// The token in the query, and the path and query without it.
pub fn token_in_query(uri: &Uri) -> Option<(String, String)> {
    let is_token = |part: &&str| part.split_once('=').is_some_and(|(name, _)| name == PARAMETER);
    let parts = || uri.query().unwrap_or_default().split('&');
    let (_, token) = parts().find(is_token)?.split_once('=')?;
    let rest: Vec<&str> = parts().filter(|part| !is_token(part)).collect();
    let query = if rest.is_empty() { String::new() } else { format!("?{}", rest.join("&")) };
    // A path that begins with two slashes would name another host in a redirect.
    let path = format!("/{}", uri.path().trim_start_matches('/'));
    Some((token.to_owned(), format!("{path}{query}")))
}

/// The token in a header of cookies.
pub fn token_in_cookie(cookies: &str) -> Option<&str> {
    let mut cookies = cookies.split(';').filter_map(|cookie| cookie.trim().split_once('='));
    cookies.find(|(name, _)| *name == COOKIE).map(|(_, token)| token)
}

/// The cookies but for ours.
pub fn without_token(cookies: &str) -> String {
    let is_ours = |cookie: &&str| cookie.split_once('=').is_some_and(|(name, _)| name == COOKIE);
    let rest: Vec<&str> = cookies.split(';').map(str::trim).filter(|cookie| !is_ours(cookie)).collect();
    rest.join("; ")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ID: &str = "sb_0123456789abcdefghij";

    fn named(host: &str, uri: &str) -> Option<Place> {
        by_name(host, "preview.test", &uri.parse().unwrap())
    }

    #[test]
    fn a_name_holds_port_and_sandbox() {
        let place = named(&format!("3000-{ID}.Preview.test:7421"), "/a/b?c").unwrap();
        assert_eq!((place.sandbox.as_str(), place.port, place.path.as_str()), (ID, 3000, "/a/b?c"));
        for host in [
            "preview.test".to_owned(),
            format!("{ID}.preview.test"),
            format!("0-{ID}.preview.test"),
            format!("03000-{ID}.preview.test"),
            format!("3000-{ID}.preview.test.evil.org"),
            format!("3000-{ID}.xpreview.test"),
            format!("3000-{ID}preview.test"),
            format!("3000-{ID}.a.preview.test"),
        ] {
            assert_eq!(named(&host, "/"), None, "{host}");
        }
    }

    #[test]
    fn a_path_holds_them_too_and_what_follows_is_the_servers() {
        let place = |uri: &str| by_path(&uri.parse().unwrap());
        for (uri, path) in [("", "/"), ("/", "/"), ("/a//b/../c?d=e", "/a//b/../c?d=e"), ("?x", "/?x")] {
            let place = place(&format!("/preview/{ID}/80{uri}")).unwrap();
            assert_eq!((place.port, place.path.as_str()), (80, path));
            assert_eq!(place.cookie_path(), format!("/preview/{ID}/80/"));
        }
        for uri in ["/preview/", "/preview/x/80/", "/preview/sb_0123456789abcdefghij/80x/", "/"] {
            assert_eq!(place(uri), None, "{uri}");
        }
    }

    #[test]
    fn the_token_is_taken_out_wherever_it_is() {
        let query = |uri: &str| token_in_query(&uri.parse().unwrap());
        assert_eq!(query("/p?a=1&hands_token=t&b"), Some(("t".to_owned(), "/p?a=1&b".to_owned())));
        assert_eq!(query("/?hands_token=t"), Some(("t".to_owned(), "/".to_owned())));
        assert_eq!(query("//evil.org/?hands_token=t"), Some(("t".to_owned(), "/evil.org/".to_owned())));
        assert_eq!(query("/?xhands_token=t"), None);
        assert_eq!(token_in_cookie("a=b; hands_preview=t; c"), Some("t"));
        assert_eq!(without_token("a=b; hands_preview=t; c=d"), "a=b; c=d");
        assert_eq!(without_token("hands_preview=t"), "");
    }

    proptest! {
        #[test]
        fn no_text_panics(host in ".{0,60}", cookies in ".{0,60}") {
            let _ = (named(&host, "/"), token_in_cookie(&cookies), without_token(&cookies));
        }
    }
}
