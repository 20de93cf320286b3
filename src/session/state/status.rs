//! Where a session stands. Pure.

use serde::{Deserialize, Serialize};

/// Where a session stands, for its callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// A message waits for the brain to come up.
    Queued,
    /// A turn is under way.
    Running,
    /// The brain has asked something.
    AwaitingInput,
    /// Nothing is to be done.
    Idle,
    /// The brain could not be kept alive. The next message tries again.
    Failed,
    /// It can only be read.
    Archived,
}

impl Status {
    /// All.
    pub const ALL: [Self; 6] =
        [Self::Queued, Self::Running, Self::AwaitingInput, Self::Idle, Self::Failed, Self::Archived];

    /// Its name on every wire, and in the store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::AwaitingInput => "awaiting_input",
            Self::Idle => "idle",
            Self::Failed => "failed",
            Self::Archived => "archived",
        }
    }

    /// The status of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_one_name_everywhere() {
        for status in Status::ALL {
            assert_eq!(serde_json::json!(status), status.name());
            assert_eq!(Status::named(status.name()), Some(status));
        }
    }
}
