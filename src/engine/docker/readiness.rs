//! Waiting until the guest of a new container can be connected to.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::timeout;

use crate::engine::Process;
use crate::guest::readiness::watch;

/// How long the guest may take from its start to its socket. It takes a few milliseconds; a node that thrashes is slower.
const DEADLINE: Duration = Duration::from_secs(20);

/// A look-out for a file in a directory.
#[derive(Debug)]
pub struct Lookout {
    /// Until it is closed.
    inotify: Option<AsyncFd<OwnedFd>>,
}

impl Lookout {
    /// Begins to look. It must be made before the file can be.
    ///
    /// # Errors
    /// Those of inotify(7): a user may only have so many.
    pub fn on(directory: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        // The guest renames its socket into place when it listens.
        inotify.add_watch(directory, AddWatchFlags::IN_MOVED_TO)?;
        Ok(Self { inotify: Some(watch(inotify.into(), Interest::READABLE)?) })
    }

    /// Waits until the file is there.
    ///
    /// # Errors
    /// `UnexpectedEof` if the process that is to make it ended before; `TimedOut` after the deadline.
    pub async fn wait(self, maker: &Process) -> io::Result<()> {
        let inotify = self.inotify.as_ref().expect("it is open until it is dropped");
        // Both are cancel-safe: they only wait for something that stays.
        let first = async {
            tokio::select! {
                ready = inotify.readable() => ready.map(|mut ready| ready.retain_ready()),
                why = maker.ended() => Err(io::Error::new(io::ErrorKind::UnexpectedEof, why)),
            }
        };
        timeout(DEADLINE, first).await.map_err(|_| io::ErrorKind::TimedOut)?
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        // The kernel closes an inotify after a grace period: 13 ms, for which nobody has to wait.
        let inotify = self.inotify.take();
        tokio::task::spawn_blocking(move || drop(inotify));
    }
}
