//! Files and parts of files as streams, decompressed by what they are and not by what they are called.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;

use flate2::bufread::MultiGzDecoder;

const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A part of a file, or all of it. Reading one does not move another of the same file.
#[derive(Debug, Clone)]
pub(super) struct Section {
    file: Arc<File>,
    start: u64,
    position: u64,
    end: u64,
}

impl Section {
    pub(super) fn whole(file: File) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), start: 0, position: 0, end })
    }

    /// `length` bytes from `offset` of this section on; `None` if they reach beyond it.
    pub(super) fn part(&self, offset: u64, length: u64) -> Option<Self> {
        let start = self.start.checked_add(offset)?;
        let end = start.checked_add(length)?;
        (end <= self.end).then(|| Self { file: Arc::clone(&self.file), start, position: start, end })
    }

    /// Bytes that are left to read.
    pub(super) fn len(&self) -> u64 {
        self.end - self.position
    }
}

impl Read for Section {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.len()).unwrap_or(usize::MAX).min(buffer.len());
        let count = self.file.read_at(&mut buffer[..most], self.position)?;
        self.position += count as u64;
        Ok(count)
    }
}

/// Beyond the end there is nothing to read, and nothing before the start.
impl Seek for Section {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(offset) => self.start.checked_add(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.end.checked_add_signed(offset),
        };
        let position = position.filter(|position| *position >= self.start).ok_or(io::ErrorKind::InvalidInput)?;
        self.position = position.min(self.end);
        Ok(self.position - self.start)
    }
}

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Plain,
    Gzip,
    Zstd,
}

impl Compression {
    /// By the magic bytes a stream begins with.
    pub(super) fn of(first: &[u8]) -> Self {
        if first.starts_with(&GZIP) {
            Self::Gzip
        } else if first.starts_with(&ZSTD) {
            Self::Zstd
        } else {
            Self::Plain
        }
    }

    pub(super) fn of_section(section: &Section) -> io::Result<Self> {
        let mut first = Vec::with_capacity(ZSTD.len());
        section.clone().take(ZSTD.len() as u64).read_to_end(&mut first)?;
        Ok(Self::of(&first))
    }
}

/// The decompressed bytes of `source`, read to its very end.
pub(super) fn decompress<'a>(source: impl Read + 'a) -> io::Result<Box<dyn Read + 'a>> {
    let mut source = BufReader::with_capacity(64 << 10, source);
    Ok(match Compression::of(source.fill_buf()?) {
        Compression::Plain => Box::new(source),
        Compression::Gzip => Box::new(MultiGzDecoder::new(source)),
        // The decoder itself refuses windows over 128 MiB, so that a frame cannot ask for any amount of memory.
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::write::GzEncoder;

    use super::*;

    fn plain(bytes: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        decompress(bytes).unwrap().read_to_end(&mut plain).unwrap();
        plain
    }

    #[test]
    fn each_compression_is_known_by_its_first_bytes() {
        let mut gzip = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(b"hello").unwrap();
        assert_eq!(plain(&gzip.finish().unwrap()), b"hello");
        assert_eq!(plain(&zstd::encode_all(&b"hello"[..], 1).unwrap()), b"hello");
        assert_eq!(plain(b"hello"), b"hello");
        assert_eq!(plain(b""), b"");
    }

    #[test]
    fn a_section_reads_its_part_and_never_beyond() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let whole = Section::whole(file).unwrap();
        let mut text = String::new();
        whole.part(2, 3).unwrap().read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), whole.len()), ("234", 10));
        assert!(whole.part(8, 3).is_none());
        assert!(whole.part(u64::MAX, 2).is_none());
        assert!(whole.part(2, 3).unwrap().part(2, 2).is_none());
    }
}
