//! Bounds on what is read from an archive.
//!
//! The parser of tars reads names into memory as long as the archive says they are, and the decompressors go on as long
//! as there are bytes. A [`Meter`] sits between the two and stops both. It also remembers why it stopped, since the
//! parser in between does not always pass an error on as it was.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Seek, SeekFrom};

use tokio_util::sync::CancellationToken;

use super::{ImageError, Limit};

/// Bytes that may describe one entry: its names and its extended headers. Names have at most 4 KiB; the rest is for
/// extended attributes, which come the same way and are ignored.
const MAX_HEADER_BYTES: u64 = 1 << 20;

/// What an image may still unpack; layers of one image share it.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    bytes: u64,
    entries: u64,
    max_bytes: u64,
    max_entries: u64,
}

impl Budget {
    pub(super) fn new(max_bytes: u64, max_entries: u64) -> Self {
        Self { bytes: max_bytes, entries: max_entries, max_bytes, max_entries }
    }

    pub(super) fn bytes_left(&self) -> u64 {
        self.bytes
    }

    pub(super) fn too_many_bytes(&self) -> ImageError {
        ImageError::TooLarge { limit: Limit::UnpackedBytes(self.max_bytes) }
    }

    /// # Errors
    /// [`ImageError::TooLarge`] if there is no entry left.
    pub(super) fn take_entry(&mut self) -> Result<(), ImageError> {
        let limit = Limit::Entries(self.max_entries);
        self.entries = self.entries.checked_sub(1).ok_or(ImageError::TooLarge { limit })?;
        Ok(())
    }

    /// # Errors
    /// [`ImageError::TooLarge`] if there are not as many bytes left.
    pub(super) fn take_bytes(&mut self, count: u64) -> Result<(), ImageError> {
        self.bytes = self.bytes.checked_sub(count).ok_or_else(|| self.too_many_bytes())?;
        Ok(())
    }
}

/// Counts what is read through its [`Metered`] readers.
#[derive(Debug)]
pub(super) struct Meter<'a> {
    max_bytes: u64,
    limit: ImageError,
    read: Cell<u64>,
    header: Cell<Option<u64>>,
    stop: &'a CancellationToken,
    fault: RefCell<Option<ImageError>>,
}

impl<'a> Meter<'a> {
    /// Lets through what the budget has left, until `stop` is cancelled.
    pub(super) fn new(budget: &Budget, stop: &'a CancellationToken) -> Self {
        Self {
            max_bytes: budget.bytes_left(),
            limit: budget.too_many_bytes(),
            read: Cell::new(0),
            header: Cell::new(None),
            stop,
            fault: RefCell::new(None),
        }
    }

    /// Bytes that went through.
    pub(super) fn read(&self) -> u64 {
        self.read.get()
    }

    /// From here on a header is read, of bounded length.
    pub(super) fn expect_header(&self) {
        self.header.set(Some(MAX_HEADER_BYTES));
    }

    /// From here on contents are read, as long as the total allows.
    pub(super) fn expect_contents(&self) {
        self.header.set(None);
    }

    /// What an error of a reader above this meter means: the meter's own if it stopped it, else that the archive is
    /// damaged.
    pub(super) fn explain(&self, what: &str, error: &io::Error) -> ImageError {
        self.fault.borrow_mut().take().unwrap_or_else(|| match error.kind() {
            // What the reader of tars says of itself quotes what it has read, and the file may be no archive at all, but
            // somebody's secret.
            io::ErrorKind::Other => ImageError::invalid(format!("{what}: it is damaged, or no archive of this kind")),
            _ => ImageError::invalid(format!("{what}: {error}")),
        })
    }

    fn stop(&self, fault: ImageError) -> io::Error {
        *self.fault.borrow_mut() = Some(fault);
        io::Error::other("stopped by the meter")
    }

    fn count(&self, count: u64) -> io::Result<()> {
        self.read.set(self.read.get().saturating_add(count));
        if self.read.get() > self.max_bytes {
            return Err(self.stop(self.limit.clone()));
        }
        if let Some(left) = self.header.get() {
            let limit = Limit::HeaderBytes(MAX_HEADER_BYTES);
            self.header.set(Some(left.checked_sub(count).ok_or_else(|| self.stop(ImageError::TooLarge { limit }))?));
        }
        Ok(())
    }
}

/// A reader whose bytes are counted.
pub(super) struct Metered<'m, 'a, R> {
    source: R,
    meter: &'m Meter<'a>,
}

impl<'m, 'a, R> Metered<'m, 'a, R> {
    pub(super) fn new(source: R, meter: &'m Meter<'a>) -> Self {
        Self { source, meter }
    }
}

impl<R: Read> Read for Metered<'_, '_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.meter.stop.is_cancelled() {
            let source = io::Error::from(io::ErrorKind::Interrupted);
            return Err(self.meter.stop(ImageError::io("nobody waits for the image any more", source)));
        }
        match self.source.read(buffer) {
            Ok(count) => self.meter.count(count as u64).map(|()| count),
            // An error number comes from the host; decompressors have none when they find nonsense.
            Err(error) if error.raw_os_error().is_some() => {
                Err(self.meter.stop(ImageError::io("read an archive", error)))
            }
            Err(error) => Err(error),
        }
    }
}

impl<R: Seek> Seek for Metered<'_, '_, R> {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.source.seek(position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_stopped_at_its_bound_and_the_bound_is_named() {
        let (budget, stop) = (Budget::new(1000, 1), CancellationToken::new());
        let meter = Meter::new(&budget, &stop);
        let error = io::copy(&mut Metered::new(io::repeat(0), &meter), &mut io::sink()).unwrap_err();
        let error = meter.explain("zeros", &error);
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::UnpackedBytes(1000) }), "{error:?}");
    }

    #[test]
    fn a_header_is_bounded_and_contents_are_not() {
        let (budget, stop) = (Budget::new(u64::MAX, 1), CancellationToken::new());
        let meter = Meter::new(&budget, &stop);
        let mut zeros = Metered::new(io::repeat(0).take(8 << 20), &meter);
        meter.expect_contents();
        io::copy(&mut (&mut zeros).take(4 << 20), &mut io::sink()).unwrap();
        meter.expect_header();
        let error = io::copy(&mut zeros, &mut io::sink()).unwrap_err();
        let error = meter.explain("zeros", &error);
        assert!(matches!(error, ImageError::TooLarge { limit: Limit::HeaderBytes(_) }), "{error:?}");
    }

    #[test]
    fn a_cancelled_reader_stops() {
        let (budget, stop) = (Budget::new(1000, 1), CancellationToken::new());
        let meter = Meter::new(&budget, &stop);
        stop.cancel();
        assert!(Metered::new(&b"abc"[..], &meter).read(&mut [0; 3]).is_err());
    }

    #[test]
    fn a_budget_is_spent_once() {
        let mut budget = Budget::new(10, 1);
        assert!(budget.take_bytes(8).is_ok() && budget.take_bytes(3).is_err() && budget.take_bytes(2).is_ok());
        assert!(budget.take_entry().is_ok() && budget.take_entry().is_err());
    }
}
