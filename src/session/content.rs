//! Bodies of events that are too long for the store: a file each, below a directory of its session.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::ids::{EventId, SessionId};

/// Longest body in the store, in bytes of JSON.
pub const INLINE: usize = 32 << 10;

/// Longest text in a body that was cut, in bytes.
const CUT: usize = 4 << 10;

/// Why content could not be kept or read.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    /// A file failed.
    #[error("{action} {}", path.display())]
    File {
        /// What was being done.
        action: &'static str,
        /// To which file.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The daemon's runtime is shutting down.
    #[error("the daemon is shutting down")]
    Gone,
}

/// Where content is kept.
#[derive(Debug, Clone)]
pub struct Contents {
    directory: PathBuf,
}

impl Contents {
    /// Below a directory, which need not exist.
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn path(&self, session: &SessionId, event: &EventId) -> PathBuf {
        self.directory.join(session.as_str()).join(event.as_str())
    }

    /// Keeps the content of an event, durable once this has answered.
    ///
    /// # Errors
    /// See [`ContentError`].
    pub async fn put(&self, session: &SessionId, event: &EventId, content: Vec<u8>) -> Result<(), ContentError> {
        let path = self.path(session, event);
        blocking(move || write(&path, &content).map_err(|source| ContentError::File { action: "write", path, source }))
            .await
    }

    /// The content of an event.
    ///
    /// # Errors
    /// See [`ContentError`].
    pub async fn get(&self, session: &SessionId, event: &EventId) -> Result<Vec<u8>, ContentError> {
        let path = self.path(session, event);
        blocking(move || fs::read(&path).map_err(|source| ContentError::File { action: "read", path, source })).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ContentError> + Send + 'static,
) -> Result<T, ContentError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| ContentError::Gone)?
}

/// An event that refers to it comes later, and what no event refers to nobody reads: so it need not be put in place at once.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent)?;
    let mut file = fs::File::create(path)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::File::open(parent)?.sync_all()
}

/// The body with its texts cut short.
pub fn cut(body: &Value) -> Value {
    match body {
        Value::String(text) if text.len() > CUT => text[..text.floor_char_boundary(CUT)].into(),
        Value::Object(fields) => fields.iter().map(|(key, value)| (key.clone(), cut(value))).collect(),
        // A list of thousands is cut as a whole: who wants it reads the content.
        Value::Array(items) if items.len() > 64 => Value::Array(items.iter().take(64).map(cut).collect()),
        Value::Array(items) => items.iter().map(cut).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => body.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_long_texts_are_cut_and_never_within_a_character() {
        let long = "ü".repeat(CUT);
        let body = cut(&json!({ "text": long, "short": "a", "code": 1, "deep": { "x": "b".repeat(CUT + 1) } }));
        assert_eq!(body["text"].as_str().unwrap().len(), CUT);
        assert_eq!((body["short"].as_str(), body["code"].as_u64()), (Some("a"), Some(1)));
        assert_eq!(body["deep"]["x"].as_str().unwrap().len(), CUT);
    }
}
