//! Files in a sandbox: read, write, ls, stat, mkdir, rm, mv.

use std::io;
use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::Context as _;
use handsd::api::proto::hands_client::HandsClient;
use handsd::api::proto::{
    FileInfo, FileType, LsRequest, MkdirRequest, ReadRequest, RemoveRequest, RenameRequest, StatRequest, WriteHeader,
};
use handsd::client::Channel;
use indicatif::ProgressBar;
use serde_json::json;

use crate::args::Lines;
use crate::events::Format;
use crate::output::{self, Align};
use crate::transfer::{self, Download, Piece};
use crate::{Context, args, input, json};

/// Writes a file to stdout.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands read ID notes.txt
  hands read ID /var/log/big.log --lines 10:20       # lines 10 to 20
  hands read ID core --offset 4096 --limit 512       # bytes

With --json each part is a line: {\"event\":\"stat\",…}, {\"event\":\"data\",\"data\":\"…\"}, {\"event\":\"end\",…}.")]
pub struct ReadArgs {
    /// The sandbox
    id: String,
    /// A regular file
    path: String,
    /// First byte
    #[arg(long, value_name = "BYTES", value_parser = args::bytes, default_value = "0")]
    offset: u64,
    /// Most bytes; 0: to the end
    #[arg(long, value_name = "BYTES", value_parser = args::bytes, default_value = "0")]
    limit: u64,
    /// By lines instead: the first and the last, counted from 1
    #[arg(long, value_name = "FIRST:LAST", conflicts_with_all = ["offset", "limit"])]
    lines: Option<Lines>,
}

/// Writes stdin, or a file, to a file in a sandbox.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  echo hello | hands write ID notes.txt
  hands write ID bin/tool --from ./tool --mode 755 --parents
  date | hands write ID log.txt --append

The file is replaced in one step: a reader sees the old one or the new one, and a write that breaks off changes nothing.")]
pub struct WriteArgs {
    /// The sandbox
    id: String,
    /// The file
    path: String,
    /// Permission bits in octal [default: those of the file that is replaced, else 644]
    #[arg(short, long, value_parser = args::mode)]
    mode: Option<u32>,
    /// Put the new content after the old
    #[arg(short, long)]
    append: bool,
    /// Make missing parent directories
    #[arg(short, long)]
    parents: bool,
    /// Read this file instead of stdin
    #[arg(long, value_name = "FILE")]
    from: Option<PathBuf>,
}

/// Lists a directory of a sandbox.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands ls ID                    # the workspace
  hands ls ID -la /etc
  hands ls ID src --depth 3      # with absolute paths

With --json each entry is a line.")]
pub struct LsArgs {
    /// The sandbox
    id: String,
    /// The directory [default: the workspace]
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
    /// Levels to list; 0: only the path itself
    #[arg(short, long, default_value_t = 1)]
    depth: u32,
    /// Also names that begin with a dot
    #[arg(short, long)]
    all: bool,
    /// Permissions, owner, size and age too
    #[arg(short)]
    long: bool,
}

/// Shows a file's attributes.
#[derive(Debug, clap::Args)]
pub struct StatArgs {
    /// The sandbox
    id: String,
    /// The file
    path: String,
    /// Of a symlink: what it points to
    #[arg(short = 'L', long)]
    follow: bool,
}

/// Makes a directory.
#[derive(Debug, clap::Args)]
pub struct MkdirArgs {
    /// The sandbox
    id: String,
    /// The directory
    path: String,
    /// Permission bits in octal [default: 755]
    #[arg(short, long, value_parser = args::mode)]
    mode: Option<u32>,
    /// Make missing parents too, and be content with a directory that is there already
    #[arg(short, long)]
    parents: bool,
}

/// Removes a file or a directory.
#[derive(Debug, clap::Args)]
pub struct RmArgs {
    /// The sandbox
    id: String,
    /// The file or directory
    path: String,
    /// Directories with all they hold
    #[arg(short, long)]
    recursive: bool,
}

/// Renames a file or a directory within a sandbox.
#[derive(Debug, clap::Args)]
pub struct MvArgs {
    /// The sandbox
    id: String,
    /// What there is
    from: String,
    /// Its new path
    to: String,
    /// Replace what is there, in one step
    #[arg(short, long)]
    force: bool,
}

/// `hands read`
pub async fn read(context: &Context, args: ReadArgs) -> anyhow::Result<()> {
    let request = ReadRequest {
        sandbox_id: args.id,
        path: args.path,
        offset: args.offset,
        limit: args.limit,
        line_offset: args.lines.map(|lines| lines.offset),
        line_limit: args.lines.map(|lines| lines.limit),
    };
    let mut download = Download::open(&mut context.hands(), request).await?;
    if context.format == Format::Json {
        output::print_json(&json::tagged("stat", json::file(&download.stat)))?;
    }
    loop {
        match (download.next().await?, context.format) {
            (Piece::Data(bytes), Format::Text) => output::write_flushed(&mut io::stdout().lock(), &bytes)?,
            (Piece::Data(bytes), Format::Json) => {
                output::print_json(&json::tagged("data", json::data(json!({}), &bytes)))?
            }
            (Piece::End(_), Format::Text) => return Ok(()),
            (Piece::End(end), Format::Json) => {
                let end = json!({ "eof": end.eof, "next_offset": end.next_offset });
                return output::print_json(&json::tagged("end", end));
            }
        }
    }
}

/// `hands write`
pub async fn write(context: &Context, args: WriteArgs) -> anyhow::Result<()> {
    let header = WriteHeader {
        sandbox_id: args.id,
        path: args.path,
        mode: args.mode,
        create_parents: args.parents,
        append: args.append,
        expected_sha256: String::new(),
    };
    let source = match args.from {
        Some(path) => tokio::fs::File::open(&path).await.with_context(|| format!("cannot open {}", path.display()))?,
        None => input::stdin()?,
    };
    let written = transfer::upload(&mut context.hands(), header, source, &ProgressBar::hidden()).await?;
    match context.format {
        Format::Text => Ok(()),
        Format::Json => output::print_json(&json!({ "size": written.size, "sha256": written.sha256 })),
    }
}

/// `hands ls`: page by page, so that a huge directory needs no memory here.
pub async fn ls(context: &Context, args: LsArgs) -> anyhow::Result<()> {
    let LsArgs { id: sandbox_id, path, depth, all: hidden, long } = args;
    let request = LsRequest { sandbox_id, path, depth: Some(depth), hidden, ..Default::default() };
    let mut pages = Pages::new(context.hands(), request);
    while let Some(entries) = pages.next().await? {
        match context.format {
            Format::Json => entries.iter().try_for_each(|entry| output::print_json(&json::file(entry)))?,
            Format::Text => output::print(&listing(&entries, depth, long, SystemTime::now()))?,
        }
    }
    Ok(())
}

/// `hands stat`
pub async fn stat(context: &Context, args: StatArgs) -> anyhow::Result<()> {
    let request = StatRequest { sandbox_id: args.id, path: args.path, follow: args.follow };
    show(context.format, &context.hands().stat(request).await?.into_inner())
}

/// `hands mkdir`
pub async fn mkdir(context: &Context, args: MkdirArgs) -> anyhow::Result<()> {
    let request = MkdirRequest { sandbox_id: args.id, path: args.path, mode: args.mode, parents: args.parents };
    let made = context.hands().mkdir(request).await?.into_inner();
    if context.format == Format::Json { show(Format::Json, &made) } else { Ok(()) }
}

/// `hands rm`
pub async fn rm(context: &Context, args: RmArgs) -> anyhow::Result<()> {
    let request = RemoveRequest { sandbox_id: args.id, path: args.path.clone(), recursive: args.recursive };
    context.hands().remove(request).await?;
    if context.format == Format::Json { output::print_json(&json!({ "removed": args.path })) } else { Ok(()) }
}

/// `hands mv`
pub async fn mv(context: &Context, args: MvArgs) -> anyhow::Result<()> {
    let request = RenameRequest { sandbox_id: args.id, from: args.from, to: args.to, replace: args.force };
    let moved = context.hands().rename(request).await?.into_inner();
    if context.format == Format::Json { show(Format::Json, &moved) } else { Ok(()) }
}

/// The pages of a listing.
pub struct Pages {
    hands: HandsClient<Channel>,
    /// Of the next page; `None` after the last.
    request: Option<LsRequest>,
}

impl Pages {
    /// Those that `request` begins.
    pub fn new(hands: HandsClient<Channel>, request: LsRequest) -> Self {
        Self { hands, request: Some(request) }
    }

    /// The next page; `None` after the last.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<FileInfo>>> {
        let Some(request) = self.request.take() else { return Ok(None) };
        let page = self.hands.ls(request.clone()).await?.into_inner();
        if !page.next_page_token.is_empty() {
            self.request = Some(LsRequest { page_token: page.next_page_token, ..request });
        }
        Ok(Some(page.entries))
    }
}

fn show(format: Format, file: &FileInfo) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::print_json(&json::file(file));
    }
    let time = file.mtime.and_then(|time| SystemTime::try_from(time).ok());
    output::print(&output::fields(&[
        ("path", file.path.clone()),
        ("type", file.r#type().as_str_name().to_ascii_lowercase()),
        ("target", file.target.clone()),
        ("size", file.size.to_string()),
        ("mode", format!("{:04o} {}", file.mode, permissions(file))),
        ("owner", format!("{}:{}", file.uid, file.gid)),
        ("age", time.map(|_| output::age(file.mtime, SystemTime::now())).unwrap_or_default()),
    ]))
}

/// Entries as lines. Names where they are unambiguous, paths where there are several levels.
fn listing(entries: &[FileInfo], depth: u32, long: bool, now: SystemTime) -> String {
    let shown = |file: &FileInfo| if depth == 1 { file.name.clone() } else { file.path.clone() };
    if !long {
        let rows: Vec<Vec<String>> = entries.iter().map(|file| vec![shown(file)]).collect();
        return output::table(&[("", Align::Left)], &rows);
    }
    let row = |file: &FileInfo| {
        let name = if file.target.is_empty() { shown(file) } else { format!("{} -> {}", shown(file), file.target) };
        let (owner, group) = (file.uid.to_string(), file.gid.to_string());
        vec![permissions(file), owner, group, output::size(file.size), output::age(file.mtime, now), name]
    };
    let columns =
        [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Left].map(|align| ("", align));
    output::table(&columns, &entries.iter().map(row).collect::<Vec<_>>())
}

/// Type and permission bits, as ls(1) writes them.
fn permissions(file: &FileInfo) -> String {
    let mut text = String::from(match file.r#type() {
        FileType::Unspecified => '?',
        FileType::File => '-',
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        FileType::CharDevice => 'c',
        FileType::BlockDevice => 'b',
    });
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = file.mode >> shift;
        text.push(if bits & 4 != 0 { 'r' } else { '-' });
        text.push(if bits & 2 != 0 { 'w' } else { '-' });
        text.push(match (file.mode & special != 0, bits & 1 != 0) {
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
            (false, true) => 'x',
            (false, false) => '-',
        });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(kind: FileType, mode: u32) -> FileInfo {
        FileInfo { name: "n".to_owned(), path: "/a/n".to_owned(), r#type: kind.into(), mode, ..Default::default() }
    }

    #[test]
    fn permissions_are_written_as_ls_does() {
        assert_eq!(permissions(&file(FileType::Directory, 0o755)), "drwxr-xr-x");
        assert_eq!(permissions(&file(FileType::File, 0o4644)), "-rwSr--r--");
        assert_eq!(permissions(&file(FileType::Directory, 0o1777)), "drwxrwxrwt");
        assert_eq!(permissions(&file(FileType::File, 0o2755)), "-rwxr-sr-x");
    }

    #[test]
    fn several_levels_are_told_apart_by_paths() {
        let entries = [file(FileType::File, 0o644)];
        assert_eq!(listing(&entries, 1, false, SystemTime::UNIX_EPOCH), "n\n");
        assert_eq!(listing(&entries, 2, false, SystemTime::UNIX_EPOCH), "/a/n\n");
    }

    #[test]
    fn a_long_line_shows_where_a_symlink_points() {
        let link = FileInfo { target: "/etc".to_owned(), size: 4, ..file(FileType::Symlink, 0o777) };
        assert_eq!(listing(&[link], 1, true, SystemTime::UNIX_EPOCH), "lrwxrwxrwx  0  0  4  -  n -> /etc\n");
    }
}
