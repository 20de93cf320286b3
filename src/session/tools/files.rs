//! `read`, `write` and `ls`. What goes wrong is a text for the brain.

use serde_json::Value;

use super::bound::Bounded;
use super::{flag, needed, number, text};
use crate::hands::files::{FileError, FileKind, ListOptions, ReadPart, ReadRange, WriteOptions};
use crate::hands::output::Chunk;
use crate::hands::{Hands, RunError};
use crate::telemetry::chain;

/// Lines that are read unless more are asked for.
const LINES: u64 = 2_000;
/// Entries that are listed.
const ENTRIES: u32 = 500;
/// Longest file, or part of one, that is read whole, in bytes: half of what a brain may write in one go.
const WHOLE: usize = 4 << 20;
/// Bytes of a run's output that are read at a time.
const OUTPUT: u64 = 24 << 10;

fn failed(error: FileError) -> String {
    chain(&error).to_string()
}

/// Lines of a file, or bytes of a command's output.
pub async fn read(hands: &Hands, input: &Value) -> Result<String, String> {
    if let Some(run) = text(input, "run")? {
        return read_output(hands, run, number(input, "offset")?.unwrap_or(0)).await;
    }
    let (path, offset, limit) = (needed(input, "path")?, number(input, "offset")?, number(input, "limit")?);
    if flag(input, "whole")? {
        return read_whole(hands, path, offset, limit).await;
    }
    let (skip, limit) = (offset.unwrap_or(0), limit.unwrap_or(LINES));
    let range = ReadRange::Lines { skip, limit: Some(limit) };
    let mut reading = hands.files().read(path, range).await.map_err(failed)?;
    let mut content = Bounded::default();
    let mut end = None;
    while let Some(part) = reading.next().await.map_err(failed)? {
        match part {
            ReadPart::Data(data) => content.push(&data),
            ReadPart::End(found) => end = Some(found),
        }
    }
    let mut text = content.text(|_, _| "read them with offset and limit, in lines".to_owned());
    if end.is_some_and(|end| !end.eof) {
        text.push_str(&format!("\n[the file goes on: read it with offset {}]", skip.saturating_add(limit)));
    }
    Ok(text)
}

/// A file, or some of its lines, as they are: what is read so may be written back.
async fn read_whole(hands: &Hands, path: &str, skip: Option<u64>, limit: Option<u64>) -> Result<String, String> {
    let range = match (skip, limit) {
        (None, None) => ReadRange::Bytes { offset: 0, limit: None },
        (skip, limit) => ReadRange::Lines { skip: skip.unwrap_or(0), limit },
    };
    let mut reading = hands.files().read(path, range).await.map_err(failed)?;
    let mut content = Vec::new();
    while let Some(part) = reading.next().await.map_err(failed)? {
        if let ReadPart::Data(data) = part {
            if content.len() + data.len() > WHOLE {
                return Err(format!("{path} has more than {WHOLE} bytes: read it by lines"));
            }
            content.extend_from_slice(&data);
        }
    }
    String::from_utf8(content).map_err(|_| format!("{path} is no text in UTF-8"))
}

async fn read_output(hands: &Hands, run: &str, offset: u64) -> Result<String, String> {
    let id = run.parse().map_err(|_| "run: no such command".to_owned())?;
    let run = hands.run(&id).map_err(|error: RunError| format!("{error}: its output is no longer kept"))?;
    let started = run.started().ok_or("run: it has not started")?;
    let mut reader = started.spool.read_from(offset).map_err(|error| chain(&error).to_string())?;
    let (mut content, end) = (Bounded::default(), started.spool.len().min(offset.saturating_add(OUTPUT)));
    while reader.cursor() < end {
        match reader.next().await.map_err(|error| chain(&error).to_string())? {
            Chunk::Output { cursor, data, .. } => {
                let most = usize::try_from(end.saturating_sub(cursor)).unwrap_or(usize::MAX);
                content.push(&data[..data.len().min(most)]);
            }
            Chunk::Gap { from, to } => content.push(format!("\n[{} bytes were not kept]\n", to - from).as_bytes()),
            Chunk::End => break,
        }
    }
    let text = content.text(|_, _| "read them with another offset".to_owned());
    let rest =
        if end < started.spool.len() { format!("\n[it goes on: read it with offset {end}]") } else { String::new() };
    Ok(text + &rest)
}

/// Writes a file whole.
pub async fn write(hands: &Hands, input: &Value) -> Result<String, String> {
    let path = needed(input, "path")?;
    let content = text(input, "content")?.ok_or("content: a text is needed")?;
    let options = WriteOptions { path: path.to_owned(), create_parents: true, ..WriteOptions::default() };
    let mut writing = hands.files().write(options).await.map_err(failed)?;
    writing.push(content.to_owned().into()).await.map_err(failed)?;
    let written = writing.finish().await.map_err(failed)?;
    Ok(format!("wrote {} bytes to {path}", written.size))
}

/// Lists a directory.
pub async fn ls(hands: &Hands, input: &Value) -> Result<String, String> {
    let path = text(input, "path")?.unwrap_or_default().to_owned();
    let depth = u32::try_from(number(input, "depth")?.unwrap_or(1)).unwrap_or(u32::MAX);
    let options = ListOptions { path, depth, hidden: true, limit: ENTRIES, page_token: String::new() };
    let page = hands.files().list(options).await.map_err(failed)?;
    let mut lines: Vec<String> = page
        .entries
        .iter()
        .map(|entry| {
            let path = String::from_utf8_lossy(&entry.path);
            match entry.kind {
                FileKind::Directory => format!("{path}/"),
                FileKind::Symlink => format!("{path} -> {}", String::from_utf8_lossy(&entry.target)),
                _ => format!("{path} ({} bytes)", entry.size),
            }
        })
        .collect();
    if page.next_page_token.is_some() {
        lines.push(format!("[only the first {ENTRIES} entries are listed; list a subdirectory]"));
    }
    Ok(if lines.is_empty() { "[empty]".to_owned() } else { lines.join("\n") })
}
