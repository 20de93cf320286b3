//! Sessions of scripted agents, over the wire.
//!
//! | file | holds |
//! |---|---|
//! | `story` | a whole conversation |

#[path = "../support/mod.rs"]
mod support;

mod story;
