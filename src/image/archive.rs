//! Archives that hold images: those of `docker save`, and OCI layouts in a tar.
//!
//! The archive is indexed once, and then read by position; a compressed one is decompressed to an unnamed file first.
//! Where an archive is both, as newer Dockers make them, it is read as that of `docker save`: it names its images in full.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr as _;

use oci_client::Reference;
use serde::Deserialize;
use tar::EntryType;
use tokio_util::sync::CancellationToken;

use super::compression::{Compression, Section, decompress};
use super::digest::Digest;
use super::manifest::{self, Config, Descriptor, MAX_DOCUMENT_BYTES, Manifest};
use super::meter::{Budget, Meter, Metered};
use super::root::shown;
use super::source::{ImageSource, LayerDigest, LayerSource};
use super::unpack::clean;
use super::{ImageError, Limit};

/// Files in an archive: some for each of its layers.
const MAX_MEMBERS: u64 = 100_000;
/// An index may lead to an index; honest ones do so once.
const MAX_INDEXES: usize = 4;
/// Old Dockers link a layer to the same layer of another image.
const MAX_LINKS: usize = 8;

/// Finds the image called `name`, or the only one, in an archive. `scratch` makes an unnamed file for what must be
/// decompressed.
///
/// # Errors
/// [`ImageError::NotInArchive`] and [`ImageError::NameNeeded`] if it is not clear which image is meant;
/// [`ImageError::Invalid`] and [`ImageError::TooLarge`] if the archive is at fault; [`ImageError::Io`].
pub(super) fn find(
    file: File,
    name: Option<&str>,
    budget: &Budget,
    scratch: impl FnOnce() -> Result<File, ImageError>,
    stop: &CancellationToken,
) -> Result<ImageSource, ImageError> {
    let archive = Archive::index(plain(file, budget, scratch, stop)?, stop)?;
    if archive.members.contains_key(Path::new("manifest.json")) {
        archive.find_saved(name)
    } else if archive.members.contains_key(Path::new("index.json")) {
        archive.find_in_layout(name)
    } else {
        Err(ImageError::invalid("the archive has neither a manifest.json nor an index.json"))
    }
}

fn plain(
    file: File,
    budget: &Budget,
    scratch: impl FnOnce() -> Result<File, ImageError>,
    stop: &CancellationToken,
) -> Result<Section, ImageError> {
    let section = Section::whole(file).map_err(read_archive)?;
    if Compression::of_section(&section).map_err(read_archive)? == Compression::Plain {
        return Ok(section);
    }
    let meter = Meter::new(budget, stop);
    let mut source = Metered::new(decompress(section).map_err(read_archive)?, &meter);
    let mut scratch = scratch()?;
    let mut buffer = vec![0; 128 << 10];
    loop {
        let count = source.read(&mut buffer).map_err(|error| meter.explain("archive", &error))?;
        if count == 0 {
            break;
        }
        io::Write::write_all(&mut scratch, &buffer[..count])
            .map_err(|error| ImageError::io("decompress an archive", error))?;
    }
    Section::whole(scratch).map_err(read_archive)
}

fn read_archive(error: io::Error) -> ImageError {
    ImageError::io("read an archive", error)
}

#[derive(Debug)]
enum Member {
    File(Section),
    /// Stands for another member.
    Link(PathBuf),
}

struct Archive {
    members: BTreeMap<PathBuf, Member>,
}

impl Archive {
    fn index(section: Section, stop: &CancellationToken) -> Result<Self, ImageError> {
        let mut budget = Budget::new(u64::MAX, MAX_MEMBERS);
        let meter = Meter::new(&budget, stop);
        let mut archive = tar::Archive::new(Metered::new(section.clone(), &meter));
        let mut members = BTreeMap::new();
        let mut entries = archive.entries_with_seek().map_err(|error| meter.explain("archive", &error))?;
        loop {
            meter.expect_header();
            let Some(entry) = entries.next() else { break };
            let entry = entry.map_err(|error| meter.explain("archive", &error))?;
            budget.take_entry()?;
            let path = clean(&entry.path_bytes())?;
            let target = || entry.link_name_bytes().unwrap_or_default();
            let member = match entry.header().entry_type() {
                EntryType::Regular | EntryType::Continuous => {
                    let part = section.part(entry.raw_file_position(), entry.size());
                    Member::File(part.ok_or_else(|| ImageError::invalid("the archive is cut short"))?)
                }
                EntryType::Link => Member::Link(clean(&target())?),
                EntryType::Symlink => Member::Link(beside(&path, Path::new(OsStr::from_bytes(&target())))?),
                _ => continue,
            };
            members.insert(path, member);
        }
        Ok(Self { members })
    }

    fn section(&self, path: &Path) -> Result<&Section, ImageError> {
        let mut path = path;
        for _ in 0..MAX_LINKS {
            match self.members.get(path) {
                Some(Member::File(section)) => return Ok(section),
                Some(Member::Link(target)) => path = target,
                None => break,
            }
        }
        Err(ImageError::invalid(format!("the archive has no \"{}\"", shown(path))))
    }

    fn document(&self, path: &Path) -> Result<Vec<u8>, ImageError> {
        let section = self.section(path)?;
        if section.len() > MAX_DOCUMENT_BYTES {
            return Err(ImageError::TooLarge { limit: Limit::DocumentBytes(MAX_DOCUMENT_BYTES) });
        }
        let mut bytes = Vec::new();
        section.clone().read_to_end(&mut bytes).map_err(read_archive)?;
        Ok(bytes)
    }

    /// The image that `manifest.json` of `docker save` means.
    fn find_saved(&self, name: Option<&str>) -> Result<ImageSource, ImageError> {
        let saved: Vec<SavedImage> = manifest::parse("manifest.json", &self.document(Path::new("manifest.json"))?)?;
        let image = choose(&saved, name, |image| image.repo_tags.iter().flatten().map(String::as_str).collect())?;
        let path = clean(image.config.as_bytes())?;
        let bytes = self.document(&path)?;
        let expected = path.file_stem().and_then(OsStr::to_str).and_then(|hex| format!("sha256:{hex}").parse().ok());
        check_digest("image config", &bytes, expected)?;
        let config = Config::parse(&bytes)?;
        manifest::check_layer_count(image.layers.len())?;
        if config.diff_ids.len() != image.layers.len() {
            return Err(ImageError::invalid("the image config does not give a digest for each layer"));
        }
        let layers = image.layers.iter().zip(&config.diff_ids).map(|(path, digest)| {
            let section = self.section(&clean(path.as_bytes())?)?.clone();
            Ok(LayerSource { section, digest: LayerDigest::Plain(*digest) })
        });
        Ok(ImageSource { layers: layers.collect::<Result<_, ImageError>>()?, config })
    }

    /// The image that `index.json` of an OCI layout means.
    fn find_in_layout(&self, name: Option<&str>) -> Result<ImageSource, ImageError> {
        let mut document = self.document(Path::new("index.json"))?;
        for depth in 0..MAX_INDEXES {
            match Manifest::parse(&document)? {
                // Names are those of the outermost index; the others are about platforms.
                Manifest::Index(entries) if depth == 0 => {
                    document = self.blob_document(choose_entry(entries, name)?.digest)?;
                }
                Manifest::Index(entries) => {
                    document = self.blob_document(manifest::of_this_platform(&entries)?.digest)?;
                }
                Manifest::Image { config, layers } => {
                    let config = Config::parse(&self.blob_document(config.digest)?)?;
                    let layers = layers.iter().map(|layer| {
                        let digest = LayerDigest::Stored(layer.digest);
                        Ok(LayerSource { section: self.blob(layer)?, digest })
                    });
                    return Ok(ImageSource { config, layers: layers.collect::<Result<_, ImageError>>()? });
                }
            }
        }
        Err(ImageError::invalid("an index of an index of an index"))
    }

    fn blob(&self, blob: &Descriptor) -> Result<Section, ImageError> {
        let section = self.section(&Path::new("blobs/sha256").join(blob.digest.hex()))?;
        if section.len() != blob.size {
            return Err(ImageError::invalid(format!("{} is not as long as its descriptor says", blob.digest)));
        }
        Ok(section.clone())
    }

    fn blob_document(&self, digest: Digest) -> Result<Vec<u8>, ImageError> {
        let bytes = self.document(&Path::new("blobs/sha256").join(digest.hex()))?;
        check_digest("blob", &bytes, Some(digest))?;
        Ok(bytes)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct SavedImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

fn check_digest(what: &str, bytes: &[u8], expected: Option<Digest>) -> Result<(), ImageError> {
    match expected {
        Some(expected) if Digest::of(bytes) != expected => {
            Err(ImageError::invalid(format!("{what} {expected} has the digest {}", Digest::of(bytes))))
        }
        _ => Ok(()),
    }
}

/// The entry of an outermost index that is for this machine and called `name`. One image may be in it under several names.
fn choose_entry(mut entries: Vec<Descriptor>, name: Option<&str>) -> Result<Descriptor, ImageError> {
    manifest::of_this_platform(&entries)?;
    entries.retain(Descriptor::may_be_ours);
    if name.is_none() && entries.iter().all(|entry| entry.digest == entries[0].digest) {
        return Ok(entries.swap_remove(0));
    }
    choose(&entries, name, |entry| entry.names().collect()).cloned()
}

/// The candidate called `name`, or the only one.
fn choose<'a, T>(
    candidates: &'a [T],
    name: Option<&str>,
    names: impl Fn(&'a T) -> Vec<&'a str>,
) -> Result<&'a T, ImageError> {
    let all = || candidates.iter().flat_map(&names).map(str::to_owned).collect::<BTreeSet<_>>().into_iter().collect();
    match (name, candidates) {
        (_, []) => Err(ImageError::invalid("the archive holds no images")),
        (None, [only]) => Ok(only),
        (None, _) => Err(ImageError::NameNeeded { holds: all() }),
        (Some(name), _) => {
            let mut found = candidates.iter().filter(|candidate| names(candidate).iter().any(|own| is_same(own, name)));
            found.next().ok_or_else(|| ImageError::NotInArchive { name: name.to_owned(), holds: all() })
        }
    }
}

/// "alpine" and "docker.io/library/alpine:latest" are one name.
fn is_same(one: &str, other: &str) -> bool {
    let full = |name| Reference::from_str(name).map(|reference| reference.whole()).ok();
    one == other || full(one).is_some_and(|one| full(other) == Some(one))
}

/// Where a symbolic link in the archive leads. Unlike names, these have a "..", which must not lead out.
fn beside(link: &Path, target: &Path) -> Result<PathBuf, ImageError> {
    let mut path = link.parent().map(Path::to_owned).unwrap_or_default();
    for component in target.components() {
        match component {
            Component::Normal(name) => path.push(name),
            Component::CurDir => {}
            Component::ParentDir if path.pop() => {}
            _ => return Err(ImageError::invalid("a symbolic link leads out of the archive")),
        }
    }
    clean(path.as_os_str().as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_with_one_image_needs_no_name() {
        let names = |image: &'static [&'static str]| image.to_vec();
        let one: [&'static [&'static str]; 1] = [&["alpine:latest"]];
        assert!(choose(&one, None, |image| names(image)).is_ok());
        assert!(choose(&one, Some("alpine"), |image| names(image)).is_ok());
        assert!(choose(&one, Some("docker.io/library/alpine:latest"), |image| names(image)).is_ok());
        let two: [&'static [&'static str]; 2] = [&["alpine:latest"], &["a:b", "c:d"]];
        let error = choose(&two, None, |image| names(image)).unwrap_err();
        assert!(error.to_string().ends_with("a:b, alpine:latest, c:d"), "{error}");
        assert!(matches!(choose(&two, Some("d"), |image| names(image)), Err(ImageError::NotInArchive { .. })));
        assert_eq!(choose(&two, Some("c:d"), |image| names(image)).unwrap(), &two[1]);
    }

    #[test]
    fn links_of_an_archive_stay_inside() {
        let beside = |target: &str| beside(Path::new("a/layer.tar"), Path::new(target)).ok();
        assert_eq!(beside("../b/layer.tar"), Some("b/layer.tar".into()));
        assert_eq!(beside("./c"), Some("a/c".into()));
        assert_eq!(beside("../../b"), None);
        assert_eq!(beside("/etc/passwd"), None);
    }
}
