//! What defaults depend on: the process that reads the configuration.

use std::fmt;
use std::path::PathBuf;

/// What defaults depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment {
    /// The daemon runs as root.
    pub is_root: bool,
    /// `$HOME`.
    pub home: Option<PathBuf>,
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `$XDG_RUNTIME_DIR`.
    pub xdg_runtime_dir: Option<PathBuf>,
    /// `$DOCKER_HOST`.
    pub docker_host: Option<String>,
    /// `$DOCKER_CONFIG`.
    pub docker_config: Option<PathBuf>,
    /// `$CREDENTIALS_DIRECTORY`: where the service manager puts what the unit's `LoadCredential` names.
    pub credentials: Option<PathBuf>,
    /// `$HANDSD_API_KEY`.
    pub api_key: Option<Secret>,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Environment {
    /// This process's.
    #[must_use]
    pub fn current() -> Self {
        // The XDG specification has relative paths ignored, and empty is as good as unset.
        let directory = |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            is_root: nix::unistd::geteuid().is_root(),
            home: directory("HOME"),
            xdg_state_home: directory("XDG_STATE_HOME"),
            xdg_runtime_dir: directory("XDG_RUNTIME_DIR"),
            docker_host: std::env::var("DOCKER_HOST").ok().filter(|host| !host.is_empty()),
            docker_config: directory("DOCKER_CONFIG"),
            credentials: directory("CREDENTIALS_DIRECTORY"),
            api_key: std::env::var("HANDSD_API_KEY").ok().filter(|key| !key.is_empty()).map(Secret::new),
        }
    }
}

impl Secret {
    /// Keeps a text from being shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text, for the one who uses it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret(..)")
    }
}
