//! Sessions of scripted agents, over the wire. The numbers in the comments are those of the behaviours that are promised.
//!
//! | file | holds |
//! |---|---|
//! | `story` | a whole conversation |
//! | `turns` | how turns end: canceled, out of time, out of tokens, failed |
//! | `log` | the log while its daemon is killed again and again |
//! | `messages` | messages in order, steers, keys |
//! | `crashes` | brains, sandboxes and daemons that are killed |
//! | `tools` | what the brain's tools answer |
//! | `agents` | agents, lists, refusals |
//! | `credentials` | keys of model providers |
//! | `cli` | the command line |
//! | `soak` | many sessions while everything is killed |

#[path = "../support/mod.rs"]
mod support;

mod agents;
mod cli;
mod crashes;
mod credentials;
mod log;
mod messages;
mod soak;
mod story;
mod tools;
mod turns;
