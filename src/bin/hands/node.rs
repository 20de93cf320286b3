//! Commands on the node itself.

use handsd::api::proto::{DrainRequest, NodeEvent, NodeEventsRequest, Tier};
use serde_json::{Value, json};

use crate::args::duration;
use crate::output::{self, Align};
use crate::{Context, Format, json as shapes};

/// Empties the node: nothing is made or woken any more, and each sandbox goes to sleep as soon as nobody uses it
#[derive(Debug, clap::Args)]
pub struct DrainArgs {
    /// How long those in use are waited for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10m")]
    timeout: prost_types::Duration,
    /// End the daemon afterwards
    #[arg(long)]
    stop: bool,
}

/// Shows what happened to the node's sandboxes
#[derive(Debug, clap::Args)]
pub struct EventsArgs {
    /// Only those after this number
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    after: u64,
    /// Go on with those to come
    #[arg(long, short)]
    follow: bool,
}

/// `hands drain`
pub async fn drain(context: &Context, args: DrainArgs) -> anyhow::Result<()> {
    let request = DrainRequest { timeout: Some(args.timeout), stop: args.stop };
    let mut progress = context.node().drain(request).await?.into_inner();
    let mut awake = 0;
    while let Some(now) = progress.message().await? {
        match context.format {
            Format::Json => {
                output::print_json(&json!({ "awake": now.awake, "running": now.running, "done": now.done }))?;
            }
            Format::Text => output::print(&format!("{} awake, {} running\n", now.awake, now.running))?,
        }
        awake = now.awake;
    }
    anyhow::ensure!(awake == 0, "{awake} sandboxes were still in use when the time was up");
    Ok(())
}

/// `hands events`
pub async fn events(context: &Context, args: EventsArgs) -> anyhow::Result<()> {
    let request = NodeEventsRequest { after_seq: args.after, follow: args.follow };
    let mut events = context.node().events(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        match context.format {
            Format::Json => output::print_json(&shape(&event))?,
            Format::Text => {
                let failure = event.failure.as_ref().map(|it| format!("{} ({})", it.message, it.reason));
                let more = failure.or_else(|| event.port.as_ref().map(|it| format!("{} on {}", it.port, it.address)));
                let time = shapes::time(event.at).unwrap_or_default();
                let row = vec![event.seq.to_string(), time, event.kind, event.sandbox_id, more.unwrap_or_default()];
                output::print(&output::table(&[("", Align::Left); 5], &[row]))?;
            }
        }
    }
    Ok(())
}

fn shape(event: &NodeEvent) -> Value {
    json!({
        "seq": event.seq,
        "at": shapes::time(event.at),
        "kind": event.kind,
        "sandbox_id": event.sandbox_id,
        "generation": event.generation,
        "tier": (event.tier() != Tier::Unspecified).then(|| event.tier().as_str_name()),
        "port": event.port.as_ref().map(|it| json!({ "port": it.port, "address": it.address })),
        "failure": event.failure.as_ref().map(|it| json!({ "reason": it.reason, "message": it.message })),
        "runtime": event.runtime.as_ref().map(shapes::runtime),
    })
}
