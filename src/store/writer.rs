//! The one thread that writes.
//!
//! It takes all requests that wait, at most [`BATCH`], makes them in one transaction, and answers each after the commit.
//! The sync at the commit is what a write costs; so the more callers there are, the more share one.

use rusqlite::{Connection, TransactionBehavior};
use tokio::sync::{mpsc, oneshot, watch};

use super::{StoreError, events};
use crate::telemetry::chain;

/// How many requests may share a transaction. More would not be faster by much, and makes the first of them wait.
pub(super) const BATCH: usize = 512;

/// What the writer is asked.
pub(super) enum Request {
    /// To make a change and to answer its caller.
    Make(Box<dyn Change>),
    /// To take no further requests, to make those that wait, and to end.
    Close,
}

/// A change to the database, and the caller who waits for it.
pub(super) trait Change: Send {
    /// Makes it, as one of several in a transaction. Called once.
    fn make(&mut self, connection: &Connection) -> rusqlite::Result<()>;

    /// Tells the caller how the transaction ended.
    fn answer(self: Box<Self>, committed: Result<(), StoreError>);
}

/// A request for what `make` does, and where its value arrives once it is durable.
pub(super) fn request<T, F>(make: F) -> (Request, oneshot::Receiver<Result<T, StoreError>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (reply, answer) = oneshot::channel();
    (Request::Make(Box::new(Pending { state: State::Waiting(make), reply })), answer)
}

struct Pending<T, F> {
    state: State<T, F>,
    reply: oneshot::Sender<Result<T, StoreError>>,
}

enum State<T, F> {
    Waiting(F),
    Made(T),
    /// Its transaction failed, at this change or before it.
    Failed,
}

impl<T, F> Change for Pending<T, F>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn make(&mut self, connection: &Connection) -> rusqlite::Result<()> {
        if let State::Waiting(make) = std::mem::replace(&mut self.state, State::Failed) {
            self.state = State::Made(make(connection)?);
        }
        Ok(())
    }

    fn answer(self: Box<Self>, committed: Result<(), StoreError>) {
        let outcome = match (committed, self.state) {
            (Ok(()), State::Made(value)) => Ok(value),
            (Ok(()), State::Waiting(_) | State::Failed) => Err(StoreError::Gone),
            (Err(error), _) => Err(error),
        };
        if let Err(Err(error)) = self.reply.send(outcome) {
            tracing::error!(error = %chain(&error), "a write that nobody waits for failed");
        }
    }
}

/// Writes until [`Request::Close`], or until no handle is left. `newest` is the `seq` of the newest durable event.
pub(super) fn run(mut connection: Connection, mut requests: mpsc::Receiver<Request>, newest: &watch::Sender<u64>) {
    let mut batch = Vec::with_capacity(BATCH);
    while let Some(first) = requests.blocking_recv() {
        batch.extend(accept(first, &mut requests));
        let committed = transact(&mut connection, &mut requests, &mut batch);
        let committed = committed.map_err(|error| StoreError::sqlite("writing to the store", error));
        if let Ok(seq) = committed {
            newest.send_if_modified(|newest| std::mem::replace(newest, seq) != seq);
        }
        for change in batch.drain(..) {
            change.answer(committed.clone().map(drop));
        }
    }
}

/// The change that is asked for, if one is.
fn accept(request: Request, requests: &mut mpsc::Receiver<Request>) -> Option<Box<dyn Change>> {
    match request {
        Request::Make(change) => Some(change),
        Request::Close => {
            // What is in the channel already is still received.
            requests.close();
            None
        }
    }
}

/// Makes all changes of the batch and those that come meanwhile, or none. Gives the `seq` of the newest event.
///
/// Who has just been answered asks again while the first few are being made: to take them in as well, and not to sync
/// without them, is what makes a full batch of callers who wait for each answer.
fn transact(
    connection: &mut Connection,
    requests: &mut mpsc::Receiver<Request>,
    batch: &mut Vec<Box<dyn Change>>,
) -> rusqlite::Result<u64> {
    // Dropped without a commit, it rolls back.
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut made = 0;
    while let Some(change) = batch.get_mut(made) {
        change.make(&transaction)?;
        made += 1;
        if batch.len() < BATCH
            && let Ok(request) = requests.try_recv()
        {
            batch.extend(accept(request, requests));
        }
    }
    let newest = events::newest(&transaction)?;
    transaction.commit()?;
    Ok(newest)
}
