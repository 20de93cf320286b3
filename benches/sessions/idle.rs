//! What sessions cost that do nothing.

use anyhow::Result;

use crate::node::Node;

/// Measures and prints.
pub async fn measure(quick: bool) -> Result<()> {
    let count: u64 = if quick { 100 } else { 1_000 };
    let node = Node::start("").await?;
    // What the first one needs is nobody's cost.
    node.session("").await?;
    let before = node.daemon.memory()?;
    for _ in 0..count {
        node.session("").await?;
    }
    let each = node.daemon.memory()?.saturating_sub(before) / count;
    println!(
        "daemon's memory of an idle session {:>8.1} KiB   over {count} of them, without their sandboxes",
        each as f64 / 1024.0
    );
    node.daemon.stop().await
}
