//! How a cage is built.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use super::{Form, PROGRAM, USER};

/// Directories of a cage, and their modes.
const DIRECTORIES: [(&str, u32); 7] = [
    ("dev", 0o755),
    ("etc", 0o755),
    ("opt", 0o755),
    ("opt/brain", 0o755),
    ("proc", 0o555),
    ("sys", 0o555),
    ("tmp", 0o1777),
];

/// Of what a cage is made.
pub(super) struct Plan {
    /// The program.
    pub(super) program: PathBuf,
    /// Its libraries, where they are on the node.
    pub(super) libraries: Vec<PathBuf>,
    /// What else it needs.
    pub(super) files: Vec<PathBuf>,
    /// Who it runs as.
    pub(super) uid: u32,
    /// What the cage is to be.
    pub(super) form: Form,
}

/// In front of the names of what is being made.
const MAKING: &str = ".making-";

impl Plan {
    /// Makes a cage, whole or not at all.
    pub(super) fn build(&self, directory: &Path, path: &Path) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
        let made = tempfile::Builder::new().prefix(MAKING).tempdir_in(directory)?;
        self.fill(made.path())?;
        if self.form == Form::Archive {
            let mut archive = tar::Builder::new(tempfile::Builder::new().prefix(MAKING).tempfile_in(directory)?);
            archive.append_dir_all(".", made.path())?;
            archive.into_inner()?.persist(path)?;
            return Ok(());
        }
        let made = made.keep();
        match fs::rename(&made, path) {
            // Somebody else was first.
            Err(_) if path.is_dir() => fs::remove_dir_all(made),
            result => result,
        }
    }

    fn fill(&self, root: &Path) -> io::Result<()> {
        fs::set_permissions(root, Permissions::from_mode(0o755))?;
        for (name, mode) in DIRECTORIES {
            make_directory(&root.join(name), mode)?;
        }
        let uid = self.uid;
        let passwd = format!("root:x:0:0::/:/nonexistent\n{USER}:x:{uid}:{uid}::/workspace:/nonexistent\n");
        let etc = [
            ("passwd", passwd),
            ("group", format!("root:x:0:\n{USER}:x:{uid}:\n")),
            ("hosts", "127.0.0.1 localhost\n".to_owned()),
        ];
        for (name, content) in etc {
            fs::write(root.join("etc").join(name), content)?;
        }
        bring(&self.program, &root.join(PROGRAM.trim_start_matches('/')))?;
        for file in self.libraries.iter().chain(&self.files) {
            let target = root.join(file.strip_prefix("/").unwrap_or(file));
            if let Some(parent) = target.parent() {
                fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
            }
            bring_all(file, &target)?;
        }
        Ok(())
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Brings a file, or all that is in a directory; links in it lead where they did.
fn bring_all(path: &Path, target: &Path) -> io::Result<()> {
    if !fs::metadata(path)?.is_dir() {
        return bring(path, target);
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(target)?;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        let (path, target, kind) = (entry.path(), target.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            bring_all(&path, &target)?;
        } else if kind.is_symlink() && fs::symlink_metadata(&target).is_err() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &target)?;
        } else if kind.is_file() {
            bring(&path, &target)?;
        }
    }
    Ok(())
}

/// Links a file that everybody may use, and copies any other, and across file systems. What is there already stays: to copy
/// over a link would be to write to what it is linked to.
fn bring(file: &Path, target: &Path) -> io::Result<()> {
    if fs::symlink_metadata(target).is_ok() {
        return Ok(());
    }
    let file = fs::canonicalize(file)?;
    let mode = fs::metadata(&file)?.mode();
    let needed = if mode & 0o111 == 0 { 0o004 } else { 0o005 };
    let is_open = mode & needed == needed;
    if is_open && fs::hard_link(&file, target).is_ok() {
        return Ok(());
    }
    fs::copy(&file, target)?;
    fs::set_permissions(target, Permissions::from_mode(0o555))
}
