//! Files of the sandbox, worked on for the daemon.
//!
//! [`serve`] has one connection and one thread. It takes on the user that a request names (`identity`), resolves every
//! path beneath the sandbox's root (`root`), and answers each request before it takes the next. Content does not pass
//! through here: the daemon gets descriptors of regular files and reads and writes them itself.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::FileExt as _;

use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, readlinkat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

use self::remove::Extent;
use self::replace::Replacement;
use self::root::Root;
use super::users;
use crate::guest::wire::{self, FileFailed, FileFault, FileInfo, FileReply, FileRequest, file_reply, file_request};

mod identity;
mod list;
mod remove;
mod replace;
pub(super) mod root;

pub use self::remove::remove_abandoned;

/// Why a request failed. It becomes [`FileFailed`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The kernel's word.
    Errno(Errno),
    /// Neither a regular file nor a directory.
    NotRegular,
    /// There is no such user, or the thread could not take him on; with the kernel's word or 0.
    User(i32),
    /// The request is malformed or out of turn.
    Request,
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Fault> for FileFailed {
    fn from(fault: Fault) -> Self {
        let (fault, errno) = match fault {
            Fault::Errno(errno) => (FileFault::Errno, errno as i32),
            Fault::NotRegular => (FileFault::NotRegular, 0),
            Fault::User(errno) => (FileFault::User, errno),
            Fault::Request => (FileFault::Request, 0),
        };
        Self { fault: fault.into(), errno }
    }
}

/// How the content of files gets to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// By a descriptor that is passed.
    Passed,
    /// Piece by piece, as it is asked for: no descriptor gets through to the daemon.
    Told,
}

/// Answers the requests of one connection until it ends. The thread belongs to it from then on: it may act as another
/// user afterwards.
pub fn serve(socket: OwnedFd, receiver: wire::Receiver, content: Content) {
    // Without its root the sandbox is past help, and the daemon sees the connection end.
    if let Ok(root) = Root::open() {
        serve_in(root, &socket, receiver, content);
    }
}

/// Answers, ahead of the first request, that there is no thread for it.
pub fn refuse(socket: &OwnedFd, error: &std::io::Error) {
    let failed = FileFailed { fault: FileFault::NoThread.into(), errno: error.raw_os_error().unwrap_or(0) };
    if let Ok(frame) = wire::frame(&FileReply { body: Some(file_reply::Body::Failed(failed)) }) {
        // A daemon that has left needs no answer.
        let _ = wire::send_all(socket.as_fd(), &frame, &[]);
    }
}

/// As [`serve`], with another directory as the root.
#[cfg(test)]
pub(crate) fn serve_beneath(directory: &std::path::Path, socket: &OwnedFd, receiver: wire::Receiver) {
    serve_in(Root::at(directory), socket, receiver, Content::Passed);
}

fn serve_in(root: Root, socket: &OwnedFd, mut receiver: wire::Receiver, content: Content) {
    let mut worker = Worker { root, user: None, replacement: None, file: None };
    while let Ok(Some(request)) = receiver.wait::<FileRequest>(socket.as_fd()) {
        let (body, fd) = match worker.answer(request) {
            Ok(Answer::Opened(info, file)) => {
                let passed = match content {
                    Content::Passed => Some(file),
                    Content::Told => {
                        worker.file = Some(file.into());
                        None
                    }
                };
                (file_reply::Body::Opened(info), passed)
            }
            Ok(Answer::Body(body)) => (body, None),
            Err(fault) => (file_reply::Body::Failed(fault.into()), None),
        };
        let Ok(frame) = wire::frame(&FileReply { body: Some(body) }) else { return };
        let fds: Vec<_> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        if wire::send_all(socket.as_fd(), &frame, &fds).is_err() {
            return;
        }
    }
}

/// What one connection is about.
#[derive(Debug)]
struct Worker {
    root: Root,
    /// Whom the thread acts as. `None`: as nobody whom it has taken on.
    user: Option<String>,
    /// Begun and not yet committed; dropping it removes what was written.
    replacement: Option<Replacement>,
    /// Opened last, and not passed.
    file: Option<File>,
}

/// What is answered.
#[derive(Debug)]
enum Answer {
    /// With a descriptor of the file.
    Opened(FileInfo, OwnedFd),
    /// Anything else.
    Body(file_reply::Body),
}

impl Answer {
    fn info(info: FileInfo) -> Self {
        Self::Body(file_reply::Body::Info(info))
    }

    fn done() -> Self {
        Self::Body(file_reply::Body::Done(wire::Done {}))
    }
}

impl Worker {
    fn answer(&mut self, request: FileRequest) -> Result<Answer, Fault> {
        self.act_as(request.user)?;
        self.work(request.body.ok_or(Fault::Request)?)
    }

    /// Takes on the user of a request, unless the thread acts as him already.
    fn act_as(&mut self, user: String) -> Result<(), Fault> {
        if self.user.as_ref() == Some(&user) {
            return Ok(());
        }
        self.user = None;
        let found = users::lookup_in(&self.root, &user).map_err(|error| Fault::User(error.errno()))?;
        identity::take_on(&found).map_err(|errno| Fault::User(errno as i32))?;
        self.user = Some(user);
        Ok(())
    }

    fn work(&mut self, body: file_request::Body) -> Result<Answer, Fault> {
        use file_request::Body;
        match body {
            Body::Open(request) => {
                let file = self.root.open_regular(&request.path)?;
                let info = root::info(&fstat(&file)?, request.path, Vec::new());
                Ok(Answer::Opened(info, file))
            }
            Body::Replace(request) => {
                // The one before counts as broken off.
                self.replacement = None;
                let (replacement, info) = Replacement::begin(&self.root, &request)?;
                let file = replacement.file()?;
                self.replacement = Some(replacement);
                Ok(Answer::Opened(info, file))
            }
            Body::Commit(wire::Commit {}) => Ok(Answer::info(self.replacement.take().ok_or(Fault::Request)?.commit()?)),
            Body::List(request) => Ok(Answer::Body(file_reply::Body::Listing(list::list(&self.root, &request)?))),
            Body::Stat(request) => Ok(Answer::info(stat(&self.root, request.path, request.follow)?)),
            Body::Mkdir(request) => Ok(Answer::info(make_directory(&self.root, request)?)),
            Body::Remove(request) => {
                let extent = if request.recursive { Extent::Tree } else { Extent::One };
                remove::remove(&self.root.place(&request.path)?, extent)?;
                Ok(Answer::done())
            }
            Body::Rename(request) => Ok(Answer::info(rename(&self.root, request)?)),
            Body::Fetch(request) => Ok(Answer::Body(file_reply::Body::Content(self.fetch(request)?))),
            Body::Store(request) => {
                let file = self.file.as_mut().filter(|_| request.bytes.len() <= wire::MAX_CONTENT);
                file.ok_or(Fault::Request)?.write_all(&request.bytes).map_err(|error| errno(&error))?;
                Ok(Answer::done())
            }
        }
    }

    /// Fewer bytes than were asked for only at the end of the file.
    fn fetch(&self, request: wire::Fetch) -> Result<wire::Content, Fault> {
        let file = self.file.as_ref().ok_or(Fault::Request)?;
        let most = usize::try_from(request.length).unwrap_or(usize::MAX).min(wire::MAX_CONTENT);
        let (mut bytes, mut length) = (vec![0; most], 0);
        while length < most {
            match file.read_at(&mut bytes[length..], request.offset.saturating_add(length as u64)) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(errno(&error).into()),
            }
        }
        bytes.truncate(length);
        Ok(wire::Content { bytes })
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

/// How the file at a path stands.
fn stat(root: &Root, path: Vec<u8>, follow: bool) -> Result<FileInfo, Errno> {
    let flags = if follow { OFlag::O_PATH } else { OFlag::O_PATH | OFlag::O_NOFOLLOW };
    let file = root.resolve(&path, flags)?;
    let stat = fstat(&file)?;
    let is_symlink = root::kind(&stat) == SFlag::S_IFLNK;
    let target = if is_symlink { readlinkat(&file, "")?.into_encoded_bytes() } else { Vec::new() };
    Ok(root::info(&stat, path, target))
}

fn make_directory(root: &Root, request: wire::Mkdir) -> Result<FileInfo, Errno> {
    if request.parents {
        root.make_directories(&request.path, request.mode)?;
    } else if root::split(&request.path).is_none() {
        // "/", "." and "..": if they can be reached, they are there.
        return stat(root, request.path, true).and(Err(Errno::EEXIST));
    } else {
        let place = root.place(&request.path)?;
        mkdirat(&place.dir, place.name.as_slice(), Mode::from_bits_truncate(request.mode))?;
        root::set_mode(&place.dir, &place.name, request.mode)?;
    }
    stat(root, request.path, true)
}

fn rename(root: &Root, request: wire::Rename) -> Result<FileInfo, Errno> {
    let (from, to) = (root.place(&request.from)?, root.place(&request.to)?);
    let flags = if request.replace { RenameFlags::empty() } else { RenameFlags::RENAME_NOREPLACE };
    renameat2(&from.dir, from.name.as_slice(), &to.dir, to.name.as_slice(), flags)?;
    root::info_at(&to.dir, &to.name, request.to)
}

#[cfg(test)]
mod tests;
