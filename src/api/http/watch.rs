//! Every change to the sandboxes, as an event stream.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::stream::{self, FuturesUnordered};
use futures_util::{Stream, StreamExt};
use serde_json::json;
use tokio::sync::watch;

use super::{Shared, convert};
use crate::ids::SandboxId;
use crate::sandbox::{Sandbox, Sandboxes, Snapshot};

/// Between two comments on a quiet stream, so that nothing on the way forgets it.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Tells of each sandbox as it stands, and again whenever it has changed. What changes faster than the client reads is
/// told once, as it stands then.
pub fn sandboxes(surface: &Shared) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let stop = surface.stop.clone();
    let events = stream::unfold(Watch::new(surface.sandboxes.clone()), |mut watch| async {
        let event = watch.next().await?;
        Some((Ok(event), watch))
    });
    let events = events.take_until(async move { stop.cancelled().await });
    Sse::new(events).keep_alive(KeepAlive::new().interval(KEEP_ALIVE))
}

/// The next state of one sandbox; `None` when nothing follows.
type Next = Pin<Box<dyn Future<Output = (Sandbox, Option<Snapshot>)> + Send>>;

struct Watch {
    sandboxes: Sandboxes,
    /// Told whenever one is added.
    added: watch::Receiver<u64>,
    /// Those that are waited for, by the generation that was told last.
    known: HashMap<SandboxId, u64>,
    waits: FuturesUnordered<Next>,
    is_new: bool,
}

impl Watch {
    fn new(sandboxes: Sandboxes) -> Self {
        let added = sandboxes.added();
        Self { sandboxes, added, known: HashMap::new(), waits: FuturesUnordered::new(), is_new: true }
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            if std::mem::take(&mut self.is_new) {
                self.meet();
            }
            // Both are cancel-safe: what was not taken stays.
            let next = tokio::select! {
                changed = self.added.changed() => {
                    changed.ok()?;
                    self.is_new = true;
                    continue;
                }
                Some(next) = self.waits.next() => next,
            };
            return Some(self.tell(next));
        }
    }

    /// Begins to wait for those that are not waited for.
    fn meet(&mut self) {
        self.added.borrow_and_update();
        let (all, _) = self.sandboxes.list(None, usize::MAX, &Default::default());
        for sandbox in all {
            if !self.known.contains_key(&sandbox.profile().id) {
                self.wait(sandbox, 0);
            }
        }
    }

    fn wait(&mut self, sandbox: Sandbox, after: u64) {
        self.known.insert(sandbox.profile().id.clone(), after);
        self.waits.push(Box::pin(async move {
            let snapshot = sandbox.wait_after(after).await;
            (sandbox, snapshot)
        }));
    }

    fn tell(&mut self, (sandbox, snapshot): (Sandbox, Option<Snapshot>)) -> Event {
        let id = sandbox.profile().id.clone();
        let last = snapshot.as_ref().is_none_or(|snapshot| snapshot.phase.is_final());
        let view = match &snapshot {
            Some(snapshot) => json!(convert::sandbox(&sandbox, snapshot)),
            None => json!({ "sandboxID": id.as_str(), "status": "stopped", "phase": "destroyed" }),
        };
        match snapshot {
            Some(snapshot) if !last => self.wait(sandbox, snapshot.generation),
            _ => drop(self.known.remove(&id)),
        }
        Event::default().data(view.to_string())
    }
}
