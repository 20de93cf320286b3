//! The store: layers by their digest, and the work of getting an image into it.
//!
//! ```text
//! STATE/images/layers/sha256-<hex>/   a layer as its archive says who owns what
//!              owned/sha256-<hex>/    a layer whose files all belong to the daemon's user
//!              records/<hex>.json     an image that is complete
//!              host/<hex>/            a skeleton for `host`
//! ```
//!
//! A directory under its name is complete: it is filled under a name that begins with a dot, synced, and renamed.
//! One store at a time uses a directory.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, PoisonError};

use oci_client::Reference;
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use super::archive;
use super::compression::{Section, decompress};
use super::digest::{Digest, Digesting};
use super::host::HostTrees;
use super::manifest::Config;
use super::meter::Budget;
use super::place::{put_in_place, remove_temporary, temporary_directory};
use super::record::{Record, Stamp};
use super::registry::Registry;
use super::settings::ImageSettings;
use super::source::{self, ImageSource, LayerDigest, LayerSource};
use super::unpack::unpack;
use super::{Image, ImageError, ImageRef, Tree};

/// Gets images and keeps them. A handle: clones are the same store.
#[derive(Debug, Clone)]
pub struct ImageStore {
    pub(super) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    settings: ImageSettings,
    directory: PathBuf,
    pub(super) layers: PathBuf,
    pub(super) records: PathBuf,
    registry: Registry,
    host: HostTrees,
    pub(super) flights: Mutex<HashMap<ImageRef, Arc<Flight>>>,
}

/// The one attempt at an image that all who ask for it at the same time wait for.
pub(super) type Flight = OnceCell<Result<Image, ImageError>>;

impl ImageStore {
    /// Opens the store in `directory`, which is made if it is missing, and removes what an earlier one left half done.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub fn open(directory: PathBuf, settings: ImageSettings) -> Result<Self, ImageError> {
        let layers = directory.join(settings.ownership.directory());
        let records = directory.join("records");
        let host = directory.join("host");
        for directory in [&layers, &records, &host] {
            fs::create_dir_all(directory)
                .map_err(|error| ImageError::io(format!("make {}", directory.display()), error))?;
            remove_temporary(directory)?;
        }
        let registry = Registry::new(settings.plain_http.clone(), settings.credentials.clone());
        let host = HostTrees::new(host, settings.ownership);
        let flights = Mutex::default();
        Ok(Self { shared: Arc::new(Shared { settings, directory, layers, records, registry, host, flights }) })
    }

    /// The directories of an image, got and unpacked if they are not there yet. What is there is used: a tag of a registry
    /// is looked up once, a digest means the same for ever, and a file is read again once it has changed.
    ///
    /// Those who ask for one image at the same time wait for one attempt and share its outcome. An attempt that nobody
    /// waits for any more is given up, and leaves nothing.
    ///
    /// # Errors
    /// See [`ImageError`].
    pub async fn resolve(&self, image: &ImageRef) -> Result<Image, ImageError> {
        let boarding = Boarding::new(&self.shared, image);
        boarding.flight.get_or_init(|| self.shared.attempt(image)).await.clone()
    }
}

/// Keeps a flight findable as long as somebody waits for it.
struct Boarding<'a> {
    shared: &'a Shared,
    image: &'a ImageRef,
    flight: Arc<Flight>,
}

impl<'a> Boarding<'a> {
    fn new(shared: &'a Shared, image: &'a ImageRef) -> Self {
        let mut flights = shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        let flight = Arc::clone(flights.entry(image.clone()).or_default());
        Self { shared, image, flight }
    }
}

impl Drop for Boarding<'_> {
    fn drop(&mut self) {
        let mut flights = self.shared.flights.lock().unwrap_or_else(PoisonError::into_inner);
        // The map and we are the last, or the outcome is there: whoever comes next looks anew.
        let over = self.flight.initialized() || Arc::strong_count(&self.flight) == 2;
        if over && flights.get(self.image).is_some_and(|flight| Arc::ptr_eq(flight, &self.flight)) {
            flights.remove(self.image);
        }
    }
}

/// Runs work that blocks, and tells it to stop when nobody waits for it any more.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce(&CancellationToken) -> Result<T, ImageError> + Send + 'static,
) -> Result<T, ImageError> {
    let stop = CancellationToken::new();
    let _stop_if_dropped = stop.clone().drop_guard();
    match tokio::task::spawn_blocking(move || work(&stop)).await {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(error) => Err(ImageError::io("prepare an image", io::Error::other(error))),
        },
    }
}

impl Shared {
    async fn attempt(self: &Arc<Self>, image: &ImageRef) -> Result<Image, ImageError> {
        let (shared, wanted) = (Arc::clone(self), image.clone());
        match image.clone() {
            ImageRef::Host => blocking(move |_| shared.host.image()).await,
            ImageRef::Dir(path) => blocking(move |_| directory(&path)).await,
            ImageRef::Tar(path) => {
                blocking(move |stop| {
                    let take = |file, _: &_| source::of_tar(file, stop);
                    shared.prepare_file(&wanted, &path, take, stop)
                })
                .await
            }
            ImageRef::Archive(path, name) => {
                blocking(move |stop| {
                    let find =
                        |file, budget: &_| archive::find(file, name.as_deref(), budget, || shared.scratch(), stop);
                    shared.prepare_file(&wanted, &path, find, stop)
                })
                .await
            }
            ImageRef::Registry(name) => {
                let name = Reference::from_str(&name).map_err(|error| ImageError::invalid(error.to_string()))?;
                // Two spellings of one name are one image.
                let wanted = ImageRef::Registry(name.whole());
                let recorded = wanted.clone();
                match blocking(move |_| shared.recorded(&recorded, None)).await? {
                    Some(image) => Ok(image),
                    None => self.pull(wanted, name).await,
                }
            }
        }
    }

    /// An image in a file of the node, read unless the file is the one that it was.
    fn prepare_file(
        &self,
        image: &ImageRef,
        path: &Path,
        open: impl FnOnce(File, &Budget) -> Result<ImageSource, ImageError>,
        stop: &CancellationToken,
    ) -> Result<Image, ImageError> {
        let step = || format!("open {}", path.display());
        let metadata = fs::metadata(path).map_err(|error| ImageError::of_named_path(step(), error))?;
        if !metadata.is_file() {
            // Nor is a FIFO opened, which would wait for a writer.
            return Err(ImageError::invalid(format!("{} is no file", path.display())));
        }
        let stamp = Stamp::of(&metadata);
        if let Some(image) = self.recorded(image, Some(stamp))? {
            return Ok(image);
        }
        let file = File::open(path).map_err(|error| ImageError::of_named_path(step(), error))?;
        let mut budget = self.budget();
        let source = open(file, &budget)?;
        let mut layers = Vec::with_capacity(source.layers.len());
        for layer in &source.layers {
            self.add_layer(layer, &mut budget, stop)?;
            layers.push(layer.digest.digest());
        }
        self.complete(image, Some(stamp), layers, source.config)
    }

    async fn pull(self: &Arc<Self>, image: ImageRef, name: Reference) -> Result<Image, ImageError> {
        let connection = self.registry.connect(name)?;
        let pulled = connection.image().await?;
        let mut budget = self.budget();
        let mut layers = Vec::with_capacity(pulled.layers.len());
        for layer in &pulled.layers {
            layers.push(layer.digest);
            if self.has_layer(&layer.digest) {
                continue;
            }
            let file = connection.layer(layer, self.scratch()?, &budget).await?;
            let section = Section::whole(file).map_err(|error| ImageError::io("read a pulled layer", error))?;
            let source = LayerSource { section, digest: LayerDigest::Stored(layer.digest) };
            let shared = Arc::clone(self);
            budget = blocking(move |stop| shared.add_layer(&source, &mut budget, stop).map(|()| budget)).await?;
        }
        let shared = Arc::clone(self);
        blocking(move |_| shared.complete(&image, None, layers, pulled.config)).await
    }

    fn budget(&self) -> Budget {
        Budget::new(self.settings.max_unpacked_bytes, self.settings.max_entries)
    }

    /// A file without a name in the store, which is gone once it is closed.
    fn scratch(&self) -> Result<File, ImageError> {
        tempfile::tempfile_in(&self.directory).map_err(|error| ImageError::io("make a temporary file", error))
    }

    pub(super) fn layer_path(&self, digest: &Digest) -> PathBuf {
        self.layers.join(format!("sha256-{}", digest.hex()))
    }

    fn has_layer(&self, digest: &Digest) -> bool {
        self.layer_path(digest).is_dir()
    }

    pub(super) fn record_path(&self, image: &ImageRef) -> PathBuf {
        self.records.join(format!("{}.json", Digest::of(image.to_string().as_bytes()).hex()))
    }

    /// The image if it is complete in the store, and its file is the one it was.
    fn recorded(&self, image: &ImageRef, stamp: Option<Stamp>) -> Result<Option<Image>, ImageError> {
        let path = self.record_path(image);
        let record = Record::load(&path)?;
        let record = record.filter(|record| record.stamp == stamp && record.image == image.to_string());
        let record = record.filter(|record| record.layers.iter().all(|digest| self.has_layer(digest)));
        Ok(record.map(|record| {
            Record::touch(&path);
            self.image(&record)
        }))
    }

    /// Unpacks a layer, unless it is there.
    fn add_layer(&self, layer: &LayerSource, budget: &mut Budget, stop: &CancellationToken) -> Result<(), ImageError> {
        let expected = layer.digest.digest();
        if self.has_layer(&expected) {
            return Ok(());
        }
        let directory = temporary_directory(&self.layers)?;
        let damaged = |error: io::Error| ImageError::invalid(format!("layer {expected}: {error}"));
        let ownership = self.settings.ownership;
        let (actual, skipped) = match layer.digest {
            LayerDigest::Stored(_) => {
                let mut stored = Digesting::new(layer.section.clone());
                let plain = decompress(&mut stored).map_err(damaged)?;
                let skipped = unpack(plain, directory.path(), ownership, budget, stop)?;
                (stored.finish(), skipped)
            }
            LayerDigest::Plain(_) => {
                let mut plain = Digesting::new(decompress(layer.section.clone()).map_err(damaged)?);
                let skipped = unpack(&mut plain, directory.path(), ownership, budget, stop)?;
                (plain.finish(), skipped)
            }
        };
        if actual != expected {
            return Err(ImageError::invalid(format!("layer {expected} has the digest {actual}")));
        }
        put_in_place(directory, &self.layer_path(&expected))?;
        debug!(layer = %expected, skipped.special_files, skipped.unknown, "layer unpacked");
        Ok(())
    }

    fn complete(
        &self,
        image: &ImageRef,
        stamp: Option<Stamp>,
        layers: Vec<Digest>,
        config: Config,
    ) -> Result<Image, ImageError> {
        let record = Record::new(image, stamp, layers, config);
        record.save(&self.record_path(image))?;
        info!(%image, layers = record.layers.len(), "image ready");
        Ok(self.image(&record))
    }

    fn image(&self, record: &Record) -> Image {
        // overlayfs refuses a directory that comes twice. All that the lower one shows or hides, the upper does too.
        let mut seen = BTreeSet::new();
        let upper_first = record.layers.iter().rev().filter(|digest| seen.insert(**digest));
        let layers = upper_first.map(|digest| self.layer_path(digest)).collect();
        Image { trees: vec![Tree { target: "/".into(), layers }], env: record.env.clone(), user: record.user.clone() }
    }
}

fn directory(path: &Path) -> Result<Image, ImageError> {
    let step = || format!("look at {}", path.display());
    let metadata = fs::metadata(path).map_err(|error| ImageError::of_named_path(step(), error))?;
    if !metadata.is_dir() {
        return Err(ImageError::invalid(format!("{} is no directory", path.display())));
    }
    let root = Tree { target: "/".into(), layers: vec![path.to_owned()] };
    Ok(Image { trees: vec![root], env: Default::default(), user: None })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;
    use crate::image::Limit;
    use crate::image::place::TEMPORARY;
    use crate::image::settings::Ownership;

    fn settings() -> ImageSettings {
        ImageSettings { ownership: Ownership::Own, ..ImageSettings::default() }
    }

    /// A store, and a directory to put archives in.
    struct Place {
        directory: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            Self { directory: tempfile::tempdir().unwrap() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.directory.path().join(name)
        }

        fn store(&self) -> ImageStore {
            self.store_with(settings())
        }

        fn store_with(&self, settings: ImageSettings) -> ImageStore {
            ImageStore::open(self.path("images"), settings).unwrap()
        }

        fn write(&self, name: &str, bytes: &[u8]) -> ImageRef {
            fs::write(self.path(name), bytes).unwrap();
            ImageRef::Tar(self.path(name))
        }

        /// What lies in the directory of layers.
        fn layers(&self) -> Vec<String> {
            let entries = fs::read_dir(self.path("images/owned")).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
        }
    }

    fn tar(name: &str, contents: &str) -> Vec<u8> {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(contents.len() as u64);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, name, contents.as_bytes()).unwrap();
        builder.into_inner().unwrap()
    }

    fn file_of(image: &Image, name: &str) -> String {
        fs::read_to_string(image.trees[0].layers[0].join(name)).unwrap()
    }

    #[tokio::test]
    async fn a_tar_becomes_one_layer_whatever_its_compression() {
        let place = Place::new();
        let store = place.store();
        let plain = tar("hello", "world");
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        io::Write::write_all(&mut gzip, &plain).unwrap();
        let zstd = zstd::encode_all(&plain[..], 1).unwrap();
        for bytes in [plain, gzip.finish().unwrap(), zstd] {
            let image = store.resolve(&place.write("a.tar", &bytes)).await.unwrap();
            assert_eq!(image.trees.len(), 1);
            assert_eq!(image.trees[0].target, Path::new("/"));
            assert_eq!(file_of(&image, "hello"), "world");
        }
    }

    #[tokio::test]
    async fn a_file_is_read_again_only_once_it_has_changed() {
        let place = Place::new();
        let image = place.write("a.tar", &tar("v", "1"));
        let first = place.store().resolve(&image).await.unwrap();
        let inode = first.trees[0].layers[0].metadata().unwrap().ino();
        let again = place.store().resolve(&image).await.unwrap();
        assert_eq!(again, first, "also after a restart");
        assert_eq!(again.trees[0].layers[0].metadata().unwrap().ino(), inode);
        place.write("a.tar", &tar("v", "22"));
        assert_eq!(file_of(&place.store().resolve(&image).await.unwrap(), "v"), "22");
    }

    #[tokio::test]
    async fn a_layer_that_was_removed_is_unpacked_again() {
        let place = Place::new();
        let image = place.write("a.tar", &tar("v", "1"));
        let first = place.store().resolve(&image).await.unwrap();
        fs::remove_dir_all(&first.trees[0].layers[0]).unwrap();
        assert_eq!(file_of(&place.store().resolve(&image).await.unwrap(), "v"), "1");
    }

    #[tokio::test]
    async fn what_a_kill_left_half_done_is_removed_at_open() {
        let place = Place::new();
        let image = place.write("a.tar", &tar("v", "1"));
        place.store().resolve(&image).await.unwrap();
        let half = place.path("images/owned").join(format!("{TEMPORARY}half/usr"));
        fs::create_dir_all(half).unwrap();
        assert_eq!(place.layers().len(), 2);
        place.store();
        assert_eq!(place.layers().len(), 1);
        assert!(place.layers()[0].starts_with("sha256-"));
    }

    #[tokio::test]
    async fn nothing_is_left_of_an_image_that_is_refused() {
        let place = Place::new();
        let store = place.store_with(ImageSettings { max_unpacked_bytes: 64 << 10, ..settings() });
        let image = place.write("a.tar", &tar("v", &"x".repeat(100 << 10)));
        let error = store.resolve(&image).await.unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::UnpackedBytes(65_536) }), "{error:?}");
        let image = place.write("bomb.tar", &zstd::encode_all(&*tar("v", &"\0".repeat(8 << 20)), 1).unwrap());
        let error = store.resolve(&image).await.unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::UnpackedBytes(65_536) }), "{error:?}");
        let image = place.write("a.tar", b"this is no tar, however long it goes on".repeat(100).as_slice());
        let error = store.resolve(&image).await.unwrap_err();
        assert!(matches!(error, ImageError::Invalid { .. }), "{error:?}");
        assert_eq!(place.layers(), [""; 0]);
        assert_eq!(fs::read_dir(place.path("images/records")).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_found_and_what_is_no_file_is_invalid() {
        let place = Place::new();
        let store = place.store();
        for image in [
            ImageRef::Tar(place.path("no")),
            ImageRef::Dir(place.path("no")),
            ImageRef::Archive(place.path("no"), None),
        ] {
            assert!(matches!(store.resolve(&image).await, Err(ImageError::NotFound)), "{image}");
        }
        let file = place.write("file", b"");
        assert!(matches!(store.resolve(&ImageRef::Dir(place.path("file"))).await, Err(ImageError::Invalid { .. })));
        assert!(matches!(store.resolve(&ImageRef::Tar(place.path("images"))).await, Err(ImageError::Invalid { .. })));
        nix::unistd::mkfifo(&place.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(matches!(store.resolve(&ImageRef::Tar(place.path("fifo"))).await, Err(ImageError::Invalid { .. })));
        assert!(
            matches!(store.resolve(&file).await, Ok(image) if image.trees[0].layers.len() == 1),
            "an empty tar is an empty root"
        );
    }

    #[tokio::test]
    async fn a_directory_is_used_as_it_is() {
        let place = Place::new();
        let path = place.path("images");
        let image = place.store().resolve(&ImageRef::Dir(path.clone())).await.unwrap();
        assert_eq!(image.trees, [Tree { target: "/".into(), layers: vec![path] }]);
        assert_eq!((image.env.len(), image.user), (0, None));
    }

    #[tokio::test]
    async fn those_who_ask_at_the_same_time_share_one_attempt() {
        let place = Place::new();
        let store = place.store();
        let image = place.write("a.tar", b"damaged".repeat(200).as_slice());
        let (one, other) = tokio::join!(store.resolve(&image), store.resolve(&image));
        let text = |result: Result<Image, ImageError>| result.unwrap_err().to_string();
        assert_eq!(text(one), text(other));
        assert!(store.shared.flights.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn one_who_stops_waiting_leaves_the_attempt_to_the_others() {
        let place = Place::new();
        let store = place.store();
        let image = place.write("a.tar", &tar("v", "1"));
        let mut first = Box::pin(store.resolve(&image));
        assert!(futures_util::poll!(&mut first).is_pending());
        let mut second = Box::pin(store.resolve(&image));
        assert!(futures_util::poll!(&mut second).is_pending());
        drop(first);
        assert_eq!(file_of(&second.await.unwrap(), "v"), "1");
        assert!(store.shared.flights.lock().unwrap().is_empty());
    }

    #[test]
    fn a_layer_that_comes_twice_is_stacked_once() {
        let place = Place::new();
        let store = place.store();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let record = Record::new(&ImageRef::Host, None, vec![a, b, a], Config::default());
        let layers = store.shared.image(&record).trees.remove(0).layers;
        assert_eq!(layers, [store.shared.layer_path(&a), store.shared.layer_path(&b)]);
    }
}
