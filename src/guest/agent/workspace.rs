//! The sandbox's working directory.

use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, Uid, chown};

use super::users;

/// Makes it for the user, if it is missing. Its parents are root's.
///
/// # Errors
/// Those of mkdir(2) and chown(2). A user that is not there is none: the first run says what is wrong with it.
pub fn make(path: &Path, user: &str) -> io::Result<()> {
    if fs::symlink_metadata(path).is_ok() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    let Ok(user) = users::lookup(user) else { return Ok(()) };
    match chown(path, Some(Uid::from_raw(user.uid)), Some(Gid::from_raw(user.gid))) {
        // The sandbox's user namespace has no such id (user_namespaces(7)).
        Err(Errno::EINVAL) => Ok(()),
        result => Ok(result?),
    }
}
