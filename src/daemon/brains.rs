//! From the configuration to what sessions need to start brains.

use std::sync::Arc;

use crate::config::{Config, EngineKind};
use crate::gateway::{Models, Settings};
use crate::runtime::cage::{Cages, Form, Installed};
use crate::session::{Brains, Transcripts};

/// What sessions need to start brains.
pub(super) fn brains(config: &Config, is_root: bool) -> Brains {
    let model = &config.model;
    let settings = Settings {
        anthropic: model.anthropic.base_url.clone(),
        openai: model.openai.base_url.clone(),
        first_byte: model.first_byte_timeout,
        idle: model.idle_timeout,
    };
    Brains {
        cages: cages(config, is_root),
        transcripts: Transcripts::new(config.state_dir.join("transcripts")),
        models: Arc::new(Models::new(settings)),
    }
}

/// What the sandboxes of brains are made of.
#[must_use]
pub fn cages(config: &Config, is_root: bool) -> Cages {
    let installed = config.brains.iter().filter_map(|brain| {
        let program = brain.program.clone()?;
        let (versions, launch, files) = (brain.versions.clone(), brain.launch.clone(), brain.files.clone());
        Some(Installed { kind: brain.kind, program, versions, provider: brain.provider, launch, files })
    });
    let form = match config.engine.kind {
        EngineKind::Native => Form::Directory,
        EngineKind::Docker => Form::Archive,
    };
    Cages::new(config.state_dir.join("brains"), form, is_root, installed.collect())
}
