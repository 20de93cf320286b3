//! What the guest is started with.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;

/// The place of the socket: the guest makes it there instead of finding its descriptor.
pub const LISTEN: &str = "--listen";
/// Instead of a socket: stdin and stdout are the one stream to the daemon.
pub const STDIO: &str = "--stdio";
/// A directory that is to be there, owned by the user that `USER` names.
pub const WORKSPACE: &str = "--workspace";
/// Who owns the workspace: name, uid, name:group or uid:gid.
pub const USER: &str = "--user";
/// Runs cannot call clone3, which the guest itself may.
pub const DENY_CLONE3: &str = "--deny-clone3";

/// What the guest is started with. Without arguments it is what an engine leaves that has made everything itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// See [`LISTEN`].
    pub listen: Option<PathBuf>,
    /// See [`STDIO`].
    pub stdio: bool,
    /// See [`WORKSPACE`].
    pub workspace: Option<PathBuf>,
    /// See [`USER`].
    pub user: String,
    /// See [`DENY_CLONE3`].
    pub deny_clone3: bool,
}

impl Options {
    /// Reads the arguments that follow the program's name.
    ///
    /// # Errors
    /// `InvalidInput` for what is no argument of ours: the one who starts us is of another version.
    pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> io::Result<Self> {
        let mut options = Self::default();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(io::ErrorKind::InvalidInput);
            match argument.to_str() {
                Some(LISTEN) => options.listen = Some(value()?.into()),
                Some(STDIO) => options.stdio = true,
                Some(WORKSPACE) => options.workspace = Some(value()?.into()),
                Some(USER) => options.user = value()?.into_string().map_err(|_| io::ErrorKind::InvalidInput)?,
                Some(DENY_CLONE3) => options.deny_clone3 = true,
                _ => return Err(io::ErrorKind::InvalidInput.into()),
            }
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> io::Result<Options> {
        Options::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn nothing_is_the_default() {
        assert_eq!(parse(&[]).unwrap(), Options::default());
    }

    #[test]
    fn every_argument_is_read() {
        let options = parse(&[LISTEN, "/io/s", STDIO, WORKSPACE, "/w", USER, "ada", DENY_CLONE3]).unwrap();
        let expected = Options {
            listen: Some("/io/s".into()),
            stdio: true,
            workspace: Some("/w".into()),
            user: "ada".to_owned(),
            deny_clone3: true,
        };
        assert_eq!(options, expected);
    }

    #[test]
    fn an_unknown_argument_and_a_missing_value_are_refused() {
        assert!(parse(&["--other"]).is_err());
        assert!(parse(&[LISTEN]).is_err());
    }
}
