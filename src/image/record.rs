//! What is known of an image that was unpacked before: a small JSON file, written to a temporary one, synced, renamed. Its
//! time is that of the last use.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::manifest::Config;
use super::place::TEMPORARY;
use super::{ImageError, ImageRef};

/// Of the format below. A record of another version is none: the image is made anew.
const VERSION: u32 = 1;

/// An image in the store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Record {
    version: u32,
    /// As asked for.
    pub(super) image: String,
    /// The file it came from; `None` if it came from a registry.
    pub(super) stamp: Option<Stamp>,
    /// The lowest first.
    pub(super) layers: Vec<Digest>,
    pub(super) env: BTreeMap<String, String>,
    pub(super) user: Option<String>,
}

/// Tells whether a file is still the one it was, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    mtime: i64,
    mtime_nanoseconds: i64,
}

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mtime: metadata.mtime(),
            mtime_nanoseconds: metadata.mtime_nsec(),
        }
    }
}

impl Record {
    pub(super) fn new(image: &ImageRef, stamp: Option<Stamp>, layers: Vec<Digest>, config: Config) -> Self {
        Self { version: VERSION, image: image.to_string(), stamp, layers, env: config.env, user: config.user }
    }

    /// The record at `path`, if there is one that can be read: for a damaged one the image is made anew.
    pub(super) fn load(path: &Path) -> Result<Option<Self>, ImageError> {
        match fs::read(path) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok().filter(|record: &Self| record.version == VERSION)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ImageError::io(format!("read {}", path.display()), error)),
        }
    }

    /// Makes this the last use of the image of the record at `path`.
    pub(super) fn touch(path: &Path) {
        let touched = File::options().append(true).open(path).and_then(|file| file.set_modified(SystemTime::now()));
        if let Err(error) = touched {
            tracing::warn!(record = %path.display(), %error, "it was not noted that an image was used");
        }
    }

    /// Puts the record in place, whole or not at all.
    pub(super) fn save(&self, path: &Path) -> Result<(), ImageError> {
        let save = || -> io::Result<()> {
            let directory = path.parent().unwrap_or_else(|| Path::new("/"));
            let mut file = tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(directory)?;
            serde_json::to_writer_pretty(&mut file, self)?;
            file.flush()?;
            file.as_file().sync_all()?;
            file.persist(path)?;
            File::open(directory)?.sync_all()
        };
        save().map_err(|error| ImageError::io(format!("write {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        let stamp = Stamp { device: 1, inode: 2, size: 3, mtime: 4, mtime_nanoseconds: 5 };
        let config = Config { env: [("A".to_owned(), "b".to_owned())].into(), ..Config::default() };
        Record::new(&ImageRef::Tar("/a.tar".into()), Some(stamp), vec![Digest::of(b"")], config)
    }

    #[test]
    fn a_record_reads_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        assert_eq!(Record::load(&path).unwrap(), None);
        record().save(&path).unwrap();
        assert_eq!(Record::load(&path).unwrap(), Some(record()));
    }

    #[test]
    fn the_format_is_the_one_that_lies_on_disks() {
        let golden = r#"{"version":1,"image":"tar:/a.tar","stamp":{"device":1,"inode":2,"size":3,"mtime":4,"mtime_nanoseconds":5},"layers":["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"],"env":{"A":"b"},"user":null}"#;
        assert_eq!(serde_json::to_string(&record()).unwrap(), golden);
    }

    #[test]
    fn a_damaged_record_or_one_of_another_version_is_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.json");
        for text in ["", "{", r#"{"version":2,"image":"","stamp":null,"layers":[],"env":{},"user":null}"#] {
            fs::write(&path, text).unwrap();
            assert_eq!(Record::load(&path).unwrap(), None, "{text}");
        }
    }
}
