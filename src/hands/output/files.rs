//! The two files of a spool, `data` and `index`, made when there is something to keep.
//!
//! `data` holds the output. `index` is words of 8 bytes, little-endian: [`MAGIC`], the cap, the cursor from which on
//! output was dropped ([`u64::MAX`]: nowhere), and then one [`Record`] for each switch of streams.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::fcntl::{FallocateFlags, fallocate};

use super::SpoolError;
use super::layout::{Extent, HEADER_WORDS, Layout, Record, Stream, WORD};

/// First word of an index: what the file is, and the version of its format.
const MAGIC: u64 = u64::from_le_bytes(*b"spool\0\0\x01");
/// Word of the index that says from where on output was dropped.
const DROPPED_WORD: u64 = 2;

/// The files of a spool. Many a command is silent, and three inodes cost more than all else that a run needs: some 0.1 ms
/// where they are cheap, and milliseconds on ext4 without a journal, which looks past every inode that was freed of late.
#[derive(Debug)]
pub struct Files {
    directory: PathBuf,
    cap: u64,
    opened: OnceLock<Opened>,
}

#[derive(Debug)]
struct Opened {
    /// Read and written at explicit offsets only: its own position means nothing.
    data: File,
    index: File,
}

/// How a spool was left behind.
#[derive(Debug)]
pub struct Left {
    /// By the cap that it was made with.
    pub layout: Layout,
    /// How far it had come.
    pub extent: Extent,
    /// What the output is of at its end.
    pub stream: Stream,
    /// A write had failed.
    pub dropping: bool,
}

impl Files {
    /// Files that are not made yet.
    pub fn new(directory: &Path, layout: &Layout) -> Files {
        Files { directory: directory.to_owned(), cap: layout.cap(), opened: OnceLock::new() }
    }

    /// They are there.
    pub fn are_made(&self) -> bool {
        self.opened.get().is_some()
    }

    fn opened(&self) -> io::Result<&Opened> {
        self.opened.get().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Makes them if they are not there yet, and their directory. Files of another spool are refused. What a kill meanwhile
    /// leaves is no spool, and [`Files::open`] removes it; no output had been taken then.
    fn made(&self) -> io::Result<&Opened> {
        if !self.are_made() {
            DirBuilder::new().recursive(true).mode(0o700).create(&self.directory)?;
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let open = |name| options.open(self.directory.join(name));
            let opened = Opened { data: open("data")?, index: open("index")? };
            let header = [MAGIC, self.cap, u64::MAX].map(u64::to_le_bytes).concat();
            opened.index.write_all_at(&header, 0)?;
            // There is one writer, so nobody was faster.
            let _ = self.opened.set(opened);
        }
        self.opened()
    }

    /// Where output goes; makes it if it is not there yet.
    pub fn data(&self) -> io::Result<&File> {
        self.made().map(|opened| &opened.data)
    }

    /// Reads bytes that were stored.
    pub fn read(&self, buffer: &mut [u8], from: u64) -> io::Result<()> {
        self.opened()?.data.read_exact_at(buffer, from)
    }

    /// Opens files that were left behind, finds out how they stand, and mends the index.
    pub fn open(directory: &Path) -> Result<(Files, Left), SpoolError> {
        let open = |name| {
            let path = directory.join(name);
            OpenOptions::new().read(true).write(true).open(&path).map_err(failed("opening", &path))
        };
        remove_half_made(directory).map_err(failed("clearing", directory))?;
        let opened = OnceLock::from(Opened { data: open("data")?, index: open("index")? });
        let mut files = Files { directory: directory.to_owned(), cap: 0, opened };
        let left = files.mend().map_err(failed("mending the spool in", directory))?;
        files.cap = left.layout.cap();
        Ok((files, left))
    }

    fn mend(&self) -> io::Result<Left> {
        let Opened { data, index } = self.opened()?;
        let words = index.metadata()?.len() / WORD;
        if words < HEADER_WORDS || self.word(0)? != MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the index has no header of this version"));
        }
        let layout = Layout::new(self.word(1)?);
        let dropped_from = self.word(DROPPED_WORD)?;
        let len = data.metadata()?.len();
        let stored = len.min(dropped_from);
        // A record that has no byte behind it is not part of the spool: the daemon was killed between the two. It goes,
        // lest it count once there are bytes behind it, of whichever stream.
        let mut records = words - HEADER_WORDS;
        let mut stream = Stream::Stdout;
        while let Some(last) = records.checked_sub(1) {
            let record = self.record(last)?;
            if record.offset < stored {
                stream = record.stream;
                break;
            }
            records = last;
        }
        index.set_len((HEADER_WORDS + records) * WORD)?;
        // The hole may have been made when such a record was there, so its end is reckoned with one more.
        let tail_start = layout.tail_start(stored, records + 1);
        let extent = Extent { len, stored, records, tail_start, ..layout.empty() };
        Ok(Left { layout, extent, stream, dropping: dropped_from != u64::MAX })
    }

    fn word(&self, number: u64) -> io::Result<u64> {
        let mut word = 0_u64.to_le_bytes();
        self.opened()?.index.read_exact_at(&mut word, number * WORD)?;
        Ok(u64::from_le_bytes(word))
    }

    /// Says what failed.
    pub fn failed(&self, action: &'static str) -> impl FnOnce(io::Error) -> SpoolError {
        failed(action, &self.directory)
    }

    /// The record of a number.
    pub fn record(&self, number: u64) -> io::Result<Record> {
        self.word(HEADER_WORDS + number).map(Record::of_word)
    }

    /// Writes the record of a number; makes the index if it is not there yet.
    pub fn write_record(&self, number: u64, record: Record) -> io::Result<()> {
        write_word(&self.made()?.index, HEADER_WORDS + number, record.word())
    }

    /// Notes from where on output was dropped. The word is there since the file was made, so a full disk has room for it.
    pub fn write_dropped(&self, from: u64) -> io::Result<()> {
        write_word(&self.opened()?.index, DROPPED_WORD, from)
    }

    /// Lets `data` end there, without blocks for what it has not.
    pub fn set_len(&self, len: u64) -> io::Result<()> {
        self.opened()?.data.set_len(len)
    }

    /// Frees a stretch of `data`. Its bytes read as zeros from then on.
    pub fn punch(&self, from: u64, to: u64) -> io::Result<()> {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        Ok(fallocate(&self.opened()?.data, mode, signed(from), signed(to - from))?)
    }
}

/// Removes files whose maker was killed before the index had its header, so that they can be made anew.
fn remove_half_made(directory: &Path) -> io::Result<()> {
    let [data, index] = ["data", "index"].map(|name| directory.join(name));
    let len = |path: &Path| match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        metadata => metadata.map(|metadata| metadata.len()),
    };
    if len(&data)? > 0 || len(&index)? >= HEADER_WORDS * WORD {
        return Ok(());
    }
    for path in [data, index] {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

fn write_word(index: &File, number: u64, word: u64) -> io::Result<()> {
    index.write_all_at(&word.to_le_bytes(), number * WORD)
}

/// An offset as the kernel takes it.
pub fn signed(offset: u64) -> i64 {
    i64::try_from(offset).expect("a file is shorter than 2^63 bytes")
}

/// Says what failed.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |source| SpoolError::File { action, path: path.to_owned(), source }
}
