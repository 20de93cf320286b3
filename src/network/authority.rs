//! A certificate authority of one sandbox, by which the proxy answers for names: the sandbox trusts it, and nobody else does.

use std::fmt;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Who signs, and who is signed for. A certificate whose subject is its issuer is taken for one that has signed itself; the
/// name that it is for is beside the subject, and may be longer than a subject.
const ISSUER: &str = "handsd proxy of this sandbox";
const SUBJECT: &str = "handsd proxy";

/// The only protocol that the proxy speaks on a connection that it reads.
pub const ALPN: &[u8] = b"http/1.1";

/// An authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: String,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It cannot be made.
    #[error("make a certificate")]
    Make(#[source] rcgen::Error),
    /// It cannot be served.
    #[error("serve a certificate")]
    Serve(#[source] rustls::Error),
}

impl Authority {
    /// With a new key.
    ///
    /// # Errors
    /// [`AuthorityError::Make`]
    pub fn new() -> Result<Self, AuthorityError> {
        KeyPair::generate().and_then(Self::with).map_err(AuthorityError::Make)
    }

    /// With the key that [`Authority::key`] gave. What was signed with it is good still.
    ///
    /// # Errors
    /// [`AuthorityError::Make`]
    pub fn of_key(key: &str) -> Result<Self, AuthorityError> {
        KeyPair::from_pem(key).and_then(Self::with).map_err(AuthorityError::Make)
    }

    fn with(key: KeyPair) -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        params.distinguished_name.push(DnType::CommonName, ISSUER);
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// Its key, in PEM; a secret.
    #[must_use]
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Its certificate, in PEM.
    #[must_use]
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// How a connection to this name is answered.
    ///
    /// # Errors
    /// See [`AuthorityError`].
    pub fn answer_for(&self, name: &str) -> Result<Arc<ServerConfig>, AuthorityError> {
        let made = CertificateParams::new([name.to_owned()]).and_then(|mut params| {
            params.distinguished_name.push(DnType::CommonName, SUBJECT);
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            params.use_authority_key_identifier_extension = true;
            let key = KeyPair::generate()?;
            let certificate = params.signed_by(&key, &self.issuer)?;
            Ok((CertificateDer::from(certificate), key.serialize_der()))
        });
        let (certificate, key) = made.map_err(AuthorityError::Make)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key));
        let builder = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("ring knows the suites of TLS 1.2 and 1.3");
        let config = builder.with_no_client_auth().with_single_cert(vec![certificate], key);
        let mut config = config.map_err(AuthorityError::Serve)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(Arc::new(config))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Authority")
    }
}
