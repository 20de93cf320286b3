//! Paths as clients write them.

use nix::libc;

use super::FileError;

/// `PATH_MAX`: longest path in bytes, with the NUL that ends it.
const MAX_PATH: usize = 4096;

/// The absolute path that a client means: a relative one begins at the workspace. Empty and "." components are dropped,
/// which never changes the meaning; `..` is left to the guest, because what it means depends on symlinks. A "/" at the
/// end stays: it says that a directory is meant.
///
/// # Errors
/// [`FileError::PathInvalid`] if it is empty, holds NUL or is too long.
pub fn resolve(workspace: &str, path: &str) -> Result<String, FileError> {
    let invalid = |errno| FileError::PathInvalid { path: path.escape_default().take(MAX_PATH).collect(), errno };
    if path.is_empty() || path.contains('\0') {
        return Err(invalid(libc::EINVAL));
    }
    if path.len() >= MAX_PATH {
        return Err(invalid(libc::ENAMETOOLONG));
    }
    let mut absolute = String::new();
    let base = if path.starts_with('/') { "" } else { workspace };
    for component in base.split('/').chain(path.split('/')).filter(|component| !matches!(*component, "" | ".")) {
        absolute.push('/');
        absolute.push_str(component);
    }
    let is_directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
    if is_directory || absolute.is_empty() {
        absolute.push('/');
    }
    if absolute.len() < MAX_PATH { Ok(absolute) } else { Err(invalid(libc::ENAMETOOLONG)) }
}

/// Refuses a path that ends in ".": what it leads to has another name, by which it may be moved or removed.
///
/// # Errors
/// [`FileError::PathInvalid`].
pub fn refuse_dot(path: &str) -> Result<(), FileError> {
    if path == "." || path.ends_with("/.") {
        return Err(FileError::PathInvalid { path: path.to_owned(), errno: libc::EINVAL });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn relative_paths_begin_at_the_workspace() {
        let table = [
            ("f", "/workspace/f"),
            ("./a//b/.", "/workspace/a/b/"),
            (".", "/workspace/"),
            ("../f", "/workspace/../f"),
            ("/", "/"),
            ("/etc/./passwd", "/etc/passwd"),
            ("/workspace2/f", "/workspace2/f"),
            ("d/", "/workspace/d/"),
            ("..", "/workspace/.."),
        ];
        for (path, absolute) in table {
            assert_eq!(resolve("/workspace", path).unwrap(), absolute);
        }
    }

    #[test]
    fn nothing_nul_and_too_much_are_refused() {
        for path in ["", "a\0b", &"a".repeat(4096), &"/a".repeat(2048), &"a/".repeat(2045)] {
            assert!(matches!(resolve("/workspace", path), Err(FileError::PathInvalid { .. })), "{path}");
        }
        assert!(resolve("/workspace", &format!("/{}", "a".repeat(4094))).is_ok());
    }

    proptest! {
        #[test]
        fn a_resolved_path_resolves_to_itself(path in "[a./]{1,12}") {
            let absolute = resolve("/workspace", &path).unwrap();
            prop_assert!(absolute.starts_with('/'));
            prop_assert_eq!(resolve("/elsewhere", &absolute).unwrap(), absolute);
        }
    }
}
