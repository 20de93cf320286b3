//! What Ctrl-C does while a run is followed.

use anyhow::Context as _;
use handsd::api::proto::KillRunRequest;
use handsd::api::proto::hands_client::HandsClient;
use handsd::client::Channel;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

use crate::{errors, terminal};

/// What a shell adds to the number of a signal.
const SIGNALED: i32 = 128;

/// What the first signal does; the second always leaves at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum First {
    /// Ends the run, which was started here.
    Kills,
    /// Leaves; the run belongs to somebody else and goes on.
    Leaves,
}

/// SIGINT, SIGTERM and SIGHUP to this process, caught from the moment this is made.
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    /// Begins to catch them.
    pub fn new() -> anyhow::Result<Self> {
        let catch = |kind| signal(kind).context("cannot catch signals");
        Ok(Self {
            interrupt: catch(SignalKind::interrupt())?,
            terminate: catch(SignalKind::terminate())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    /// The number of the next one. Cancel-safe, as [`Signal::recv`] is.
    async fn next(&mut self) -> i32 {
        tokio::select! {
            _ = self.interrupt.recv() => SignalKind::interrupt().as_raw_value(),
            _ = self.terminate.recv() => SignalKind::terminate().as_raw_value(),
            _ = self.hangup.recv() => SignalKind::hangup().as_raw_value(),
        }
    }
}

/// Acts on signals for as long as it is polled. In a task of its own, because the one that prints may be blocked on a
/// stdout that nobody reads. `run_id` is what is known of the run so far.
pub async fn obey(
    mut signals: Signals,
    first: First,
    hands: HandsClient<Channel>,
    sandbox_id: String,
    mut run_id: watch::Receiver<Option<String>>,
) {
    let number = signals.next().await;
    // A terminal that hung up waits for nothing.
    if first == First::Leaves || number == SignalKind::hangup().as_raw_value() {
        terminal::leave(SIGNALED + number);
    }
    let kill = async {
        // A press before `started` waits for it: what was asked for may be running already.
        let run_id = run_id.wait_for(Option::is_some).await.ok().and_then(|known| known.clone());
        if let Some(run_id) = run_id
            && let Err(error) = kill(hands, sandbox_id, run_id).await
        {
            errors::report(&error);
        }
    };
    // On a thread of its own, because stderr may be blocked too.
    let note = tokio::task::spawn_blocking(|| errors::note("ending the run; press Ctrl-C again to leave it"));
    let end = async {
        let _told = tokio::join!(note, kill);
        // The stream says when the run has ended, not this.
        std::future::pending().await
    };
    let number = tokio::select! {
        number = signals.next() => number,
        number = end => number,
    };
    terminal::leave(SIGNALED + number);
}

/// Ends the run; one that has ended already is fine.
pub async fn kill(mut hands: HandsClient<Channel>, sandbox_id: String, run_id: String) -> anyhow::Result<()> {
    match hands.kill_run(KillRunRequest { sandbox_id, run_id, ..Default::default() }).await {
        Err(status) if errors::reason(&status).as_deref() == Some("RUN_NOT_FOUND") => Ok(()),
        killed => killed.map(drop).context("cannot end the run"),
    }
}
