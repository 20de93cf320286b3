//! What failed while a sandbox was made, on its way from the process that saw it to the daemon.

use std::io;

use nix::errno::Errno;

/// What failed, and why.
#[derive(Debug)]
pub struct Fault {
    /// What was being done, to what.
    pub step: String,
    /// The kernel's word.
    pub errno: Errno,
}

/// Adds the step to an error.
pub trait Step<T> {
    /// As `map_err`.
    fn step(self, step: &str) -> Result<T, Fault>;
}

impl<T, E: Into<io::Error>> Step<T> for Result<T, E> {
    fn step(self, step: &str) -> Result<T, Fault> {
        self.map_err(|error| {
            let errno = error.into().raw_os_error().map_or(Errno::EIO, Errno::from_raw);
            Fault { step: step.to_owned(), errno }
        })
    }
}
