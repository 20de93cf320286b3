//! TLS of the ports: certificates from files, read again at each reload.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ServerConfig, VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConnection};
use webpki::EndEntityCert;

/// The protocol that gRPC needs; a client that offers another is refused in the handshake.
const ALPN: &[u8] = b"h2";

/// What HTTP speaks, best first.
const WEB_ALPN: [&[u8]; 2] = [ALPN, b"http/1.1"];

/// Where the certificates are, all of them in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// The node's own certificate, and those between it and its root.
    pub certificate: PathBuf,
    /// The key of it.
    pub key: PathBuf,
    /// The roots that sign certificates of clients; without it, clients are known by their tokens only.
    pub client_ca: Option<PathBuf>,
}

/// Whether a client has to show a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientCertificate {
    /// Nobody is let in without one.
    Required,
    /// A client may have a token instead.
    Asked,
}

/// Why the certificates cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read, or holds none.
    #[error("reading {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: pem::Error,
    },
    /// The key is not that of the certificate, or either is of a kind that is not known.
    #[error("the certificate {} and its key", path.display())]
    Pair {
        /// The certificate.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// A root cannot be used.
    #[error("a certificate in {}", path.display())]
    Root {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: rustls::Error,
    },
    /// The roots cannot be used together.
    #[error("the certificates in {}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: VerifierBuilderError,
    },
}

/// Reads the files.
///
/// # Errors
/// See [`TlsError`].
pub fn load(files: &TlsFiles, client: ClientCertificate) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring knows the suites of TLS 1.2 and 1.3");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), provider);
            let verifier = match client {
                ClientCertificate::Required => verifier,
                ClientCertificate::Asked => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build().map_err(|source| TlsError::Roots { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
    let mut config = builder
        .with_single_cert(certificates(&files.certificate)?, key)
        .map_err(|source| TlsError::Pair { path: files.certificate.clone(), source })?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    Ok(Arc::new(config))
}

/// Reads the files for HTTP: its clients may speak HTTP/1.1 too, and show a key instead of a certificate.
///
/// # Errors
/// See [`TlsError`].
pub fn load_web(files: &TlsFiles) -> Result<Arc<ServerConfig>, TlsError> {
    let files = TlsFiles { client_ca: None, ..files.clone() };
    let mut config = ServerConfig::clone(&*load(&files, ClientCertificate::Asked)?);
    config.alpn_protocols = WEB_ALPN.map(<[u8]>::to_vec).to_vec();
    Ok(Arc::new(config))
}

/// The DNS and URI names of the certificate that the client has shown; none without one. Its chain was verified in the
/// handshake.
#[must_use]
pub fn client_names(connection: &ServerConnection) -> Vec<String> {
    let shown = connection.peer_certificates().and_then(<[_]>::first);
    let Some(certificate) = shown.and_then(|shown| EndEntityCert::try_from(shown).ok()) else { return Vec::new() };
    certificate.valid_dns_names().chain(certificate.valid_uri_names()).map(str::to_owned).collect()
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let certificates = CertificateDer::pem_file_iter(path).map_err(failed)?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(failed)?;
    if certificates.is_empty() { Err(failed(pem::Error::NoItemsFound)) } else { Ok(certificates) }
}

fn roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Root { path: path.to_owned(), source })?;
    }
    Ok(roots)
}
