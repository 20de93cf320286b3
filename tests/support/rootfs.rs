//! A small root file system made of this machine's programs: no registry can be reached from a test.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest as _, Sha256};

/// What tests run.
const PROGRAMS: &[&str] = &[
    "awk",
    "base64",
    "bash",
    "busybox",
    "cat",
    "chmod",
    "chown",
    "cmp",
    "cp",
    "cut",
    "date",
    "dd",
    "dirname",
    "echo",
    "env",
    "false",
    "find",
    "grep",
    "head",
    "hostname",
    "id",
    "kill",
    "ln",
    "ls",
    "md5sum",
    "mkdir",
    "mkfifo",
    "mktemp",
    "mount",
    "mv",
    "nohup",
    "pgrep",
    "ping",
    "printf",
    "ps",
    "pwd",
    "readlink",
    "realpath",
    "rm",
    "rmdir",
    "sed",
    "seq",
    "setpriv",
    "setsid",
    "sh",
    "sha256sum",
    "sleep",
    "sort",
    "stat",
    "stty",
    "sync",
    "tail",
    "tee",
    "test",
    "timeout",
    "touch",
    "tr",
    "true",
    "truncate",
    "tty",
    "uname",
    "unshare",
    "wc",
    "which",
    "whoami",
    "xargs",
    "yes",
];

const PASSWD: &str = "root:x:0:0:root:/root:/bin/bash\nagent:x:1000:1000::/home/agent:/bin/bash\n\
                      nobody:x:65534:65534::/nonexistent:/bin/false\n";
const GROUP: &str = "root:x:0:\ntty:x:5:\nagent:x:1000:\nnogroup:x:65534:\n";

/// Writes it as a tar in a directory; answers its path.
pub fn write_tar(directory: &Path) -> PathBuf {
    let path = directory.join("rootfs.tar");
    let mut tar = tar::Builder::new(fs::File::create(&path).expect("the tar"));
    for (name, mode) in [
        ("bin", 0o755),
        ("dev", 0o755),
        ("etc", 0o755),
        ("home", 0o755),
        ("proc", 0o755),
        ("root", 0o700),
        ("sys", 0o755),
        ("tmp", 0o1777),
        ("usr", 0o755),
        ("usr/bin", 0o755),
        ("var", 0o755),
    ] {
        append(&mut tar, Path::new(name), tar::EntryType::Directory, mode, &[]);
    }
    append(&mut tar, Path::new("etc/passwd"), tar::EntryType::Regular, 0o644, PASSWD.as_bytes());
    append(&mut tar, Path::new("etc/group"), tar::EntryType::Regular, 0o644, GROUP.as_bytes());
    let mut libraries = BTreeSet::new();
    for program in PROGRAMS {
        let Some(found) = find(program) else { continue };
        libraries.extend(libraries_of(&found));
        copy(&mut tar, &found, &Path::new("bin").join(program));
    }
    for library in libraries {
        let target = library.strip_prefix("/").expect("ldd prints absolute paths").to_owned();
        copy(&mut tar, &library, &target);
    }
    tar.finish().expect("the end of the tar");
    path
}

/// Writes it as a `docker save` archive of one image, whose user is `agent` and whose environment has `FROM=image`.
pub fn write_archive(directory: &Path) -> PathBuf {
    let layer = fs::read(write_tar(directory)).expect("the tar");
    let digest = Sha256::digest(&layer).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let config = format!(
        r#"{{"architecture":"{architecture}","os":"linux","config":{{"User":"agent","Env":["FROM=image"]}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{digest}"]}}}}"#
    );
    let manifest = r#"[{"Config":"config.json","RepoTags":["small:1"],"Layers":["layer.tar"]}]"#;
    let path = directory.join("small.archive");
    let mut tar = tar::Builder::new(fs::File::create(&path).expect("the archive"));
    let entries: [(&str, &[u8]); 3] =
        [("config.json", config.as_bytes()), ("layer.tar", &layer), ("manifest.json", manifest.as_bytes())];
    for (name, content) in entries {
        append(&mut tar, Path::new(name), tar::EntryType::Regular, 0o644, content);
    }
    tar.finish().expect("the end of the archive");
    path
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin"].iter().map(|directory| Path::new(directory).join(program)).find(|path| {
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
    })
}

/// The libraries that a program is linked with.
fn libraries_of(program: &Path) -> Vec<PathBuf> {
    let listed = Command::new("ldd").arg(program).output().expect("ldd");
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

fn copy(tar: &mut tar::Builder<fs::File>, from: &Path, to: &Path) {
    let content = fs::read(from).expect("a program of this machine");
    append(tar, to, tar::EntryType::Regular, 0o755, &content);
}

fn append(tar: &mut tar::Builder<fs::File>, path: &Path, kind: tar::EntryType, mode: u32, content: &[u8]) {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(content.len() as u64);
    header.set_mtime(1);
    tar.append_data(&mut header, path, content).expect("an entry of the tar");
}
