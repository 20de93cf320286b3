//! What sessions need to start brains.

use std::sync::Arc;

use crate::gateway::Models;
use crate::runtime::cage::Cages;

/// What is needed to start brains.
#[derive(Debug)]
pub struct Brains {
    /// What their sandboxes are made of.
    pub cages: Cages,
    /// Whom they ask.
    pub models: Arc<Models>,
}
