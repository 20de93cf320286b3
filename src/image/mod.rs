//! Images: from a reference to directories that overlayfs can stack.
//!
//! In goes an [`ImageRef`], out comes an [`Image`]: trees of read-only directories, the environment and the user. What
//! is unpacked lies in the [`ImageStore`], by its digest, and is shared by all images that hold it.
//!
//! ```text
//!   host ──────► host ── a skeleton of a root, beside the node's own /usr
//!   dir: ──────► as it is
//!   tar: ──────► source ──┐
//!   archive: ──► archive ─┼─► store ─► unpack ─► root ── one directory for each layer, under its digest
//!   docker:// ─► registry ┘
//! ```
//!
//! Invariants: what comes from an archive or a registry is hostile. It is bounded before it is held in memory (but for the
//! manifest of a registry, which the client collects: see `registry`), verified by its digest, and written only through
//! `root`, whose every step stays below the layer's directory. A layer is in place whole or not at all.

use std::collections::BTreeMap;
use std::path::PathBuf;

mod archive;
mod compression;
mod credentials;
mod digest;
mod error;
mod host;
mod manifest;
mod meter;
mod place;
mod record;
mod reference;
mod registry;
mod root;
mod settings;
mod source;
mod stale;
mod store;
mod unpack;

pub use credentials::{Credentials, Proof};
pub use error::{ImageError, Limit};
pub use reference::{ImageRef, ImageRefError};
pub use settings::{DEFAULT_MAX_ENTRIES, DEFAULT_MAX_UNPACKED_BYTES, ImageSettings, Ownership};
pub use stale::Usage;
pub use store::ImageStore;

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
