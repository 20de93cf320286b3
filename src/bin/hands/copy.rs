//! Files and directories between this machine and a sandbox: cp.

use std::fs::{self, Permissions};
use std::io::{self, IsTerminal as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context as _, bail};
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::{FileInfo, FileType, LsRequest, MkdirRequest, ReadRequest, StatRequest, WriteHeader};
use handsd::client::Channel;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::args::Place;
use crate::events::Format;
use crate::files::Pages;
use crate::output::printable;
use crate::transfer::{self, Download};
use crate::{Context, errors, output};

/// Smaller files are there before anybody could read a bar.
const SHOWN_BYTES: u64 = 8 << 20;
/// What cp(1) keeps: set-uid and set-gid bits of another machine's users mean nothing here.
const KEPT_MODE: u32 = 0o777;
/// Ctrl-C, as a shell shows it.
const INTERRUPTED: i32 = 130;

/// Copies files between this machine and a sandbox.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands cp notes.txt ID:                 # into the workspace
  hands cp ID:/etc/os-release .
  hands cp -r ./src ID:/srv/app          # as /srv/app, or as /srv/app/src if /srv/app is there
  hands cp -r ID:out ./results

Symlinks: to a sandbox, a file is copied for a link to it, other links are skipped with a note; from a sandbox they are \
made again. Other special files are skipped with a note.")]
pub struct CpArgs {
    /// A path, or ID:path
    #[arg(value_name = "SRC")]
    source: Place,
    /// A path, or ID:path; a directory that is there takes the source in
    #[arg(value_name = "DST")]
    target: Place,
    /// Directories with all they hold
    #[arg(short, long)]
    recursive: bool,
}

/// What was copied.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Copied {
    files: u64,
    bytes: u64,
}

/// `hands cp`
pub async fn cp(context: &Context, args: CpArgs) -> anyhow::Result<()> {
    let copy = async {
        match (args.source, args.target) {
            (Place::Local(source), Place::Remote { sandbox_id, path }) => {
                Upload::new(context, sandbox_id).start(source, path, args.recursive).await
            }
            (Place::Remote { sandbox_id, path }, Place::Local(target)) => {
                Fetch::new(context, sandbox_id).start(path, target, args.recursive).await
            }
            _ => bail!("exactly one of the two must be in a sandbox, as ID:path"),
        }
    };
    let copied = tokio::select! {
        copied = copy => copied?,
        // Dropping the copy above removes the file that was half there.
        _ = tokio::signal::ctrl_c() => std::process::exit(INTERRUPTED),
    };
    match context.format {
        Format::Text => Ok(()),
        Format::Json => output::print_json(&json!({ "files": copied.files, "bytes": copied.bytes })),
    }
}

/// A copy to a sandbox.
struct Upload {
    hands: HandsClient<Channel>,
    sandbox_id: String,
    copied: Copied,
}

impl Upload {
    fn new(context: &Context, sandbox_id: String) -> Self {
        Self { hands: context.hands(), sandbox_id, copied: Copied::default() }
    }

    async fn start(mut self, source: PathBuf, path: String, recursive: bool) -> anyhow::Result<Copied> {
        let metadata = fs::metadata(&source).with_context(|| format!("cannot read {}", source.display()))?;
        let path = self.target(&source, path).await?;
        if !metadata.is_dir() {
            self.file(&source, path).await?;
        } else if recursive {
            self.tree(source, path).await?;
        } else {
            bail!("{} is a directory; -r copies it", source.display());
        }
        Ok(self.copied)
    }

    /// `path`, or below it if it is a directory.
    async fn target(&mut self, source: &Path, path: String) -> anyhow::Result<String> {
        let request = StatRequest { sandbox_id: self.sandbox_id.clone(), path: path.clone(), follow: true };
        let into = match self.hands.stat(request).await {
            Ok(file) => file.get_ref().r#type() == FileType::Directory,
            Err(status) if errors::reason(&status).as_deref() == Some("FILE_NOT_FOUND") => path.ends_with('/'),
            Err(status) => return Err(status.into()),
        };
        if !into {
            return Ok(path);
        }
        // `.` and `..` have no name of their own; as with cp(1), what is in them goes into the directory.
        match source.file_name() {
            Some(name) => join(&path, name.to_str().with_context(|| not_text(source))?),
            None => Ok(path),
        }
    }

    /// Directories before what is in them, none of them held open, however deep.
    async fn tree(&mut self, source: PathBuf, path: String) -> anyhow::Result<()> {
        let mut left = vec![(source, path)];
        while let Some((source, path)) = left.pop() {
            let failed = || format!("cannot read {}", source.display());
            let mode = Some(fs::metadata(&source).with_context(failed)?.permissions().mode() & KEPT_MODE);
            let request = MkdirRequest { sandbox_id: self.sandbox_id.clone(), path: path.clone(), mode, parents: true };
            self.hands.mkdir(request).await.with_context(|| format!("cannot make {path}"))?;
            for entry in fs::read_dir(&source).with_context(failed)? {
                let entry = entry.with_context(failed)?;
                let from = entry.path();
                let to = join(&path, entry.file_name().to_str().with_context(|| not_text(&from))?)?;
                let kind = entry.file_type().with_context(failed)?;
                // A link is followed to a file only: to a directory it could lead in circles.
                let is_file = kind.is_file() || kind.is_symlink() && fs::metadata(&from).is_ok_and(|it| it.is_file());
                if kind.is_dir() {
                    left.push((from, to));
                } else if is_file {
                    self.file(&from, to).await?;
                } else {
                    errors::note(&printable(&format!("skipped {}: no file or directory", from.display())));
                }
            }
        }
        Ok(())
    }

    async fn file(&mut self, source: &Path, path: String) -> anyhow::Result<()> {
        let failed = || format!("cannot read {}", source.display());
        let file = tokio::fs::File::open(source).await.with_context(failed)?;
        let metadata = file.metadata().await.with_context(failed)?;
        let header = WriteHeader {
            sandbox_id: self.sandbox_id.clone(),
            path: path.clone(),
            mode: Some(metadata.permissions().mode() & KEPT_MODE),
            ..Default::default()
        };
        let bar = bar(&path, metadata.len());
        let written = transfer::upload(&mut self.hands, header, file, &bar).await;
        bar.finish_and_clear();
        let written = written.with_context(|| format!("cannot copy {} to {path}", source.display()))?;
        self.copied.files += 1;
        self.copied.bytes += written.size;
        Ok(())
    }
}

/// A copy from a sandbox. What the sandbox says is not trusted to stay below the target.
struct Fetch {
    hands: HandsClient<Channel>,
    sandbox_id: String,
    copied: Copied,
    /// Made last: until then no file can be written through one, whatever the sandbox does meanwhile.
    links: Vec<(String, PathBuf)>,
}

impl Fetch {
    fn new(context: &Context, sandbox_id: String) -> Self {
        Self { hands: context.hands(), sandbox_id, copied: Copied::default(), links: Vec::new() }
    }

    async fn start(mut self, path: String, target: PathBuf, recursive: bool) -> anyhow::Result<Copied> {
        let request = StatRequest { sandbox_id: self.sandbox_id.clone(), path: path.clone(), follow: true };
        let source = self.hands.stat(request).await.with_context(|| format!("cannot read {path}"))?.into_inner();
        let target = if target.is_dir() { target.join(name_of(&path).unwrap_or_default()) } else { target };
        // As with cp(1), a link that the caller named stays, and what it points to is replaced. Below it none is followed.
        let target = fs::canonicalize(&target).unwrap_or(target);
        match source.r#type() {
            FileType::Directory if recursive => self.tree(path, target).await?,
            FileType::Directory => bail!("{path} is a directory; -r copies it"),
            _ => self.file(path, &target).await?,
        }
        Ok(self.copied)
    }

    /// A directory at a time, so that its depth does not matter.
    async fn tree(&mut self, path: String, target: PathBuf) -> anyhow::Result<()> {
        let mut left = vec![(path, target)];
        while let Some((path, target)) = left.pop() {
            make_directory(&target).with_context(|| format!("cannot make {}", target.display()))?;
            let sandbox_id = self.sandbox_id.clone();
            let request =
                LsRequest { sandbox_id, path: path.clone(), depth: Some(1), hidden: true, ..Default::default() };
            let mut pages = Pages::new(self.hands.clone(), request);
            while let Some(entries) = pages.next().await.with_context(|| format!("cannot list {path}"))? {
                for entry in entries {
                    let name = checked_name(&entry)?;
                    let (from, to) = (join(&path, name)?, target.join(name));
                    match entry.r#type() {
                        FileType::Directory => left.push((from, to)),
                        FileType::File => self.file(from, &to).await?,
                        FileType::Symlink => self.links.push((entry.target, to)),
                        _ => errors::note(&printable(&format!("skipped {from}: no file or directory"))),
                    }
                }
            }
        }
        for (points_to, link) in std::mem::take(&mut self.links) {
            make_link(&points_to, &link).with_context(|| format!("cannot make the symlink {}", link.display()))?;
        }
        Ok(())
    }

    async fn file(&mut self, path: String, target: &Path) -> anyhow::Result<()> {
        let request = ReadRequest { sandbox_id: self.sandbox_id.clone(), path: path.clone(), ..Default::default() };
        let mut download =
            Download::open(&mut self.hands, request).await.with_context(|| format!("cannot read {path}"))?;
        let bar = bar(&path, download.stat.size);
        let copied = save(&mut download, target, &bar).await;
        bar.finish_and_clear();
        self.copied.bytes += copied.with_context(|| format!("cannot copy {path} to {}", target.display()))?;
        self.copied.files += 1;
        Ok(())
    }
}

/// A directory that is there is fine, but not a link to one: an earlier copy may have brought it, and it may lead anywhere.
fn make_directory(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && fs::symlink_metadata(path)?.is_dir() => Ok(()),
        made => made,
    }
}

/// Replaces an older link, and nothing else.
fn make_link(points_to: &str, link: &Path) -> io::Result<()> {
    if fs::symlink_metadata(link).is_ok_and(|metadata| metadata.is_symlink()) {
        fs::remove_file(link)?;
    }
    symlink(points_to, link)
}

/// Replaces `target`, also if it is a link, in one step once all is there. A device or a FIFO is written to instead.
async fn save(download: &mut Download, target: &Path, bar: &ProgressBar) -> anyhow::Result<u64> {
    let special = |metadata: fs::Metadata| !metadata.is_file() && !metadata.is_symlink();
    if fs::symlink_metadata(target).is_ok_and(special) {
        let mut file = fs::File::options().write(true).open(target).context("cannot open it")?;
        return download.copy(&mut file, bar).await;
    }
    let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = NamedTempFile::new_in(parent).context("cannot make a temporary file beside it")?;
    let copied = download.copy(&mut file, bar).await?;
    let mode = Permissions::from_mode(download.stat.mode & KEPT_MODE);
    fs::set_permissions(file.path(), mode).context("cannot set its permissions")?;
    file.persist(target).map_err(|error| error.error).context("cannot replace it")?;
    Ok(copied)
}

/// On a terminal and for a large file a bar on stderr, else nothing.
fn bar(name: &str, size: u64) -> ProgressBar {
    if size < SHOWN_BYTES || !io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{msg}  {bytes}/{total_bytes}  {wide_bar}  {bytes_per_sec}  {eta}");
    let style = style.expect("the template is well-formed");
    ProgressBar::new(size).with_style(style).with_message(printable(name))
}

/// A name below a path of a sandbox.
fn join(path: &str, name: &str) -> anyhow::Result<String> {
    if name.is_empty() {
        bail!("{path} holds a file without a name");
    }
    Ok(format!("{}/{name}", if path == "/" { "" } else { path.trim_end_matches('/') }))
}

/// The last part of a path of a sandbox; none for `.`, `..` and `/`.
fn name_of(path: &str) -> Option<&str> {
    Path::new(path).file_name().and_then(|name| name.to_str())
}

/// The entry's name, if it is nothing but one: with a `/` or as `..` it would lead out of the target.
fn checked_name(entry: &FileInfo) -> anyhow::Result<&str> {
    let mut parts = Path::new(&entry.name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(name)), None) if name.to_str() == Some(&entry.name) => Ok(&entry.name),
        _ => bail!("the sandbox holds a file whose name is no name: \"{}\"", printable(&entry.name)),
    }
}

fn not_text(path: &Path) -> String {
    format!("the name of {} is no UTF-8, which names in a request must be", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake;

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        let named = |name: &str| FileInfo { name: name.to_owned(), ..Default::default() };
        assert_eq!(checked_name(&named(".profile")).expect("a name"), ".profile");
        for name in ["", ".", "..", "/", "/etc", "a/b", "../a", "a/", "./a"] {
            assert!(checked_name(&named(name)).is_err(), "{name}");
        }
    }

    #[test]
    fn paths_of_a_sandbox_are_joined_by_one_slash() {
        for (path, joined) in [("a", "a/n"), ("a/", "a/n"), ("/", "/n"), (".", "./n"), ("/a", "/a/n")] {
            assert_eq!(join(path, "n").expect("it joins"), joined);
        }
    }

    fn fetch(hands: HandsClient<Channel>) -> Fetch {
        Fetch { hands, sandbox_id: String::new(), copied: Copied::default(), links: Vec::new() }
    }

    fn upload(hands: HandsClient<Channel>) -> Upload {
        Upload { hands, sandbox_id: String::new(), copied: Copied::default() }
    }

    #[tokio::test]
    async fn a_tree_comes_back_as_it_went() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (hands, _server) = node.serve().await;
        let directory = tempfile::tempdir()?;
        let (source, back) = (directory.path().join("source"), directory.path().join("back"));
        fs::create_dir_all(source.join("a/b"))?;
        fs::create_dir(source.join("empty"))?;
        for (name, content) in [("one", "1"), ("a/two", "22"), ("a/b/three", "333")] {
            fs::write(source.join(name), content)?;
        }
        // A circle, and a link to nothing: neither goes along.
        symlink(".", source.join("circle"))?;
        symlink("nothing", source.join("dangling"))?;
        let copied = upload(hands.clone()).start(source.clone(), "t".to_owned(), true).await?;
        assert_eq!(copied, Copied { files: 3, bytes: 6 });
        let copied = fetch(hands).start("t".to_owned(), back.clone(), true).await?;
        assert_eq!(copied, Copied { files: 3, bytes: 6 });
        assert_eq!(fs::read(back.join("a/b/three"))?, b"333");
        assert!(back.join("empty").is_dir());
        assert!(!back.join("circle").exists());
        Ok(())
    }

    #[tokio::test]
    async fn a_symlink_in_a_sandbox_is_made_again_and_not_followed() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let directory = tempfile::tempdir()?;
        hands.mkdir(MkdirRequest { path: "t".to_owned(), ..Default::default() }).await?;
        let header = WriteHeader { path: "t/link".to_owned(), ..Default::default() };
        transfer::upload(&mut hands, header, b"x".as_slice(), &ProgressBar::hidden()).await?;
        // Twice: the second replaces the first.
        for _ in 0..2 {
            fetch(hands.clone()).start("t".to_owned(), directory.path().to_owned(), true).await?;
        }
        assert_eq!(fs::read_link(directory.path().join("t/link"))?, Path::new("elsewhere"));
        Ok(())
    }

    #[tokio::test]
    async fn a_directory_is_copied_only_if_that_was_asked_for() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let directory = tempfile::tempdir()?;
        hands.mkdir(MkdirRequest { path: "t".to_owned(), ..Default::default() }).await?;
        let local = directory.path().to_owned();
        assert!(upload(hands.clone()).start(local.clone(), "u".to_owned(), false).await.is_err());
        assert!(fetch(hands).start("t".to_owned(), local.join("new"), false).await.is_err());
        assert!(!local.join("new").exists());
        Ok(())
    }

    #[tokio::test]
    async fn a_copy_has_the_bytes_and_the_mode_and_replaces_what_was_there() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (hands, _server) = node.serve().await;
        let directory = tempfile::tempdir()?;
        let (local, back) = (directory.path().join("local"), directory.path().join("back"));
        fs::write(&local, "content")?;
        fs::write(&back, "what was there, and longer")?;
        let mut upload = upload(hands.clone());
        upload.file(&local, "a".to_owned()).await.expect("it is taken");
        assert_eq!(upload.copied, Copied { files: 1, bytes: 7 });
        fetch(hands).file("a".to_owned(), &back).await.expect("it comes back");
        assert_eq!(fs::read(&back)?, b"content");
        assert_eq!(fs::metadata(&back)?.permissions().mode() & 0o7777, 0o640);
        Ok(())
    }

    #[tokio::test]
    async fn a_copy_that_breaks_off_leaves_the_old_file_and_no_litter() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let header = WriteHeader { path: "cut".to_owned(), ..Default::default() };
        transfer::upload(&mut hands, header, b"content".as_slice(), &ProgressBar::hidden()).await.expect("taken");
        let directory = tempfile::tempdir()?;
        let target = directory.path().join("target");
        fs::write(&target, "old")?;
        fetch(hands).file("cut".to_owned(), &target).await.expect_err("it breaks off");
        assert_eq!(fs::read(&target)?, b"old");
        assert_eq!(fs::read_dir(directory.path())?.count(), 1);
        Ok(())
    }

    #[tokio::test]
    async fn a_link_below_the_target_is_replaced_and_not_written_through() -> anyhow::Result<()> {
        let node = fake::Node::default();
        let (mut hands, _server) = node.serve().await;
        let header = WriteHeader { path: "a".to_owned(), ..Default::default() };
        transfer::upload(&mut hands, header, b"new".as_slice(), &ProgressBar::hidden()).await.expect("taken");
        let directory = tempfile::tempdir()?;
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        fs::write(&file, "old")?;
        symlink("file", &link)?;
        fetch(hands).file("a".to_owned(), &link).await.expect("it comes");
        assert_eq!(fs::read(&file)?, b"old");
        assert_eq!(fs::read(&link)?, b"new");
        Ok(())
    }

    #[test]
    fn a_link_to_a_directory_is_no_directory_to_copy_into() -> anyhow::Result<()> {
        let directory = tempfile::tempdir()?;
        let (real, link) = (directory.path().join("real"), directory.path().join("link"));
        make_directory(&real).expect("it is new");
        make_directory(&real).expect("it is there already");
        make_link("real", &link).expect("it is new");
        make_link("real", &link).expect("it replaces itself");
        assert!(make_directory(&link).is_err());
        assert!(make_link("elsewhere", &real).is_err());
        Ok(())
    }
}
