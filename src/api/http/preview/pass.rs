//! A request into a sandbox, and its answer out.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use hyper::client::conn::http1;
use hyper::upgrade::{self, OnUpgrade};
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::place::{Place, Way};
use crate::network::pace::Pace;
use crate::network::relay::{Moved, relay};
use crate::sandbox::Connection;

const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// Headers that are between two neighbours and go no further (RFC 9110, section 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] =
    [header::CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, header::TE, header::TRANSFER_ENCODING, header::UPGRADE];

/// Sends a request over a connection and answers with what comes back; if both sides agree to speak something else, their
/// bytes are moved until both have ended or `stop` is told. `tasks` owns what goes on after the answer's head.
///
/// # Errors
/// What listens inside does not speak HTTP, or broke off before it had answered.
pub async fn pass(
    connection: Connection,
    place: &Place,
    mut request: Request,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> hyper::Result<Response> {
    let (mut sender, inside) = http1::handshake(TokioIo::new(connection)).await?;
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move {
        if let Err(error) = inside.with_upgrades().await {
            tracing::debug!(%error, "a connection into a sandbox broke");
        }
    }));
    let upgrade = wanted_upgrade(request.headers());
    let outer = upgrade.is_some().then(|| upgrade::on(&mut request));
    rewrite(&mut request, place, upgrade);
    let mut answer = sender.send_request(request).await?;
    let protocol = answer.headers().get(header::UPGRADE).cloned();
    if let (StatusCode::SWITCHING_PROTOCOLS, Some(outer)) = (answer.status(), outer) {
        let inner = upgrade::on(&mut answer);
        tasks.spawn(stop.clone().run_until_cancelled_owned(speak(outer, inner)));
    }
    strip(answer.headers_mut());
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        put_upgrade(answer.headers_mut(), protocol);
    }
    Ok(answer.map(Body::new))
}

/// Moves bytes between two connections that have been upgraded.
async fn speak(outer: OnUpgrade, inner: OnUpgrade) {
    let spoken = async {
        let (outer, inner) = futures_util::future::try_join(outer, inner).await.map_err(std::io::Error::other)?;
        relay(TokioIo::new(outer), TokioIo::new(inner), &Pace::default(), &Moved::default(), &Moved::default()).await
    };
    if let Err(error) = spoken.await {
        tracing::debug!(%error, "an upgraded connection of a preview broke");
    }
}

/// What the client wants to speak instead of HTTP.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let options = headers.get_all(header::CONNECTION).iter().filter_map(|options| options.to_str().ok());
    let wants =
        options.flat_map(|options| options.split(',')).any(|option| option.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

/// Makes it a request to the server inside.
fn rewrite(request: &mut Request, place: &Place, upgrade: Option<HeaderValue>) {
    // Path and query come from a URI, so they are one.
    if let Ok(uri) = place.path.parse::<Uri>() {
        *request.uri_mut() = uri;
    }
    let headers = request.headers_mut();
    strip(headers);
    put_upgrade(headers, upgrade);
    if let Some(host) = headers.get(header::HOST).cloned() {
        headers.insert(FORWARDED_HOST, host);
    }
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    if place.way == Way::Path {
        // Servers that check it know this name.
        let values = [
            (header::HOST, format!("localhost:{}", place.port)),
            (FORWARDED_PREFIX, format!("/preview/{}/{}", place.sandbox, place.port)),
        ];
        for (name, value) in values {
            headers.insert(name, HeaderValue::try_from(value).expect("it is made of letters and digits"));
        }
    }
}

fn strip(headers: &mut HeaderMap) {
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn put_upgrade(headers: &mut HeaderMap, protocol: Option<HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}
