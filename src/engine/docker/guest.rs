//! The guest's binary, where Docker can bind it from.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::make_directory;
use crate::guest::binary::GUEST;

/// Writes the guest's binary under the name of its content: what runs keeps the one it was started with.
pub fn write_guest(directory: &Path) -> io::Result<PathBuf> {
    let digest = Sha256::digest(GUEST);
    let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let directory = directory.join(name);
    let path = directory.join("hands-guest");
    if fs::read(&path).is_ok_and(|content| content == GUEST) {
        return Ok(path);
    }
    make_directory(&directory)?;
    let unfinished = directory.join("unfinished");
    fs::write(&unfinished, GUEST)?;
    fs::set_permissions(&unfinished, fs::Permissions::from_mode(0o555))?;
    fs::rename(&unfinished, &path)?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_written_once_and_can_be_executed() {
        let directory = tempfile::tempdir().unwrap();
        let path = write_guest(directory.path()).unwrap();
        let written = fs::metadata(&path).unwrap();
        assert_eq!(written.permissions().mode() & 0o777, 0o555);
        assert_eq!(write_guest(directory.path()).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().modified().unwrap(), written.modified().unwrap());
    }
}
