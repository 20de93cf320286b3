//! Whether the programs that think would start here.

use super::{Finding, State};
use crate::runtime::cage::{CageError, Cages};
use crate::runtime::{Kind, claude, codex};
use crate::telemetry::chain;

/// A finding about each runtime that the configuration names.
pub async fn brains(cages: &Cages) -> Vec<Finding> {
    let mut findings = Vec::new();
    for kind in Kind::ALL.into_iter().filter(|kind| !kind.providers().is_empty()) {
        findings.extend(match cages.check(kind).await {
            Ok(version) => Some(Finding { name: kind.name(), state: State::Ok, detail: version, fix: None }),
            // Who does not want it needs no advice.
            Err(CageError::NotConfigured(_)) => None,
            Err(error) => {
                let detail = format!("Sessions cannot have it: {}.", chain(&error));
                Some(Finding { name: kind.name(), state: State::Lacking, detail, fix: Some(fix(kind)) })
            }
        });
    }
    findings
}

fn fix(kind: Kind) -> String {
    let package = match kind {
        Kind::Claude => format!("@anthropic-ai/claude-code@{}", claude::VERSION),
        Kind::Codex => format!("@openai/codex@{}", codex::VERSION),
        Kind::Acp | Kind::Script => {
            let section = kind.name();
            return format!(
                "[brain.{section}] program = \"FILE\", a program for 64-bit Linux, and versions = [\"ITS VERSION\"]"
            );
        }
    };
    format!("npm install --prefix DIR {package}, and brain.npm = \"DIR\"")
}
