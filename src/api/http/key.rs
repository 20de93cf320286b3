//! The key that opens the HTTP surface.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;

/// What the keys that are made here begin with, so that one that leaked is recognized.
const PREFIX: &str = "hands_";
/// Random bytes of a key: nobody guesses 256 bits.
const RANDOM: usize = 32;
/// Fewest characters of a key that somebody else made: 64 bits, if they are hexadecimal digits.
const SHORTEST: usize = 16;
/// Most characters; a file that is longer is another file.
const LONGEST: usize = 1024;

/// The key.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(String);

/// Why there is no key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Its file cannot be read or made.
    #[error("the key file {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It is too short, too long, or cannot stand in a header.
    #[error("the API key has {found} characters; expected {SHORTEST} to {LONGEST} visible ASCII characters")]
    Invalid {
        /// How many it has.
        found: usize,
    },
}

impl ApiKey {
    /// A key that somebody made. White space around it is not part of it.
    ///
    /// # Errors
    /// [`KeyError::Invalid`].
    pub fn new(text: &str) -> Result<Self, KeyError> {
        let text = text.trim();
        let fits = (SHORTEST..=LONGEST).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic());
        if fits { Ok(Self(text.to_owned())) } else { Err(KeyError::Invalid { found: text.chars().count() }) }
    }

    /// A new key.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0_u8; RANDOM];
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
        Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// The key in a file; a new one is put there, for the owner's eyes only, if there is no such file. Blocks.
    ///
    /// # Errors
    /// See [`KeyError`].
    pub fn load_or_make(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        match OpenOptions::new().write(true).create_new(true).mode(0o600).open(path) {
            Ok(mut file) => {
                let key = Self::random();
                file.write_all(format!("{}\n", key.0).as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
                Ok(key)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let mut text = String::new();
                let bound = LONGEST as u64 + 2;
                File::open(path).and_then(|file| file.take(bound).read_to_string(&mut text)).map_err(failed)?;
                Self::new(&text)
            }
            Err(error) => Err(failed(error)),
        }
    }

    /// The key itself, for what is derived from it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether this is the key; takes as long for a near miss as for nonsense.
    #[must_use]
    pub fn is(&self, text: &str) -> bool {
        self.0.as_bytes().ct_eq(text.as_bytes()).into()
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("ApiKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_key_is_made_once_and_for_the_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        let key = ApiKey::load_or_make(&path).unwrap();
        assert_eq!(ApiKey::load_or_make(&path).unwrap(), key);
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(key.is(std::fs::read_to_string(&path).unwrap().trim()));
        assert_ne!(ApiKey::random(), key);
    }

    #[test]
    fn a_key_is_itself_and_nothing_else() {
        let key = ApiKey::new(" 0123456789abcdef\n").unwrap();
        assert!(key.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeg", "0123456789abcdef "] {
            assert!(!key.is(other), "{other:?}");
        }
        assert_eq!(format!("{key:?}"), "ApiKey(..)");
    }

    #[test]
    fn a_key_that_could_be_guessed_or_cannot_stand_in_a_header_is_refused() {
        for text in ["", "short", "0123456789abcde\u{e9}", "01234567 89abcdef", &"x".repeat(LONGEST + 1)] {
            assert!(matches!(ApiKey::new(text), Err(KeyError::Invalid { .. })), "{text:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        assert!(matches!(ApiKey::load_or_make(directory.path()), Err(KeyError::File { .. })));
    }
}
