//! The caller's terminal: its size, and raw mode for as long as a run holds it.

use std::io::IsTerminal as _;
use std::sync::{Mutex, PoisonError};

use anyhow::Context as _;
use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

/// The modes before raw mode. In a static, because a signal may end the process from another task than the one that
/// holds the guard.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Raw mode of the terminal on stdin, until this is dropped.
pub struct RawMode(());

impl RawMode {
    /// Enters it: keys come one by one, and Ctrl-C is a byte like any other. `None` if stdin is no terminal.
    pub fn enter() -> anyhow::Result<Option<Self>> {
        let stdin = std::io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin).context("cannot read the modes of the terminal")?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        *BEFORE.lock().unwrap_or_else(PoisonError::into_inner) = Some(before);
        let guard = Self(());
        tcsetattr(&stdin, SetArg::TCSADRAIN, &raw).context("cannot set the modes of the terminal")?;
        Ok(Some(guard))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Whether the terminal is in raw mode.
pub fn is_raw() -> bool {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner).is_some()
}

/// Leaves raw mode, if it is on.
fn restore() {
    if let Some(before) = BEFORE.lock().unwrap_or_else(PoisonError::into_inner).take() {
        // If the terminal has gone, there is nothing to restore.
        let _gone = tcsetattr(std::io::stdin(), SetArg::TCSADRAIN, &before);
    }
}

/// Ends the process at once, with the terminal as it was found. For signals, which do not wait for a blocked stdout.
pub fn leave(code: i32) -> ! {
    restore();
    std::process::exit(code)
}

/// Rows and columns of the terminal, whichever of stdin, stdout and stderr is one.
pub fn size() -> Option<(u32, u32)> {
    let size = terminal_size::terminal_size_of(std::io::stdin())
        .or_else(|| terminal_size::terminal_size_of(std::io::stdout()))
        .or_else(|| terminal_size::terminal_size_of(std::io::stderr()));
    size.map(|(width, height)| (u32::from(height.0), u32::from(width.0))).filter(|(rows, cols)| *rows > 0 && *cols > 0)
}
