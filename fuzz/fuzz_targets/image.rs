//! A root file system as a tar, plain, gzip or zstd: arbitrary bytes.
//!
//! Nothing may be made outside the store, and no bytes may end the process or unpack beyond the bounds.
#![no_main]

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use handsd::image::{ImageRef, ImageSettings, ImageStore, Ownership};
use libfuzzer_sys::fuzz_target;
use tokio::runtime::{Builder, Runtime};

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| Builder::new_current_thread().build().expect("a runtime"));

/// Enough for a directory, a file, links and whiteouts, and little enough to be quick.
const MAX_BYTES: u64 = 1 << 20;
const MAX_ENTRIES: u64 = 100;

fuzz_target!(|bytes: &[u8]| {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let archive = directory.path().join("root.tar");
    fs::write(&archive, bytes).expect("it can be written");
    let settings = ImageSettings {
        max_unpacked_bytes: MAX_BYTES,
        max_entries: MAX_ENTRIES,
        ownership: Ownership::Own,
        ..ImageSettings::default()
    };
    let store = ImageStore::open(directory.path().join("store"), settings).expect("a new store");
    // Most bytes are no archive, which is an error like any other.
    let _ = RUNTIME.block_on(store.resolve(&ImageRef::Tar(archive)));
    assert_eq!(names(directory.path()), ["root.tar", "store"]);
    assert!(fs::read(directory.path().join("root.tar")).is_ok_and(|after| after == bytes));
});

fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).expect("it is there");
    let mut names: Vec<_> =
        entries.map(|entry| entry.expect("it can be read").file_name().to_string_lossy().into_owned()).collect();
    names.sort_unstable();
    names
}
