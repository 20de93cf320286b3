//! Requests for a page of events, beside a bare handler that answers the same bytes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;
use bytes::Bytes;
use reqwest::{Client, Method};
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::node::Node;

/// Connections at once.
const CLIENTS: usize = 16;
/// Events of a page.
const PAGE: usize = 50;

/// Measures and prints.
pub async fn measure(node: &Node, quick: bool) -> Result<()> {
    let time = Duration::from_secs(if quick { 1 } else { 10 });
    let script: String = (0..PAGE).map(|number| format!("say line {number}\n")).collect();
    let id = node.session(&script).await?;
    node.finished(&id).await?;
    let path = format!("/v3/sessions/{id}/events?limit={PAGE}");
    let page = node.request(Method::GET, &path).send().await?.error_for_status()?.bytes().await?;
    let ours = requests(time, || node.request(Method::GET, &path)).await?;

    let listener = TcpListener::bind("127.0.0.1:0").await.context("listen")?;
    let bare = format!("http://{}/", listener.local_addr()?);
    let mut server = JoinSet::new();
    let body = page.clone();
    let answer = move || {
        let body: Bytes = body.clone();
        async move { ([(CONTENT_TYPE, "application/json")], body) }
    };
    server.spawn(async move { axum::serve(listener, Router::new().route("/", get(answer))).await });
    let client = Client::new();
    let floor = requests(time, || client.get(&bare)).await?;
    server.shutdown().await;
    println!(
        "GET events, pages of {PAGE}         {ours:>10.0} /s   {CLIENTS} connections, {} KiB each",
        page.len() >> 10
    );
    println!("  a bare handler, floor        {floor:>10.0} /s   {:.2} of it", ours / floor);
    Ok(())
}

/// Answers a second to as many clients as there are.
async fn requests(time: Duration, make: impl Fn() -> reqwest::RequestBuilder) -> Result<f64> {
    let (done, until) = (Arc::new(AtomicU64::new(0)), Instant::now() + time);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (request, done) = (make(), Arc::clone(&done));
        clients.spawn(async move {
            while Instant::now() < until {
                let request = request.try_clone().context("it has no body")?;
                request.send().await?.error_for_status()?.bytes().await?;
                done.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), anyhow::Error>(())
        });
    }
    while let Some(client) = clients.join_next().await {
        client??;
    }
    Ok(done.load(Ordering::Relaxed) as f64 / time.as_secs_f64())
}
