//! Secrets at rest: sealed by a key that is not kept beside them.
//!
//! A [`Sealer`] holds the node's key and turns a [`Secret`] into bytes that the store may keep. They open only with the
//! same key and in the same context, which names what the secret is and whose ("webhook/wh_1/secret"): sealed bytes that
//! were moved to another row do not open there.
//!
//! The key is 32 bytes in base64, on one line, as `openssl rand -base64 32` prints them. It comes from the service
//! manager as the credential [`CREDENTIAL`], else from a file, which is made at the first start. Whoever has the key and
//! the store has the secrets; a copy of the store alone tells nothing but their lengths.
//!
//! ```text
//! sealed:  version | id of the key | nonce    | ciphertext     | tag
//!          1 byte  | 8 bytes       | 12 bytes | as the secret  | 16 bytes
//! ```
//!
//! Version 1 is ChaCha20-Poly1305 (RFC 8439) with a random nonce. What is authenticated beside the ciphertext is the version,
//! the id of the key and the context. Random nonces of 12 bytes are safe for 2^32 secrets; a node seals thousands.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use sha2::{Digest, Sha256};
use zeroize::{Zeroize, Zeroizing};

/// The name of the key among the credentials of the service, as in `LoadCredential=seal-key:/etc/handsd/seal.key`.
pub const CREDENTIAL: &str = "seal-key";

/// Bytes of a key.
const KEY_LEN: usize = 32;
/// A key is 44 digits and a line break; what is longer than this is another file.
const MAX_KEY_FILE: u64 = 128;
/// The only version there is.
const VERSION: u8 = 1;
/// Bytes that tell one key from another; far too few to tell anything of the key.
const KEY_ID_LEN: usize = 8;
/// The version and the id of the key.
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
/// Bits of a file's mode that let others than its owner read or change it.
const OTHERS: u32 = 0o077;

/// Bytes that are not shown, and are wiped when they are dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// The bytes. Whoever asks for them keeps them out of logs and answers.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Secret {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl<'de> serde::Deserialize<'de> for Secret {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Self::from)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[secret]")
    }
}

/// Why a secret was not sealed or not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// The kernel gave no random bytes.
    #[error("the system has no random bytes for a nonce")]
    NoRandomness,
    /// The bytes are too short, or of a version that this program does not know.
    #[error("the bytes are no sealed secret that this version knows")]
    UnknownFormat,
    /// Another key sealed it.
    #[error("the secret was sealed with another key than this node has now")]
    OtherKey,
    /// The bytes were changed, or belong elsewhere.
    #[error("the sealed secret was changed, or was sealed for another place")]
    Tampered,
}

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The file cannot be read or made.
    #[error("the key {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is there and holds something else.
    #[error("the key {} must be 32 bytes in base64, as `openssl rand -base64 32` prints them", .0.display())]
    NoKey(PathBuf),
    /// Others can read or change the file.
    #[error("the key {} must be its owner's only (mode 0600)", .0.display())]
    Open(PathBuf),
}

/// Seals and opens, with one key.
pub struct Sealer {
    key: LessSafeKey,
    digests: hmac::Key,
    id: [u8; KEY_ID_LEN],
}

impl Sealer {
    /// With the key among `credentials` (the directory that a service manager passes as `$CREDENTIALS_DIRECTORY`) if it
    /// is there, else with the one in `file`, which is made if it is missing.
    ///
    /// # Errors
    /// A key is there that cannot be used, or none can be made. A key that cannot be used is never replaced, because what
    /// it has sealed would be lost.
    pub fn open_key(credentials: Option<&Path>, file: &Path) -> Result<Self, KeyError> {
        if let Some(path) = credentials.map(|directory| directory.join(CREDENTIAL))
            && let Some(sealer) = read_key(&path)?
        {
            return Ok(sealer);
        }
        match fs::metadata(file) {
            Ok(metadata) if metadata.mode() & OTHERS != 0 => Err(KeyError::Open(file.to_owned())),
            Ok(_) => read_key(file)?.ok_or_else(|| KeyError::NoKey(file.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(file),
            Err(source) => Err(KeyError::File { path: file.to_owned(), source }),
        }
    }

    /// With this key.
    #[must_use]
    pub fn new(key: &[u8; KEY_LEN]) -> Self {
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the algorithm's keys have 32 bytes");
        let digest = Sha256::new().chain_update(b"handsd seal key\0").chain_update(key).finalize();
        let mut id = [0; KEY_ID_LEN];
        id.copy_from_slice(&digest[..KEY_ID_LEN]);
        let digests = Sha256::new().chain_update(b"handsd digest key\0").chain_update(key).finalize();
        Self { key: LessSafeKey::new(unbound), digests: hmac::Key::new(hmac::HMAC_SHA256, &digests), id }
    }

    /// By what a secret is known again without being kept, in base64. Without the key, nobody can try what it may have been.
    #[must_use]
    pub fn digest(&self, context: &str, secret: &[u8]) -> String {
        let mut signing = hmac::Context::with_key(&self.digests);
        signing.update(&(context.len() as u64).to_le_bytes());
        signing.update(context.as_bytes());
        signing.update(secret);
        BASE64.encode(signing.sign())
    }

    /// Seals a secret for the context, of which `open` has to name the same.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn seal(&self, context: &str, secret: &Secret) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| SealError::NoRandomness)?;
        let mut text = secret.expose().to_vec();
        let tag = self
            .key
            .seal_in_place_separate_tag(Nonce::assume_unique_for_key(nonce), self.aad(context), &mut text)
            .expect("a secret is shorter than the 256 GiB that one nonce is good for");
        Ok([&self.header(), &nonce[..], &text, tag.as_ref()].concat())
    }

    /// Opens what `seal` made for the same context.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Secret, SealError> {
        let (header, rest) = sealed.split_first_chunk::<HEADER_LEN>().ok_or(SealError::UnknownFormat)?;
        if header[0] != VERSION {
            return Err(SealError::UnknownFormat);
        }
        if header[1..] != self.id {
            return Err(SealError::OtherKey);
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::UnknownFormat)?;
        let mut text = Zeroizing::new(text.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, self.aad(context), &mut text);
        let length = opened.map_err(|_| SealError::Tampered)?.len();
        text.truncate(length);
        Ok(Secret(text))
    }

    fn header(&self) -> [u8; HEADER_LEN] {
        let mut header = [VERSION; HEADER_LEN];
        header[1..].copy_from_slice(&self.id);
        header
    }

    /// The header has one length, so that no two pairs of header and context are the same bytes.
    fn aad(&self, context: &str) -> Aad<Vec<u8>> {
        Aad::from([&self.header(), context.as_bytes()].concat())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Sealer")
    }
}

/// The key of a file; `None` if there is no file.
fn read_key(path: &Path) -> Result<Option<Sealer>, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let file = match fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(failed(source)),
    };
    // With room for all of it from the start: a buffer that grows leaves copies behind.
    let mut text = Zeroizing::new(Vec::with_capacity(256));
    file.take(MAX_KEY_FILE).read_to_end(&mut text).map_err(failed)?;
    let mut key = Zeroizing::new([0; KEY_LEN + 1]);
    match BASE64.decode_slice(text.trim_ascii(), &mut *key) {
        Ok(KEY_LEN) => Ok(Some(Sealer::new(key.first_chunk().expect("it has a byte more")))),
        _ => Err(KeyError::NoKey(path.to_owned())),
    }
}

/// Makes a key and its file, whole or not at all.
fn make_key(path: &Path) -> Result<Sealer, KeyError> {
    let failed = |source| KeyError::File { path: path.to_owned(), source };
    let directory = path.parent().unwrap_or_else(|| Path::new("/"));
    let mut key = Zeroizing::new([0; KEY_LEN]);
    getrandom::fill(&mut *key).map_err(|error| failed(error.into()))?;
    let mut text = BASE64.encode(*key);
    text.push('\n');
    // Temporary files are their owner's only.
    let written = tempfile::NamedTempFile::new_in(directory).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist_noclobber(path).map_err(|error| error.error)?;
        fs::File::open(directory)?.sync_all()
    });
    text.zeroize();
    written.map_err(failed)?;
    Ok(Sealer::new(&key))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; KEY_LEN] = [7; KEY_LEN];

    fn secret(bytes: &[u8]) -> Secret {
        bytes.to_vec().into()
    }

    #[test]
    fn a_digest_is_of_the_key_the_context_and_the_secret() {
        let sealer = Sealer::new(&KEY);
        let digest = sealer.digest("a", b"secret");
        assert_eq!(digest, Sealer::new(&KEY).digest("a", b"secret"));
        let others = [
            sealer.digest("a", b"Secret"),
            sealer.digest("as", b"ecret"),
            Sealer::new(&[8; KEY_LEN]).digest("a", b"secret"),
        ];
        assert!(!others.contains(&digest));
    }

    proptest! {
        #[test]
        fn what_is_sealed_opens_to_the_same(bytes: Vec<u8>, context: String) {
            let sealer = Sealer::new(&KEY);
            let sealed = sealer.seal(&context, &secret(&bytes)).unwrap();
            let opened = sealer.open(&context, &sealed).unwrap();
            prop_assert_eq!(opened.expose(), &bytes);
        }

        #[test]
        fn a_changed_bit_anywhere_keeps_it_from_opening(bytes: Vec<u8>, at: prop::sample::Index, bit in 0..8_u32) {
            let sealer = Sealer::new(&KEY);
            let mut sealed = sealer.seal("a", &secret(&bytes)).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(sealer.open("a", &sealed).is_err());
        }

        #[test]
        fn a_part_of_it_does_not_open(bytes: Vec<u8>, length: prop::sample::Index) {
            let sealer = Sealer::new(&KEY);
            let sealed = sealer.seal("a", &secret(&bytes)).unwrap();
            prop_assert!(sealer.open("a", &sealed[..length.index(sealed.len())]).is_err());
        }

        #[test]
        fn bytes_that_nobody_sealed_do_not_open(bytes: Vec<u8>) {
            prop_assert!(Sealer::new(&KEY).open("", &bytes).is_err());
        }
    }

    #[test]
    fn another_place_another_key_and_another_version_are_told_apart() {
        let sealer = Sealer::new(&KEY);
        let mut sealed = sealer.seal("webhook/wh_1", &secret(b"x")).unwrap();
        assert_eq!(sealer.open("webhook/wh_2", &sealed), Err(SealError::Tampered));
        assert_eq!(Sealer::new(&[8; KEY_LEN]).open("webhook/wh_1", &sealed), Err(SealError::OtherKey));
        sealed[0] = 2;
        assert_eq!(sealer.open("webhook/wh_1", &sealed), Err(SealError::UnknownFormat));
    }

    /// Sealed by the first version; each later one has to open it.
    #[test]
    fn a_secret_of_version_1_opens_for_ever() {
        let sealed = BASE64.decode(include_str!("seal/version-1.txt").trim_ascii()).unwrap();
        assert_eq!(Sealer::new(&KEY).open("golden", &sealed).unwrap().expose(), b"hands");
    }

    #[test]
    fn the_same_secret_is_never_sealed_to_the_same_bytes() {
        let sealer = Sealer::new(&KEY);
        let seal = || sealer.seal("a", &secret(b"x")).unwrap();
        assert_ne!(seal(), seal());
    }

    #[test]
    fn a_secret_does_not_show() {
        assert_eq!(format!("{:?} {:?}", secret(b"hunter2"), Sealer::new(&KEY)), "[secret] Sealer");
    }

    #[test]
    fn the_first_start_makes_a_key_of_its_owner_only_and_the_next_has_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("seal.key");
        let sealed = Sealer::open_key(None, &file).unwrap().seal("a", &secret(b"x")).unwrap();
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let opened = Sealer::open_key(None, &file).unwrap().open("a", &sealed).unwrap();
        assert_eq!(opened.expose(), b"x");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "something is left beside the key");
    }

    #[test]
    fn a_credential_wins_over_the_file_and_none_is_made_then() {
        let (credentials, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = state.path().join("seal.key");
        fs::write(credentials.path().join(CREDENTIAL), BASE64.encode(KEY)).unwrap();
        let sealer = Sealer::open_key(Some(credentials.path()), &file).unwrap();
        assert_eq!(sealer.id, Sealer::new(&KEY).id);
        assert!(!file.exists());
    }

    #[test]
    fn a_key_that_cannot_be_used_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("seal.key");
        let long = BASE64.encode([1; KEY_LEN + 1]);
        for text in ["", "hello", &BASE64.encode([1; KEY_LEN - 1]), &long, &long.repeat(10)] {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
            assert!(matches!(Sealer::open_key(None, &file), Err(KeyError::NoKey(_))), "{text}");
            assert_eq!(fs::read_to_string(&file).unwrap(), text);
        }
        fs::write(&file, BASE64.encode(KEY)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Sealer::open_key(None, &file), Err(KeyError::Open(_))));
    }
}
