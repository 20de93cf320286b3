//! Bearer tokens: 256 random bits, of which only the hash is kept.
//!
//! A token is too long to guess, so a plain SHA-256 of it is as good as a slow hash, and costs a call nothing.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a token begins with, so that scanners of leaked secrets find it.
const PREFIX: &str = "hands_";

/// The SHA-256 of a token. Two are compared in the same time whether or not they are alike.
#[derive(Clone, Copy)]
pub struct TokenHash([u8; 32]);

/// The text is no hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected the SHA-256 of a token, in 64 hexadecimal digits")]
pub struct TokenHashError;

impl TokenHash {
    /// The hash of a token.
    #[must_use]
    pub fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for TokenHash {}

impl FromStr for TokenHash {
    type Err = TokenHashError;

    fn from_str(text: &str) -> Result<Self, TokenHashError> {
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let pairs: &[[u8; 2]; 32] = pairs.try_into().map_err(|_| TokenHashError)?;
        let digit = |digit: u8| char::from(digit).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut bytes = [0; 32];
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = digit(*high).ok_or(TokenHashError)? << 4 | digit(*low).ok_or(TokenHashError)?;
        }
        if rest.is_empty() { Ok(Self(bytes)) } else { Err(TokenHashError) }
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// A new token.
///
/// # Errors
/// The system has no random bytes.
pub fn generate() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(format!("{PREFIX}{}", BASE64.encode(bytes)))
}

/// The token of an `authorization` header, if it holds one.
#[must_use]
pub fn bearer(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_read_as_it_is_shown_and_as_sha256sum_prints_it() {
        let hash = TokenHash::of("hello");
        assert_eq!(hash.to_string(), "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        for text in ["", "2cf2", &"g".repeat(64), &"0".repeat(65), &"0".repeat(66), &"é".repeat(32)] {
            assert_eq!(text.parse::<TokenHash>(), Err(TokenHashError), "{text}");
        }
    }

    #[test]
    fn no_two_tokens_are_the_same() {
        let (one, other) = (generate().unwrap(), generate().unwrap());
        assert_ne!(one, other);
        assert_eq!(one.len(), PREFIX.len() + 43);
        assert!(TokenHash::of(&one) != TokenHash::of(&other));
    }

    #[test]
    fn only_a_bearer_header_holds_a_token() {
        assert_eq!(bearer("Bearer abc"), Some("abc"));
        assert_eq!(bearer("bearer  abc "), Some("abc"));
        for header in ["", "Bearer", "Basic abc", "abc"] {
            assert_eq!(bearer(header), None, "{header}");
        }
    }
}
