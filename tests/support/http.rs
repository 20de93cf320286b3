//! A client of the HTTP surface.

use reqwest::{Client, Method, RequestBuilder, Response};
use serde_json::Value;

use super::{Daemon, Options};

/// A daemon with the HTTP surface, and a client of it.
pub struct Http {
    pub daemon: Daemon,
    pub client: Client,
    /// `127.0.0.1:port`
    pub address: String,
    pub key: String,
}

impl Http {
    /// Starts one; `None` without root.
    pub async fn start() -> Option<Self> {
        Self::configured("").await
    }

    /// Starts one with this configuration file; `None` without root.
    pub async fn configured(config: &str) -> Option<Self> {
        let options = Options { config: config.to_owned(), http: true, ..Options::default() };
        // Fails if another test of this process was first, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let daemon = Daemon::start_with(options).await?;
        let (address, key) = (daemon.http_address().await, daemon.key());
        Some(Self { daemon, client: Client::new(), address, key })
    }

    /// A request without the key.
    pub fn anonymous(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    /// A request with the key.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.anonymous(method, path).bearer_auth(&self.key)
    }

    /// What a path answers, which has to be JSON and no error.
    pub async fn get(&self, path: &str) -> Value {
        let response = self.request(Method::GET, path).send().await.expect("the daemon answers");
        assert!(response.status().is_success(), "GET {path}: {}", response.status());
        response.json().await.expect("JSON")
    }

    /// Posts JSON.
    pub async fn post(&self, path: &str, body: Value) -> Response {
        self.request(Method::POST, path).json(&body).send().await.expect("the daemon answers")
    }

    /// A new sandbox's id.
    pub async fn sandbox(&self) -> String {
        let response = self.post("/api/sandboxes", serde_json::json!({})).await;
        assert_eq!(response.status(), 201);
        let body: Value = response.json().await.expect("JSON");
        body["sandboxID"].as_str().expect("an id").to_owned()
    }
}
