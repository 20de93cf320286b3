//! Unpacks one layer: what each entry of its tar means for the directory it becomes.
//!
//! The rules, for what the OCI format leaves open and for what it does not expect:
//!
//! - A leading "/" or "./" is dropped; ".." is refused; so is a NUL, a component over 255 bytes, a name over 4,095 bytes.
//! - A later entry replaces an earlier one, but never a directory that is not empty.
//! - A hard link leads to an earlier file of the same layer.
//! - Whiteouts (`.wh.name`, `.wh..wh..opq`) become those of overlayfs, and speak of lower layers only.
//! - Devices, FIFOs and sockets are skipped: nothing in an image needs them. So are all extended attributes, file
//!   capabilities among them: nothing gains privileges by running a file in a sandbox.
//! - Sparse files in the PAX format are refused; those in GNU's are counted by their full length.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::AtFlags;
use nix::sys::stat::{Mode, UtimensatFlags, fchmod, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchown, fchownat};
use tar::{Entry, EntryType};
use tokio_util::sync::CancellationToken;

use super::meter::{Budget, Meter, Metered};
use super::root::{self, Found, MAX_DEPTH, Root, fault, refused, shown};
use super::settings::Ownership;
use super::{ImageError, Limit};

const MAX_NAME_BYTES: usize = 4095;
const MAX_COMPONENT_BYTES: usize = 255;
/// Ids a sandbox can have: what its user namespace maps.
const MAX_ID: u64 = 65_536;
/// The names of directories are remembered to the end, when their times are set.
const MAX_DIRECTORY_NAME_BYTES: usize = 64 << 20;
const COPY_BYTES: usize = 128 << 10;

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const WHITEOUT_OPAQUE: &[u8] = b".wh..wh..opq";

/// What was left out of a layer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Skipped {
    /// Devices, FIFOs and sockets.
    pub(super) special_files: u64,
    /// Entries of a type that is not known.
    pub(super) unknown: u64,
}

/// Unpacks the tar `source` into the directory `into`, and reads it to its very end.
///
/// # Errors
/// [`ImageError::Invalid`] and [`ImageError::TooLarge`] if the archive is at fault, [`ImageError::Io`] if the host is.
/// What was unpacked until then is left for the caller to remove.
pub(super) fn unpack(
    source: impl Read,
    into: &Path,
    ownership: Ownership,
    budget: &mut Budget,
    stop: &CancellationToken,
) -> Result<Skipped, ImageError> {
    let meter = Meter::new(budget, stop);
    let mut layer = Layer {
        root: Root::open(into, ownership)?,
        ownership,
        meter: &meter,
        contents: 0,
        directories: Vec::new(),
        directory_name_bytes: 0,
        skipped: Skipped::default(),
        buffer: vec![0; COPY_BYTES],
    };
    layer.write_metadata_of_directory(Path::new(""), &Metadata { mode: 0o755, ..Metadata::default() })?;
    let mut archive = tar::Archive::new(Metered::new(source, &meter));
    let mut entries = archive.entries().map_err(|error| meter.explain("layer", &error))?;
    loop {
        meter.expect_header();
        let Some(entry) = entries.next() else { break };
        let mut entry = entry.map_err(|error| meter.explain("layer", &error))?;
        meter.expect_contents();
        budget.take_entry()?;
        layer.put(&mut entry, budget)?;
        // Contents that no one asked for, say of a directory, are not part of the next header.
        io::copy(&mut entry, &mut io::sink()).map_err(|error| meter.explain("layer", &error))?;
    }
    layer.set_times_of_directories()?;
    let (skipped, contents) = (layer.skipped, layer.contents);
    // Only the end of the stream completes its digest and the checks of the decompressor.
    meter.expect_contents();
    let rest = io::copy(&mut archive.into_inner(), &mut io::sink());
    rest.map_err(|error| meter.explain("layer", &error))?;
    // Sparse files are longer than what was read of them.
    budget.take_bytes(meter.read().max(contents))?;
    Ok(skipped)
}

/// What an entry says about its file.
#[derive(Debug, Clone, Copy, Default)]
struct Metadata {
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds since 1970.
    mtime: i64,
}

impl Metadata {
    fn of(header: &tar::Header, path: &Path, ownership: Ownership) -> Result<Self, ImageError> {
        let damaged = |error: io::Error| refused(path, &format!("has a damaged header: {error}"));
        let mode = header.mode().map_err(damaged)?;
        let mtime = i64::try_from(header.mtime().map_err(damaged)?).unwrap_or(0);
        match ownership {
            Ownership::Keep => {
                let id = |id: io::Result<u64>| match id.map_err(damaged)? {
                    id @ 0..MAX_ID => Ok(u32::try_from(id).expect("is below 65,536")),
                    id => Err(refused(path, &format!("belongs to id {id}, which no sandbox has"))),
                };
                Ok(Self { mode: mode & 0o7777, uid: id(header.uid())?, gid: id(header.gid())?, mtime })
            }
            Ownership::Own => Ok(Self { mode: mode & 0o1777, uid: 0, gid: 0, mtime }),
        }
    }

    fn times(&self) -> TimeSpec {
        TimeSpec::new(self.mtime, 0)
    }
}

struct Layer<'m> {
    root: Root,
    ownership: Ownership,
    meter: &'m Meter<'m>,
    /// Bytes of files written.
    contents: u64,
    /// Times of directories, set at the end since each file put into one changes them.
    directories: Vec<(PathBuf, i64)>,
    directory_name_bytes: usize,
    skipped: Skipped,
    buffer: Vec<u8>,
}

impl Layer<'_> {
    fn put<R: Read>(&mut self, entry: &mut Entry<'_, R>, budget: &Budget) -> Result<(), ImageError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let bytes = entry.path_bytes().into_owned();
        let path = clean(&bytes)?;
        refuse_pax_sparse(entry, &path)?;
        let Some(name) = path.file_name() else {
            // Only the root has no name, and it is a directory whatever the entry says.
            let metadata = Metadata::of(entry.header(), &path, self.ownership)?;
            return self.write_metadata_of_directory(&path, &metadata);
        };
        let parent_path = path.parent().unwrap_or_else(|| Path::new(""));
        if name.as_bytes().starts_with(WHITEOUT) {
            return self.white_out(parent_path, name, &path);
        }
        match kind {
            // Before there was a type for them, directories were files with a slash at the end.
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse if !bytes.ends_with(b"/") => {
                self.put_file(entry, parent_path, name, &path, budget)
            }
            EntryType::Directory | EntryType::Regular => self.put_directory(entry, parent_path, name, &path),
            EntryType::Symlink => self.put_symlink(entry, parent_path, name, &path),
            EntryType::Link => self.put_link(entry, parent_path, name, &path),
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                self.skipped.special_files += 1;
                Ok(())
            }
            _ => {
                self.skipped.unknown += 1;
                Ok(())
            }
        }
    }

    fn put_file<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: &Path,
        name: &OsStr,
        path: &Path,
        budget: &Budget,
    ) -> Result<(), ImageError> {
        let metadata = Metadata::of(entry.header(), path, self.ownership)?;
        let size = entry.size();
        self.contents = self.contents.saturating_add(size);
        if self.contents > budget.bytes_left() {
            return Err(budget.too_many_bytes());
        }
        let parent = self.root.reach(parent)?;
        if root::look(&parent, name, path)? != Found::Nothing {
            root::remove(&parent, name, path)?;
        }
        let mut file = root::create(&parent, name, path)?;
        let mut copied = 0;
        loop {
            let count = entry.read(&mut self.buffer).map_err(|error| self.meter.explain("layer", &error))?;
            if count == 0 {
                break;
            }
            file.write_all(&self.buffer[..count])
                .map_err(|error| ImageError::io(format!("write {}", shown(path)), error))?;
            copied += count as u64;
        }
        if copied != size {
            return Err(refused(path, "is cut short"));
        }
        self.write_metadata(&file, &metadata, path)
    }

    fn put_directory<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ImageError> {
        let metadata = Metadata::of(entry.header(), path, self.ownership)?;
        let parent = self.root.reach(parent)?;
        if root::look(&parent, name, path)? == Found::Other {
            root::remove(&parent, name, path)?;
        }
        self.root.make_directory(&parent, name, path)?;
        self.write_metadata_of_directory(path, &metadata)
    }

    fn put_symlink<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ImageError> {
        let metadata = Metadata::of(entry.header(), path, self.ownership)?;
        let target = entry.link_name_bytes().unwrap_or_default().into_owned();
        if target.is_empty() || target.len() > MAX_NAME_BYTES || target.contains(&0) {
            return Err(refused(path, "is a symbolic link to an impossible path"));
        }
        let parent = self.root.reach(parent)?;
        if root::look(&parent, name, path)? != Found::Nothing {
            root::remove(&parent, name, path)?;
        }
        root::link_symbolically(OsStr::from_bytes(&target), &parent, name, path)?;
        if self.ownership == Ownership::Keep {
            let (uid, gid) = (Uid::from_raw(metadata.uid), Gid::from_raw(metadata.gid));
            fchownat(&parent, name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
                .map_err(|errno| fault("set the owner of", path, errno))?;
        }
        let times = metadata.times();
        utimensat(&parent, name, &times, &times, UtimensatFlags::NoFollowSymlink)
            .map_err(|errno| fault("set the times of", path, errno))
    }

    fn put_link<R: Read>(
        &mut self,
        entry: &mut Entry<'_, R>,
        parent: &Path,
        name: &OsStr,
        path: &Path,
    ) -> Result<(), ImageError> {
        let target = clean(&entry.link_name_bytes().unwrap_or_default())?;
        let Some(target_name) = target.file_name() else {
            return Err(refused(path, "is a hard link to the root"));
        };
        if target == path {
            return Ok(());
        }
        let parent = self.root.reach(parent)?;
        let target_parent = self.root.find(target.parent().unwrap_or_else(|| Path::new("")))?;
        if root::look(&parent, name, path)? != Found::Nothing {
            root::remove(&parent, name, path)?;
        }
        root::link((&target_parent, target_name), (&parent, name), path)
    }

    fn white_out(&mut self, parent_path: &Path, name: &OsStr, path: &Path) -> Result<(), ImageError> {
        let parent = self.root.reach(parent_path)?;
        if name.as_bytes() == WHITEOUT_OPAQUE {
            return self.root.make_opaque(parent, path).map(drop);
        }
        if name.as_bytes().starts_with(WHITEOUT_META) {
            // Bookkeeping of aufs, which the format has from there.
            return Ok(());
        }
        let hidden = OsStr::from_bytes(&name.as_bytes()[WHITEOUT.len()..]);
        if ["", ".", ".."].iter().any(|name| hidden == *name) {
            return Err(refused(path, "is a whiteout of nothing"));
        }
        match root::look(&parent, hidden, path)? {
            Found::Nothing => root::white_out(&parent, hidden, path),
            // The layer has hidden it and made it anew; the whiteout is of the lower one.
            Found::Directory => {
                let directory = self.root.make_directory(&parent, hidden, path)?;
                self.root.make_opaque(directory, path).map(drop)
            }
            Found::Whiteout | Found::Other => Ok(()),
        }
    }

    /// Of a directory that is there.
    fn write_metadata_of_directory(&mut self, path: &Path, metadata: &Metadata) -> Result<(), ImageError> {
        self.directory_name_bytes += path.as_os_str().len();
        if self.directory_name_bytes > MAX_DIRECTORY_NAME_BYTES {
            return Err(ImageError::TooLarge { limit: Limit::NameBytes(MAX_DIRECTORY_NAME_BYTES) });
        }
        self.directories.push((path.to_owned(), metadata.mtime));
        // Whoever owns all must be able to put more into it, and to remove it.
        let owner = if self.ownership == Ownership::Own { 0o700 } else { 0 };
        let directory = File::from(self.root.find(path)?);
        self.write_metadata(&directory, &Metadata { mode: metadata.mode | owner, ..*metadata }, path)
    }

    fn write_metadata(&self, file: &File, metadata: &Metadata, path: &Path) -> Result<(), ImageError> {
        // The owner comes first: a change of it clears the setuid bits.
        if self.ownership == Ownership::Keep {
            fchown(file, Some(Uid::from_raw(metadata.uid)), Some(Gid::from_raw(metadata.gid)))
                .map_err(|errno| fault("set the owner of", path, errno))?;
        }
        fchmod(file, Mode::from_bits_truncate(metadata.mode)).map_err(|errno| fault("set the mode of", path, errno))?;
        let times = metadata.times();
        futimens(file, &times, &times).map_err(|errno| fault("set the times of", path, errno))
    }

    fn set_times_of_directories(&self) -> Result<(), ImageError> {
        for (path, mtime) in &self.directories {
            let times = TimeSpec::new(*mtime, 0);
            // One that a later entry replaced by something else is none any more.
            if let Ok(directory) = self.root.find(path) {
                futimens(&directory, &times, &times).map_err(|errno| fault("set the times of", path, errno))?;
            }
        }
        Ok(())
    }
}

/// The name of an entry as a path below the root; empty for the root itself.
pub(super) fn clean(name: &[u8]) -> Result<PathBuf, ImageError> {
    let given = Path::new(OsStr::from_bytes(&name[..name.len().min(MAX_NAME_BYTES)]));
    if name.len() > MAX_NAME_BYTES {
        return Err(refused(given, "has too long a name"));
    }
    if name.contains(&0) {
        return Err(refused(given, "has a NUL in its name"));
    }
    let mut path = PathBuf::new();
    let mut depth = 0;
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err(refused(given, "has \"..\" in its name")),
            _ if component.len() > MAX_COMPONENT_BYTES => return Err(refused(given, "has too long a name")),
            _ => path.push(OsStr::from_bytes(component)),
        }
        depth += 1;
    }
    if depth > MAX_DEPTH { Err(refused(given, "lies too deep")) } else { Ok(path) }
}

/// In this format the contents begin with a map that the parser does not know, and would be taken for the file.
fn refuse_pax_sparse<R: Read>(entry: &mut Entry<'_, R>, path: &Path) -> Result<(), ImageError> {
    let extensions = entry.pax_extensions().map_err(|error| refused(path, &error.to_string()))?;
    let sparse = |key: &[u8]| key.starts_with(b"GNU.sparse.");
    if extensions.into_iter().flatten().flatten().any(|extension| sparse(extension.key_bytes())) {
        return Err(refused(path, "is a sparse file in the PAX format"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, symlink};

    use proptest::prelude::*;
    use xattr::FileExt as _;

    use super::*;

    const MEBIBYTE: u64 = 1 << 20;

    /// A layer in the making: entries as they are given, however hostile.
    struct Tar(Vec<u8>);

    impl Tar {
        fn new() -> Self {
            Self(Vec::new())
        }

        /// One entry. The header's checks are those of the format, not of good sense.
        fn entry(mut self, kind: EntryType, name: &str, link: &str, contents: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_entry_type(kind);
            header.set_mode(0o4755);
            header.set_mtime(1_000_000_000);
            header.set_uid(0);
            header.set_gid(0);
            header.set_size(contents.len() as u64);
            header.set_cksum();
            self.0.extend_from_slice(header.as_bytes());
            self.0.extend_from_slice(contents);
            self.0.resize(self.0.len().next_multiple_of(512), 0);
            self
        }

        fn file(self, name: &str, contents: &str) -> Self {
            self.entry(EntryType::Regular, name, "", contents.as_bytes())
        }

        fn directory(self, name: &str) -> Self {
            self.entry(EntryType::Directory, name, "", b"")
        }

        fn symlink(self, name: &str, target: &str) -> Self {
            self.entry(EntryType::Symlink, name, target, b"")
        }

        fn hard_link(self, name: &str, target: &str) -> Self {
            self.entry(EntryType::Link, name, target, b"")
        }

        fn end(mut self) -> Vec<u8> {
            self.0.extend_from_slice(&[0; 1024]);
            self.0
        }
    }

    /// A directory to unpack into, with another beside it that nothing may touch.
    struct Place {
        parent: tempfile::TempDir,
    }

    impl Place {
        fn new() -> Self {
            let parent = tempfile::tempdir().unwrap();
            fs::create_dir(parent.path().join("layer")).unwrap();
            fs::create_dir(parent.path().join("outside")).unwrap();
            fs::write(parent.path().join("outside/file"), "untouched").unwrap();
            Self { parent }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.parent.path().join("layer").join(name)
        }

        fn outside(&self) -> String {
            self.parent.path().join("outside").to_str().unwrap().to_owned()
        }

        fn read(&self, name: &str) -> String {
            fs::read_to_string(self.path(name)).unwrap()
        }

        fn unpack(&self, source: impl Read, budget: Budget) -> Result<Skipped, ImageError> {
            self.unpack_as(Ownership::Own, source, budget)
        }

        fn unpack_as(
            &self,
            ownership: Ownership,
            source: impl Read,
            mut budget: Budget,
        ) -> Result<Skipped, ImageError> {
            let result = unpack(source, &self.path(""), ownership, &mut budget, &CancellationToken::new());
            self.assert_nothing_outside();
            result
        }

        fn assert_nothing_outside(&self) {
            let mut names: Vec<_> =
                fs::read_dir(self.parent.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            names.sort();
            assert_eq!(names, ["layer", "outside"]);
            assert_eq!(fs::read_dir(self.outside()).unwrap().count(), 1);
            let file = self.parent.path().join("outside/file");
            assert_eq!(fs::read_to_string(&file).unwrap(), "untouched");
            assert_eq!(file.metadata().unwrap().nlink(), 1);
        }
    }

    fn budget() -> Budget {
        Budget::new(MEBIBYTE, 1000)
    }

    fn invalid(result: Result<Skipped, ImageError>) -> String {
        match result {
            Err(ImageError::Invalid { reason }) => reason,
            other => panic!("expected Invalid, got {other:?}"),
        }
    }

    #[test]
    fn what_is_no_archive_is_not_quoted() {
        let place = Place::new();
        let secret = "root:secret:1:2:3\n".repeat(100);
        let told = invalid(place.unpack(secret.as_bytes(), budget()));
        assert!(told.starts_with("layer: ") && !told.contains("secret"), "{told}");
    }

    #[test]
    fn files_directories_and_links_are_made_with_mode_and_time() {
        let place = Place::new();
        let tar =
            Tar::new().directory("./d/").file("/d/f", "hello").symlink("d/s", "/absolute").hard_link("h", "d/f").end();
        assert_eq!(place.unpack(&tar[..], budget()).unwrap(), Skipped::default());
        assert_eq!(place.read("h"), "hello");
        assert_eq!(fs::read_link(place.path("d/s")).unwrap(), Path::new("/absolute"));
        let file = place.path("d/f").metadata().unwrap();
        assert_eq!(
            (file.mtime(), file.nlink(), file.mode() & 0o7777),
            (1_000_000_000, 2, 0o755),
            "setuid is not for Own"
        );
        assert_eq!(place.path("d").metadata().unwrap().mtime(), 1_000_000_000);
        assert_eq!(place.path("d/s").symlink_metadata().unwrap().mtime(), 1_000_000_000);
    }

    #[test]
    fn owners_and_setuid_bits_are_kept_for_root() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("skipped: only root gives files away");
        }
        let place = Place::new();
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o6755);
        header.set_uid(1234);
        header.set_gid(65_535);
        header.set_size(0);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "f", io::empty()).unwrap();
        place.unpack_as(Ownership::Keep, &builder.into_inner().unwrap()[..], budget()).unwrap();
        let file = place.path("f").metadata().unwrap();
        assert_eq!((file.uid(), file.gid(), file.mode() & 0o7777), (1234, 65_535, 0o6755));

        header.set_uid(65_536);
        let mut builder = tar::Builder::new(Vec::new());
        builder.append_data(&mut header, "g", io::empty()).unwrap();
        let tar = builder.into_inner().unwrap();
        assert!(invalid(place.unpack_as(Ownership::Keep, &tar[..], budget())).contains("65536"));
    }

    #[test]
    fn a_name_that_climbs_is_refused() {
        for name in ["../x", "a/../../x", "..", "/../x", "a/.."] {
            let place = Place::new();
            let reason = invalid(place.unpack(&Tar::new().file(name, "x").end()[..], budget()));
            assert!(reason.contains("\"..\" in its name"), "{reason}");
            assert!(!place.path("x").exists());
        }
    }

    #[test]
    fn an_absolute_name_is_taken_below_the_root() {
        let place = Place::new();
        let name = format!("{}/new", place.outside());
        place.unpack(&Tar::new().file(&name, "x").end()[..], budget()).unwrap();
        assert_eq!(place.read(name.trim_start_matches('/')), "x");
    }

    #[test]
    fn a_symbolic_link_leads_to_the_same_place_in_the_layer() {
        let place = Place::new();
        let tar = Tar::new().directory("real").symlink("link", "/real").symlink("up", "../../real");
        let tar = tar.file("link/a", "a").file("up/b", "b").directory("link/c/d").end();
        place.unpack(&tar[..], budget()).unwrap();
        assert_eq!((place.read("real/a"), place.read("real/b")), ("a".into(), "b".into()));
        assert!(place.path("real/c/d").is_dir());
    }

    #[test]
    fn nothing_is_written_through_a_symbolic_link_out_of_the_layer() {
        for target in ["OUTSIDE", "../outside", "a/../../outside"] {
            let place = Place::new();
            let target = target.replace("OUTSIDE", &place.outside());
            let tar = || Tar::new().directory("a").symlink("link", &target);
            invalid(place.unpack(&tar().file("link/file", "owned").end()[..], budget()));
            invalid(place.unpack(&tar().directory("link/new").end()[..], budget()));
            invalid(place.unpack(&tar().hard_link("stolen", "link/file").end()[..], budget()));
            invalid(place.unpack(&tar().file("link/.wh.file", "").end()[..], budget()));
            invalid(place.unpack(&tar().file("link/.wh..wh..opq", "").end()[..], budget()));
            // The link itself can be replaced, which changes nothing where it led.
            place.unpack(&tar().file("link", "mine").end()[..], budget()).unwrap();
            assert_eq!(place.read("link"), "mine");
        }
    }

    #[test]
    fn a_magic_link_is_not_followed() {
        let place = Place::new();
        symlink("/proc/self/root", place.path("magic")).unwrap();
        invalid(place.unpack(&Tar::new().file("magic/tmp/handsd-test", "x").end()[..], budget()));
    }

    #[test]
    fn symbolic_links_in_a_circle_are_refused() {
        let place = Place::new();
        let tar = Tar::new().symlink("a", "b").symlink("b", "a").file("a/x", "").end();
        assert!(invalid(place.unpack(&tar[..], budget())).contains("circle"));
    }

    #[test]
    fn links_do_not_lead_deeper_than_names_may() {
        let place = Place::new();
        // Each round goes through a link that leads as deep as the last round got.
        let deep = "d/".repeat(40);
        let mut tar = Tar::new().symlink("l0", ".");
        for round in 0..10 {
            tar = tar.directory(&format!("l{round}/{deep}"));
            tar = tar.symlink(&format!("l{}", round + 1), &format!("l{round}/{deep}"));
        }
        assert!(invalid(place.unpack(&tar.end()[..], budget())).contains("too deep"));
        assert!(clean("d/".repeat(MAX_DEPTH + 1).as_bytes()).is_err());
    }

    #[test]
    fn a_hard_link_leads_to_a_file_of_the_layer_only() {
        let place = Place::new();
        let outside = format!("{}/file", place.outside());
        for target in [outside.as_str(), "../outside/file", "missing", "", "/", "d"] {
            invalid(place.unpack(&Tar::new().directory("d").hard_link("h", target).end()[..], budget()));
        }
        place.unpack(&Tar::new().file("f", "x").hard_link("f", "./f").end()[..], budget()).unwrap();
        assert_eq!(place.read("f"), "x", "a link to itself changes nothing");
    }

    #[test]
    fn a_hard_link_to_a_symbolic_link_is_to_the_link() {
        let place = Place::new();
        let outside = format!("{}/file", place.outside());
        let tar = Tar::new().symlink("s", &outside).hard_link("h", "s").file("h", "mine").end();
        place.unpack(&tar[..], budget()).unwrap();
        assert_eq!(place.read("h"), "mine");
    }

    #[test]
    fn devices_and_fifos_are_skipped_and_counted() {
        let place = Place::new();
        let tar = Tar::new().entry(EntryType::Char, "c", "", b"").entry(EntryType::Block, "b", "", b"");
        let tar = tar
            .entry(EntryType::Fifo, "p", "", b"")
            .entry(EntryType::new(b'V'), "v", "", b"label")
            .file("f", "x")
            .end();
        let skipped = place.unpack(&tar[..], budget()).unwrap();
        assert_eq!(skipped, Skipped { special_files: 3, unknown: 1 });
        assert_eq!(fs::read_dir(place.path("")).unwrap().count(), 1);
    }

    fn is_whiteout(path: &Path) -> bool {
        path.symlink_metadata().is_ok_and(|found| found.file_type().is_char_device() && found.rdev() == 0)
    }

    fn is_opaque(path: &Path) -> bool {
        File::open(path).unwrap().get_xattr("user.overlay.opaque").unwrap().is_some_and(|value| value == b"y")
    }

    #[test]
    fn whiteouts_become_those_of_overlayfs() {
        let place = Place::new();
        let tar = Tar::new().file("d/.wh.gone", "").file("o/.wh..wh..opq", "").file("o/new", "x");
        place.unpack(&tar.file("d/.wh..wh.plnk", "").end()[..], budget()).unwrap();
        assert!(is_whiteout(&place.path("d/gone")));
        assert_eq!(fs::read_dir(place.path("d")).unwrap().count(), 1);
        assert!(is_opaque(&place.path("o")) && !is_opaque(&place.path("d")));
    }

    #[test]
    fn a_whiteout_is_of_the_lower_layer_only() {
        for order in [["w", "f"], ["f", "w"]] {
            let place = Place::new();
            let tar = order.iter().fold(Tar::new(), |tar, what| match *what {
                "w" => tar.file(".wh.f", "").file(".wh.d", "").file(".wh.e", ""),
                _ => tar.file("f", "new").directory("d").file("e/implied", "x"),
            });
            place.unpack(&tar.end()[..], budget()).unwrap();
            assert_eq!(place.read("f"), "new");
            assert!(is_opaque(&place.path("d")), "the directory of the lower layer must not show, order {order:?}");
            assert!(is_opaque(&place.path("e")), "nor this, order {order:?}");
        }
    }

    #[test]
    fn a_whiteout_of_nothing_is_refused() {
        for name in [".wh.", ".wh..", ".wh...", "d/.wh..."] {
            let place = Place::new();
            assert!(
                invalid(place.unpack(&Tar::new().file(name, "").end()[..], budget())).contains("whiteout"),
                "{name}"
            );
        }
    }

    #[test]
    fn a_later_entry_replaces_an_earlier_one() {
        let place = Place::new();
        let tar =
            Tar::new().file("a", "1").file("a", "2").directory("b").file("b", "file").file("c", "").directory("c");
        let tar =
            tar.symlink("d", "c").directory("d").file("e", "").symlink("e", "c").directory("f").directory("f").end();
        place.unpack(&tar[..], budget()).unwrap();
        assert_eq!((place.read("a"), place.read("b")), ("2".into(), "file".into()));
        assert!(place.path("c").is_dir());
        assert!(place.path("d").symlink_metadata().unwrap().is_dir());
        assert!(place.path("e").is_symlink());
        let reason = invalid(place.unpack(&Tar::new().file("g/x", "").file("g", "").end()[..], budget()));
        assert!(reason.contains("not empty"), "{reason}");
        let reason = invalid(place.unpack(&Tar::new().file("h", "").file("h/x", "").end()[..], budget()));
        assert!(reason.contains("no directory"), "{reason}");
    }

    #[test]
    fn replacing_one_name_leaves_the_other_names_of_the_file() {
        let place = Place::new();
        let tar = Tar::new().file("a", "old").hard_link("b", "a").file("b", "new").end();
        place.unpack(&tar[..], budget()).unwrap();
        assert_eq!((place.read("a"), place.read("b")), ("old".into(), "new".into()));
    }

    #[test]
    fn a_bomb_is_refused_early() {
        let place = Place::new();
        let mut header = tar::Header::new_gnu();
        header.set_path("zeros").unwrap();
        header.set_mode(0o644);
        header.set_mtime(0);
        header.set_size(1 << 40);
        header.set_cksum();
        let bomb = header.as_bytes().chain(io::repeat(0).take(1 << 40));
        let error = place.unpack(bomb, budget()).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::UnpackedBytes(MEBIBYTE) }), "{error:?}");
        assert!(!place.path("zeros").exists(), "its header already says too much");
    }

    #[test]
    fn a_bomb_behind_the_end_of_the_tar_is_refused_too() {
        let place = Place::new();
        let error = place.unpack(io::repeat(0), budget()).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::UnpackedBytes(MEBIBYTE) }), "{error:?}");
    }

    #[test]
    fn a_bomb_of_a_name_is_refused() {
        let place = Place::new();
        for kind in [EntryType::GNULongName, EntryType::GNULongLink, EntryType::XHeader] {
            let tar = Tar::new().entry(kind, "x", "", &vec![b'a'; 4 << 20]).file("x", "").end();
            let error = place.unpack(&tar[..], Budget::new(64 * MEBIBYTE, 10)).unwrap_err();
            assert!(matches!(error, ImageError::TooLarge { limit: Limit::HeaderBytes(_) }), "{error:?}");
        }
    }

    #[test]
    fn sparse_files_are_counted_by_their_full_length() {
        let place = Place::new();
        let mut header = tar::Header::new_gnu();
        header.set_path("sparse").unwrap();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_size(0);
        header.set_mode(0o644);
        header.set_mtime(0);
        let gnu = header.as_gnu_mut().unwrap();
        gnu.set_real_size(1 << 40);
        gnu.sparse[0].set_offset(1 << 40);
        gnu.sparse[0].set_length(0);
        header.set_cksum();
        let error = place.unpack(&header.as_bytes()[..], budget()).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { .. }), "{error:?}");

        let pax = b"28 GNU.sparse.realsize=1000\n";
        let tar = Tar::new().entry(EntryType::XHeader, "x", "", pax).file("f", "map").end();
        assert!(invalid(place.unpack(&tar[..], budget())).contains("sparse"));
    }

    #[test]
    fn entries_are_counted() {
        let place = Place::new();
        let tar = (0..1001).fold(Tar::new(), |tar, index| tar.symlink(&format!("{}", index % 7), "x")).end();
        let error = place.unpack(&tar[..], budget()).unwrap_err();
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::Entries(1000) }), "{error:?}");
    }

    #[test]
    fn a_layer_that_is_cut_short_is_refused() {
        let tar = Tar::new().file("a", &"x".repeat(2000)).file("b", "y").end();
        for length in [1, 511, 513, 1500, 2560 + 100, 2560 + 512] {
            let place = Place::new();
            invalid(place.unpack(&tar[..length], budget()));
        }
    }

    #[test]
    fn a_name_longer_than_any_file_system_takes_is_refused() {
        let place = Place::new();
        for name in ["x".repeat(256), format!("{}x", "x/".repeat(2048))] {
            let tar = Tar::new().entry(EntryType::GNULongName, "", "", name.as_bytes()).file("x", "").end();
            invalid(place.unpack(&tar[..], budget()));
        }
    }

    #[test]
    fn extended_attributes_are_ignored() {
        let place = Place::new();
        let record = |key: &str| format!("{} {key}=y\n", key.len() + 6);
        let pax = record("SCHILY.xattr.user.overlay.opaque") + &record("SCHILY.xattr.trusted.overlay.opaque");
        let tar = Tar::new().entry(EntryType::XHeader, "x", "", pax.as_bytes()).directory("d").end();
        place.unpack(&tar[..], budget()).unwrap();
        assert_eq!(xattr::list(place.path("d")).unwrap().count(), 0);
    }

    #[test]
    fn an_unpacking_that_nobody_waits_for_stops() {
        let place = Place::new();
        let stop = CancellationToken::new();
        stop.cancel();
        let tar = Tar::new().file("a", "x").end();
        assert!(unpack(&tar[..], &place.path(""), Ownership::Own, &mut budget(), &stop).is_err());
        assert!(!place.path("a").exists());
    }

    /// Names that meet each other, and some that no honest tar has.
    fn hostile_name() -> impl Strategy<Value = String> {
        let component = prop_oneof![
            12 => "[ab]", 1 => Just("..".to_owned()), 1 => Just(".".to_owned()), 1 => Just(String::new()),
            1 => "\\.wh\\.[ab]?", 1 => Just(".wh..wh..opq".to_owned()), 1 => Just("file".to_owned()),
        ];
        proptest::collection::vec(component, 1..4).prop_map(|components| components.join("/"))
    }

    /// Where links lead: out, if anything does.
    fn hostile_link() -> impl Strategy<Value = String> {
        prop_oneof![
            Just("../outside".to_owned()),
            Just("../outside/file".to_owned()),
            Just("../../outside".to_owned()),
            hostile_name()
        ]
    }

    fn hostile_tar() -> impl Strategy<Value = Vec<u8>> {
        let kind = prop_oneof![
            Just(b'0'),
            Just(b'1'),
            Just(b'2'),
            Just(b'2'),
            Just(b'5'),
            Just(b'3'),
            Just(b'S'),
            Just(b'L'),
            Just(b'x')
        ];
        let entry = (kind, hostile_name(), hostile_link(), "[a-z]{0,20}");
        proptest::collection::vec(entry, 0..12).prop_map(|entries| {
            let tar = entries.iter().fold(Tar::new(), |tar, (kind, name, link, contents)| {
                tar.entry(EntryType::new(*kind), name, link, contents.as_bytes())
            });
            tar.end()
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        fn whatever_a_tar_says_nothing_appears_outside(tar in hostile_tar()) {
            let place = Place::new();
            let _ = place.unpack(&tar[..], budget());
            place.assert_nothing_outside();
        }

        #[test]
        fn damage_is_survived(tar in hostile_tar(), flips in proptest::collection::vec((any::<u16>(), any::<u8>()), 0..8), cut in any::<u16>()) {
            let mut tar = tar;
            for (at, byte) in flips {
                let length = tar.len();
                tar[usize::from(at) % length] = byte;
            }
            tar.truncate(tar.len().saturating_sub(usize::from(cut) % 2000));
            let place = Place::new();
            let _ = place.unpack(&tar[..], budget());
            place.assert_nothing_outside();
        }

        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
            let place = Place::new();
            let _ = place.unpack(&bytes[..], budget());
            place.assert_nothing_outside();
        }
    }
}
