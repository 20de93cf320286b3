//! Emptying the node: every sandbox goes to sleep as soon as nobody uses it, and none is made or woken any more.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::registry::Sandboxes;
use super::state::Phase;

/// Between two looks at how it goes.
const LOOK: Duration = Duration::from_millis(200);

/// How it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Sandboxes that are awake.
    pub awake: usize,
    /// Runs that have not ended.
    pub running: usize,
    /// It is over.
    pub is_done: bool,
}

impl Sandboxes {
    /// Begins to empty the node, gives those in use so long, and does what is to be done then. It does not depend on who
    /// watches it.
    pub fn drain(&self, patience: Duration, then: impl FnOnce() + Send + 'static) -> watch::Receiver<Progress> {
        self.draining().cancel();
        let (progress, watching) = watch::channel(self.progress());
        let this = self.clone();
        self.spawn(async move {
            let (all, _) = this.list(None, usize::MAX, &BTreeMap::new());
            let retiring = join_all(all.iter().map(|sandbox| sandbox.retire()));
            let looks = async {
                let mut ticks = interval(LOOK);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
                loop {
                    ticks.tick().await;
                    progress.send_if_modified(|now| std::mem::replace(now, this.progress()) != *now);
                }
            };
            tokio::select! {
                _ = timeout(patience, retiring) => {}
                () = looks => {}
            }
            progress.send_replace(Progress { is_done: true, ..this.progress() });
            then();
        });
        watching
    }

    fn progress(&self) -> Progress {
        let (all, _) = self.list(None, usize::MAX, &BTreeMap::new());
        let is_awake = |phase| !matches!(phase, Phase::Hibernated(_) | Phase::Crashed(_) | Phase::Failed(_));
        let awake = all.iter().filter(|sandbox| is_awake(sandbox.snapshot().phase)).count();
        Progress { awake, running: self.running(), is_done: false }
    }
}
