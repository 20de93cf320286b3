//! How images are got and unpacked.

use std::path::PathBuf;

/// Default of [`ImageSettings::max_unpacked_bytes`].
pub const DEFAULT_MAX_UNPACKED_BYTES: u64 = 20 << 30;
/// Default of [`ImageSettings::max_entries`]: large images have half a million files.
pub const DEFAULT_MAX_ENTRIES: u64 = 2_000_000;

/// How images are got and unpacked.
#[derive(Debug, Clone)]
pub struct ImageSettings {
    /// Bytes that one image may unpack; layers that are there already are free.
    pub max_unpacked_bytes: u64,
    /// Files, directories and links that one image may unpack.
    pub max_entries: u64,
    /// Registries, as "host:port", that are spoken to over plain HTTP. Those on the loopback address always are.
    pub plain_http: Vec<String>,
    /// Docker's `config.json` with the credentials of registries, if there is a place for one.
    pub credentials: Option<PathBuf>,
    /// Who owns the files.
    pub ownership: Ownership,
}

impl Default for ImageSettings {
    fn default() -> Self {
        Self {
            max_unpacked_bytes: DEFAULT_MAX_UNPACKED_BYTES,
            max_entries: DEFAULT_MAX_ENTRIES,
            plain_http: Vec::new(),
            credentials: None,
            ownership: Ownership::Keep,
        }
    }
}

/// Who owns the files of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ownership {
    /// Whom the archive says. Needs root.
    Keep,
    /// The daemon's user, whoever the archive says; setuid bits are dropped. For a daemon without root, whose overlays are
    /// mounted with `userxattr`.
    Own,
}

impl Ownership {
    /// How overlayfs is told that a directory hides the same one of lower layers.
    pub(super) fn opaque_attribute(self) -> &'static str {
        match self {
            Self::Keep => "trusted.overlay.opaque",
            Self::Own => "user.overlay.opaque",
        }
    }

    /// Layers that were unpacked the one way are of no use the other way.
    pub(super) fn directory(self) -> &'static str {
        match self {
            Self::Keep => "layers",
            Self::Own => "owned",
        }
    }
}
