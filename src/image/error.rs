//! Why an image is of no use, and whose fault it is.

use std::fmt;
use std::io;
use std::sync::Arc;

use oci_client::errors::OciDistributionError;

/// Why an image is of no use. It can be cloned, since all who wait for one image are given the same error.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ImageError {
    /// There is no such directory, file, or name in the registry. The caller's fault.
    #[error("not found")]
    NotFound,
    /// The archive is there, but holds no image of this name. The caller's fault.
    #[error("the archive holds no image \"{name}\", but: {}", names(.holds))]
    NotInArchive {
        /// As asked for.
        name: String,
        /// The names in the archive.
        holds: Vec<String>,
    },
    /// The archive holds several images, and none was named. The caller's fault.
    #[error("the archive holds several images; name one of: {}", names(.holds))]
    NameNeeded {
        /// The names in the archive.
        holds: Vec<String>,
    },
    /// It is damaged, hostile, or for another platform. The image's fault.
    #[error("{reason}")]
    Invalid {
        /// What is wrong with what part of it.
        reason: String,
    },
    /// It passes a bound. The image's fault.
    #[error("larger than {limit}")]
    TooLarge {
        /// Which bound.
        limit: Limit,
    },
    /// The registry could not be reached, or refused.
    #[error("pull from {registry}")]
    Pull {
        /// Host and port of the registry.
        registry: String,
        /// What the registry or the network said.
        #[source]
        source: Arc<OciDistributionError>,
    },
    /// The registry could not be reached, or refused, as another program says that pulled for us.
    #[error("pull from {registry}: {reason}")]
    PullRefused {
        /// Host and port of the registry.
        registry: String,
        /// In that program's words.
        reason: String,
    },
    /// The registry did not answer in time.
    #[error("pull from {registry}: no answer within {seconds} s")]
    PullTimeout {
        /// Host and port of the registry.
        registry: String,
        /// How long it was waited for.
        seconds: u64,
    },
    /// A step failed on the host.
    #[error("{step}")]
    Io {
        /// What was being done, to what.
        step: String,
        /// Why it failed.
        #[source]
        source: Arc<io::Error>,
    },
}

/// A bound that an image can pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Bytes of the image once unpacked.
    UnpackedBytes(u64),
    /// Files, directories and links.
    Entries(u64),
    /// Bytes of names and other data about one entry of an archive.
    HeaderBytes(u64),
    /// Bytes of the names of all directories of a layer.
    NameBytes(usize),
    /// Bytes of a manifest or another document.
    DocumentBytes(u64),
    /// Layers of an image.
    Layers(usize),
}

impl fmt::Display for Limit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnpackedBytes(limit) => write!(formatter, "{limit} bytes unpacked"),
            Self::Entries(limit) => write!(formatter, "{limit} entries"),
            Self::HeaderBytes(limit) => write!(formatter, "{limit} bytes of header for one entry"),
            Self::NameBytes(limit) => write!(formatter, "{limit} bytes of directory names"),
            Self::DocumentBytes(limit) => write!(formatter, "{limit} bytes of a document"),
            Self::Layers(limit) => write!(formatter, "{limit} layers"),
        }
    }
}

impl ImageError {
    pub(super) fn invalid(reason: impl Into<String>) -> Self {
        Self::Invalid { reason: reason.into() }
    }

    pub(super) fn io(step: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io { step: step.into(), source: Arc::new(source.into()) }
    }

    /// Of a path that the caller named: that it is not there is the caller's fault, all else the host's.
    pub(super) fn of_named_path(step: impl Into<String>, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            _ => Self::io(step, source),
        }
    }
}

/// How many names an error lists, so that a hostile archive does not fill the log.
const NAMES_LISTED: usize = 20;

fn names(names: &[String]) -> String {
    let mut text = names.iter().take(NAMES_LISTED).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.len() > NAMES_LISTED {
        text.push_str(", and more");
    }
    text
}
