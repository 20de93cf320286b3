//! Debian's registry of images, on a port of its own.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Whom a registry serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Users {
    /// Everybody.
    Everybody,
    /// "ada" with the password "hush".
    Ada,
}

/// Ada, as htpasswd(1) writes it.
const HTPASSWD: &str = "ada:$2b$12$yKjhM5Qc/4oHSjEnDD94mOoklv02ANsMeJcqwsFxK76BRKK/fyM5q";

/// A registry, killed at the end.
#[derive(Debug)]
pub struct Registry {
    process: Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Registry {
    /// Starts one; `None`, and why is printed, where it is not installed.
    pub fn start(users: Users) -> Option<Self> {
        let program = Path::new("/usr/bin/docker-registry");
        if !program.exists() {
            eprintln!("skipped: {} is not installed", program.display());
            return None;
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let place = |name: &str| directory.path().join(name);
        let text = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: 127.0.0.1:0\n",
            place("storage").display()
        );
        let asked = match users {
            Users::Everybody => String::new(),
            Users::Ada => {
                format!("auth:\n  htpasswd:\n    realm: test\n    path: {}\n", place("htpasswd").display())
            }
        };
        fs::write(place("htpasswd"), HTPASSWD).expect("the users");
        fs::write(place("config.yml"), text + &asked).expect("the configuration");
        let mut process = Command::new(program)
            .arg("serve")
            .arg(place("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the registry starts");
        let mut log = BufReader::new(process.stderr.take().expect("it is a pipe"));
        let port = loop {
            let mut line = String::new();
            assert_ne!(log.read_line(&mut line).expect("its log is text"), 0, "the registry ended");
            if let Some((_, address)) = line.split_once("listening on 127.0.0.1:") {
                let digits = address.chars().take_while(char::is_ascii_digit).collect::<String>();
                break digits.parse().expect("a port");
            }
        };
        // Its log must be read, or it would wait for room in the pipe. The thread ends with the registry.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        Some(Self { process, port, _directory: directory })
    }

    /// The name of something in it.
    pub fn name(&self, rest: &str) -> String {
        format!("127.0.0.1:{}/{rest}", self.port)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
