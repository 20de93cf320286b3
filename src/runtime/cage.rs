//! The root file systems of brains: the program, the libraries that it needs, and nothing else of the node.
//!
//! A cage is a directory below the state directory that sandboxes are made of (`dir:`), read-only in them. It has a name
//! that tells what it was made of, is put in place by a rename, and is never changed: a session keeps the program that it
//! began with, whatever becomes of the one that is installed. Files are linked where they can be, as programs are large.

use std::collections::HashMap;
use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Kind, elf};
use crate::image::ImageRef;

/// Of the recipe below: a new version makes new cages.
const VERSION: &str = "cage 1";

/// Where the program is in its cage.
pub const PROGRAM: &str = "/opt/brain/program";

/// Who it runs as there.
pub const USER: &str = "brain";

/// The engine whose sandboxes can be made of a directory.
const ENGINE: &str = "native";

/// How long a program may take to say its version, and its interpreter to list its libraries: both take 30 ms.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

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

/// A runtime's program on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Which runtime.
    pub kind: Kind,
    /// The program itself, not a script that starts it.
    pub program: PathBuf,
    /// The versions that are known to work.
    pub versions: Vec<String>,
}

/// Why a runtime cannot be started here.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// The configuration does not say where it is.
    #[error("the runtime {0} is not configured on this node: set brain.npm or brain.{0}.program")]
    NotConfigured(&'static str),
    /// The engine cannot make sandboxes of cages.
    #[error("the runtime {kind} needs the engine \"native\", and this node has \"{engine}\"")]
    Engine {
        /// Which runtime.
        kind: &'static str,
        /// Which engine there is.
        engine: &'static str,
    },
    /// It is not there, or cannot be looked at.
    #[error("the program of the runtime {kind}, {}", program.display())]
    Program {
        /// Which runtime.
        kind: &'static str,
        /// Where it ought to be.
        program: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Nobody has seen this version work.
    #[error("the runtime {kind} has version {found:?}; brain.{kind}.versions permits {}", accepted.join(", "))]
    Version {
        /// Which runtime.
        kind: &'static str,
        /// What it says.
        found: String,
        /// What is permitted.
        accepted: Vec<String>,
    },
    /// Its cage cannot be made.
    #[error("make the cage {}", path.display())]
    Build {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The cages of the node.
#[derive(Debug)]
pub struct Cages {
    directory: PathBuf,
    /// The engine that makes sandboxes of them.
    engine: &'static str,
    /// The sandbox's id of [`USER`].
    uid: u32,
    installed: Vec<Installed>,
    /// The versions of programs by their fingerprints. Locked for a look only.
    versions: Mutex<HashMap<String, String>>,
}

impl Cages {
    /// Cages below a directory, for an engine by its name. Without root a sandbox has one user, who is its root.
    #[must_use]
    pub fn new(directory: PathBuf, engine: &'static str, is_root: bool, installed: Vec<Installed>) -> Self {
        Self { directory, engine, uid: if is_root { 1000 } else { 0 }, installed, versions: Mutex::default() }
    }

    /// The version of a runtime's program, if sessions can have it here.
    ///
    /// # Errors
    /// [`CageError`]
    pub async fn check(&self, kind: Kind) -> Result<String, CageError> {
        if kind.provider().is_none() {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let (installed, fingerprint) = self.find(kind)?;
        if self.engine != ENGINE {
            return Err(CageError::Engine { kind: kind.name(), engine: self.engine });
        }
        let known = self.versions.lock().unwrap_or_else(PoisonError::into_inner).get(&fingerprint).cloned();
        let found = match known {
            Some(version) => version,
            None => {
                let said = output(&installed.program, &["--version"]).await;
                let said = said.map_err(|source| program(installed, source))?;
                let version =
                    said.split_whitespace().find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()));
                let version = version.unwrap_or_default().to_owned();
                self.versions.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint, version.clone());
                version
            }
        };
        let accepted = &installed.versions;
        if accepted.contains(&found) {
            return Ok(found);
        }
        Err(CageError::Version { kind: kind.name(), found, accepted: accepted.clone() })
    }

    /// What the sandbox of a brain is made of; `None`: the node's default.
    ///
    /// # Errors
    /// [`CageError`]
    pub async fn image(&self, kind: Kind) -> Result<Option<ImageRef>, CageError> {
        if kind.provider().is_none() {
            return Ok(None);
        }
        self.check(kind).await?;
        let (installed, fingerprint) = self.find(kind)?;
        let path = self.directory.join(format!("{}-{fingerprint}", kind.name()));
        if !path.is_dir() {
            let libraries = libraries(&installed.program).await.map_err(|source| program(installed, source))?;
            let (directory, own, uid) = (self.directory.clone(), installed.program.clone(), self.uid);
            let target = path.clone();
            let built = tokio::task::spawn_blocking(move || build(&directory, &target, &own, &libraries, uid)).await;
            let built = built.unwrap_or_else(|error| Err(io::Error::other(error)));
            built.map_err(|source| CageError::Build { path: path.clone(), source })?;
        }
        Ok(Some(ImageRef::Dir(path)))
    }

    /// A program, and a word that changes when it does.
    fn find(&self, kind: Kind) -> Result<(&Installed, String), CageError> {
        let installed = self.installed.iter().find(|installed| installed.kind == kind);
        let installed = installed.ok_or_else(|| CageError::NotConfigured(kind.name()))?;
        let found = fs::metadata(&installed.program).map_err(|source| program(installed, source))?;
        let facts =
            format!("{VERSION} {} {} {} {} {}", self.uid, found.dev(), found.ino(), found.size(), found.mtime_nsec());
        let digest = Sha256::new().chain_update(facts).chain_update(found.mtime().to_le_bytes()).finalize();
        Ok((installed, digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()))
    }
}

fn program(installed: &Installed, source: io::Error) -> CageError {
    CageError::Program { kind: installed.kind.name(), program: installed.program.clone(), source }
}

/// The interpreter of a program and its libraries, where they are on the node.
async fn libraries(program: &Path) -> io::Result<Vec<PathBuf>> {
    let Some(interpreter) = elf::interpreter(program)? else { return Ok(Vec::new()) };
    let listed = output(&interpreter, &["--list", &program.to_string_lossy()]).await?;
    let mut found = elf::libraries(&listed);
    found.push(interpreter);
    found.sort();
    found.dedup();
    Ok(found)
}

/// What a program of the node prints.
async fn output(program: &Path, arguments: &[&str]) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(arguments).env_clear().current_dir("/").stdin(Stdio::null()).kill_on_drop(true);
    let late = |_| io::Error::new(io::ErrorKind::TimedOut, "it did not answer in time");
    let output = timeout(ANSWER_DEADLINE, command.output()).await.map_err(late)??;
    if !output.status.success() {
        return Err(io::Error::other(format!("{:?} ended with {}", arguments.first(), output.status)));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Makes a cage, whole or not at all.
fn build(directory: &Path, path: &Path, program: &Path, libraries: &[PathBuf], uid: u32) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(directory)?;
    let made = tempfile::Builder::new().prefix(".making-").tempdir_in(directory)?;
    let root = made.path();
    fs::set_permissions(root, Permissions::from_mode(0o755))?;
    for (name, mode) in DIRECTORIES {
        make_directory(&root.join(name), mode)?;
    }
    let passwd = format!("root:x:0:0::/:/nonexistent\n{USER}:x:{uid}:{uid}::/workspace:/nonexistent\n");
    let etc = [
        ("passwd", passwd),
        ("group", format!("root:x:0:\n{USER}:x:{uid}:\n")),
        ("hosts", "127.0.0.1 localhost\n".to_owned()),
    ];
    for (name, content) in etc {
        fs::write(root.join("etc").join(name), content)?;
    }
    bring(program, &root.join(PROGRAM.trim_start_matches('/')))?;
    for library in libraries {
        let target = root.join(library.strip_prefix("/").unwrap_or(library));
        if let Some(parent) = target.parent() {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        bring(library, &target)?;
    }
    let made = made.keep();
    match fs::rename(&made, path) {
        // Somebody else was first.
        Err(_) if path.is_dir() => fs::remove_dir_all(made),
        result => result,
    }
}

fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Links a file that everybody may execute, and copies any other, and across file systems.
fn bring(file: &Path, target: &Path) -> io::Result<()> {
    let file = fs::canonicalize(file)?;
    let is_open = fs::metadata(&file)?.mode() & 0o005 == 0o005;
    if is_open && fs::hard_link(&file, target).is_ok() {
        return Ok(());
    }
    fs::copy(&file, target)?;
    fs::set_permissions(target, Permissions::from_mode(0o555))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cages(directory: &Path, program: &Path, version: &str) -> Cages {
        let installed =
            Installed { kind: Kind::Claude, program: program.to_owned(), versions: vec![version.to_owned()] };
        Cages::new(directory.join("cages"), ENGINE, true, vec![installed])
    }

    /// A program with libraries that says a version.
    fn program() -> (PathBuf, String) {
        let path = PathBuf::from("/bin/bash");
        let said = std::process::Command::new(&path).arg("--version").output().unwrap();
        let said = String::from_utf8_lossy(&said.stdout).into_owned();
        let version = said.split_whitespace().find(|word| word.starts_with(|letter: char| letter.is_ascii_digit()));
        (path, version.unwrap().to_owned())
    }

    #[tokio::test]
    async fn a_cage_holds_the_program_its_libraries_and_nothing_of_the_node() {
        let (program, version) = program();
        let directory = tempfile::tempdir().unwrap();
        let cages = cages(directory.path(), &program, &version);
        assert_eq!(cages.check(Kind::Claude).await.unwrap(), version);
        let Some(ImageRef::Dir(cage)) = cages.image(Kind::Claude).await.unwrap() else { panic!("no cage") };
        assert_eq!(fs::read(cage.join("opt/brain/program")).unwrap(), fs::read(&program).unwrap());
        assert!(cage.join("lib64").is_dir() || cage.join("lib").is_dir(), "it has no libraries");
        let mut etc: Vec<_> = fs::read_dir(cage.join("etc")).unwrap().map(|it| it.unwrap().file_name()).collect();
        etc.sort();
        assert_eq!(etc, ["group", "hosts", "passwd"]);
        assert_eq!(cages.image(Kind::Claude).await.unwrap(), Some(ImageRef::Dir(cage)));
        assert_eq!(fs::read_dir(directory.path().join("cages")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_program_that_is_missing_or_of_another_version_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Cages::new(directory.path().to_owned(), ENGINE, true, Vec::new());
        assert!(matches!(nobody.check(Kind::Claude).await, Err(CageError::NotConfigured("claude"))));
        assert_eq!(nobody.image(Kind::Script).await.unwrap(), None);
        let missing = cages(directory.path(), Path::new("/nonexistent"), "1");
        assert!(matches!(missing.check(Kind::Claude).await, Err(CageError::Program { .. })));
        let (program, version) = program();
        let other = cages(directory.path(), &program, "0.0.1");
        let refused = other.image(Kind::Claude).await;
        assert!(matches!(&refused, Err(CageError::Version { found, .. }) if *found == version), "{refused:?}");
    }
}
