//! Editing and searching.

use super::{directory, path, sandbox_id};
use crate::api::proto;
use crate::api::status::Fault;
use crate::hands::files::{Found, GrepOptions, Match, Occurrences, Written};
use crate::ids::SandboxId;

/// Longest text of an edit, in bytes.
const MAX_TEXT: usize = 1 << 20;
/// Most files or lines that are found: with the longest paths, half of the largest message.
const MAX_FOUND: u32 = 1_000;

/// An edit that is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    /// In which sandbox.
    pub sandbox: SandboxId,
    /// Of which file.
    pub path: String,
    /// What is there.
    pub old: String,
    /// What takes its place.
    pub new: String,
    /// Where.
    pub which: Occurrences,
}

/// An edit that is wanted.
///
/// # Errors
/// The first bad field.
pub fn edit(request: proto::EditRequest) -> Result<Edit, Fault> {
    let proto::EditRequest { sandbox_id: sandbox, path: file, old_text, new_text, all } = request;
    let sandbox = sandbox_id(&sandbox)?;
    if old_text.is_empty() {
        return Err(Fault::argument("old_text", "is missing"));
    }
    for (field, text) in [("old_text", &old_text), ("new_text", &new_text)] {
        if text.len() > MAX_TEXT {
            return Err(Fault::argument(field, format!("has more than {MAX_TEXT} bytes")));
        }
    }
    let which = if all { Occurrences::All } else { Occurrences::One };
    Ok(Edit { sandbox, path: path("path", file)?, old: old_text, new: new_text, which })
}

/// What came of an edit.
#[must_use]
pub fn edited((replaced, written): (usize, Written)) -> proto::EditResponse {
    proto::EditResponse { replaced: replaced as u64, size: written.size, sha256: written.sha256.to_string() }
}

/// How much is to be found at most.
///
/// # Errors
/// It is more than there may be.
pub fn search_limit(limit: u32) -> Result<usize, Fault> {
    match limit {
        0 => Ok(MAX_FOUND as usize),
        limit if limit <= MAX_FOUND => Ok(limit as usize),
        limit => Err(Fault::argument("limit", format!("is {limit}, at most {MAX_FOUND} is allowed"))),
    }
}

/// What is to be looked for in files.
///
/// # Errors
/// The first bad field; whether the patterns are any is found out when they are used.
pub fn grep_options(request: proto::GrepRequest) -> Result<(SandboxId, GrepOptions), Fault> {
    let proto::GrepRequest { sandbox_id: sandbox, pattern, path: place, glob, ignore_case, limit } = request;
    let sandbox = sandbox_id(&sandbox)?;
    let options = GrepOptions {
        pattern: path("pattern", pattern)?,
        path: directory(place)?,
        glob: if glob.is_empty() { glob } else { path("glob", glob)? },
        ignore_case,
        limit: search_limit(limit)?,
    };
    Ok((sandbox, options))
}

/// Files that were found.
#[must_use]
pub fn globbed(found: &Found<Vec<u8>>) -> proto::GlobResponse {
    let paths = found.items.iter().map(|path| text(path)).collect();
    proto::GlobResponse { paths, truncated: found.is_cut }
}

/// Lines that were found.
#[must_use]
pub fn grepped(found: &Found<Match>) -> proto::GrepResponse {
    let line = |found: &Match| proto::GrepMatch { path: text(&found.path), line: found.line, text: text(&found.text) };
    proto::GrepResponse { matches: found.items.iter().map(line).collect(), truncated: found.is_cut }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
