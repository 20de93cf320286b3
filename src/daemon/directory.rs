//! The state directory.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

use super::DaemonError;
use crate::health::LOCK;
use crate::ids::SandboxId;
use crate::store::{Store, StoreError};

/// Mode bits by which others than the owner write.
const OTHERS_WRITE: u32 = 0o022;

/// Makes the state directory and takes it for this daemon alone. It has to be this user's, and nobody else may write to it:
/// who could, would put files of their own in the place of the store, the keys and the sandboxes.
pub fn lock_state(path: &Path) -> Result<Flock<fs::File>, DaemonError> {
    let failed = |source| DaemonError::State { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
    let metadata = fs::metadata(path).map_err(failed)?;
    if metadata.uid() != geteuid().as_raw() {
        return Err(DaemonError::StateForeign { path: path.to_owned(), owner: metadata.uid() });
    }
    if metadata.mode() & OTHERS_WRITE != 0 {
        let mode = fs::Permissions::from_mode(metadata.mode() & !OTHERS_WRITE);
        fs::set_permissions(path, mode).map_err(failed)?;
    }
    let file = fs::File::options().create(true).append(true).open(path.join(LOCK)).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DaemonError::StateInUse(path.to_owned())),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Refuses to go on without a store where there are sandboxes: it was lost, and to a daemon that began with a new one they
/// would all be nobody's, to be removed.
pub fn check_store(state: &Path) -> Result<(), DaemonError> {
    let sandboxes = state.join("sandboxes");
    let is_sandbox = |entry: fs::DirEntry| entry.file_name().to_str()?.parse::<SandboxId>().ok();
    let is_used = fs::read_dir(&sandboxes).into_iter().flatten().flatten().find_map(is_sandbox).is_some();
    if is_used && !has_store(state) {
        return Err(DaemonError::StoreLost { store: store_path(state), sandboxes });
    }
    Ok(())
}

/// There is a store, of whatever daemon. An empty file is none.
pub fn has_store(state: &Path) -> bool {
    fs::metadata(store_path(state)).is_ok_and(|store| store.len() > 0)
}

fn store_path(state: &Path) -> PathBuf {
    state.join("store.db")
}

/// Opens the store. Blocks for some milliseconds, while nobody is served.
pub async fn open_store(state: &Path) -> Result<Store, DaemonError> {
    let path = store_path(state);
    let opened = tokio::task::spawn_blocking({
        let path = path.clone();
        move || Store::open(&path)
    });
    opened.await.unwrap_or(Err(StoreError::Gone)).map_err(|source| DaemonError::StoreFile { path, source })
}

/// Where the output of runs is.
pub fn spools(state: &Path) -> PathBuf {
    state.join("runs")
}
