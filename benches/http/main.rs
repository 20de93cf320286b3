//! What the HTTP surface costs: measures a real `handsd` with scripted agents.
//!
//! ```text
//! cargo bench --bench http                     all of it
//! cargo bench --bench http -- --quick          fewer streams and seconds, and noisier
//! cargo bench --bench http -- pages            only this part
//! ```
//!
//! Requests stand beside a bare axum handler that answers the same bytes, in the same run. It measures and does not judge:
//! a target that is missed does not make it fail.
//!
//! | file | owns |
//! |---|---|
//! | `fanout` | one session's events to many streams: how late they are, and what that costs |
//! | `pages` | requests for a page of events |
//! | `node`, `../support/daemon` | the daemon under test |

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "nothing here speaks gRPC")]
mod daemon;
mod fanout;
mod node;
mod pages;

/// Measures the HTTP surface
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything if left out
    parts: Vec<Part>,
    /// Fewer streams and seconds, and noisier
    #[arg(long)]
    quick: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Fanout,
    Pages,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        let node = node::Node::start().await?;
        if wants(Part::Fanout) {
            fanout::measure(&node, arguments.quick).await?;
        }
        if wants(Part::Pages) {
            pages::measure(&node, arguments.quick).await?;
        }
        node.daemon.stop().await
    })
}
