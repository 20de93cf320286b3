//! Pulls from registries: for this platform, bounded and verified.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Once};
use std::time::Duration;

use futures_util::StreamExt as _;
use oci_client::client::{ClientConfig, ClientProtocol, LayerDescriptor};
use oci_client::errors::{DigestError, OciDistributionError, OciErrorCode};
use oci_client::manifest::{
    IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE,
};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::credentials::{Credentials, Proof};
use super::manifest::{self, Config, Descriptor, MAX_DOCUMENT_BYTES, Manifest};
use super::meter::Budget;
use super::{ImageError, Limit};

/// A registry that does not even accept a connection in this time is down, or behind a firewall that drops packets.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// Silence in the midst of a blob. A layer may take long; a pause as long as this means that the other end is gone.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
/// For a manifest with all that leads to it: a token, and redirections. It also bounds what a registry can send as one,
/// which the client collects in memory.
const MANIFEST_TIMEOUT: Duration = Duration::from_secs(60);

const MANIFEST_TYPES: &[&str] =
    &[OCI_IMAGE_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE, IMAGE_MANIFEST_LIST_MEDIA_TYPE];

/// How registries are spoken to.
#[derive(Debug)]
pub(super) struct Registry {
    plain_http: Vec<String>,
    credentials: Option<PathBuf>,
}

/// An image of a registry, its layers not yet pulled.
#[derive(Debug)]
pub(super) struct PulledImage {
    pub(super) config: Config,
    /// The lowest first.
    pub(super) layers: Vec<Descriptor>,
}

/// Pulls one image.
pub(super) struct Connection {
    client: Client,
    name: Reference,
    auth: RegistryAuth,
}

impl Registry {
    /// `credentials` is Docker's `config.json`, if there is a place for one.
    pub(super) fn new(plain_http: Vec<String>, credentials: Option<PathBuf>) -> Self {
        Self { plain_http, credentials }
    }

    /// Who we are to a registry.
    fn auth(&self, registry: &str) -> RegistryAuth {
        let found = self.credentials.as_deref().and_then(|path| Credentials::of_file(path, registry));
        match found {
            Some(Credentials { user, proof: Proof::Password(password), .. }) => RegistryAuth::Basic(user, password),
            Some(Credentials { proof: Proof::IdentityToken(_), .. }) => {
                tracing::warn!(registry, "its credentials are an identity token, which Docker alone can use");
                RegistryAuth::Anonymous
            }
            None => RegistryAuth::Anonymous,
        }
    }

    /// Nothing is sent before the first pull.
    pub(super) fn connect(&self, name: Reference) -> Result<Connection, ImageError> {
        static PROVIDER: Once = Once::new();
        // An error means that the program has chosen another provider already, which does as well.
        PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
        let plain = is_loopback(name.resolve_registry()) || self.plain_http.iter().any(|host| host == name.registry());
        let config = ClientConfig {
            protocol: if plain { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: concat!("handsd/", env!("CARGO_PKG_VERSION")),
            ..ClientConfig::default()
        };
        match Client::try_from(config) {
            Ok(client) => Ok(Connection { client, auth: self.auth(name.resolve_registry()), name }),
            Err(error) => Err(pull_error(&name, error)),
        }
    }
}

/// Whether "host" or "host:port" is this machine itself.
fn is_loopback(registry: &str) -> bool {
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Connection {
    /// What the name leads to on this platform.
    ///
    /// # Errors
    /// [`ImageError::NotFound`] if the registry does not know it, [`ImageError::Invalid`] and [`ImageError::TooLarge`] if it
    /// is of no use here, [`ImageError::Pull`] and [`ImageError::PullTimeout`] if the registry cannot be asked.
    pub(super) async fn image(&self) -> Result<PulledImage, ImageError> {
        let manifest = match self.manifest(&self.name).await? {
            Manifest::Index(entries) => {
                let digest = manifest::of_this_platform(&entries)?.digest;
                self.manifest(&self.name.clone_with_digest(digest.to_string())).await?
            }
            image => image,
        };
        let Manifest::Image { config, layers } = manifest else {
            return Err(ImageError::invalid("manifest: an index of an index"));
        };
        if config.size > MAX_DOCUMENT_BYTES {
            return Err(ImageError::TooLarge { limit: Limit::DocumentBytes(MAX_DOCUMENT_BYTES) });
        }
        let mut document = Vec::new();
        self.pull(&config, &mut document).await?;
        Ok(PulledImage { config: Config::parse(&document)?, layers })
    }

    async fn manifest(&self, name: &Reference) -> Result<Manifest, ImageError> {
        let pull = self.client.pull_manifest_raw(name, &self.auth, MANIFEST_TYPES);
        let pulled = tokio::time::timeout(MANIFEST_TIMEOUT, pull).await.map_err(|_| ImageError::PullTimeout {
            registry: name.registry().to_owned(),
            seconds: MANIFEST_TIMEOUT.as_secs(),
        })?;
        let (document, _digest) = pulled.map_err(|error| pull_error(name, error))?;
        if document.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(ImageError::TooLarge { limit: Limit::DocumentBytes(MAX_DOCUMENT_BYTES) });
        }
        Manifest::parse(&document)
    }

    /// Pulls a layer into `file`, and gives the file back. A layer that is longer packed than the image may be unpacked is
    /// not begun.
    ///
    /// # Errors
    /// As [`Self::image`], and [`ImageError::Io`].
    pub(super) async fn layer(&self, layer: &Descriptor, file: File, budget: &Budget) -> Result<File, ImageError> {
        if layer.size > budget.bytes_left() {
            return Err(budget.too_many_bytes());
        }
        let mut file = tokio::fs::File::from_std(file);
        self.pull(layer, &mut file).await?;
        Ok(file.into_std().await)
    }

    /// Writes the bytes of a blob, as many as its descriptor says, and fails at the end if they are not those of its
    /// digest.
    async fn pull(&self, blob: &Descriptor, sink: &mut (impl AsyncWrite + Unpin)) -> Result<(), ImageError> {
        let digest = blob.digest.to_string();
        // Other addresses that the manifest may name for a blob are not asked: they are the image's wish, not the caller's.
        let descriptor = LayerDescriptor { digest: &digest, urls: &None };
        let pulled = self.client.pull_blob_stream(&self.name, &descriptor).await;
        let mut stream = pulled.map_err(|error| pull_error(&self.name, error))?;
        let written = |error: io::Error| ImageError::io(format!("write pulled blob {digest}"), error);
        let mut left = blob.size;
        while let Some(chunk) = stream.next().await {
            let chunk = chunk.map_err(|error| pull_error(&self.name, error.into()))?;
            left = left
                .checked_sub(chunk.len() as u64)
                .ok_or_else(|| ImageError::invalid(format!("{digest} is longer than its descriptor says")))?;
            sink.write_all(&chunk).await.map_err(written)?;
        }
        sink.flush().await.map_err(written)?;
        if left == 0 {
            Ok(())
        } else {
            Err(ImageError::invalid(format!("{digest} is shorter than its descriptor says")))
        }
    }
}

/// Whose fault it is that a pull failed.
fn pull_error(name: &Reference, error: OciDistributionError) -> ImageError {
    if is_not_found(&error) {
        return ImageError::NotFound;
    }
    if let Some(wrong) = digest_error(&error) {
        return ImageError::invalid(wrong.to_string());
    }
    ImageError::Pull { registry: name.registry().to_owned(), source: Arc::new(error) }
}

fn is_not_found(error: &OciDistributionError) -> bool {
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => envelope.errors.iter().any(|error| {
            matches!(error.code, OciErrorCode::ManifestUnknown | OciErrorCode::NameUnknown | OciErrorCode::NotFound)
        }),
        _ => false,
    }
}

fn digest_error(error: &OciDistributionError) -> Option<&DigestError> {
    match error {
        OciDistributionError::DigestError(error) => Some(error),
        // The end of a stream of bytes says it this way.
        OciDistributionError::IoError(error) => error.get_ref()?.downcast_ref(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_address_is_known_in_its_spellings() {
        for host in ["localhost", "localhost:5000", "127.0.0.1:80", "127.9.9.9"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["docker.io", "localhost.example.com:5000", "10.0.0.1:5000", "127.0.0.1.example.com"] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn what_the_registry_does_not_know_is_not_found() {
        let name: Reference = "example.com/a:b".parse().unwrap();
        let of_code = |code| OciDistributionError::ServerError { code, url: String::new(), message: String::new() };
        assert!(matches!(pull_error(&name, of_code(404)), ImageError::NotFound));
        assert!(matches!(pull_error(&name, of_code(503)), ImageError::Pull { .. }));
        let unauthorized = OciDistributionError::UnauthorizedError { url: String::new() };
        assert!(matches!(pull_error(&name, unauthorized), ImageError::Pull { .. }));
    }

    #[test]
    fn wrong_bytes_are_the_images_fault() {
        let name: Reference = "example.com/a:b".parse().unwrap();
        let wrong = || DigestError::VerificationError { expected: "a".into(), actual: "b".into() };
        assert!(matches!(pull_error(&name, wrong().into()), ImageError::Invalid { .. }));
        assert!(matches!(pull_error(&name, io::Error::other(wrong()).into()), ImageError::Invalid { .. }));
    }
}
