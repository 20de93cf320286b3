//! The sections `brain` and `model`: the programs that think, and who serves their models.

use std::path::{Component, PathBuf};
use std::time::Duration;

use super::print;
use super::section::{Section, text};
use super::value::{directory, duration};
use super::{Config, defaults};
use crate::gateway::Provider;
use crate::runtime::{Kind, Launch};

/// A runtime's program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrainConfig {
    /// Which runtime.
    pub kind: Kind,
    /// The program; absolute and UTF-8. `None`: the node does not have the runtime.
    pub program: Option<PathBuf>,
    /// Its versions that sessions may have; none: any.
    pub versions: Vec<String>,
    /// Who serves its model.
    pub provider: Provider,
    /// How it is started.
    pub launch: Launch,
    /// Files and directories that it needs beside its libraries; absolute and UTF-8.
    pub files: Vec<PathBuf>,
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
        Kind::Acp | Kind::Script => None,
    }
}

pub(super) fn brains(brain: &mut Section<'_, '_>) -> Vec<BrainConfig> {
    let npm = brain.take("npm", text(directory));
    let mut read = |kind: Kind, usual| {
        brain.section(kind.name(), |section| {
            let installed = || Some(npm.as_ref()?.join(below_npm(kind)?));
            let tested = || defaults::tested(kind).map(str::to_owned).into_iter().collect();
            let is_generic = kind == Kind::Acp;
            BrainConfig {
                kind,
                program: section.take("program", text(directory)).or_else(installed),
                versions: section.take_list("versions", text(version)).unwrap_or_else(tested),
                provider: is_generic.then(|| section.take("provider", text(provider))).flatten().unwrap_or(usual),
                launch: if is_generic { launch(section) } else { Launch::default() },
                files: is_generic.then(|| section.take_list("files", text(brought))).flatten().unwrap_or_default(),
            }
        })
    };
    vec![
        read(Kind::Claude, Provider::Anthropic),
        read(Kind::Codex, Provider::OpenAi),
        read(Kind::Acp, Provider::Anthropic),
    ]
}

fn launch(section: &mut Section<'_, '_>) -> Launch {
    Launch {
        args: section.take_list("args", text(argument)).unwrap_or_default(),
        env: section.take_list("env", text(variable)).unwrap_or_default().into_iter().collect(),
    }
}

fn provider(text: &str) -> Result<Provider, String> {
    let found = Provider::ALL.into_iter().find(|provider| provider.name() == text);
    found.ok_or_else(|| Provider::ALL.map(|provider| format!("{:?}", provider.name())).join(" or "))
}

/// What is brought into a cage, and so must not lead out of it.
fn brought(text: &str) -> Result<PathBuf, String> {
    let path = directory(text)?;
    let is_below = path.components().skip(1).all(|part| matches!(part, Component::Normal(_)));
    if is_below { Ok(path) } else { Err("an absolute path without \"..\"".to_owned()) }
}

fn argument(text: &str) -> Result<String, String> {
    if text.contains('\0') { Err("text without NUL".to_owned()) } else { Ok(text.to_owned()) }
}

fn variable(text: &str) -> Result<(String, String), String> {
    let is_name = |name: &str| {
        let is_word = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        is_word && name.starts_with(|letter: char| !letter.is_ascii_digit())
    };
    let parts = text.split_once('=').filter(|(name, value)| is_name(name) && !value.contains('\0'));
    let (name, value) = parts.ok_or("a variable like \"NAME=value\"")?;
    Ok((name.to_owned(), value.to_owned()))
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

fn list(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| print::text(text)).collect();
    format!("[{}]", texts.join(", "))
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
        for BrainConfig { kind, program, versions, provider, launch, files } in &self.brains {
            let program =
                program.as_ref().map(|path| format!("program = {}\n", print::text(&path.display().to_string())));
            let versions = list(versions);
            sections.push(format!(
                "[brain.{}]\n{}# Versions that sessions may have.\nversions = {versions}\n",
                kind.name(),
                program.unwrap_or_default(),
            ));
            if *kind == Kind::Acp {
                let env: Vec<String> = launch.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
                let files: Vec<String> = files.iter().map(|path| path.display().to_string()).collect();
                let (args, env, files) = (list(&launch.args), list(&env), list(&files));
                let provider = print::text(provider.name());
                sections.push(format!(
                    "\
# How it is started; {{base_url}} is where its model is, and {{model}} which.
args = {args}
env = {env}
# Files and directories that it needs beside its libraries.
files = {files}
# Who serves its model.
provider = {provider}
"
                ));
            }
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
