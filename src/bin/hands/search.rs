//! Editing and searching in a sandbox: edit, glob, grep.

use handsd::api::proto::{EditRequest, GlobRequest, GrepRequest};
use serde_json::json;

use crate::events::Format;
use crate::{Context, errors, output};

/// Replaces a text in a file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands edit ID main.py 'print(1)' 'print(2)'
  hands edit ID main.py --all tabs spaces

The old text has to be there exactly once, unless --all is given.")]
pub struct EditArgs {
    /// The sandbox
    id: String,
    /// The file
    path: String,
    /// What is there
    old: String,
    /// What takes its place
    new: String,
    /// Wherever it is
    #[arg(short, long)]
    all: bool,
}

/// Finds files by a pattern.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands glob ID '*.rs'               # at any depth
  hands glob ID 'src/**/*.{c,h}' /usr")]
pub struct GlobArgs {
    /// The sandbox
    id: String,
    /// The pattern; one without a slash is about the name alone
    pattern: String,
    /// Below this directory [default: the workspace]
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
    /// Most files [default: 1000, which is the most]
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    limit: u32,
}

/// Finds lines of files by a regular expression.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  hands grep ID 'fn main'
  hands grep ID -i todo src --glob '*.rs'")]
pub struct GrepArgs {
    /// The sandbox
    id: String,
    /// The expression
    pattern: String,
    /// A directory or a file [default: the workspace]
    #[arg(default_value = "", hide_default_value = true)]
    path: String,
    /// Only in files that this pattern finds
    #[arg(short, long, value_name = "PATTERN", default_value = "", hide_default_value = true)]
    glob: String,
    /// Capitals and small letters are the same
    #[arg(short, long)]
    ignore_case: bool,
    /// Most lines [default: 1000, which is the most]
    #[arg(long, value_name = "COUNT", default_value_t = 0, hide_default_value = true)]
    limit: u32,
}

/// `hands edit`
pub async fn edit(context: &Context, args: EditArgs) -> anyhow::Result<()> {
    let EditArgs { id: sandbox_id, path, old: old_text, new: new_text, all } = args;
    let edited = context.hands().edit(EditRequest { sandbox_id, path, old_text, new_text, all }).await?.into_inner();
    match context.format {
        Format::Text => Ok(()),
        Format::Json => {
            output::print_json(&json!({ "replaced": edited.replaced, "size": edited.size, "sha256": edited.sha256 }))
        }
    }
}

/// `hands glob`: a path a line.
pub async fn glob(context: &Context, args: GlobArgs) -> anyhow::Result<()> {
    let GlobArgs { id: sandbox_id, pattern, path, limit } = args;
    let found = context.hands().glob(GlobRequest { sandbox_id, pattern, path, limit }).await?.into_inner();
    for path in &found.paths {
        match context.format {
            Format::Text => output::print(&format!("{}\n", output::printable(path)))?,
            Format::Json => output::print_json(&json!({ "path": path }))?,
        }
    }
    say_if_cut(found.truncated);
    Ok(())
}

/// `hands grep`: path, number and text, a line each.
pub async fn grep(context: &Context, args: GrepArgs) -> anyhow::Result<()> {
    let GrepArgs { id: sandbox_id, pattern, path, glob, ignore_case, limit } = args;
    let request = GrepRequest { sandbox_id, pattern, path, glob, ignore_case, limit };
    let found = context.hands().grep(request).await?.into_inner();
    for found in &found.matches {
        let (path, text) = (output::printable(&found.path), output::printable(&found.text));
        match context.format {
            Format::Text => output::print(&format!("{path}:{}:{text}\n", found.line))?,
            Format::Json => {
                output::print_json(&json!({ "path": found.path, "line": found.line, "text": found.text }))?;
            }
        }
    }
    say_if_cut(found.truncated);
    Ok(())
}

fn say_if_cut(is_cut: bool) {
    if is_cut {
        errors::note("there may be more: ask for less");
    }
}
