//! What sessions cost: measures the store's log and a real `handsd` with scripted agents.
//!
//! ```text
//! cargo bench --bench sessions                     all of it
//! cargo bench --bench sessions -- --quick          fewer rounds: seconds, and noisier
//! cargo bench --bench sessions -- appends          only this part
//! ```
//!
//! Every number that a disk decides stands beside its floor: a write and an fdatasync of the same size, in the same
//! directory, in the same run. It measures and does not judge: a target that is missed does not make it fail.
//!
//! | file | owns |
//! |---|---|
//! | `appends` | durable appends to one log and to many, and how soon a follower has them |
//! | `wake` | from a message to a session that sleeps to its first tool call |
//! | `idle` | what sessions cost that do nothing |
//! | `node`, `../support/daemon` | the daemon under test |

use anyhow::{Context, Result};
use clap::{Parser, ValueEnum};

mod appends;
#[path = "../support/daemon.rs"]
#[expect(dead_code, reason = "nothing here measures processor time")]
mod daemon;
mod idle;
mod node;
mod wake;

/// Measures sessions
#[derive(Debug, Parser)]
struct Arguments {
    /// What to measure; everything if left out
    parts: Vec<Part>,
    /// Fewer rounds: seconds instead of minutes, and noisier
    #[arg(long)]
    quick: bool,
    /// What cargo says to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Appends,
    Wake,
    Idle,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    runtime.block_on(async {
        if wants(Part::Appends) {
            appends::measure(arguments.quick).await?;
        }
        if wants(Part::Wake) {
            wake::measure(arguments.quick).await?;
        }
        if wants(Part::Idle) {
            idle::measure(arguments.quick).await?;
        }
        Ok(())
    })
}

/// The median and the 99th percentile of some samples, in milliseconds.
fn percentiles(mut samples: Vec<std::time::Duration>) -> (f64, f64) {
    samples.sort();
    let at = |share: f64| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place among few samples")]
        let place = ((samples.len() - 1) as f64 * share) as usize;
        samples[place].as_secs_f64() * 1e3
    };
    (at(0.5), at(0.99))
}
