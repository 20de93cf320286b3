//! Searching: names by a pattern, and lines by an expression.
//!
//! The tree is walked page by page, hidden names left out; files are read by the daemon, a bounded part of each. Patterns
//! are a caller's and files a sandbox's: the expressions here take time linear in what they look at, and all of it is
//! bounded.

use globset::{GlobBuilder, GlobMatcher};
use regex::bytes::{Regex, RegexBuilder};

use super::read::{ReadPart, ReadRange};
use super::{FileError, FileInfo, FileKind, Files, ListOptions, MAX_DEPTH, MAX_PAGE_SIZE};

/// Entries that are looked at.
const MAX_ENTRIES: usize = 200_000;
/// Bytes of one file that are searched.
const MAX_FILE: u64 = 4 << 20;
/// Bytes of all files together that are searched.
const MAX_BYTES: u64 = 256 << 20;
/// Bytes of a line that are shown.
const MAX_LINE: usize = 500;
/// Memory of a compiled expression, in bytes.
const MAX_EXPRESSION: usize = 1 << 20;
/// A NUL in the first so many bytes makes a file binary, as for git.
const BINARY: usize = 8_000;

/// Why nothing was searched.
#[derive(Debug, thiserror::Error)]
pub enum SearchError {
    /// A pattern is none.
    #[error("{field}: {message}")]
    Pattern {
        /// Which.
        field: &'static str,
        /// What is wrong with it.
        message: String,
    },
    /// The tree could not be walked.
    #[error("walk the files")]
    File(#[source] FileError),
}

/// What was found, and whether all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found<T> {
    /// In the order of paths, and of lines.
    pub items: Vec<T>,
    /// A bound was reached: there may be more.
    pub is_cut: bool,
}

/// A line that matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Match {
    /// The absolute path of the file, which may hold any bytes.
    pub path: Vec<u8>,
    /// From 1.
    pub line: u64,
    /// The line, cut if it is long.
    pub text: Vec<u8>,
}

/// What is to be looked for in files.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GrepOptions {
    /// A regular expression.
    pub pattern: String,
    /// Where; empty: the workspace.
    pub path: String,
    /// Only in files whose path below that matches; empty: in all.
    pub glob: String,
    /// Capitals and small letters are the same.
    pub ignore_case: bool,
    /// Most matches.
    pub limit: usize,
}

impl Files {
    /// Files below a directory whose path from there matches a pattern such as `src/**/*.rs`; one without a slash is about
    /// the name alone. At most `limit`.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn glob(&self, pattern: &str, path: &str, limit: usize) -> Result<Found<Vec<u8>>, SearchError> {
        let matcher = glob("pattern", pattern)?;
        let (files, mut is_cut) = self.walk(path, Some(&matcher)).await?;
        is_cut |= files.len() > limit;
        Ok(Found { items: files.into_iter().take(limit).map(|file| file.path).collect(), is_cut })
    }

    /// Lines of files that match an expression. Binary files, and those that cannot be read, are left out.
    ///
    /// # Errors
    /// See [`SearchError`].
    pub async fn grep(&self, options: &GrepOptions) -> Result<Found<Match>, SearchError> {
        let wrong = |error: regex::Error| SearchError::Pattern { field: "pattern", message: error.to_string() };
        let mut builder = RegexBuilder::new(&options.pattern);
        let expression = builder.case_insensitive(options.ignore_case).size_limit(MAX_EXPRESSION).build();
        let expression = expression.map_err(wrong)?;
        let matcher = if options.glob.is_empty() { None } else { Some(glob("glob", &options.glob)?) };
        let (files, mut is_cut) = self.walk(&options.path, matcher.as_ref()).await?;
        let (mut items, mut bytes) = (Vec::new(), 0);
        for file in files {
            if items.len() > options.limit || bytes >= MAX_BYTES {
                is_cut = true;
                break;
            }
            bytes += file.size.min(MAX_FILE);
            is_cut |= file.size > MAX_FILE;
            // One that is gone by now, or is not the user's to read, has no lines to show.
            let Ok(content) = self.beginning(&file).await else { continue };
            // One more than is wanted, to know whether there is more.
            let left = options.limit + 1 - items.len();
            let found = tokio::task::spawn_blocking({
                let expression = expression.clone();
                move || lines(&file.path, &content, &expression, left)
            });
            let found = found.await.map_err(|error| SearchError::File(FileError::lost(&options.path, error)))?;
            items.extend(found);
        }
        is_cut |= items.len() > options.limit;
        items.truncate(options.limit);
        Ok(Found { items, is_cut })
    }

    /// The regular files below a directory, and whether a bound was reached. What a path is there, is the only file.
    async fn walk(&self, path: &str, matcher: Option<&GlobMatcher>) -> Result<(Vec<FileInfo>, bool), SearchError> {
        let mut options = ListOptions {
            path: path.to_owned(),
            depth: MAX_DEPTH,
            hidden: false,
            limit: MAX_PAGE_SIZE,
            page_token: String::new(),
        };
        let root = self.stat_target(if path.is_empty() { "." } else { path }).await.map_err(SearchError::File)?;
        if root.kind == FileKind::File {
            return Ok((vec![root], false));
        }
        let (mut files, mut seen) = (Vec::new(), 0);
        loop {
            let page = self.list(options.clone()).await.map_err(SearchError::File)?;
            seen += page.entries.len();
            let is_wanted = |file: &FileInfo| {
                let below = file.path.strip_prefix(root.path.as_slice()).unwrap_or(&file.path);
                let below = String::from_utf8_lossy(below);
                file.kind == FileKind::File && matcher.is_none_or(|it| it.is_match(below.trim_start_matches('/')))
            };
            files.extend(page.entries.into_iter().filter(is_wanted));
            match page.next_page_token {
                Some(_) if seen >= MAX_ENTRIES => return Ok((files, true)),
                Some(token) => options.page_token = token,
                None => return Ok((files, false)),
            }
        }
    }

    /// As much of a file as is searched.
    async fn beginning(&self, file: &FileInfo) -> Result<Vec<u8>, FileError> {
        // A path that is no text cannot be asked for by it.
        let path =
            str::from_utf8(&file.path).map_err(|error| FileError::lost("a path", std::io::Error::other(error)))?;
        let mut reading = self.read(path, ReadRange::Bytes { offset: 0, limit: Some(MAX_FILE) }).await?;
        let mut content = Vec::new();
        while let Some(part) = reading.next().await? {
            if let ReadPart::Data(data) = part {
                content.extend_from_slice(&data);
            }
        }
        Ok(content)
    }
}

fn glob(field: &'static str, pattern: &str) -> Result<GlobMatcher, SearchError> {
    // A name alone is looked for at any depth.
    let whole = if pattern.contains('/') { pattern.to_owned() } else { format!("**/{pattern}") };
    let glob = GlobBuilder::new(whole.trim_start_matches('/')).literal_separator(true).build();
    let wrong = |error: globset::Error| SearchError::Pattern { field, message: error.to_string() };
    Ok(glob.map_err(wrong)?.compile_matcher())
}

/// The lines of a text that match, at most so many.
fn lines(path: &[u8], content: &[u8], expression: &Regex, limit: usize) -> Vec<Match> {
    if content[..content.len().min(BINARY)].contains(&0) {
        return Vec::new();
    }
    let lines = content.split(|byte| *byte == b'\n').zip(1..);
    let matching = lines.filter(|(line, _)| expression.is_match(line)).take(limit);
    let shown = |line: &[u8]| line[..line.len().min(MAX_LINE)].to_vec();
    matching.map(|(text, line)| Match { path: path.to_vec(), line, text: shown(text) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_without_a_slash_is_about_the_name_and_a_star_does_not_cross_one() {
        let matches = |pattern: &str, path: &str| glob("pattern", pattern).unwrap().is_match(path);
        assert!(matches("*.rs", "src/deep/a.rs") && matches("*.rs", "a.rs"));
        assert!(matches("src/*.rs", "src/a.rs") && !matches("src/*.rs", "src/deep/a.rs"));
        assert!(matches("src/**/*.rs", "src/deep/a.rs") && matches("src/**/*.rs", "src/a.rs"));
        assert!(matches("*.{md,txt}", "notes.md") && !matches("*.rs", "a.rsx"));
        assert!(glob("pattern", "[").is_err());
    }

    #[test]
    fn lines_are_numbered_cut_and_bounded_and_binary_files_have_none() {
        let expression = Regex::new("b+").unwrap();
        let found = lines(b"/f", b"a\nb\nbb\n", &expression, 9);
        assert_eq!(
            found.iter().map(|it| (it.line, it.text.as_slice())).collect::<Vec<_>>(),
            [(2, &b"b"[..]), (3, b"bb")]
        );
        assert_eq!(lines(b"/f", b"b\nb\nb\n", &expression, 2).len(), 2);
        assert_eq!(lines(b"/f", b"b\0b\n", &expression, 9), []);
        assert_eq!(lines(b"/f", &[b'b'; 9_999], &expression, 9)[0].text.len(), MAX_LINE);
    }
}
