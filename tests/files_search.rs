//! Editing and searching: `Edit`, `Glob`, `Grep`.

use std::process::Command;

use handsd::api::proto::{EditRequest, EditResponse, ErrorReason, GlobRequest, GrepRequest, GrepResponse};
use support::{Daemon, Files, Sandbox, fault, field, refusal};
use tonic::{Code, Status};

mod support;

/// A daemon with one sandbox, and its files.
macro_rules! begin {
    ($daemon:ident, $sandbox:ident, $files:ident) => {
        let Some($daemon) = Daemon::start().await else { return };
        let $sandbox = $daemon.sandbox().await;
        let $files = Files::of(&$daemon, &$sandbox);
    };
}

fn edit(sandbox: &Sandbox, old: &str, new: &str) -> EditRequest {
    let (sandbox_id, path) = (sandbox.id.clone(), "f".to_owned());
    EditRequest { sandbox_id, path, old_text: old.to_owned(), new_text: new.to_owned(), all: false }
}

async fn do_edit(daemon: &Daemon, request: EditRequest) -> Result<EditResponse, Status> {
    Ok(daemon.hands().edit(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_replaces_the_only_place_or_all_and_keeps_the_mode() {
    begin!(daemon, sandbox, files);
    sandbox.read("printf 'one two two\\n' > f; chmod 750 f").await;
    let edited = do_edit(&daemon, edit(&sandbox, "one", "1")).await.unwrap();
    assert_eq!((edited.replaced, edited.size), (1, 10));
    assert_eq!(sandbox.read("cat f; stat -c %a f").await, "1 two two\n750");
    let all = EditRequest { all: true, ..edit(&sandbox, "two", "") };
    assert_eq!(do_edit(&daemon, all).await.unwrap().replaced, 2);
    assert_eq!(files.read("f").await.unwrap(), b"1  \n");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_that_cannot_be_made_changes_nothing_and_says_why() {
    begin!(daemon, sandbox, files);
    let content = "a".repeat(4 << 20);
    files.write("f", content.as_bytes()).await.unwrap();
    let all = |old: &str, new: &str| EditRequest { all: true, ..edit(&sandbox, old, new) };
    let long = "x".repeat(2 << 20);
    for (request, code, reason, name) in [
        (edit(&sandbox, "b", "c"), Code::FailedPrecondition, ErrorReason::TextNotFound, "old_text"),
        (edit(&sandbox, "a", "c"), Code::FailedPrecondition, ErrorReason::TextAmbiguous, "old_text"),
        (edit(&sandbox, "a", "a"), Code::InvalidArgument, ErrorReason::ArgumentInvalid, "old_text"),
        (edit(&sandbox, "", "a"), Code::InvalidArgument, ErrorReason::ArgumentInvalid, "old_text"),
        (edit(&sandbox, "a", &long), Code::InvalidArgument, ErrorReason::ArgumentInvalid, "new_text"),
        // It would have 4 TiB.
        (all("a", &long[..1 << 20]), Code::FailedPrecondition, ErrorReason::FileTooLarge, "new_text"),
        // What would take hours if each place were compared from its beginning.
        (
            all(&format!("{}b", &content[..1 << 19]), "c"),
            Code::FailedPrecondition,
            ErrorReason::TextNotFound,
            "old_text",
        ),
    ] {
        let refused = do_edit(&daemon, request).await.unwrap_err();
        assert_eq!((field(&refused).as_str(), refusal::<()>(Err(refused))), (name, fault(code, reason)));
    }
    let missing = EditRequest { path: "missing".to_owned(), ..edit(&sandbox, "a", "b") };
    assert_eq!(refusal(do_edit(&daemon, missing).await), fault(Code::NotFound, ErrorReason::FileNotFound));
    assert!(files.read("f").await.unwrap() == content.as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_finds_files_by_name_or_by_path() {
    begin!(daemon, sandbox, files);
    sandbox.read("mkdir -p src/deep .git; touch a.rs src/b.rs src/deep/c.rs src/d.txt .git/e.rs").await;
    let glob = async |pattern: &str, path: &str, limit| {
        let (sandbox_id, pattern) = (sandbox.id.clone(), pattern.to_owned());
        let request = GlobRequest { sandbox_id, pattern, path: path.to_owned(), limit };
        let found = daemon.hands().glob(request).await?.into_inner();
        Ok::<_, Status>((found.paths, found.truncated))
    };
    let below = |names: &[&str]| names.iter().map(|name| format!("/workspace/{name}")).collect::<Vec<_>>();
    assert_eq!(glob("*.rs", "", 0).await.unwrap(), (below(&["a.rs", "src/b.rs", "src/deep/c.rs"]), false));
    assert_eq!(glob("src/*.rs", "", 0).await.unwrap(), (below(&["src/b.rs"]), false));
    assert_eq!(glob("**/*.rs", "src", 1).await.unwrap(), (below(&["src/b.rs"]), true));
    for (pattern, path, limit, name) in [("[", "", 0, "pattern"), ("", "", 0, "pattern"), ("*", "", 1_001, "limit")] {
        let refused = glob(pattern, path, limit).await.unwrap_err();
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, name));
    }
    assert_eq!(refusal(glob("*", "nowhere", 0).await), fault(Code::NotFound, ErrorReason::FileNotFound));
    drop(files);
}

async fn grep(daemon: &Daemon, request: GrepRequest) -> Result<GrepResponse, Status> {
    Ok(daemon.hands().grep(request).await?.into_inner())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expression_finds_lines_by_file_and_number() {
    begin!(daemon, sandbox, _files);
    sandbox
        .read("mkdir d; printf 'x\\nTodo: a\\n' > d/a.rs; printf 'todo b\\ntodo c\\n' > b.txt; printf 'todo\\0' > bin")
        .await;
    let wish = |pattern: &str| GrepRequest {
        sandbox_id: sandbox.id.clone(),
        pattern: pattern.to_owned(),
        ..GrepRequest::default()
    };
    let lines = |found: GrepResponse| {
        let line = |it: handsd::api::proto::GrepMatch| format!("{}:{}:{}", it.path, it.line, it.text);
        (found.matches.into_iter().map(line).collect::<Vec<_>>(), found.truncated)
    };
    let found = grep(&daemon, GrepRequest { ignore_case: true, ..wish("^todo") }).await.unwrap();
    let expected = ["/workspace/b.txt:1:todo b", "/workspace/b.txt:2:todo c", "/workspace/d/a.rs:2:Todo: a"];
    assert_eq!(lines(found), (expected.map(str::to_owned).to_vec(), false));
    let found = grep(&daemon, GrepRequest { glob: "*.txt".to_owned(), limit: 1, ..wish("todo") }).await.unwrap();
    assert_eq!(lines(found), (vec![expected[0].to_owned()], true));
    for (request, name) in [
        (wish("("), "pattern"),
        (wish(""), "pattern"),
        (GrepRequest { glob: "[".to_owned(), ..wish("x") }, "glob"),
        (GrepRequest { path: "a\0".to_owned(), ..wish("x") }, "path"),
    ] {
        let refused = grep(&daemon, request).await.unwrap_err();
        assert_eq!((refused.code(), field(&refused).as_str()), (Code::InvalidArgument, name));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn files_are_edited_and_searched_from_the_command_line() {
    begin!(daemon, sandbox, files);
    files.write("notes.txt", b"first\nsecond\n").await.unwrap();
    let hands = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hands"));
        let output = command.args(arguments).env("HANDS_ADDR", daemon.address()).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    hands(&["edit", &sandbox.id, "notes.txt", "second", "last"]);
    assert_eq!(files.read("notes.txt").await.unwrap(), b"first\nlast\n");
    assert_eq!(hands(&["glob", &sandbox.id, "*.txt"]), "/workspace/notes.txt\n");
    assert_eq!(hands(&["grep", &sandbox.id, "^l"]), "/workspace/notes.txt:2:last\n");
    let json: serde_json::Value = serde_json::from_str(&hands(&["--json", "grep", &sandbox.id, "^l"])).unwrap();
    assert_eq!(json, serde_json::json!({ "path": "/workspace/notes.txt", "line": 2, "text": "last" }));
}
