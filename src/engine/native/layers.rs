//! The layers that a sandbox is made of: the writable ones of its own, and a note of the others for whoever would remove them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, chown};

use super::zygote::{self, Tree};
use super::{Native, failed, make_directory};
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

/// Where the writable layer of a tree is.
pub fn writable_layer(directory: &Path, tree: usize) -> PathBuf {
    directory.join(tree.to_string())
}

impl Native {
    /// Makes the writable layers, bounded to so many bytes together; answers the trees as the zygote wants them. Layers that
    /// are there already keep what is in them, and their bound.
    pub(super) fn make_layers(&self, directory: &Path, image: &Image, disk: Option<u64>) -> io::Result<Vec<Tree>> {
        let is_new = !directory.try_exists()?;
        make_directory(directory)?;
        note(directory, image)?;
        let bound = self.quotas.as_ref().zip(disk).filter(|_| is_new);
        let project = bound.map(|(quotas, _)| quotas.project(directory)).transpose()?;
        let mut trees = Vec::with_capacity(image.trees.len());
        for (index, tree) in image.trees.iter().enumerate() {
            let writable = writable_layer(directory, index);
            make_directory(&writable)?;
            project.map_or(Ok(()), |project| project.adopt(&writable))?;
            for path in ["upper", "work"].map(|name| writable.join(name)) {
                match fs::DirBuilder::new().mode(0o755).create(&path) {
                    Ok(()) => chown(&path, Some(self.owner()), Some(Gid::from_raw(self.owner().as_raw())))?,
                    Err(error) if !is_new && error.kind() == io::ErrorKind::AlreadyExists => {}
                    Err(error) => return Err(error),
                }
            }
            trees.push(Tree {
                target: zygote::text(&tree.target),
                layers: tree.layers.iter().map(|layer| zygote::text(layer)).collect(),
                writable: zygote::text(&writable),
            });
        }
        // Last, so that a kill in between leaves no bound on a project that no directory names.
        if let (Some((quotas, bytes)), Some(project)) = (bound, project) {
            quotas.bound(project, bytes)?;
        }
        Ok(trees)
    }

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
    use crate::image;

    #[test]
    fn what_is_in_use_is_known_only_if_it_is_known_of_each_sandbox() {
        let sandboxes = tempfile::tempdir().unwrap();
        assert_eq!(noted(sandboxes.path()).unwrap(), Some(BTreeSet::new()));
        for (name, layers) in [("a", ["/1", "/2"]), ("b", ["/2", "/3"])] {
            let directory = sandboxes.path().join(name);
            fs::create_dir(&directory).unwrap();
            assert_eq!(noted(sandboxes.path()).unwrap(), None);
            let tree = image::Tree { target: "/".into(), layers: layers.map(PathBuf::from).to_vec() };
            note(&directory, &Image { trees: vec![tree], env: Default::default(), user: None }).unwrap();
        }
        assert_eq!(noted(sandboxes.path()).unwrap(), Some(["/1", "/2", "/3"].map(PathBuf::from).into()));
        fs::write(sandboxes.path().join("a").join(NOTE), "[\"/1\",").unwrap();
        assert_eq!(noted(sandboxes.path()).unwrap(), None);
    }
}
