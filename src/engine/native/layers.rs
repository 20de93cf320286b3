//! Which layers a sandbox is made of, for whoever would remove them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::{Native, failed};
use crate::engine::{EngineError, wanted_since};
use crate::image::{Image, ImageError, ImageStore, Usage};

/// In a sandbox's directory: a list of paths.
const NOTE: &str = "layers.json";

/// Notes what a sandbox is about to be made of.
///
/// # Errors
/// Those of writing a file.
pub fn note(directory: &Path, image: &Image) -> io::Result<()> {
    let layers: Vec<&PathBuf> = image.trees.iter().flat_map(|tree| &tree.layers).collect();
    fs::write(directory.join(NOTE), serde_json::to_vec(&layers)?)
}

/// All layers that sandboxes are made of; `None` if that is not known of each, as of one that is just being made.
///
/// # Errors
/// Those of reading the directory of the sandboxes.
pub fn noted(sandboxes: &Path) -> io::Result<Option<BTreeSet<PathBuf>>> {
    let mut noted = BTreeSet::new();
    for entry in fs::read_dir(sandboxes)? {
        let text = fs::read(entry?.path().join(NOTE)).unwrap_or_default();
        let Ok(layers) = serde_json::from_slice::<Vec<PathBuf>>(&text) else { return Ok(None) };
        noted.extend(layers);
    }
    Ok(Some(noted))
}

impl Native {
    /// Does something with the images that depends on which are in use; nothing where that is not known.
    pub(super) async fn of_images<T: Default + Send + 'static>(
        &self,
        act: impl FnOnce(&ImageStore, &Usage) -> Result<T, ImageError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let (images, sandboxes) = (self.images.clone(), self.sandboxes.clone());
        let acting = tokio::task::spawn_blocking(move || match noted(&sandboxes)? {
            Some(layers) => act(&images, &Usage { layers, since: wanted_since() }).map_err(io::Error::other),
            None => Ok(T::default()),
        });
        let acted = acting.await.map_err(|_| EngineError::Gone)?;
        acted.map_err(failed("tell the images in use by", &self.sandboxes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Tree;

    #[test]
    fn what_is_in_use_is_known_only_if_it_is_known_of_each_sandbox() {
        let sandboxes = tempfile::tempdir().unwrap();
        assert_eq!(noted(sandboxes.path()).unwrap(), Some(BTreeSet::new()));
        for (name, layers) in [("a", ["/1", "/2"]), ("b", ["/2", "/3"])] {
            let directory = sandboxes.path().join(name);
            fs::create_dir(&directory).unwrap();
            assert_eq!(noted(sandboxes.path()).unwrap(), None);
            let tree = Tree { target: "/".into(), layers: layers.map(PathBuf::from).to_vec() };
            note(&directory, &Image { trees: vec![tree], env: Default::default(), user: None }).unwrap();
        }
        assert_eq!(noted(sandboxes.path()).unwrap(), Some(["/1", "/2", "/3"].map(PathBuf::from).into()));
        fs::write(sandboxes.path().join("a").join(NOTE), "[\"/1\",").unwrap();
        assert_eq!(noted(sandboxes.path()).unwrap(), None);
    }
}
