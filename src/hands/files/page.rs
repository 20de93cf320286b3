//! Page tokens: where a listing goes on, as text that means nothing to a client.

use sha2::{Digest, Sha256};

use super::{FileError, hex};

/// Bytes of the checksum that ties a token to the path that it continues.
const CHECK: usize = 8;

/// Longest cursor: 64 levels of names of 255 bytes.
const MAX_CURSOR: usize = 64 * 256;

/// The token for what comes after an entry of the listing of `path`.
pub fn token(path: &str, after: &[u8]) -> String {
    hex::encode(&[&check(path, after)[..], after].concat())
}

/// The entry after which a token goes on; the empty token begins.
///
/// # Errors
/// [`FileError::PageTokenInvalid`] if it was not made for this path.
pub fn cursor(path: &str, token: &str) -> Result<Vec<u8>, FileError> {
    if token.is_empty() {
        return Ok(Vec::new());
    }
    let decoded = if token.len() <= 2 * (CHECK + MAX_CURSOR) { hex::decode(token) } else { None };
    let parts = decoded.as_deref().and_then(|bytes| bytes.split_first_chunk::<CHECK>());
    match parts {
        Some((sum, after)) if *sum == check(path, after) && is_cursor(after) => Ok(after.to_vec()),
        _ => Err(FileError::PageTokenInvalid { path: path.to_owned() }),
    }
}

/// Anybody can make the checksum: so a token must not be able to say what the guest would not.
fn is_cursor(after: &[u8]) -> bool {
    after.split(|byte| *byte == b'/').all(|name| !matches!(name, b"" | b"." | b"..") && !name.contains(&0))
}

fn check(path: &str, after: &[u8]) -> [u8; CHECK] {
    let sum = Sha256::new().chain_update(path).chain_update([0]).chain_update(after).finalize();
    *sum.first_chunk().expect("a SHA-256 has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_reads_back_for_its_own_path_only() {
        let token = token("/d", b"a/b\xff");
        assert_eq!(cursor("/d", &token).unwrap(), b"a/b\xff");
        assert_eq!(cursor("/d", "").unwrap(), b"");
        assert!(cursor("/e", &token).is_err());
        assert!(cursor("/d", &token[2..]).is_err());
    }

    #[test]
    fn no_token_leads_out_of_its_path() {
        for after in [&b".."[..], b"a/../..", b"/etc", b"", b"a\0"] {
            assert!(matches!(cursor("/d", &token("/d", after)), Err(FileError::PageTokenInvalid { .. })));
        }
        for text in ["x", "zz", "é", &"00".repeat(1 << 20)] {
            assert!(cursor("/d", text).is_err());
        }
    }
}
