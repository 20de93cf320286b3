//! What is printed: when, in which step, and what was seen.

use std::fmt;
use std::io::{self, Write};
use std::time::Instant;

use handsd::telemetry::Colour;

/// A part of the tour.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The daemon starts.
    Start,
    /// A sandbox is made.
    Create,
    /// A command runs.
    Bash,
    /// A file is written.
    Write,
    /// It is read.
    Read,
    /// A directory is listed.
    Ls,
    /// A client hangs up.
    Drop,
    /// A run is ended at its deadline.
    Deadline,
    /// The client comes back.
    Attach,
    /// An agent works.
    Session,
    /// The sandbox is removed.
    Destroy,
    /// The daemon ends.
    Stop,
}

/// Prints lines with their times. They begin when it is made.
pub struct Timeline {
    out: Box<dyn Write + Send>,
    colour: Colour,
    began: Instant,
}

impl Timeline {
    /// One that prints to `out`.
    pub fn new(out: impl Write + Send + 'static, colour: Colour) -> Self {
        Self { out: Box::new(out), colour, began: Instant::now() }
    }

    /// Says what the step does, or what came of it.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn say(&mut self, step: Step, text: &str) -> io::Result<()> {
        self.line(step, "", text)
    }

    /// Shows a line that a command wrote.
    ///
    /// # Errors
    /// Nobody reads it any more.
    pub fn show(&mut self, step: Step, stream: &str, line: &str) -> io::Result<()> {
        self.line(step, &format!("{stream} | "), line)
    }

    fn line(&mut self, step: Step, source: &str, text: &str) -> io::Result<()> {
        let (bold, dim, plain) = match self.colour {
            Colour::On => ("\x1b[1m", "\x1b[2m", "\x1b[0m"),
            Colour::Off => ("", "", ""),
        };
        let at = self.began.elapsed().as_millis();
        // It comes from a sandbox, and a terminal gets no control characters from there.
        let text = text.replace(char::is_control, "\u{fffd}");
        let step = step.to_string();
        writeln!(self.out, "{dim}{at:>6} ms{plain}  {bold}{step:<8}{plain}  {dim}{source}{plain}{text}")
    }
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Start => "start",
            Self::Create => "create",
            Self::Bash => "bash",
            Self::Write => "write",
            Self::Read => "read",
            Self::Ls => "ls",
            Self::Drop => "drop",
            Self::Deadline => "deadline",
            Self::Attach => "attach",
            Self::Session => "session",
            Self::Destroy => "destroy",
            Self::Stop => "stop",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn shown(colour: Colour, line: &str) -> String {
        let memory = Memory::default();
        Timeline::new(memory.clone(), colour).show(Step::Ls, "stdout", line).unwrap();
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_line_has_its_time_its_step_and_where_it_comes_from() {
        let line = shown(Colour::Off, "src");
        assert!(line.trim_start().starts_with(|first: char| first.is_ascii_digit()), "{line:?}");
        assert!(line.ends_with(" ms  ls        stdout | src\n"), "{line:?}");
    }

    #[test]
    fn what_a_command_writes_cannot_move_the_cursor() {
        assert!(shown(Colour::Off, "a\x1b[2Jb\r").ends_with("a\u{fffd}[2Jb\u{fffd}\n"));
        assert!(shown(Colour::On, "x").contains('\x1b'));
    }
}
