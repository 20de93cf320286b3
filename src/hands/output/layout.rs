//! The arithmetic of a spool: what is kept, what is punched, what comes next at a cursor, which stream a byte is of.
//! Pure.

use std::fmt;

/// Holes begin and end at multiples of this, so that punching one frees all of it and zeroes nothing beside it. The size
/// of a page and of a block of the usual file systems.
const BLOCK: u64 = 4 << 10;
/// Smallest cap that leaves room for a step of two blocks.
const MIN_CAP: u64 = 64 << 10;
/// Largest cap; offsets that follow from it fit the kernel's signed ones.
const MAX_CAP: u64 = 1 << 60;
/// Largest step by which the hole grows.
const MAX_STEP: u64 = 1 << 20;
/// Bytes of a word of the index.
pub const WORD: u64 = 8;
/// Words before the first record of the index.
pub const HEADER_WORDS: u64 = 3;

/// Where output came from. A terminal is stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stream {
    /// File descriptor 1 of the run, or its terminal.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl fmt::Display for Stream {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Stream::Stdout => "stdout",
            Stream::Stderr => "stderr",
        })
    }
}

/// A switch: from `offset` on, the output is of `stream`, up to the next record. Before the first record it is stdout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// Cursor of the first byte.
    pub offset: u64,
    /// What it is of.
    pub stream: Stream,
}

impl Record {
    /// As it stands in the index: `offset << 1 | stream`, stderr being 1.
    pub fn word(self) -> u64 {
        self.offset << 1 | u64::from(self.stream == Stream::Stderr)
    }

    /// The record of a word.
    pub fn of_word(word: u64) -> Record {
        Record { offset: word >> 1, stream: if word & 1 == 1 { Stream::Stderr } else { Stream::Stdout } }
    }
}

/// How a spool of a given cap is laid out. All numbers are bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Layout {
    cap: u64,
    head_end: u64,
    step: u64,
}

impl Layout {
    /// Of a spool of this cap; one below 64 KiB counts as that.
    pub fn new(cap: u64) -> Layout {
        let cap = cap.clamp(MIN_CAP, MAX_CAP);
        Layout { cap, head_end: align_down(cap / 4), step: align_down(cap / 8).min(MAX_STEP) }
    }

    /// The cap that counts.
    pub fn cap(&self) -> u64 {
        self.cap
    }

    /// A spool that has nothing in it.
    pub fn empty(&self) -> Extent {
        Extent { len: 0, stored: 0, head_end: self.head_end, tail_start: self.head_end, records: 0, ended: false }
    }

    /// Whether a switch to stderr may still be recorded. A slot is left for the switch back, so that a full index ends
    /// with stdout, which is what everything after it counts as.
    pub fn may_record_stderr(&self, records: u64) -> bool {
        (HEADER_WORDS + records + 2) * WORD <= self.cap / 4
    }

    /// Bytes kept behind the head, beside an index of so many records and the next one, which is written before the hole can
    /// grow for it.
    fn tail(&self, records: u64) -> u64 {
        (self.cap - self.head_end).saturating_sub((HEADER_WORDS + records + 1) * WORD)
    }

    /// Bytes that may be added before the hole has to grow.
    pub fn room(&self, extent: &Extent) -> u64 {
        (extent.tail_start + self.tail(extent.records) + self.step).saturating_sub(extent.stored)
    }

    /// Where the tail starts once the hole has grown as far as the cap asks. Never falls as either number grows, so that
    /// after a restart it is at or beyond the end of the hole that is there.
    pub fn tail_start(&self, stored: u64, records: u64) -> u64 {
        align_down(stored.saturating_sub(self.tail(records))).max(self.head_end)
    }
}

fn align_down(offset: u64) -> u64 {
    offset - offset % BLOCK
}

/// How far a spool has come. All numbers but `records` are cursors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// End of the output.
    pub len: u64,
    /// End of what was stored; below `len` once a write has failed.
    pub stored: u64,
    /// End of the head.
    pub head_end: u64,
    /// Start of the tail; what lies between head and tail is gone.
    pub tail_start: u64,
    /// Records of the index.
    pub records: u64,
    /// The output is complete.
    pub ended: bool,
}

/// What a reader at a cursor has before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// Bytes that are stored, up to here.
    Read {
        /// Cursor after the last of them.
        to: u64,
    },
    /// Bytes that are not, up to here.
    Gap {
        /// Cursor after the last of them.
        to: u64,
    },
    /// Nothing yet.
    Wait,
    /// Nothing, ever.
    End,
}

impl Extent {
    /// What a reader at `cursor` has before it.
    pub fn next(&self, cursor: u64) -> Next {
        let hole = self.head_end..self.tail_start;
        if hole.contains(&cursor) {
            Next::Gap { to: hole.end }
        } else if cursor < hole.start && !hole.is_empty() {
            Next::Read { to: hole.start }
        } else if cursor < self.stored {
            Next::Read { to: self.stored }
        } else if cursor < self.len {
            Next::Gap { to: self.len }
        } else if self.ended {
            Next::End
        } else {
            Next::Wait
        }
    }
}

/// A stretch of output of one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// What it is of.
    pub stream: Stream,
    /// Cursor after its last byte, as far as is known.
    pub to: u64,
    /// Records at or before it.
    records: u64,
}

impl Span {
    /// What a reader knows at first: nothing.
    pub const UNKNOWN: Span = Span { stream: Stream::Stdout, to: 0, records: 0 };

    /// The span of `cursor`, which is stored and not before `self`. Reads few records if it is near `self`: it strides
    /// from there ever wider until it is past the cursor, and then bisects.
    ///
    /// # Errors
    /// Those of `read`, which gives the record of a number.
    pub fn find<E>(
        self,
        cursor: u64,
        extent: &Extent,
        mut read: impl FnMut(u64) -> Result<Record, E>,
    ) -> Result<Span, E> {
        if cursor < self.to {
            return Ok(self);
        }
        let mut span = Span { to: extent.stored, ..self };
        let mut beyond = extent.records;
        let mut stride = 1;
        while span.records < beyond {
            let left = beyond - span.records;
            let step = if beyond == extent.records { stride.min(left) } else { left.div_ceil(2) };
            let probe = span.records + step - 1;
            let record = read(probe)?;
            if record.offset <= cursor {
                span.records = probe + 1;
                span.stream = record.stream;
                stride *= 2;
            } else {
                beyond = probe;
                span.to = record.offset;
            }
        }
        Ok(span)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use proptest::prelude::*;

    use super::*;

    const KIB: u64 = 1 << 10;

    /// A spool whose data is what each byte is of, or `None` where it was punched out.
    struct Model {
        layout: Layout,
        extent: Extent,
        records: Vec<Record>,
        data: Vec<Option<Stream>>,
        written: Vec<Stream>,
    }

    impl Model {
        fn new(cap: u64) -> Model {
            let layout = Layout::new(cap);
            Model { layout, extent: layout.empty(), records: vec![], data: vec![], written: vec![] }
        }

        fn write(&mut self, stream: Stream, count: u64) {
            let mut left = count;
            while left > 0 {
                if self.layout.room(&self.extent) == 0 {
                    let from = self.extent.tail_start;
                    self.extent.tail_start = self.layout.tail_start(self.extent.stored, self.extent.records);
                    assert!(self.extent.tail_start > from, "the hole grows");
                    self.data[index(from)..index(self.extent.tail_start)].fill(None);
                }
                let count = left.min(self.layout.room(&self.extent));
                assert!(count > 0, "there is room behind a hole that has grown");
                let last = self.records.last().map_or(Stream::Stdout, |record| record.stream);
                let full = stream == Stream::Stderr && !self.layout.may_record_stderr(self.extent.records);
                if stream != last && !full {
                    self.records.push(Record { offset: self.extent.stored, stream });
                    self.extent.records += 1;
                }
                let counts_as = if full { Stream::Stdout } else { stream };
                self.data.extend((0..count).map(|_| Some(counts_as)));
                self.written.extend((0..count).map(|_| counts_as));
                self.extent.stored += count;
                self.extent.len = self.extent.stored;
                left -= count;
            }
        }

        fn disk(&self) -> u64 {
            let kept = self.data.iter().filter(|byte| byte.is_some()).count() as u64;
            kept + (HEADER_WORDS + self.records.len() as u64) * WORD
        }

        /// Reads on from a cursor to the end, and holds each byte against what was written.
        fn check_from(&self, mut cursor: u64) {
            let mut span = Span::UNKNOWN;
            loop {
                match self.extent.next(cursor) {
                    Next::Read { to } => {
                        span = span.find(cursor, &self.extent, |number| self.record(number)).unwrap();
                        let to = to.min(span.to);
                        assert!(to > cursor, "a read moves on");
                        let stretch = index(cursor)..index(to);
                        assert!(self.data[stretch.clone()].iter().all(|byte| *byte == Some(span.stream)));
                        assert!(self.written[stretch].iter().all(|stream| *stream == span.stream));
                        cursor = to;
                    }
                    Next::Gap { to } => {
                        assert!(self.data[index(cursor)..index(to)].iter().all(Option::is_none));
                        cursor = to;
                    }
                    Next::Wait | Next::End => return assert_eq!(cursor, self.written.len() as u64),
                }
            }
        }

        fn record(&self, number: u64) -> Result<Record, Infallible> {
            Ok(self.records[index(number)])
        }
    }

    fn index(offset: u64) -> usize {
        usize::try_from(offset).unwrap()
    }

    fn writes() -> impl Strategy<Value = Vec<(Stream, u64)>> {
        let stream = prop_oneof![Just(Stream::Stdout), Just(Stream::Stderr)];
        let count = prop_oneof![1..4_u64, 1..2000_u64, 1..40 * KIB];
        prop::collection::vec((stream, count), 0..60)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(50))]

        #[test]
        fn a_reader_at_any_cursor_gets_what_was_written_and_is_kept(
            cap in 64 * KIB..300 * KIB,
            writes in writes(),
            from in 0.0..1.0_f64,
        ) {
            let mut model = Model::new(cap);
            for (stream, count) in writes {
                model.write(stream, count);
                prop_assert!(model.disk() <= model.layout.cap + model.layout.step);
            }
            let len = model.extent.len;
            if len <= cap - (HEADER_WORDS + model.extent.records) * WORD {
                prop_assert_eq!(model.extent.tail_start, model.extent.head_end, "what fits is whole");
            }
            model.check_from(0);
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place within the output")]
            model.check_from((len as f64 * from) as u64);
        }

        #[test]
        fn after_a_restart_the_tail_starts_at_the_hole_or_behind_it(cap in 64 * KIB..300 * KIB, writes in writes()) {
            let mut model = Model::new(cap);
            for (stream, count) in writes {
                model.write(stream, count);
                let again = model.layout.tail_start(model.extent.stored, model.extent.records);
                prop_assert!(again >= model.extent.tail_start && again <= model.extent.stored.max(model.extent.head_end));
            }
        }

        #[test]
        fn the_span_of_a_cursor_is_found_from_anywhere_before_it(
            lengths in prop::collection::vec(1..9_u64, 1..300),
            cursors in prop::collection::btree_set(0..2000_u64, 1..20),
        ) {
            let mut model = Model::new(MAX_CAP);
            for (number, length) in lengths.into_iter().enumerate() {
                model.write(if number % 2 == 0 { Stream::Stderr } else { Stream::Stdout }, length);
            }
            let mut span = Span::UNKNOWN;
            for cursor in cursors.into_iter().filter(|cursor| *cursor < model.extent.stored) {
                let mut reads = 0;
                span = span.find(cursor, &model.extent, |number| { reads += 1; model.record(number) }).unwrap();
                prop_assert_eq!(span.stream, model.written[index(cursor)]);
                let end = model.written[index(cursor)..].iter().position(|stream| *stream != span.stream);
                prop_assert_eq!(span.to, end.map_or(model.extent.stored, |length| cursor + length as u64));
                prop_assert!(reads <= 20, "{} reads of {} records", reads, model.extent.records);
            }
        }

        #[test]
        fn a_record_reads_back(offset in 0..MAX_CAP, stderr: bool) {
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            prop_assert_eq!(Record::of_word(Record { offset, stream }.word()), Record { offset, stream });
        }
    }

    #[test]
    fn streams_that_alternate_byte_by_byte_come_as_stdout_once_the_index_is_full() {
        let mut model = Model::new(64 * KIB);
        for number in 0..10_000 {
            model.write(if number % 2 == 0 { Stream::Stdout } else { Stream::Stderr }, 1);
        }
        assert!((HEADER_WORDS + model.extent.records) * WORD <= 16 * KIB);
        assert_eq!(model.written[..2], [Stream::Stdout, Stream::Stderr]);
        assert_eq!(model.written[9_998..], [Stream::Stdout, Stream::Stdout]);
        model.check_from(0);
    }

    #[test]
    fn the_span_after_the_last_one_is_found_in_few_reads() {
        let mut model = Model::new(MAX_CAP);
        for number in 0..1000 {
            model.write(if number % 2 == 0 { Stream::Stderr } else { Stream::Stdout }, 10);
        }
        let mut span = Span::UNKNOWN;
        for cursor in (0..5000).step_by(10) {
            let mut reads = 0;
            let read = |number| {
                reads += 1;
                model.record(number)
            };
            span = span.find(cursor, &model.extent, read).unwrap();
            assert!(reads <= 3, "{reads} at {cursor}");
        }
    }

    #[test]
    fn what_was_dropped_is_a_gap_at_the_end() {
        let extent = Extent { len: 20, stored: 10, ended: true, ..Layout::new(MAX_CAP).empty() };
        assert_eq!(extent.next(9), Next::Read { to: 10 });
        assert_eq!(extent.next(10), Next::Gap { to: 20 });
        assert_eq!(extent.next(20), Next::End);
        assert_eq!(Extent { ended: false, ..extent }.next(20), Next::Wait);
    }
}
