//! The digests of files that images are made of.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Digests that are remembered. A node has a handful of such files.
const MOST: usize = 64;

/// Bytes of a file at a time.
const CHUNK: usize = 256 << 10;

/// Digests of files; that of one which has not changed is computed once.
#[derive(Debug, Clone, Default)]
pub struct Digests(Arc<Mutex<HashMap<Identity, String>>>);

/// A file as it stands: whoever changes its content changes this, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Digests {
    /// The SHA-256 of a regular file, in hex.
    ///
    /// # Errors
    /// Those of reading it; `NotFound` for what is no file.
    pub async fn of(&self, path: &Path) -> io::Result<String> {
        let (this, path) = (self.clone(), path.to_owned());
        let hashing = tokio::task::spawn_blocking(move || this.read(&path));
        hashing.await.map_err(io::Error::other)?
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        let mut file = File::open(path)?;
        let before = file.metadata()?;
        if !before.is_file() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let identity = Identity::of(&before);
        if let Some(digest) = self.lock().get(&identity) {
            return Ok(digest.clone());
        }
        let (mut hasher, mut chunk) = (Sha256::new(), vec![0; CHUNK]);
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                count => hasher.update(&chunk[..count]),
            }
        }
        let digest = hex(&hasher.finalize());
        // Of a file that was written meanwhile it is nobody's.
        if Identity::of(&file.metadata()?) == identity {
            let mut known = self.lock();
            if known.len() == MOST {
                known.clear();
            }
            known.insert(identity, digest.clone());
        }
        Ok(digest)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Identity, String>> {
        // Every change is one call.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Identity {
    fn of(file: &Metadata) -> Self {
        let changed = (file.ctime(), file.ctime_nsec());
        Self { device: file.dev(), inode: file.ino(), size: file.size(), changed }
    }
}

/// Bytes as lower case digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_digest_follows_the_content() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let digests = Digests::default();
        std::fs::write(file.path(), "a").unwrap();
        let first = digests.of(file.path()).await.unwrap();
        assert_eq!(first, "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb");
        assert_eq!(digests.of(file.path()).await.unwrap(), first);
        std::fs::write(file.path(), "bb").unwrap();
        assert_ne!(digests.of(file.path()).await.unwrap(), first);
    }

    #[tokio::test]
    async fn a_directory_is_no_file() {
        let error = Digests::default().of(Path::new("/")).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
