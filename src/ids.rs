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
id!(
    /// Names an agent.
    AgentId,
    "agt_"
);
id!(
    /// Names a session.
    SessionId,
    "ses_"
);
id!(
    /// Names a turn of a session.
    TurnId,
    "trn_"
);
id!(
    /// Names an event of a session.
    EventId,
    "evt_"
);
id!(
    /// Names a destination of webhooks.
    DestinationId,
    "dst_"
);
id!(
    /// Names a delivery of a webhook.
    DeliveryId,
    "dlv_"
);
id!(
    /// Names a key of a model provider.
    CredentialId,
    "cred_"
);
id!(
    /// Names a token that is good for one session.
    TokenId,
    "tok_"
);

/// Digits of the number in an id that was made of one: enough for 2.8 billion.
const NUMBER: usize = 8;

impl EventId {
    /// Of the event of a session with this `seq`, which can be read off it: so it is known before it is stored, and found
    /// without an index.
    #[must_use]
    pub fn of(session: &SessionId, seq: u64) -> Self {
        Self(numbered("evt_", session, seq))
    }

    /// The `seq` that it was made for.
    #[must_use]
    pub fn seq(&self) -> u64 {
        number(&self.0)
    }
}

impl TurnId {
    /// Of the turn of a session with this number.
    #[must_use]
    pub fn of(session: &SessionId, number: u64) -> Self {
        Self(numbered("trn_", session, number))
    }

    /// The number that it was made for.
    #[must_use]
    pub fn number(&self) -> u64 {
        number(&self.0)
    }
}

/// A number, and as much of the session's name as there is room for: 62 bits.
fn numbered(prefix: &str, session: &SessionId, number: u64) -> String {
    let mut digits = [0; NUMBER];
    let mut rest = number;
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[usize::try_from(rest % 36).expect("below 36")];
        rest /= 36;
    }
    let digits = std::str::from_utf8(&digits).expect("the alphabet is ASCII");
    let name = &session.0["ses_".len()..][..LENGTH - NUMBER];
    format!("{prefix}{digits}{name}")
}

fn number(id: &str) -> u64 {
    u64::from_str_radix(&id["evt_".len()..][..NUMBER], 36).expect("eight digits of base 36 fit")
}

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
    fn the_id_of_an_event_tells_its_seq() {
        let (session, other) = (SessionId::random(), SessionId::random());
        for seq in [1, 35, 36, 1_000_000_007, 36_u64.pow(8) - 1] {
            let id = EventId::of(&session, seq);
            assert_eq!(id.seq(), seq);
            assert_eq!(id.as_str().parse(), Ok(id.clone()));
            assert_ne!(id, EventId::of(&other, seq));
        }
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
