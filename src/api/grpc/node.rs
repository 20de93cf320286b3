//! `hands.v1.Node`

use std::collections::VecDeque;
use std::sync::Arc;

use futures_util::stream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::ReplyStream;
use super::call::Call;
use super::doors::unbound;
use crate::api::convert;
use crate::api::proto::node_server::Node as Service;
use crate::api::proto::{DrainProgress, DrainRequest, NodeEvent, NodeEventsRequest, NodeInfo, NodeInfoRequest};
use crate::api::status::Fault;
use crate::sandbox::Sandboxes;

/// Events that are read at a time.
const PAGE: usize = 256;

/// The service.
pub struct NodeService {
    /// What does not change while the daemon runs.
    info: Arc<NodeInfo>,
    sandboxes: Sandboxes,
    /// Told when a caller wants the daemon to end.
    end: CancellationToken,
}

impl NodeService {
    /// Tells of this node; `end` is told when a caller wants the daemon to end.
    #[must_use]
    pub fn new(info: NodeInfo, sandboxes: Sandboxes, end: CancellationToken) -> Self {
        Self { info: Arc::new(info), sandboxes, end }
    }

    /// The next events after one, when there are some; none, if they are not waited for or the store is gone.
    async fn page(sandboxes: &Sandboxes, after: u64, follow: bool) -> Result<Vec<NodeEvent>, Fault> {
        let store = sandboxes.store();
        loop {
            let mut newest = store.newest();
            let page = store.events(after, PAGE).await?;
            if !page.is_empty() || !follow {
                return Ok(page.into_iter().map(convert::node_event).collect());
            }
            if newest.wait_for(|newest| *newest > after).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }
}

#[tonic::async_trait]
impl Service for NodeService {
    type EventsStream = ReplyStream<NodeEvent>;
    type DrainStream = ReplyStream<DrainProgress>;

    async fn info(&self, _request: Request<NodeInfoRequest>) -> Result<Response<NodeInfo>, Status> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(NodeInfo {
            sandboxes: count(self.sandboxes.count()),
            running: count(self.sandboxes.running()),
            ..NodeInfo::clone(&self.info)
        }))
    }

    async fn events(&self, request: Request<NodeEventsRequest>) -> Result<Response<Self::EventsStream>, Status> {
        let (_, extensions, message) = request.into_parts();
        // They are of all sandboxes, those that are gone among them.
        unbound(&Call::of(&extensions)?.caller()?.scope, "events")?;
        let NodeEventsRequest { after_seq, follow } = message;
        let sandboxes = self.sandboxes.clone();
        // Read here, so that a cursor that is none is told at once and not by the stream's first message.
        let pending = VecDeque::from(Self::page(&sandboxes, after_seq, false).await?);
        let messages = stream::unfold(Some((pending, after_seq)), move |state| {
            let sandboxes = sandboxes.clone();
            async move {
                let (mut pending, after) = state?;
                if pending.is_empty() {
                    match Self::page(&sandboxes, after, follow).await {
                        Ok(page) => pending.extend(page),
                        Err(fault) => return Some((Err(fault.into()), None)),
                    }
                }
                let event = pending.pop_front()?;
                let seq = event.seq;
                Some((Ok(event), Some((pending, seq))))
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn drain(&self, request: Request<DrainRequest>) -> Result<Response<Self::DrainStream>, Status> {
        let DrainRequest { timeout, stop } = request.into_inner();
        let end = self.end.clone();
        let mut progress = self.sandboxes.drain(convert::patience(timeout)?, move || {
            if stop {
                end.cancel();
            }
        });
        progress.mark_changed();
        let messages = stream::unfold(Some(progress), |progress| async {
            let mut progress = progress?;
            progress.changed().await.ok()?;
            let now = *progress.borrow_and_update();
            Some((Ok(convert::drain_progress(now)), (!now.is_done).then_some(progress)))
        });
        Ok(Response::new(Box::pin(messages)))
    }
}
