//! Sessions with the real programs as brains, and a model that says what a test wants.
//!
//! The programs come from npm, in the versions that the configuration names; `.ci/run` installs them and says where they
//! are in `HANDSD_NPM`. Without them, the tests say that they are skipped.

#[path = "../support/mod.rs"]
mod support;

mod acp;
mod crashes;
mod lab;
mod secrets;
mod turns;

/// The same tests for each runtime.
macro_rules! each_runtime {
    ($($test:ident),* $(,)?) => {
        mod claude {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("claude").await; })*
        }
        mod codex {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("codex").await; })*
        }
    };
}
use each_runtime;

/// Those that hold for an agent that speaks the Agent Client Protocol too.
macro_rules! an_agent_too {
    ($($test:ident),* $(,)?) => {
        mod acp {
            $(#[tokio::test(flavor = "multi_thread")] async fn $test() { super::$test("acp").await; })*
        }
    };
}
use an_agent_too;
