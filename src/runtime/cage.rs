//! The root file systems of brains: the program, the libraries that it needs, and nothing else of the node.
//!
//! A cage is a directory below the state directory that sandboxes are made of (`dir:`), read-only in them; for Docker, which
//! takes no directories, it is an archive of one (`tar:`), which Docker imports once. It has a name that tells what it was
//! made of, is put in place by a rename, and is never changed: a sandbox keeps the program that it began with, whatever
//! becomes of the one that is installed. Files are linked where they can be, as programs are large.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};
use tokio::process::Command;
use tokio::time::timeout;

use super::{Kind, Launch, PLAIN, elf};
use crate::gateway::Provider;
use crate::image::ImageRef;

mod building;

use building::Plan;

/// Of the recipe below: a new version makes new cages.
const VERSION: &str = "cage 1";

/// Where the program is in its cage.
pub const PROGRAM: &str = "/opt/brain/program";

/// Who it runs as there.
pub const USER: &str = "brain";

/// How long a program may take to say its version, and its interpreter to list its libraries: both take 30 ms.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A runtime's program on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Installed {
    /// Which runtime.
    pub kind: Kind,
    /// The program itself, not a script that starts it.
    pub program: PathBuf,
    /// The versions that sessions may have; none: any, and it is not asked which it is.
    pub versions: Vec<String>,
    /// Who serves its model.
    pub provider: Provider,
    /// How it is started.
    pub launch: Launch,
    /// Files and directories that it needs beside its libraries; in its cage they are where they are on the node. Of a
    /// directory it is only seen that it has changed itself, not what is below it.
    pub files: Vec<PathBuf>,
}

/// Why a runtime cannot be started here.
#[derive(Debug, thiserror::Error)]
pub enum CageError {
    /// The configuration does not say where it is.
    #[error("the runtime {0} is not configured on this node: set brain.{0}.program, or for claude and codex brain.npm")]
    NotConfigured(&'static str),
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
    /// A file that it needs is not there, or cannot be looked at.
    #[error("a file of the runtime {kind}, {}", path.display())]
    File {
        /// Which runtime.
        kind: &'static str,
        /// Where it ought to be.
        path: PathBuf,
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
    /// Old cages cannot be removed.
    #[error("remove old cages in {}", path.display())]
    Clear {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// What a cage is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A directory, of which the native engine makes sandboxes.
    Directory,
    /// An archive, of which Docker does.
    Archive,
}

/// The cages of the node.
#[derive(Debug)]
pub struct Cages {
    directory: PathBuf,
    form: Form,
    /// The sandbox's id of [`USER`].
    uid: u32,
    installed: Vec<Installed>,
    /// The versions of programs by their fingerprints. Locked for a look only.
    versions: Mutex<HashMap<String, String>>,
}

impl Cages {
    /// Cages below a directory. Without root a sandbox has one user, who is its root.
    #[must_use]
    pub fn new(directory: PathBuf, form: Form, is_root: bool, installed: Vec<Installed>) -> Self {
        Self { directory, form, uid: if is_root { 1000 } else { 0 }, installed, versions: Mutex::default() }
    }

    /// The version of a runtime's program, if sessions can have it here.
    ///
    /// # Errors
    /// [`CageError`]
    pub async fn check(&self, kind: Kind) -> Result<String, CageError> {
        if kind.providers().is_empty() {
            return Ok(env!("CARGO_PKG_VERSION").to_owned());
        }
        let (installed, fingerprint) = self.find(kind)?;
        if installed.versions.is_empty() {
            // It is seen at least that it is a program.
            elf::interpreter(&installed.program).map_err(|source| program(installed, source))?;
            return Ok("any version".to_owned());
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
        if kind.providers().is_empty() {
            return Ok(None);
        }
        self.check(kind).await?;
        let (installed, fingerprint) = self.find(kind)?;
        let path = self.place(kind, &fingerprint);
        if !path.exists() {
            let libraries = libraries(&installed.program).await.map_err(|source| program(installed, source))?;
            let (program, files) = (installed.program.clone(), installed.files.clone());
            let plan = Plan { program, libraries, files, uid: self.uid, form: self.form };
            let (directory, target) = (self.directory.clone(), path.clone());
            let built = tokio::task::spawn_blocking(move || plan.build(&directory, &target)).await;
            let built = built.unwrap_or_else(|error| Err(io::Error::other(error)));
            built.map_err(|source| CageError::Build { path: path.clone(), source })?;
        }
        Ok(Some(match self.form {
            Form::Directory => ImageRef::Dir(path),
            Form::Archive => ImageRef::Tar(path),
        }))
    }

    /// Who serves the model of a runtime; `None`: it has none, or is not installed.
    #[must_use]
    pub fn provider(&self, kind: Kind) -> Option<Provider> {
        self.installed(kind).map(|installed| installed.provider)
    }

    /// How the program of a runtime is started.
    #[must_use]
    pub fn launch(&self, kind: Kind) -> &Launch {
        self.installed(kind).map_or(&PLAIN, |installed| &installed.launch)
    }

    fn installed(&self, kind: Kind) -> Option<&Installed> {
        self.installed.iter().find(|installed| installed.kind == kind)
    }

    /// Removes the cages that are of no program as it is installed now, and of which no sandbox is made. To be called before
    /// any is made.
    ///
    /// # Errors
    /// [`CageError::Clear`].
    pub async fn clear(&self, in_use: BTreeSet<PathBuf>) -> Result<(), CageError> {
        let current = Kind::ALL.into_iter().filter_map(|kind| Some(self.place(kind, &self.find(kind).ok()?.1)));
        let kept: BTreeSet<PathBuf> = in_use.into_iter().chain(current).collect();
        let directory = self.directory.clone();
        let cleared = tokio::task::spawn_blocking(move || remove_others(&directory, &kept)).await;
        let cleared = cleared.unwrap_or_else(|error| Err(io::Error::other(error)));
        cleared.map_err(|source| CageError::Clear { path: self.directory.clone(), source })
    }

    fn place(&self, kind: Kind, fingerprint: &str) -> PathBuf {
        let suffix = match self.form {
            Form::Directory => "",
            Form::Archive => ".tar",
        };
        self.directory.join(format!("{}-{fingerprint}{suffix}", kind.name()))
    }

    /// A program, and a word that changes when it does.
    fn find(&self, kind: Kind) -> Result<(&Installed, String), CageError> {
        let installed = self.installed(kind).ok_or_else(|| CageError::NotConfigured(kind.name()))?;
        let found = fs::metadata(&installed.program).map_err(|source| program(installed, source))?;
        let mut digest = Sha256::new()
            .chain_update(format!("{VERSION} {} {}", self.uid, facts(&found)))
            .chain_update(found.mtime().to_le_bytes());
        for path in &installed.files {
            let failed = |source| CageError::File { kind: kind.name(), path: path.clone(), source };
            let found = fs::metadata(path).map_err(failed)?;
            digest.update(format!(" {} {} {}", path.display(), facts(&found), found.mtime()));
        }
        let digest = digest.finalize();
        Ok((installed, digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect()))
    }
}

/// What tells one state of a file from another, but for the seconds of its last change.
fn facts(found: &fs::Metadata) -> String {
    format!("{} {} {} {}", found.dev(), found.ino(), found.size(), found.mtime_nsec())
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

/// Removes what else is in a directory, which need not exist.
fn remove_others(directory: &Path, kept: &BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if !kept.contains(&path) {
            tracing::info!(path = %path.display(), "an old cage goes");
            if kind.is_dir() { fs::remove_dir_all(&path)? } else { fs::remove_file(&path)? }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cages(directory: &Path, program: &Path, version: &str) -> Cages {
        let installed = Installed {
            kind: Kind::Claude,
            program: program.to_owned(),
            versions: vec![version.to_owned()],
            provider: Provider::Anthropic,
            launch: Launch::default(),
            files: Vec::new(),
        };
        Cages::new(directory.join("cages"), Form::Directory, true, vec![installed])
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
    async fn files_are_brought_to_where_they_are_and_those_of_the_node_stay_as_they_are() {
        let (program, version) = program();
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("modules/a");
        fs::create_dir_all(&module).unwrap();
        fs::write(module.join("index.js"), "let a").unwrap();
        std::os::unix::fs::symlink("a/index.js", directory.path().join("modules/b")).unwrap();
        let file = module.join("index.js");
        let mut cages = cages(directory.path(), &program, &version);
        cages.installed[0].files = vec![file.clone(), directory.path().join("modules")];
        let Some(ImageRef::Dir(cage)) = cages.image(Kind::Claude).await.unwrap() else { panic!("no cage") };
        let brought = cage.join(directory.path().strip_prefix("/").unwrap()).join("modules");
        assert_eq!(fs::read(brought.join("b")).unwrap(), b"let a");
        assert_eq!(fs::read(&file).unwrap(), b"let a");
        cages.installed[0].files = vec![directory.path().join("nowhere")];
        assert!(matches!(cages.image(Kind::Claude).await, Err(CageError::File { .. })));
    }

    #[tokio::test]
    async fn an_archive_holds_the_same_and_old_cages_go_unless_something_is_made_of_them() {
        let (program, version) = program();
        let directory = tempfile::tempdir().unwrap();
        let cages = Cages { form: Form::Archive, ..cages(directory.path(), &program, &version) };
        let Some(ImageRef::Tar(cage)) = cages.image(Kind::Claude).await.unwrap() else { panic!("no archive") };
        let mut archive = tar::Archive::new(fs::File::open(&cage).unwrap());
        let paths: Vec<_> = archive.entries().unwrap().map(|it| it.unwrap().path().unwrap().into_owned()).collect();
        for path in ["opt/brain/program", "etc/passwd", "tmp"] {
            assert!(paths.iter().any(|found| found == Path::new(path)), "{paths:?}");
        }
        let place = |name: &str| directory.path().join("cages").join(name);
        let (old, used, torn) = (place("claude-old"), place("claude-used.tar"), place(".making-x"));
        fs::create_dir(&old).unwrap();
        fs::create_dir(&torn).unwrap();
        fs::write(&used, "").unwrap();
        cages.clear([used.clone()].into()).await.unwrap();
        assert_eq!([&old, &used, &torn, &cage].map(|path| path.exists()), [false, true, false, true]);
        Cages::new(place("nowhere"), Form::Directory, true, Vec::new()).clear(BTreeSet::new()).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_missing_or_of_another_version_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let nobody = Cages::new(directory.path().to_owned(), Form::Directory, true, Vec::new());
        assert!(matches!(nobody.check(Kind::Claude).await, Err(CageError::NotConfigured("claude"))));
        assert_eq!(nobody.image(Kind::Script).await.unwrap(), None);
        let missing = cages(directory.path(), Path::new("/nonexistent"), "1");
        assert!(matches!(missing.check(Kind::Claude).await, Err(CageError::Program { .. })));
        let (program, version) = program();
        let mut any = cages(directory.path(), &program, "1");
        any.installed[0].versions.clear();
        any.check(Kind::Claude).await.unwrap();
        any.installed[0].program = PathBuf::from("/etc/passwd");
        assert!(matches!(any.check(Kind::Claude).await, Err(CageError::Program { .. })));
        let other = cages(directory.path(), &program, "0.0.1");
        let refused = other.image(Kind::Claude).await;
        assert!(matches!(&refused, Err(CageError::Version { found, .. }) if *found == version), "{refused:?}");
    }
}
