//! How files and directories come into the store: whole or not at all.

use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::Path;

use super::ImageError;

/// What a name begins with until what it names is complete.
pub(super) const TEMPORARY: &str = ".tmp-";

/// A directory that is removed unless it is put in place.
pub(super) fn temporary_directory(parent: &Path) -> Result<tempfile::TempDir, ImageError> {
    let made = tempfile::Builder::new().prefix(TEMPORARY).tempdir_in(parent);
    made.map_err(|error| ImageError::io(format!("make a directory in {}", parent.display()), error))
}

/// Gives a directory its name once it is on the disk. If another was quicker, theirs stays and ours is removed: the name
/// says that the two are the same.
pub(super) fn put_in_place(directory: tempfile::TempDir, path: &Path) -> Result<(), ImageError> {
    let parent = path.parent().unwrap_or_else(|| Path::new("/"));
    let put = || -> io::Result<()> {
        // One call for all files: to sync each would cost far more.
        nix::unistd::syncfs(File::open(directory.path())?)?;
        match fs::rename(directory.path(), path) {
            Ok(()) => File::open(parent)?.sync_all(),
            // Which of the two is for the file system to choose.
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(()),
            Err(error) => Err(error),
        }
    };
    // Dropping the temporary directory removes it only if it still has that name.
    put().map_err(|error| ImageError::io(format!("put {} in place", path.display()), error))
}

/// Removes what an earlier daemon left under a temporary name.
pub(super) fn remove_temporary(directory: &Path) -> Result<(), ImageError> {
    let remove = || -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                if entry.file_type()?.is_dir() {
                    fs::remove_dir_all(entry.path())?
                } else {
                    fs::remove_file(entry.path())?
                }
            }
        }
        Ok(())
    };
    remove().map_err(|error| ImageError::io(format!("clean {}", directory.display()), error))
}
