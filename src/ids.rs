//! Names that the node makes: a prefix that says of what, and 20 random letters and digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Lower-case letters and digits; 20 of them hold 103 bits, so that two nodes never make the same id.
const ALPHABET: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
const LENGTH: usize = 20;

/// The text is no id of this kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected \"{prefix}\" and 20 lower-case letters and digits")]
pub struct IdError {
    /// What the id begins with.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// A new one.
            #[must_use]
            pub fn random() -> Self {
                Self(random_text($prefix))
            }

            /// The text, which holds letters, digits and one underscore only.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if is_id($prefix, text) { Ok(Self(text.to_owned())) } else { Err(IdError { prefix: $prefix }) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }
    };
}

id!(
    /// Names a sandbox.
    SandboxId,
    "sb_"
);
id!(
    /// Names a run.
    RunId,
    "run_"
);
id!(
    /// Names a request in the logs, if its caller has no name for it.
    RequestId,
    "req_"
);

fn random_text(prefix: &str) -> String {
    let mut text = String::with_capacity(prefix.len() + LENGTH);
    text.push_str(prefix);
    let mut bytes = [0_u8; 32];
    while text.len() < prefix.len() + LENGTH {
        getrandom::fill(&mut bytes).expect("the kernel gives random bytes once it has booted");
        // 252 is the largest multiple of 36 in a byte: above it, some letters would come up more often.
        let letters = bytes.iter().filter(|byte| **byte < 252).map(|byte| char::from(ALPHABET[usize::from(byte % 36)]));
        text.extend(letters.take(prefix.len() + LENGTH - text.len()));
    }
    text
}

fn is_id(prefix: &str, text: &str) -> bool {
    text.strip_prefix(prefix)
        .is_some_and(|rest| rest.len() == LENGTH && rest.bytes().all(|byte| ALPHABET.contains(&byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_id_reads_back_and_is_new_each_time() {
        let id = RunId::random();
        assert_eq!(id.as_str().parse(), Ok(id.clone()));
        assert_ne!(id, RunId::random());
    }

    #[test]
    fn another_kind_or_anything_that_could_be_a_path_is_refused() {
        let id = RunId::random();
        assert!(id.as_str().parse::<SandboxId>().is_err());
        for text in ["", "sb_", "sb_../../../../../../..", "sb_0123456789abcdefghiJ", "sb_0123456789abcdefghijk"] {
            assert!(text.parse::<SandboxId>().is_err(), "{text}");
        }
    }
}
