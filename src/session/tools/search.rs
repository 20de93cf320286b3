//! `edit`, `glob` and `grep`. What goes wrong is a text for the brain.

use serde_json::Value;

use super::bound::Bounded;
use super::{flag, needed, text};
use crate::hands::Hands;
use crate::hands::files::{Found, GrepOptions, Occurrences};
use crate::telemetry::chain;

/// Files that are listed.
const FILES: usize = 500;
/// Lines that are shown.
const MATCHES: usize = 300;

/// Replaces a text in a file.
pub async fn edit(hands: &Hands, input: &Value) -> Result<String, String> {
    let (path, old) = (needed(input, "path")?, needed(input, "old")?);
    let new = text(input, "new")?.ok_or("new: a text is needed")?;
    let which = if flag(input, "all")? { Occurrences::All } else { Occurrences::One };
    let edited = hands.files().edit(path, old, new, which).await;
    let (count, written) = edited.map_err(|error| chain(&error).to_string())?;
    Ok(format!("replaced {count} in {path}, which has {} bytes now", written.size))
}

/// Finds files by their names.
pub async fn glob(hands: &Hands, input: &Value) -> Result<String, String> {
    let path = text(input, "path")?.unwrap_or_default();
    let found = hands.files().glob(needed(input, "pattern")?, path, FILES).await;
    let found = found.map_err(|error| chain(&error).to_string())?;
    Ok(show(&found, |path, line| line.push_str(&String::from_utf8_lossy(path))))
}

/// Finds lines in files.
pub async fn grep(hands: &Hands, input: &Value) -> Result<String, String> {
    let options = GrepOptions {
        pattern: needed(input, "pattern")?.to_owned(),
        path: text(input, "path")?.unwrap_or_default().to_owned(),
        glob: text(input, "glob")?.unwrap_or_default().to_owned(),
        ignore_case: flag(input, "ignore_case")?,
        limit: MATCHES,
    };
    let found = hands.files().grep(&options).await.map_err(|error| chain(&error).to_string())?;
    Ok(show(&found, |found, line| {
        let (path, text) = (String::from_utf8_lossy(&found.path), String::from_utf8_lossy(&found.text));
        line.push_str(&format!("{path}:{}: {text}", found.line));
    }))
}

/// What was found, a line each.
fn show<T>(found: &Found<T>, write: impl Fn(&T, &mut String)) -> String {
    if found.items.is_empty() && !found.is_cut {
        return "[nothing was found]".to_owned();
    }
    let mut lines = Bounded::default();
    for item in &found.items {
        let mut line = String::new();
        write(item, &mut line);
        line.push('\n');
        lines.push(line.as_bytes());
    }
    let mut text = lines.text(|_, _| "ask for less".to_owned());
    if found.is_cut {
        text.push_str("[there is more: ask for less]");
    }
    text
}
