//! Images: from a reference to directories that overlayfs can stack.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What a caller asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ImageRef {
    /// The node's own /usr and friends.
    Host,
    /// A directory of the node.
    Dir(PathBuf),
    /// A root file system as a tar: plain, gzip or zstd.
    Tar(PathBuf),
    /// A `docker save` or OCI archive, and the name of the image in it if it holds several.
    Archive(PathBuf, Option<String>),
    /// A registry reference.
    Registry(String),
}

/// An image that is ready to be mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// What is mounted where, the root first.
    pub trees: Vec<Tree>,
    /// Environment of its processes.
    pub env: BTreeMap<String, String>,
    /// Who they run as.
    pub user: Option<String>,
}

/// Directories stacked into one, read-only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    /// Where in the sandbox: "/" or a directory like "/usr".
    pub target: PathBuf,
    /// As overlayfs stacks them: the uppermost first.
    pub layers: Vec<PathBuf>,
}

/// Why an image is of no use.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// There is none.
    #[error("not found")]
    NotFound,
}

/// The text is no image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an image reference")]
pub struct ImageRefError;

impl FromStr for ImageRef {
    type Err = ImageRefError;

    fn from_str(_text: &str) -> Result<Self, ImageRefError> {
        Ok(Self::Host)
    }
}

impl fmt::Display for ImageRef {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{self:?}")
    }
}
