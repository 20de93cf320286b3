//! The invariants of `src/lib.rs` that can be read off the source.

use std::fs;
use std::path::{Path, PathBuf};

/// Rust files below a directory.
fn sources(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut left = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(directory).expect("the source is there") {
            let path = entry.expect("the source can be read").path();
            if path.is_dir() {
                left.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// A file's path from `src/` on.
fn name(path: &Path) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    path.strip_prefix(&root).unwrap_or(path).display().to_string()
}

/// A file without its tests and comments.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).expect("the source can be read");
    let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `file: word` for every file that may not hold a word and does.
fn offenders(words: &[&str], is_exempt: impl Fn(&str) -> bool) -> Vec<String> {
    let files = sources("src").into_iter().filter(|path| !is_exempt(&name(path)) && !name(path).ends_with("tests.rs"));
    files
        .flat_map(|path| {
            let code = code(&path);
            let found =
                words.iter().filter(|word| code.contains(**word)).map(|word| format!("{}: {word}", name(&path)));
            found.collect::<Vec<_>>()
        })
        .collect()
}

#[test]
fn decisions_are_pure() {
    let pure =
        ["state.rs", "outcome.rs", "layout.rs", "convert.rs", "status.rs", "policy.rs", "plan.rs", "recovery.rs"];
    let effects = ["tokio::", "std::fs", "Instant::now", "SystemTime::now", "async fn"];
    let is_exempt =
        |file: &str| !file.contains("/convert/") && !pure.iter().any(|name| file.ends_with(&format!("/{name}")));
    assert_eq!(offenders(&effects, is_exempt), Vec::<String>::new());
}

#[test]
fn unsafe_lives_in_the_native_engine_and_the_guest_only() {
    let is_exempt =
        |file: &str| file.starts_with("engine/native") || file.starts_with("guest/") || file == "bin/hands-guest.rs";
    assert_eq!(offenders(&["unsafe {", "unsafe fn", "unsafe impl"], is_exempt), Vec::<String>::new());
}

#[test]
fn every_task_has_an_owner() {
    assert_eq!(offenders(&["tokio::spawn(", "task::spawn("], |file| file.ends_with("fake.rs")), Vec::<String>::new());
}

#[test]
fn only_the_api_names_services_and_statuses() {
    let is_exempt = |file: &str| {
        file.starts_with("api/")
            || file.starts_with("bin/hands")
            || file.starts_with("client")
            || file.starts_with("daemon")
            || file.starts_with("demo")
    };
    assert_eq!(offenders(&["tonic::Status", "api::proto"], is_exempt), Vec::<String>::new());
}

#[test]
fn nothing_on_a_lower_floor_imports_a_higher_one() {
    let floors: [(&str, &[&str]); 7] = [
        ("guest/", &["hands", "engine", "image", "sandbox", "api", "daemon", "config"]),
        ("image/", &["hands", "engine", "sandbox", "api", "daemon", "config"]),
        ("engine/", &["hands", "sandbox", "api", "daemon", "config"]),
        ("network/", &["hands", "engine", "image", "sandbox", "api", "daemon", "config"]),
        ("hands/", &["image", "sandbox", "api", "daemon", "config"]),
        ("sandbox/", &["api", "daemon", "config"]),
        ("api/", &["daemon", "config"]),
    ];
    for (floor, above) in floors {
        let words: Vec<String> = above.iter().map(|name| format!("crate::{name}::")).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(offenders(&words, |file| !file.starts_with(floor)), Vec::<String>::new());
    }
}

#[test]
fn the_map_names_every_room() {
    let map = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).expect("lib.rs is there");
    let (doc, modules): (Vec<&str>, Vec<&str>) = map.lines().partition(|line| line.starts_with("//!"));
    let doc = doc.join("\n");
    for module in modules.iter().filter_map(|line| line.strip_prefix("pub mod ")) {
        let module = module.trim_end_matches(';');
        assert!(doc.contains(&format!("[`{module}`]")), "the map in lib.rs does not name {module}");
    }
}
