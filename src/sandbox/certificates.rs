//! Whom a sandbox with secrets trusts: whom its image trusts, and the authority of its own proxy.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::hands::files::{FileError, Files, ReadPart, ReadRange, WriteOptions};
use crate::network::{Authority, CERTIFICATES};

/// Where images have the certificates that they trust: Debian and Alpine, Fedora, SUSE.
const PLACES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Most bytes of them. Debian's are 220 KiB.
const MAX_BUNDLE: u64 = 4 << 20;

/// Writes the file that [`crate::network::certificate_environment`] names, over that of before.
///
/// # Errors
/// Those of writing it.
pub async fn install(socket: &Path, authority: &Authority) -> Result<(), Arc<FileError>> {
    // The sandbox's root, whoever commands run as: what they trust is not theirs to change.
    let files = Files::new(socket.to_owned(), "0:0".to_owned(), PathBuf::from("/"));
    write(&files, authority).await.map_err(Arc::new)
}

async fn write(files: &Files, authority: &Authority) -> Result<(), FileError> {
    let options = WriteOptions {
        path: CERTIFICATES.to_owned(),
        mode: Some(0o644),
        create_parents: true,
        append: false,
        expected_sha256: None,
    };
    let mut writing = files.write(options).await?;
    for place in PLACES {
        // An image without certificates trusts nobody.
        let Ok(mut bundle) = files.read(place, ReadRange::Bytes { offset: 0, limit: Some(MAX_BUNDLE) }).await else {
            continue;
        };
        while let Some(ReadPart::Data(bytes)) = bundle.next().await? {
            writing.push(bytes).await?;
        }
        writing.push(Bytes::from_static(b"\n")).await?;
        break;
    }
    writing.push(Bytes::from(authority.certificate().to_owned())).await?;
    writing.finish().await.map(drop)
}
