//! Lines in and out.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::read;

use super::json;

/// Longest line, in bytes: far above any message.
const MAX_LINE: usize = 8 << 20;

/// The fields of a line.
pub struct Line(BTreeMap<String, String>);

impl Line {
    /// A field.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str)
    }
}

/// stdin and stdout.
pub struct Stdio {
    buffer: Vec<u8>,
    is_over: bool,
}

impl Stdio {
    /// Nothing has been read yet.
    pub fn new() -> Self {
        Self { buffer: Vec::new(), is_over: false }
    }

    /// stdin has ended.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// The next line that can be understood; `None` at the end of stdin, or when the time is over.
    pub fn next(&mut self, wait: Option<Duration>) -> io::Result<Option<Line>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                match std::str::from_utf8(&line).ok().and_then(json::parse) {
                    Some(fields) => return Ok(Some(Line(fields))),
                    // Half a line of a daemon that was killed while it wrote it; the next one says it again.
                    None => continue,
                }
            }
            if !self.fill(wait)? {
                return Ok(None);
            }
        }
    }

    /// Reads and forgets.
    pub fn ignore(&mut self) -> io::Result<()> {
        if !self.fill(None)? {
            // At the end of stdin there is nothing to wait for but the end.
            std::thread::park();
        }
        self.buffer.clear();
        Ok(())
    }

    /// Reads more; `false` at the end of stdin, or when the time is over.
    fn fill(&mut self, wait: Option<Duration>) -> io::Result<bool> {
        let stdin = io::stdin();
        // Rounded up, so that it does not spin at the end of the time.
        let milliseconds = wait.map(|wait| i32::try_from(wait.as_micros().div_ceil(1000)).unwrap_or(i32::MAX));
        let wait = milliseconds.and_then(|wait| PollTimeout::try_from(wait).ok()).unwrap_or(PollTimeout::NONE);
        if poll(&mut [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)], wait)? == 0 {
            return Ok(false);
        }
        let mut chunk = vec![0; 64 << 10];
        let count = read(stdin.as_fd(), &mut chunk)?;
        self.is_over = count == 0;
        self.buffer.extend_from_slice(&chunk[..count]);
        if self.buffer.len() > MAX_LINE {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(count > 0)
    }

    /// Writes a line.
    pub fn say(&mut self, fields: &[(&str, &str)]) -> io::Result<()> {
        self.write(format!("{}\n", json::object(fields)).as_bytes())
    }

    /// Writes whole lines.
    pub fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(lines)?;
        stdout.flush()
    }
}
