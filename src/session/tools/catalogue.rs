//! The tools as a model is told of them.

use serde_json::{Value, json};

use crate::runtime::Tool;

/// All tools of a brain.
#[must_use]
pub fn catalogue() -> Vec<Tool> {
    [of_hands(), of_voice()].concat()
}

/// Those that do something in the sandbox.
#[must_use]
pub fn of_hands() -> Vec<Tool> {
    vec![
        Tool {
            name: "bash",
            description: "Runs a command in a shell of your sandbox, to its end, and answers its output and exit code. A \
                          long output is cut in its middle; what was left out can be read with `read`.",
            input: object(
                &["command"],
                json!({
                    "command": text("The command."),
                    "timeout_seconds": number("It is ended after so long."),
                    "cwd": text("Where it runs; default: /workspace."),
                }),
            ),
        },
        Tool {
            name: "read",
            description: "Reads a file by lines, or the output of an earlier command by bytes.",
            input: object(
                &[],
                json!({
                    "path": text("The file."),
                    "run": text("Instead of a file: the run of a command, as `bash` named it."),
                    "offset": number("Of a file: lines to skip. Of a run: bytes to skip."),
                    "limit": number("Of a file: how many lines."),
                }),
            ),
        },
        Tool {
            name: "write",
            description: "Writes a file, whole or not at all; what was there is replaced.",
            input: object(&["path", "content"], json!({ "path": text("The file."), "content": text("All of it.") })),
        },
        Tool {
            name: "ls",
            description: "Lists a directory.",
            input: object(
                &[],
                json!({
                    "path": text("The directory; default: /workspace."),
                    "depth": number("How deep; default: its own entries."),
                }),
            ),
        },
        Tool {
            name: "edit",
            description: "Replaces a text in a file, which has to be there exactly once unless `all` is set.",
            input: object(
                &["path", "old", "new"],
                json!({
                    "path": text("The file."),
                    "old": text("What is there."),
                    "new": text("What is to be there instead."),
                    "all": truth("Everywhere in the file."),
                }),
            ),
        },
        Tool {
            name: "glob",
            description: "Finds files by a pattern of their names, such as `**/*.rs`.",
            input: object(
                &["pattern"],
                json!({
                    "pattern": text("The pattern."),
                    "path": text("Below which directory; default: /workspace."),
                }),
            ),
        },
        Tool {
            name: "grep",
            description: "Finds lines in files by a regular expression.",
            input: object(
                &["pattern"],
                json!({
                    "pattern": text("The expression."),
                    "path": text("In which file, or below which directory; default: /workspace."),
                    "glob": text("Only in files whose names match this pattern."),
                    "ignore_case": truth("Upper and lower case are the same."),
                }),
            ),
        },
    ]
}

/// Those by which a brain speaks to its user.
fn of_voice() -> Vec<Tool> {
    vec![
        Tool {
            name: "say",
            description: "Says something to the user. Nothing else that you write is sure to reach them.",
            input: object(&["text"], json!({ "text": text("What you say.") })),
        },
        Tool {
            name: "ask",
            description: "Asks the user something. End your turn after it: the answer is the next message.",
            input: object(&["question"], json!({ "question": text("What you ask.") })),
        },
    ]
}

fn text(what: &str) -> Value {
    json!({ "type": "string", "description": what })
}

fn number(what: &str) -> Value {
    json!({ "type": "integer", "minimum": 0, "description": what })
}

fn truth(what: &str) -> Value {
    json!({ "type": "boolean", "description": what })
}

fn object(required: &[&str], properties: Value) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}
