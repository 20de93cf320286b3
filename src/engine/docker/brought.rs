//! Which images this daemon has brought into Docker, and when it last made something of them.
//!
//! ```text
//! STATE/docker-images/<hash of the name>    holds the name; its time is that of the last use
//! ```
//!
//! A name is noted before its image is there, so that one whose pull outlived the daemon is known too. What Docker had
//! before is never noted, and so never removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use super::digests::hex;

/// The notes.
#[derive(Debug)]
pub struct Brought(PathBuf);

impl Brought {
    /// Those of a state directory.
    ///
    /// # Errors
    /// Those of making the directory.
    pub fn open(state: &Path) -> io::Result<Self> {
        let directory = state.join("docker-images");
        super::make_directory(&directory)?;
        Ok(Self(directory))
    }

    /// Notes an image that is about to be brought.
    ///
    /// # Errors
    /// Those of writing a file.
    pub fn note(&self, name: &str) -> io::Result<()> {
        fs::write(self.path(name), name)
    }

    /// Notes that an image was used, if it is one of these.
    pub fn used(&self, name: &str) {
        let touched =
            File::options().append(true).open(self.path(name)).and_then(|note| note.set_modified(SystemTime::now()));
        match touched {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(image = name, %error, "it was not noted that an image was used");
            }
            Ok(()) | Err(_) => {}
        }
    }

    /// Forgets an image that is gone.
    ///
    /// # Errors
    /// Those of removing a file; that it is not there is none.
    pub fn forget(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The names of those that were last used before some time, in their order.
    ///
    /// # Errors
    /// Those of reading the notes.
    pub fn unused_since(&self, time: SystemTime) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.0)? {
            let path = entry?.path();
            if fs::metadata(&path)?.modified()? >= time {
                continue;
            }
            let name = String::from_utf8_lossy(&fs::read(&path)?).into_owned();
            // One that was cut short may name another image.
            if self.path(&name) == path {
                names.push(name);
            }
        }
        names.sort_unstable();
        Ok(names)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(hex(&Sha256::digest(name)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn used_at(notes: &Brought, name: &str, time: SystemTime) {
        File::options().append(true).open(notes.path(name)).unwrap().set_modified(time).unwrap();
    }

    #[test]
    fn an_image_is_unused_when_its_last_use_is_long_ago() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Brought::open(directory.path()).unwrap();
        for name in ["b:1", "a:1", "c:1"] {
            notes.note(name).unwrap();
            used_at(&notes, name, SystemTime::now() - 2 * HOUR);
        }
        assert_eq!(notes.unused_since(SystemTime::now() - HOUR).unwrap(), ["a:1", "b:1", "c:1"]);
        notes.used("b:1");
        notes.forget("c:1").unwrap();
        notes.forget("c:1").unwrap();
        let again = Brought::open(directory.path()).unwrap();
        assert_eq!(again.unused_since(SystemTime::now() - HOUR).unwrap(), ["a:1"]);
    }

    #[test]
    fn what_was_never_brought_is_not_noted_by_its_use() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Brought::open(directory.path()).unwrap();
        notes.used("foreign:1");
        assert_eq!(notes.unused_since(SystemTime::now() + HOUR).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_note_that_was_cut_short_names_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let notes = Brought::open(directory.path()).unwrap();
        notes.note("debian:12").unwrap();
        fs::write(notes.path("debian:12"), "debian:1").unwrap();
        assert_eq!(notes.unused_since(SystemTime::now() + HOUR).unwrap(), Vec::<String>::new());
    }
}
