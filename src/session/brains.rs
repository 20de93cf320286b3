//! What sessions need to start brains.

use std::sync::Arc;

use super::transcripts::Transcripts;
use crate::gateway::Models;
use crate::runtime::cage::Cages;

/// What is needed to start brains.
#[derive(Debug)]
pub struct Brains {
    /// What their sandboxes are made of.
    pub cages: Cages,
    /// Copies of their conversations.
    pub transcripts: Transcripts,
    /// Whom they ask.
    pub models: Arc<Models>,
}
