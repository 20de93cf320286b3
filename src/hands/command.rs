//! What is to be run, as the caller says it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Settings;
use crate::guest::wire::PtySize;

/// PATH where neither image nor caller sets one: Docker's.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// What.
    pub program: Program,
    /// Where; absolute, or relative to the workspace. Empty: the workspace.
    pub cwd: String,
    /// Over the sandbox's environment.
    pub env: BTreeMap<String, String>,
    /// Who as; `None`: the sandbox's user.
    pub user: Option<String>,
    /// How long.
    pub deadline: Deadline,
    /// What its standard descriptors are.
    pub stdio: Stdio,
    /// What happens to processes that are left when the leader has ended.
    pub background: BackgroundPolicy,
}

impl Command {
    /// Where it begins: an absolute path inside the sandbox.
    pub(super) fn directory(&self, settings: &Settings) -> String {
        if self.cwd.is_empty() {
            settings.workspace.clone()
        } else {
            Path::new(&settings.workspace).join(&self.cwd).to_string_lossy().into_owned()
        }
    }

    /// Its whole environment, as `KEY=value`.
    pub(super) fn environment(&self, settings: &Settings) -> Vec<Vec<u8>> {
        let mut env = settings.env.clone();
        if let Stdio::Terminal { term, .. } = &self.stdio {
            env.insert("TERM".to_owned(), term.clone());
        }
        env.extend(self.env.clone());
        env.entry("PATH".to_owned()).or_insert_with(|| DEFAULT_PATH.to_owned());
        env.into_iter().map(|(key, value)| format!("{key}={value}").into_bytes()).collect()
    }

    /// Who it runs as; empty: root.
    pub(super) fn user(&self, settings: &Settings) -> String {
        self.user.clone().unwrap_or_else(|| settings.user.clone())
    }
}

/// What is executed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Program {
    /// A line for the sandbox's shell.
    Shell(String),
    /// A program and its arguments; not empty.
    Argv(Vec<String>),
}

/// When a run is ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Deadline {
    /// So long after it started.
    After(Duration),
    /// Not at all.
    Never,
}

impl Deadline {
    /// How long after the start.
    #[must_use]
    pub fn after(self) -> Option<Duration> {
        match self {
            Self::After(after) => Some(after),
            Self::Never => None,
        }
    }
}

/// What the standard descriptors of a run are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdio {
    /// Pipes for stdout and stderr; stdin is at its end.
    Output,
    /// Pipes for all three.
    Pipes,
    /// A terminal.
    Terminal {
        /// Its size.
        size: PtySize,
        /// TERM.
        term: String,
    },
}

/// What happens to processes that are left when the leader has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackgroundPolicy {
    /// They go on.
    Keep,
    /// They are ended.
    Kill,
}
