//! The state directory.

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use super::DaemonError;
use crate::store::{Store, StoreError};

/// Makes the state directory and takes it for this daemon alone.
pub fn lock_state(path: &Path) -> Result<Flock<fs::File>, DaemonError> {
    let failed = |source| DaemonError::State { path: path.to_owned(), source };
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path).map_err(failed)?;
    let file = fs::File::options().create(true).append(true).open(path.join("lock")).map_err(failed)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Err(DaemonError::StateInUse(path.to_owned())),
        Err((_, error)) => Err(failed(error.into())),
    }
}

/// Opens the store. Blocks for some milliseconds, while nobody is served.
pub async fn open_store(state: &Path) -> Result<Store, DaemonError> {
    let path = state.join("store.db");
    let opened = tokio::task::spawn_blocking(move || Store::open(&path)).await;
    opened.unwrap_or(Err(StoreError::Gone)).map_err(DaemonError::Store)
}

/// Where the output of runs is.
pub fn spools(state: &Path) -> PathBuf {
    state.join("runs")
}
