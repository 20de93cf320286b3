//! What is below the requests: TLS, HTTP/2, compression, and the headers that browsers ask for; and the document.

use std::fs;
use std::sync::Arc;

use reqwest::{Certificate, Client, Method};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::support::certificates::Authority;
use crate::support::http::Http;

/// What a client of HTTP/2 says first, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// The kind of a frame that holds settings (RFC 9113, 6.5).
const SETTINGS: u8 = 4;

/// Whether the other side answers as a server of HTTP/2.
async fn speaks_http2(stream: &mut (impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin)) -> bool {
    stream.write_all(PREFACE).await.unwrap();
    let mut frame = [0; 9];
    stream.read_exact(&mut frame).await.unwrap();
    frame[3] == SETTINGS
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_the_surface_has_the_nodes_certificate_and_both_versions_of_http() {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new(files.path(), "ca");
    let (certificate, key) = authority.sign("node", &["127.0.0.1", "localhost"]);
    let config = format!(
        "[http]\ntls = true\n[tls]\ncertificate = {certificate:?}\nkey = {key:?}\nclient_ca = {:?}\n\
         [[auth.clients]]\nname = 'plane'\nrole = 'admin'\ncertificate = 'plane.example'\n",
        authority.root()
    );
    let Some(http) = Http::configured(&config).await else { return };
    let root = Certificate::from_pem(&fs::read(authority.root()).unwrap()).unwrap();
    let client = Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://{}/api/node", http.address);
    assert_eq!(client.get(&url).bearer_auth(&http.key).send().await.unwrap().status(), 200);
    assert_eq!(client.get(&url).send().await.unwrap().status(), 401);
    // Without TLS nobody gets an answer, and no certificate of an own is needed.
    assert!(http.request(Method::GET, "/livez").send().await.is_err());

    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(authority.root()).unwrap()).unwrap();
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(&http.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    assert!(speaks_http2(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_tls_a_client_may_begin_with_http2() {
    let Some(http) = Http::start().await else { return };
    let mut stream = TcpStream::connect(&http.address).await.unwrap();
    assert!(speaks_http2(&mut stream).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn text_is_compressed_for_who_asks_and_streams_are_not_held_back() {
    let Some(http) = Http::start().await else { return };
    let get = async |path: &str| {
        let request = http.request(Method::GET, path).header("accept-encoding", "gzip");
        request.send().await.unwrap().headers().get("content-encoding").cloned()
    };
    assert_eq!(get("/openapi.json").await.unwrap(), "gzip");
    assert_eq!(get("/api/sandboxes?stream=sse").await, None);
    let plain = http.request(Method::GET, "/openapi.json").send().await.unwrap();
    assert_eq!(plain.headers().get("content-encoding"), None);
    // What a router answers by itself is long enough to be compressed, and first gets the form of all errors.
    let wrong = http.request(Method::GET, "/v3/sessions/%ff").header("accept-encoding", "gzip").send().await.unwrap();
    let is_zipped = wrong.headers().get("content-encoding").is_some();
    let bytes = wrong.bytes().await.unwrap();
    assert!(if is_zipped { bytes.starts_with(b"\x1f\x8b") } else { bytes.starts_with(b"{") }, "{bytes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configured_page_reads_what_it_asked_for_and_every_answer_has_a_name() {
    let Some(http) = Http::configured("http.origins = ['https://app.example']").await else { return };
    let request = http.request(Method::GET, "/api/sandboxes").header("origin", "https://app.example");
    let response = request.send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "https://app.example");
    let exposed = response.headers()["access-control-expose-headers"].to_str().unwrap().to_owned();
    assert!(exposed.contains("x-request-id") && exposed.contains("x-next-cursor"), "{exposed}");
    let first = response.headers()["x-request-id"].clone();
    let second = http.request(Method::GET, "/api/sandboxes").send().await.unwrap();
    assert_ne!(first, second.headers()["x-request-id"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_describes_the_body_of_every_route_that_takes_one() {
    let Some(http) = Http::start().await else { return };
    let document = http.get("/openapi.json").await;
    let mut described = 0;
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let body = &operation["requestBody"]["content"]["application/json"]["schema"];
            if body.is_null() {
                continue;
            }
            described += 1;
            let properties = body["properties"].as_object().unwrap();
            assert!(!properties.is_empty(), "{method} {path}");
            // What the document names, the route reads: a value of no type that it could be is refused by its name.
            let path = path.replace("{id}", "ses_00000000000000000000").replace("{", "x").replace("}", "");
            for (field, schema) in properties {
                let Some(kind) = schema.get("type") else { continue };
                let wrong = if kind.to_string().contains("boolean") { json!(7) } else { json!(true) };
                let request = http.request(method.to_uppercase().parse::<Method>().unwrap(), &path);
                let response = request.json(&json!({ field: wrong })).send().await.unwrap();
                let status = response.status();
                let problem: Value = response.json().await.unwrap();
                let param = problem["error"]["param"].as_str().or_else(|| problem["param"].as_str());
                assert_eq!((status.as_u16(), param), (400, Some(field.as_str())), "{method} {path}: {problem}");
            }
        }
    }
    assert!(described > 15, "{described}");
}
