//! Pages of entries, in order, in bounded memory however large the directories are.
//!
//! Order is by path, component by component, bytewise, a parent before its children. A page continues after an entry of
//! the page before, named by its path; so nothing is kept between pages, and changes meanwhile move nothing but
//! themselves. Of a directory only the smallest names that the page can still use are held; if they are used up, it is
//! read again.

use std::collections::BinaryHeap;
use std::os::fd::AsFd;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::{Mode, SFlag, fstat};

use super::Fault;
use super::root::{Root, info, info_at};
use crate::guest::wire::{self, FileInfo, Listing};

/// Most levels below the path, and so directories open at once. The API allows no more.
const MAX_DEPTH: usize = 64;

/// Most entries of a page. The API allows no more.
const MAX_LIMIT: usize = 10_000;

/// Bytes of entries after which a page ends: half a frame. One entry has at most 64 names of 255 bytes and a target.
const MAX_BYTES: usize = wire::MAX_FRAME / 2;

/// Names held at once, of all levels together (at most 255 bytes each).
const MAX_HELD: usize = 2 * MAX_LIMIT;

/// Names that a level may hold whatever the levels above hold.
const MIN_HELD: usize = 256;

/// Lists what a request asks for.
///
/// # Errors
/// [`Fault::Request`] for a malformed cursor; `ENOTDIR`; those of openat2(2).
pub fn list(root: &Root, request: &wire::List) -> Result<Listing, Fault> {
    let depth = usize::try_from(request.depth).unwrap_or(MAX_DEPTH).min(MAX_DEPTH);
    let limit = usize::try_from(request.limit).unwrap_or(MAX_LIMIT).clamp(1, MAX_LIMIT);
    let cursor = components(&request.after, depth)?;
    if depth == 0 {
        let stat = fstat(root.resolve(&request.path, OFlag::O_PATH)?)?;
        let mut listing = Listing::default();
        listing.push(&info(&stat, Vec::new(), Vec::new()));
        return Ok(listing);
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
    let top = Level::new(Dir::from_fd(root.resolve(&request.path, flags)?)?, Vec::new());
    let mut walk = Walk { levels: vec![top], depth, hidden: request.hidden };
    walk.go_to(&cursor)?;
    let mut page = Page { listing: Listing::default(), room: limit };
    while let Some(entry) = walk.next(page.room + 1)? {
        if !page.take(&entry) {
            break;
        }
    }
    Ok(page.listing)
}

/// The components of a cursor, each a plain name: it comes from a client, and must not lead anywhere else.
fn components(cursor: &[u8], depth: usize) -> Result<Vec<&[u8]>, Fault> {
    if cursor.is_empty() {
        return Ok(Vec::new());
    }
    let components: Vec<_> = cursor.split(|byte| *byte == b'/').take(depth + 1).collect();
    let is_name = |name: &&[u8]| !matches!(*name, b"" | b"." | b"..") && !name.contains(&0);
    if components.len() <= depth && components.iter().all(is_name) { Ok(components) } else { Err(Fault::Request) }
}

/// What was gathered for the answer.
#[derive(Debug)]
struct Page {
    listing: Listing,
    /// Entries for which there is room.
    room: usize,
}

impl Page {
    /// Takes an entry; if there is no room for it, only notes that there are more.
    fn take(&mut self, entry: &FileInfo) -> bool {
        if self.room == 0 || self.listing.entries.len() > MAX_BYTES {
            self.listing.more = true;
            return false;
        }
        self.room -= 1;
        self.listing.push(entry);
        true
    }
}

/// The walk through the tree: a directory per level, the last one being read.
#[derive(Debug)]
struct Walk {
    levels: Vec<Level>,
    depth: usize,
    hidden: bool,
}

impl Walk {
    /// Goes to right after an entry, or to where it was.
    fn go_to(&mut self, cursor: &[&[u8]]) -> Result<(), Errno> {
        for name in cursor {
            let Some(level) = self.levels.last_mut() else { return Ok(()) };
            level.after = Some(name.to_vec());
            if (name.starts_with(b".") && !self.hidden) || !self.enter(name)? {
                break;
            }
        }
        Ok(())
    }

    /// The next entry, and into it if it is a directory. `wanted` is how many more could be of use.
    fn next(&mut self, wanted: usize) -> Result<Option<FileInfo>, Errno> {
        loop {
            let held: usize = self.levels.iter().map(|level| level.names.len()).sum();
            let bound = wanted.min(MAX_HELD.saturating_sub(held).max(MIN_HELD));
            let is_top = self.levels.len() == 1;
            let Some(level) = self.levels.last_mut() else { return Ok(None) };
            let name = match level.next(bound, self.hidden) {
                Ok(Some(name)) => name,
                Ok(None) => {
                    self.levels.pop();
                    continue;
                }
                Err(errno) if !is_top && is_closed(errno) => {
                    self.levels.pop();
                    continue;
                }
                Err(errno) => return Err(errno),
            };
            let entry = match info_at(&level.dir, &name, level.path_of(&name)) {
                Ok(entry) => entry,
                // Removed meanwhile.
                Err(Errno::ENOENT) => continue,
                // The directory may be read but not searched: all that is known is the name.
                Err(Errno::EACCES) => FileInfo { path: level.path_of(&name), ..FileInfo::default() },
                Err(errno) => return Err(errno),
            };
            if entry.mode & SFlag::S_IFMT.bits() == SFlag::S_IFDIR.bits() {
                self.enter(&name)?;
            }
            return Ok(Some(entry));
        }
    }

    /// Goes into a directory of the last level, if the depth allows it and it can be entered.
    fn enter(&mut self, name: &[u8]) -> Result<bool, Errno> {
        let Some(level) = self.levels.last().filter(|_| self.levels.len() < self.depth) else { return Ok(false) };
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match Dir::openat(level.dir.as_fd(), name, flags, Mode::empty()) {
            Ok(dir) => self.levels.push(Level::new(dir, level.path_of(name))),
            Err(errno) if is_closed(errno) => return Ok(false),
            Err(errno) => return Err(errno),
        }
        Ok(true)
    }
}

/// A directory below that is listed but not entered: it is closed to the user, gone, or another thing by now.
fn is_closed(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::EACCES
            | Errno::EPERM
            | Errno::ENOENT
            | Errno::ESRCH
            | Errno::ENOTDIR
            | Errno::ELOOP
            | Errno::ENAMETOOLONG
    )
}

/// A directory that is being listed.
#[derive(Debug)]
struct Level {
    dir: Dir,
    /// Relative to the listed path; empty for that one itself.
    path: Vec<u8>,
    /// The next names, the smallest one last.
    names: Vec<Vec<u8>>,
    /// Only larger names are still to be read.
    after: Option<Vec<u8>>,
    /// No others than `names` are left.
    is_read: bool,
}

impl Level {
    fn new(dir: Dir, path: Vec<u8>) -> Self {
        Self { dir, path, names: Vec::new(), after: None, is_read: false }
    }

    fn path_of(&self, name: &[u8]) -> Vec<u8> {
        if self.path.is_empty() { name.to_vec() } else { [&self.path, &b"/"[..], name].concat() }
    }

    /// The next name; reads at most `bound` names ahead if it has to read.
    fn next(&mut self, bound: usize, hidden: bool) -> Result<Option<Vec<u8>>, Errno> {
        if self.names.is_empty() && !self.is_read {
            self.read(bound, hidden)?;
        }
        Ok(self.names.pop())
    }

    /// Reads the directory from its beginning, and keeps the `bound` smallest names after `after`.
    fn read(&mut self, bound: usize, hidden: bool) -> Result<(), Errno> {
        let mut smallest = BinaryHeap::new();
        self.is_read = true;
        for entry in self.dir.iter() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            let is_wanted = !matches!(name, b"." | b"..")
                && (hidden || !name.starts_with(b"."))
                && self.after.as_deref().is_none_or(|after| name > after);
            if !is_wanted {
                continue;
            }
            if smallest.len() < bound {
                smallest.push(name.to_vec());
                continue;
            }
            self.is_read = false;
            if let Some(mut largest) = smallest.peek_mut().filter(|largest| name < largest.as_slice()) {
                *largest = name.to_vec();
            }
        }
        self.after = smallest.peek().cloned().or_else(|| self.after.take());
        self.names = smallest.into_sorted_vec();
        self.names.reverse();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_of_long_entries_ends_early_and_fits_a_frame() {
        let mut page = Page { listing: Listing::default(), room: MAX_LIMIT };
        let entry = FileInfo { path: vec![b'a'; 64 * 256], target: vec![b'b'; 4096], ..FileInfo::default() };
        while page.take(&entry) {}
        assert!(page.listing.more && page.room < MAX_LIMIT - 100);
        assert!(wire::frame(&page.listing).is_ok());
    }
}
