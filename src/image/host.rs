//! The node's own /usr and friends as an image.
//!
//! An overlay's lower layer does not cross mounts, and the node's root is not to be seen: so the image is a skeleton of a
//! root, made here, and beside it a tree for /usr and for each of its friends that is a directory of its own. The
//! skeleton's /etc has what programs need and everyone may know; of the node's users, keys and names it has nothing.
//!
//! A skeleton lies under the digest of what it is made of, and is put in place by a rename.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use super::digest::Digest;
use super::place::{put_in_place, temporary_directory};
use super::settings::Ownership;
use super::{Image, ImageError, Tree};

/// Of the recipe below: a new version makes new skeletons.
const VERSION: &str = "host skeleton 1";

/// What of the node is a tree if it is a directory, and a link if it is a link.
const TREES: [&str; 7] = ["usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32"];

/// Directories of the skeleton, and their modes.
const DIRECTORIES: [(&str, u32); 21] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("etc/pki", 0o755),
    ("etc/pki/tls", 0o755),
    ("etc/ssl", 0o755),
    ("home", 0o755),
    ("home/agent", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/lib", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
];

/// What of the node's /etc is copied, if it is there: configuration that is the same on every machine of its kind.
const ETC: [&str; 37] = [
    "alternatives",
    "bash.bashrc",
    "bash_completion.d",
    "ca-certificates",
    "ca-certificates.conf",
    "debian_version",
    "fonts",
    "gai.conf",
    "host.conf",
    "inputrc",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "locale.alias",
    "localtime",
    "login.defs",
    "lsb-release",
    "magic",
    "magic.mime",
    "manpath.config",
    "mime.types",
    "networks",
    "nsswitch.conf",
    "os-release",
    "perl",
    "pki/tls/certs",
    "profile",
    "profile.d",
    "protocols",
    "rpc",
    "services",
    "shells",
    "skel",
    "ssl/certs",
    "ssl/openssl.cnf",
    "terminfo",
    "timezone",
];
/// And what begins with one of these: the versions are part of the names.
const ETC_PREFIXES: [&str; 2] = ["java", "python3"];

/// The largest file that is copied; a bundle of certificates has a quarter of a megabyte.
const MAX_FILE_BYTES: u64 = 8 << 20;
/// Files, directories and links that are copied.
const MAX_COPIES: usize = 20_000;

const HOSTS: &str = "127.0.0.1\tlocalhost sandbox\n::1\tlocalhost ip6-localhost ip6-loopback\n";
const GROUP: &str = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\nagent:x:1000:\n";
const AGENT: u32 = 1000;

/// Makes the image, and knows when it must be made again.
#[derive(Debug)]
pub(super) struct HostTrees {
    /// Where skeletons lie.
    directory: PathBuf,
    ownership: Ownership,
    root: PathBuf,
    last: Mutex<Option<(Digest, Image)>>,
}

/// Something of the node that goes into the skeleton.
#[derive(Debug)]
struct Input {
    /// Below the root.
    path: PathBuf,
    metadata: fs::Metadata,
}

impl HostTrees {
    pub(super) fn new(directory: PathBuf, ownership: Ownership) -> Self {
        Self::of_root(PathBuf::from("/"), directory, ownership)
    }

    fn of_root(root: PathBuf, directory: PathBuf, ownership: Ownership) -> Self {
        Self { directory, ownership, root, last: Mutex::new(None) }
    }

    /// The image. Most times this is some 50 lstat(2), since every sandbox asks: changes deep in a directory of /etc are
    /// noticed once something beside them changes, or at the next start.
    ///
    /// # Errors
    /// [`ImageError::Io`].
    pub(super) fn image(&self) -> Result<Image, ImageError> {
        let tops = self.tops()?;
        let stamp = fingerprint(&tops);
        // Held while a skeleton is made, so that it is made once.
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        match &*last {
            Some((known, image)) if *known == stamp => return Ok(image.clone()),
            _ => {}
        }
        let inputs = self.walk(tops)?;
        let skeleton = self.directory.join(fingerprint(&inputs).hex());
        if !skeleton.is_dir() {
            let made = temporary_directory(&self.directory)?;
            self.build(made.path(), &inputs).map_err(|error| ImageError::io("make the skeleton of the host", error))?;
            put_in_place(made, &skeleton)?;
        }
        let image = Image { trees: self.trees(skeleton), env: Default::default(), user: None };
        *last = Some((stamp, image.clone()));
        Ok(image)
    }

    fn trees(&self, skeleton: PathBuf) -> Vec<Tree> {
        let root = Tree { target: "/".into(), layers: vec![skeleton] };
        let directory = |name: &&str| self.root.join(name).symlink_metadata().is_ok_and(|found| found.is_dir());
        let friends = TREES.into_iter().filter(directory);
        let friends =
            friends.map(|name| Tree { target: Path::new("/").join(name), layers: vec![self.root.join(name)] });
        std::iter::once(root).chain(friends).collect()
    }

    /// All that is named above and there.
    fn tops(&self) -> Result<Vec<Input>, ImageError> {
        let etc = self.root.join("etc");
        let mut names: Vec<PathBuf> = TREES.iter().map(PathBuf::from).collect();
        names.extend(ETC.iter().map(|name| Path::new("etc").join(name)));
        for entry in fs::read_dir(&etc).map_err(|error| ImageError::io("list /etc", error))? {
            let name = entry.map_err(|error| ImageError::io("list /etc", error))?.file_name();
            if ETC_PREFIXES.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes())) {
                names.push(Path::new("etc").join(name));
            }
        }
        names.sort();
        Ok(names.into_iter().filter_map(|path| self.input(path)).collect())
    }

    /// What everyone on the node may read. What is not there is left out, and so is all else.
    fn input(&self, path: PathBuf) -> Option<Input> {
        let metadata = self.root.join(&path).symlink_metadata().ok()?;
        let kind = metadata.file_type();
        let wanted = kind.is_symlink()
            || kind.is_dir() && metadata.mode() & 0o005 == 0o005
            || kind.is_file() && metadata.mode() & 0o004 != 0 && metadata.len() <= MAX_FILE_BYTES;
        wanted.then_some(Input { path, metadata })
    }

    /// The inputs with all that is in them, each directory before its contents. Of /usr and friends only themselves.
    fn walk(&self, tops: Vec<Input>) -> Result<Vec<Input>, ImageError> {
        let mut found = Vec::new();
        let mut left = tops;
        left.reverse();
        while let Some(input) = left.pop() {
            if found.len() > MAX_COPIES {
                return Err(ImageError::io("copy /etc", io::Error::from(io::ErrorKind::FileTooLarge)));
            }
            if input.metadata.is_dir() && input.path.starts_with("etc") {
                let entries = fs::read_dir(self.root.join(&input.path)).into_iter().flatten().flatten();
                let mut paths = entries.map(|entry| input.path.join(entry.file_name())).collect::<Vec<_>>();
                paths.sort_by(|one, other| other.cmp(one));
                left.extend(paths.into_iter().filter_map(|path| self.input(path)));
            }
            found.push(input);
        }
        Ok(found)
    }

    fn build(&self, into: &Path, inputs: &[Input]) -> io::Result<()> {
        fs::set_permissions(into, fs::Permissions::from_mode(0o755))?;
        for (name, _) in DIRECTORIES {
            fs::create_dir(into.join(name))?;
        }
        for input in inputs {
            self.copy(input, &into.join(&input.path))?;
        }
        let bash = self.root.join("usr/bin/bash").exists() || self.root.join("bin/bash").exists();
        let shell = if bash { "/bin/bash" } else { "/bin/sh" };
        let passwd = format!(
            "root:x:0:0:root:/root:{shell}\ndaemon:x:1:1:daemon:/usr/sbin:/usr/sbin/nologin\n\
             agent:x:{AGENT}:{AGENT}:agent:/home/agent:{shell}\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"
        );
        let files = [("passwd", passwd.as_str()), ("group", GROUP), ("hosts", HOSTS), ("hostname", "sandbox\n")];
        for (name, text) in files {
            let path = into.join("etc").join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        }
        if self.ownership == Ownership::Keep {
            chown(into.join("home/agent"), Some(AGENT), Some(AGENT))?;
        }
        // Last, since one may forbid to write into it.
        for (name, mode) in DIRECTORIES {
            fs::set_permissions(into.join(name), fs::Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// Copies one input: a link as a link, a directory empty. What has changed its kind or gone since it was looked at is
    /// left out: it is being installed, and the next skeleton will have it.
    fn copy(&self, input: &Input, to: &Path) -> io::Result<()> {
        let from = self.root.join(&input.path);
        let kind = input.metadata.file_type();
        if kind.is_symlink() {
            return fs::read_link(from).map_or(Ok(()), |target| symlink(target, to));
        }
        if kind.is_dir() {
            fs::create_dir(to)?;
            // The daemon may have a umask that would lock others out.
            return fs::set_permissions(to, fs::Permissions::from_mode(0o755));
        }
        let Ok(file) = nix::fcntl::open(&from, READ, nix::sys::stat::Mode::empty()) else { return Ok(()) };
        let mut copy = File::create_new(to)?;
        io::copy(&mut File::from(file).take(MAX_FILE_BYTES), &mut copy)?;
        copy.set_modified(input.metadata.modified()?)?;
        copy.set_permissions(fs::Permissions::from_mode(0o644 | input.metadata.mode() & 0o111))
    }
}

/// Neither a link nor a FIFO that came in the place of a file leads anywhere, or blocks.
const READ: nix::fcntl::OFlag =
    nix::fcntl::OFlag::O_NOFOLLOW.union(nix::fcntl::OFlag::O_NONBLOCK).union(nix::fcntl::OFlag::O_CLOEXEC);

/// Changes when an input does, as far as that shows in its metadata. Of /usr and friends only what they are counts.
fn fingerprint(inputs: &[Input]) -> Digest {
    let mut text = Vec::from(VERSION.as_bytes());
    for Input { path, metadata } in inputs {
        text.push(0);
        text.extend_from_slice(path.as_os_str().as_bytes());
        text.push(0);
        let kind = metadata.mode();
        if path.starts_with("etc") {
            let (size, seconds, nanoseconds) = (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
            text.extend_from_slice(format!("{kind:o} {size} {seconds}.{nanoseconds:09} {}", metadata.ino()).as_bytes());
        } else {
            text.extend_from_slice(format!("{kind:o}").as_bytes());
        }
    }
    Digest::of(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A node of its own, with secrets.
    fn node() -> tempfile::TempDir {
        let node = tempfile::tempdir().unwrap();
        let root = node.path();
        for directory in
            ["etc/ssl/certs", "etc/ssl/private", "etc/ssh", "etc/profile.d", "etc/python3.11", "usr/bin", "lib64"]
        {
            fs::create_dir_all(root.join(directory)).unwrap();
        }
        let files = [
            "shadow",
            "machine-id",
            "resolv.conf",
            "ssh/key",
            "ssl/private/key",
            "services",
            "profile.d/a.sh",
            "python3.11/conf",
        ];
        for name in files {
            fs::write(root.join("etc").join(name), name).unwrap();
        }
        fs::write(root.join("etc/hostname"), "node-7").unwrap();
        fs::write(root.join("etc/passwd"), "alice:x:1:1::/:/bin/sh").unwrap();
        fs::write(root.join("usr/bin/bash"), "").unwrap();
        fs::write(root.join("etc/profile.d/private"), "secret").unwrap();
        fs::set_permissions(root.join("etc/profile.d/private"), fs::Permissions::from_mode(0o640)).unwrap();
        symlink("/etc/shadow", root.join("etc/profile.d/link")).unwrap();
        symlink("usr/bin", root.join("bin")).unwrap();
        symlink("../usr/share/zoneinfo/UTC", root.join("etc/localtime")).unwrap();
        node
    }

    fn trees(node: &tempfile::TempDir, store: &tempfile::TempDir) -> HostTrees {
        HostTrees::of_root(node.path().to_owned(), store.path().to_owned(), Ownership::Own)
    }

    fn skeleton(image: &Image) -> &Path {
        &image.trees[0].layers[0]
    }

    #[test]
    fn directories_of_the_node_are_trees_and_links_are_links() {
        let (node, store) = (node(), tempfile::tempdir().unwrap());
        let image = trees(&node, &store).image().unwrap();
        let targets: Vec<_> = image.trees.iter().map(|tree| tree.target.to_str().unwrap()).collect();
        assert_eq!(targets, ["/", "/usr", "/lib64"]);
        assert_eq!(image.trees[1].layers, [node.path().join("usr")]);
        assert_eq!(fs::read_link(skeleton(&image).join("bin")).unwrap(), Path::new("usr/bin"));
        for mount_point in ["usr", "lib64"] {
            assert_eq!(fs::read_dir(skeleton(&image).join(mount_point)).unwrap().count(), 0);
        }
        assert!(!skeleton(&image).join("sbin").exists());
    }

    #[test]
    fn etc_has_what_everyone_may_know_and_nothing_else() {
        let (node, store) = (node(), tempfile::tempdir().unwrap());
        let image = trees(&node, &store).image().unwrap();
        let etc = skeleton(&image).join("etc");
        for copied in ["services", "profile.d/a.sh", "python3.11/conf"] {
            assert_eq!(fs::read_to_string(etc.join(copied)).unwrap(), copied);
        }
        for hidden in ["shadow", "machine-id", "resolv.conf", "ssh", "ssl/private", "profile.d/private"] {
            assert!(!etc.join(hidden).exists(), "{hidden}");
        }
        assert_eq!(fs::read_link(etc.join("localtime")).unwrap(), Path::new("../usr/share/zoneinfo/UTC"));
        assert_eq!(
            fs::read_link(etc.join("profile.d/link")).unwrap(),
            Path::new("/etc/shadow"),
            "as a link, never followed"
        );
        let passwd = fs::read_to_string(etc.join("passwd")).unwrap();
        assert!(
            passwd.contains("agent:x:1000:1000:agent:/home/agent:/bin/bash\n") && !passwd.contains("alice"),
            "{passwd}"
        );
        assert_eq!(fs::read_to_string(etc.join("hostname")).unwrap(), "sandbox\n");
        assert!(fs::read_to_string(etc.join("hosts")).unwrap().contains("127.0.0.1\tlocalhost"));
    }

    #[test]
    fn the_skeleton_has_the_usual_directories_with_their_modes() {
        let (node, store) = (node(), tempfile::tempdir().unwrap());
        let image = trees(&node, &store).image().unwrap();
        for (name, mode) in
            [("", 0o755), ("tmp", 0o1777), ("root", 0o700), ("var/tmp", 0o1777), ("proc", 0o555), ("home/agent", 0o755)]
        {
            assert_eq!(skeleton(&image).join(name).metadata().unwrap().mode() & 0o7777, mode, "{name}");
        }
    }

    #[test]
    fn a_skeleton_is_made_once_and_again_when_the_node_changes() {
        let (node, store) = (node(), tempfile::tempdir().unwrap());
        let trees = trees(&node, &store);
        let first = trees.image().unwrap();
        let inode = skeleton(&first).metadata().unwrap().ino();
        assert_eq!(trees.image().unwrap(), first);
        let another = HostTrees::of_root(node.path().to_owned(), store.path().to_owned(), Ownership::Own);
        assert_eq!(skeleton(&another.image().unwrap()).metadata().unwrap().ino(), inode, "also after a restart");
        fs::write(node.path().join("etc/profile.d/new.sh"), "new").unwrap();
        let second = trees.image().unwrap();
        assert_ne!(second, first);
        assert!(skeleton(&second).join("etc/profile.d/new.sh").exists());
    }

    #[test]
    fn this_nodes_own_files_make_an_image() {
        let store = tempfile::tempdir().unwrap();
        let image = HostTrees::new(store.path().to_owned(), Ownership::Own).image().unwrap();
        assert_eq!(image.trees[1].layers, [Path::new("/usr")]);
        assert!(!skeleton(&image).join("etc/shadow").exists());
    }
}
