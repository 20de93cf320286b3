//! A small disk of its own.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

/// A small ext4, mounted for as long as this is there. A daemon whose state is on it has to be dropped first.
#[derive(Debug)]
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// A disk of so many bytes; `None`, with the reason printed, where none can be made.
    pub fn plain(bytes: u64) -> Option<Self> {
        Self::make(bytes, &["-m", "0"], "loop")
    }

    /// A disk that keeps project quotas; `None`, with the reason printed, where none can be made.
    pub fn with_quotas(bytes: u64) -> Option<Self> {
        Self::make(bytes, &["-m", "0", "-O", "project,quota", "-E", "quotatype=prjquota"], "loop,prjquota")
    }

    /// Where it is mounted.
    pub fn root(&self) -> PathBuf {
        self.0.path().join("mount")
    }

    fn make(bytes: u64, format: &[&str], options: &str) -> Option<Self> {
        let disk = Self(tempfile::Builder::new().prefix("handsd-test-").tempdir().expect("a temporary directory"));
        let image = disk.0.path().join("image");
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("an image");
        std::fs::create_dir(disk.root()).expect("a mount point");
        let made = succeeds(Command::new("mkfs.ext4").arg("-q").args(format).arg(&image))
            && succeeds(Command::new("mount").args(["-o", options]).arg(&image).arg(disk.root()));
        made.then_some(disk)
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // It may never have been mounted.
        let _ = nix::mount::umount2(&self.root(), nix::mount::MntFlags::MNT_DETACH);
    }
}

fn succeeds(command: &mut Command) -> bool {
    match command.output() {
        Ok(output) if output.status.success() => true,
        output => {
            println!("skipped: {command:?}: {output:?}");
            false
        }
    }
}
