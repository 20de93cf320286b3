//! An image that is at hand, its layers not yet unpacked.

use std::fs::File;
use std::io;

use tokio_util::sync::CancellationToken;

use super::ImageError;
use super::compression::Section;
use super::digest::{Digest, Digesting};
use super::manifest::Config;
use super::meter::{Budget, Meter, Metered};

/// A layer that is at hand, but not unpacked.
#[derive(Debug, Clone)]
pub(super) struct LayerSource {
    /// Its bytes, compressed or not.
    pub(super) section: Section,
    pub(super) digest: LayerDigest,
}

/// What the digest of a layer is taken of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LayerDigest {
    /// The bytes as they are stored.
    Stored(Digest),
    /// The decompressed tar.
    Plain(Digest),
}

impl LayerDigest {
    pub(super) fn digest(self) -> Digest {
        match self {
            Self::Stored(digest) | Self::Plain(digest) => digest,
        }
    }
}

/// An image that is at hand.
#[derive(Debug)]
pub(super) struct ImageSource {
    pub(super) config: Config,
    /// The lowest first.
    pub(super) layers: Vec<LayerSource>,
}

/// A tar as an image of one layer, called by the digest of the file. It is read once for that, and once more to be
/// unpacked: should it change in between, the digest will tell.
///
/// # Errors
/// [`ImageError::Io`].
pub(super) fn of_tar(file: File, stop: &CancellationToken) -> Result<ImageSource, ImageError> {
    let section = Section::whole(file).map_err(|error| ImageError::io("read a tar", error))?;
    // The file is there already, so that its length needs no bound.
    let meter = Meter::new(&Budget::new(u64::MAX, 0), stop);
    let mut reader = Digesting::new(Metered::new(section.clone(), &meter));
    io::copy(&mut reader, &mut io::sink()).map_err(|error| meter.explain("tar", &error))?;
    let digest = LayerDigest::Stored(reader.finish());
    Ok(ImageSource { config: Config::default(), layers: vec![LayerSource { section, digest }] })
}
