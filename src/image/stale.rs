//! Images that nobody uses any more.
//!
//! An image is in use as long as a sandbox is made of its uppermost layer, and for a while after it was asked for: the
//! time of its record is that of the last use. A layer goes with the last image that holds it, unless a sandbox is made of
//! it. Nothing goes while an image is being got, whose layers are there before its record is.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::SystemTime;

use super::ImageError;
use super::digest::Digest;
use super::place::TEMPORARY;
use super::record::Record;
use super::store::{ImageStore, Shared};
use crate::guest::agent::files::remove_abandoned;

/// What tells whether an image is in use.
#[derive(Debug, Clone)]
pub struct Usage {
    /// The layers that sandboxes are made of.
    pub layers: BTreeSet<PathBuf>,
    /// Images that were asked for since then are in use.
    pub since: SystemTime,
}

impl ImageStore {
    /// The images that are not in use, by their names.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn stale(&self, usage: &Usage) -> Result<Vec<String>, ImageError> {
        let mut stale = Vec::new();
        for (path, record) in self.shared.all()? {
            if self.shared.is_stale(&path, &record, usage)? {
                stale.push(record.image);
            }
        }
        stale.sort_unstable();
        Ok(stale)
    }

    /// Removes an image, and the layers that no other holds. One that is in use by now stays. Blocks.
    ///
    /// # Errors
    /// [`ImageError::Io`]; what is left of it is removed when the store is opened again.
    pub fn remove(&self, name: &str, usage: &Usage) -> Result<(), ImageError> {
        for layer in self.shared.take_away(name, usage)? {
            let removed = remove_abandoned(&layer).map_err(io::Error::from);
            removed.map_err(|error| ImageError::io(format!("remove {}", layer.display()), error))?;
        }
        Ok(())
    }
}

impl Shared {
    /// All records, with where they are.
    fn all(&self) -> Result<Vec<(PathBuf, Record)>, ImageError> {
        let failed = |error| ImageError::io(format!("list {}", self.records.display()), error);
        let mut all = Vec::new();
        for entry in fs::read_dir(&self.records).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            all.extend(Record::load(&path)?.map(|record| (path, record)));
        }
        Ok(all)
    }

    fn is_stale(&self, path: &Path, record: &Record, usage: &Usage) -> Result<bool, ImageError> {
        let used = fs::metadata(path).and_then(|metadata| metadata.modified());
        let used = used.map_err(|error| ImageError::io(format!("look at {}", path.display()), error))?;
        let is_held = record.layers.last().is_some_and(|digest| usage.layers.contains(&self.layer_path(digest)));
        Ok(used < usage.since && !is_held)
    }

    /// Takes an image from those that can be had; answers the layers that are left of it, under names of no layer.
    fn take_away(&self, name: &str, usage: &Usage) -> Result<Vec<PathBuf>, ImageError> {
        // Held so that nobody begins to get an image. It takes some renames.
        let flights = self.flights.lock().unwrap_or_else(PoisonError::into_inner);
        if !flights.is_empty() {
            return Ok(Vec::new());
        }
        let all = self.all()?;
        let Some((path, record)) = all.iter().find(|(_, record)| record.image == name) else { return Ok(Vec::new()) };
        if !self.is_stale(path, record, usage)? {
            return Ok(Vec::new());
        }
        fs::remove_file(path).map_err(|error| ImageError::io(format!("remove {}", path.display()), error))?;
        let others = all.iter().filter(|(other, _)| other != path);
        let held: BTreeSet<Digest> = others.flat_map(|(_, record)| record.layers.iter().copied()).collect();
        let own: BTreeSet<Digest> = record.layers.iter().copied().collect();
        let mut gone = Vec::new();
        for digest in own.difference(&held) {
            let layer = self.layer_path(digest);
            if usage.layers.contains(&layer) {
                continue;
            }
            let doomed = self.layers.join(format!("{TEMPORARY}gone-{}", digest.hex()));
            match fs::rename(&layer, &doomed) {
                Ok(()) => gone.push(doomed),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(ImageError::io(format!("take away {}", layer.display()), error)),
            }
        }
        Ok(gone)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::time::Duration;

    use super::*;
    use crate::image::ImageRef;
    use crate::image::settings::{ImageSettings, Ownership};

    const HOUR: Duration = Duration::from_secs(3600);

    fn open(directory: &Path) -> ImageStore {
        let settings = ImageSettings { ownership: Ownership::Own, ..ImageSettings::default() };
        ImageStore::open(directory.join("images"), settings).unwrap()
    }

    /// An image of one file, which nobody has asked for in two hours; its layer.
    async fn old_image(store: &ImageStore, path: &Path, content: &str) -> (ImageRef, PathBuf) {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "file", content.as_bytes()).unwrap();
        fs::write(path, builder.into_inner().unwrap()).unwrap();
        let image = ImageRef::Tar(path.to_owned());
        let layer = store.resolve(&image).await.unwrap().trees[0].layers[0].clone();
        let record = File::options().append(true).open(store.shared.record_path(&image)).unwrap();
        record.set_modified(SystemTime::now() - 2 * HOUR).unwrap();
        (image, layer)
    }

    fn usage(layers: &[&PathBuf]) -> Usage {
        Usage { layers: layers.iter().map(|&layer| layer.clone()).collect(), since: SystemTime::now() - HOUR }
    }

    #[tokio::test]
    async fn an_image_that_nobody_uses_goes_with_its_layers_and_can_be_had_again() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let (image, layer) = old_image(&store, &directory.path().join("a.tar"), "a").await;
        assert_eq!(store.stale(&usage(&[])).unwrap(), [image.to_string()]);
        assert_eq!(store.stale(&usage(&[&layer])).unwrap(), Vec::<String>::new());
        store.remove(&image.to_string(), &usage(&[&layer])).unwrap();
        assert!(layer.exists(), "a sandbox is made of it");
        store.remove(&image.to_string(), &usage(&[])).unwrap();
        assert_eq!(fs::read_dir(layer.parent().unwrap()).unwrap().count(), 0);
        assert_eq!(store.resolve(&image).await.unwrap().trees[0].layers, [layer]);
    }

    #[tokio::test]
    async fn to_ask_for_an_image_is_to_use_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let (image, layer) = old_image(&store, &directory.path().join("a.tar"), "a").await;
        let usage = usage(&[]);
        assert_eq!(store.stale(&usage).unwrap().len(), 1);
        store.resolve(&image).await.unwrap();
        assert_eq!(store.stale(&usage).unwrap(), Vec::<String>::new());
        store.remove(&image.to_string(), &usage).unwrap();
        assert!(layer.exists(), "it was asked for in the meantime");
    }

    #[tokio::test]
    async fn a_layer_stays_as_long_as_another_image_holds_it() {
        let directory = tempfile::tempdir().unwrap();
        let store = open(directory.path());
        let (first, layer) = old_image(&store, &directory.path().join("a.tar"), "same").await;
        let (second, same) = old_image(&store, &directory.path().join("b.tar"), "same").await;
        assert_eq!(layer, same);
        store.remove(&first.to_string(), &usage(&[])).unwrap();
        assert!(layer.exists());
        store.remove(&second.to_string(), &usage(&[])).unwrap();
        assert!(!layer.exists());
    }
}
