//! The sections `brain` and `model`: the programs that think, and who serves their models.

use std::path::PathBuf;
use std::time::Duration;

use super::print;
use super::section::{Section, text};
use super::value::{directory, duration};
use super::{Config, defaults};
use crate::gateway::Provider;
use crate::runtime::Kind;

/// A runtime's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrainConfig {
    /// Which runtime.
    pub kind: Kind,
    /// The program; absolute and UTF-8. `None`: the node does not have the runtime.
    pub program: Option<PathBuf>,
    /// Its versions that sessions may have.
    pub versions: Vec<String>,
}

/// The models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelConfig {
    /// How long a provider may take to begin an answer.
    pub first_byte_timeout: Duration,
    /// How long it may say nothing in the middle of one.
    pub idle_timeout: Duration,
    /// Who serves models that speak as Anthropic's do.
    pub anthropic: ProviderConfig,
    /// And who those that speak as OpenAI's do.
    pub openai: ProviderConfig,
}

/// Who serves models.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderConfig {
    /// What comes before the path of a request; without a slash at its end.
    pub base_url: String,
}

/// Where npm puts a runtime's own program, below the directory in which it was told to install it.
fn below_npm(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Claude if cfg!(target_arch = "aarch64") => {
            Some("node_modules/@anthropic-ai/claude-code-linux-arm64/claude")
        }
        Kind::Claude => Some("node_modules/@anthropic-ai/claude-code-linux-x64/claude"),
        Kind::Codex if cfg!(target_arch = "aarch64") => {
            Some("node_modules/@openai/codex-linux-arm64/vendor/aarch64-unknown-linux-musl/bin/codex")
        }
        Kind::Codex => Some("node_modules/@openai/codex-linux-x64/vendor/x86_64-unknown-linux-musl/bin/codex"),
        Kind::Script => None,
    }
}

pub(super) fn brains(brain: &mut Section<'_, '_>) -> Vec<BrainConfig> {
    let npm = brain.take("npm", text(directory));
    let mut read = |key, kind| {
        brain.section(key, |section| {
            let installed = || Some(npm.as_ref()?.join(below_npm(kind)?));
            BrainConfig {
                kind,
                program: section.take("program", text(directory)).or_else(installed),
                versions: section
                    .take_list("versions", text(version))
                    .unwrap_or_else(|| vec![defaults::tested(kind).to_owned()]),
            }
        })
    };
    vec![read("claude", Kind::Claude), read("codex", Kind::Codex)]
}

pub(super) fn model(model: &mut Section<'_, '_>) -> ModelConfig {
    let first_byte_timeout = model.take("first_byte_timeout", duration(defaults::MODEL_TIMEOUT_BOUNDS));
    let idle_timeout = model.take("idle_timeout", duration(defaults::MODEL_TIMEOUT_BOUNDS));
    let mut provider = |key, default: &str| {
        model.section(key, |section| ProviderConfig {
            base_url: section.take("base_url", text(base_url)).unwrap_or_else(|| default.to_owned()),
        })
    };
    ModelConfig {
        anthropic: provider(Provider::Anthropic.name(), defaults::ANTHROPIC_URL),
        openai: provider(Provider::OpenAi.name(), defaults::OPENAI_URL),
        first_byte_timeout: first_byte_timeout.unwrap_or(defaults::MODEL_FIRST_BYTE),
        idle_timeout: idle_timeout.unwrap_or(defaults::MODEL_IDLE),
    }
}

fn version(text: &str) -> Result<String, String> {
    let is_version =
        text.starts_with(|letter: char| letter.is_ascii_digit()) && text.bytes().all(|it| it.is_ascii_graphic());
    if is_version { Ok(text.to_owned()) } else { Err("a version like \"2.1.330\"".to_owned()) }
}

/// The root of an HTTP service.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let url = reqwest::Url::parse(text).ok();
    let is_base = url.is_some_and(|url| {
        let is_plain = url.query().is_none() && url.fragment().is_none() && url.username().is_empty();
        matches!(url.scheme(), "http" | "https") && url.has_host() && url.password().is_none() && is_plain
    });
    let expected = || "a URL like \"https://models.example\"".to_owned();
    if is_base { Ok(text.trim_end_matches('/').to_owned()) } else { Err(expected()) }
}

impl Config {
    pub(super) fn brains(&self) -> String {
        let mut sections = vec![
            "\
# The programs that think. With `npm = \"/dir\"`, they are found where `npm install` put them in that directory.
[brain]
"
            .to_owned(),
        ];
        for BrainConfig { kind, program, versions } in &self.brains {
            let program =
                program.as_ref().map(|path| format!("program = {}\n", print::text(&path.display().to_string())));
            let versions: Vec<_> = versions.iter().map(|version| print::text(version)).collect();
            sections.push(format!(
                "[brain.{}]\n{}# Versions that sessions may have.\nversions = [{}]\n",
                kind.name(),
                program.unwrap_or_default(),
                versions.join(", "),
            ));
        }
        sections.join("\n")
    }

    pub(super) fn model(&self) -> String {
        let ModelConfig { first_byte_timeout, idle_timeout, anthropic, openai } = &self.model;
        let provider = |name: &str, ProviderConfig { base_url }: &ProviderConfig| {
            format!("[model.{name}]\nbase_url = {}\n", print::text(base_url))
        };
        format!(
            "\
# Who serves the models. Keys are kept by `hands credential`.
[model]
# How long a provider may take to begin an answer, and how long it may say nothing in the middle of one.
first_byte_timeout = {first}
idle_timeout = {idle}

{anthropic}
{openai}",
            first = print::duration(*first_byte_timeout),
            idle = print::duration(*idle_timeout),
            anthropic = provider(Provider::Anthropic.name(), anthropic),
            openai = provider(Provider::OpenAi.name(), openai),
        )
    }
}
