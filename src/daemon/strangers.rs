//! What no record names, because a daemon was killed while it made or removed it.

use std::fmt;
use std::fs;
use std::path::Path;

use super::DaemonError;
use super::directory::{has_store, lock_state, open_store, spools};
use super::engines::start_engine;
use crate::config::Config;
use crate::engine::Engine;
use crate::hands;
use crate::sandbox::strangers;
use crate::store::Store;
use crate::telemetry::chain;

/// Removes what no record names. What cannot be removed keeps nobody from starting: it is tried again from time to time.
pub async fn remove_strangers(engine: &dyn Engine, store: &Store, state: &Path) -> Result<(), DaemonError> {
    let recorded = store.sandboxes().await.map_err(DaemonError::Store)?;
    for id in strangers(engine.list().await.map_err(DaemonError::Engine)?, &recorded) {
        tracing::info!(sandbox.id = %id, "removing what no record names");
        if let Err(error) = engine.remove(&id).await {
            tracing::error!(sandbox.id = %id, error = %chain(&error), "it cannot be removed");
        }
    }
    let entries = fs::read_dir(spools(state)).into_iter().flatten().flatten();
    let present = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for id in strangers(present, &recorded) {
        hands::remove_spools(spools(state).join(id.as_str())).await;
    }
    Ok(())
}

/// What is removed by [`sweep`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sweep {
    /// Nothing: it is only listed.
    DryRun,
    /// All of it.
    Remove,
}

/// Whose sandboxes [`sweep`] finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Swept {
    /// Those that no record names, because a daemon was killed while it made or removed them.
    Strangers,
    /// Those too that the next daemon would take over.
    All,
}

/// Finds what the engine has, and the images that nothing is made of. It is no daemon's now, because this holds the lock
/// that a daemon would. Calls `found` with each before it is removed.
///
/// # Errors
/// See [`DaemonError`].
pub async fn sweep(
    config: &Config,
    sweep: Sweep,
    swept: Swept,
    mut found: impl FnMut(&dyn fmt::Display),
) -> Result<(), DaemonError> {
    let _lock = lock_state(&config.state_dir)?;
    let (engine, _) = start_engine(config, nix::unistd::geteuid().is_root()).await?;
    // Where there is none, none is made: it would pass for that of the sandboxes.
    let recorded = if has_store(&config.state_dir) {
        open_store(&config.state_dir).await?.sandboxes().await.map_err(DaemonError::Store)?
    } else {
        Vec::new()
    };
    let all = engine.list().await.map_err(DaemonError::Engine)?;
    let ids = match swept {
        Swept::Strangers => strangers(all, &recorded),
        Swept::All => all,
    };
    for id in ids {
        found(&id);
        if sweep == Sweep::Remove {
            engine.remove(&id).await.map_err(DaemonError::Engine)?;
        }
    }
    for image in engine.stale_images().await.map_err(DaemonError::Engine)? {
        found(&format_args!("image {image}"));
        if sweep == Sweep::Remove {
            engine.remove_image(&image).await.map_err(DaemonError::Engine)?;
        }
    }
    Ok(())
}
