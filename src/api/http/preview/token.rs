//! The tokens of previews: each is made of the node's key, the sandbox and the port, so that none has to be kept. It is
//! good for as long as its sandbox is there, whose name nobody gets again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use ring::hmac::{self, HMAC_SHA256, Key};
use subtle::ConstantTimeEq;

use crate::ids::SandboxId;

/// Bytes of the key.
const KEY: usize = 32;

/// Bytes of a token: nobody guesses 128 bits.
const TOKEN: usize = 16;

/// The key's file in the state directory.
const FILE: &str = "preview.key";

/// Makes and checks tokens.
pub struct Tokens(Key);

impl Tokens {
    /// Those of a node: with the key of its state directory, which is made if there is none.
    ///
    /// # Errors
    /// Those of the file system; `InvalidData` for a file that is no key.
    pub fn open(state: &Path) -> io::Result<Self> {
        let path = state.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => make_key(state, &path)?,
            read => read?,
        };
        if bytes.len() != KEY {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{FILE} is no key")));
        }
        Ok(Self(Key::new(HMAC_SHA256, &bytes)))
    }

    /// The token of a port of a sandbox.
    #[must_use]
    pub fn token(&self, sandbox: &SandboxId, port: u16) -> String {
        let tag = hmac::sign(&self.0, format!("preview {sandbox} {port}").as_bytes());
        tag.as_ref()[..TOKEN].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Whether a token is that of a port. Takes as long for every wrong one.
    #[must_use]
    pub fn is_valid(&self, sandbox: &SandboxId, port: u16, token: &str) -> bool {
        self.token(sandbox, port).as_bytes().ct_eq(token.as_bytes()).into()
    }
}

/// Writes a new key. It takes its name when it is whole.
fn make_key(state: &Path, path: &Path) -> io::Result<Vec<u8>> {
    let mut key = vec![0; KEY];
    getrandom::fill(&mut key).map_err(io::Error::other)?;
    let unfinished = state.join(format!("{FILE}.new"));
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
    file.write_all(&key)?;
    file.sync_all()?;
    fs::rename(&unfinished, path)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_for_one_port_of_one_sandbox_and_is_the_same_after_a_restart() {
        let directory = tempfile::tempdir().unwrap();
        let tokens = Tokens::open(directory.path()).unwrap();
        let (one, other) = (SandboxId::random(), SandboxId::random());
        let token = tokens.token(&one, 3000);
        assert!(tokens.is_valid(&one, 3000, &token));
        assert!(Tokens::open(directory.path()).unwrap().is_valid(&one, 3000, &token));
        assert!(!tokens.is_valid(&one, 3001, &token) && !tokens.is_valid(&other, 3000, &token));
        assert!(!tokens.is_valid(&one, 3000, "") && !tokens.is_valid(&one, 3000, &token[1..]));
        let elsewhere = tempfile::tempdir().unwrap();
        assert!(!Tokens::open(elsewhere.path()).unwrap().is_valid(&one, 3000, &token));
    }

    #[test]
    fn a_file_that_is_no_key_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join(FILE), "short").unwrap();
        assert!(Tokens::open(directory.path()).is_err());
    }
}
