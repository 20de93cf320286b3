//! `hands.v1.Node`

use std::sync::Arc;

use tonic::{Request, Response, Status};

use crate::api::proto::node_server::Node as Service;
use crate::api::proto::{NodeInfo, NodeInfoRequest};
use crate::sandbox::Sandboxes;

/// The service.
pub struct NodeService {
    /// What does not change while the daemon runs.
    info: Arc<NodeInfo>,
    sandboxes: Sandboxes,
}

impl NodeService {
    /// Tells of this node.
    #[must_use]
    pub fn new(info: NodeInfo, sandboxes: Sandboxes) -> Self {
        Self { info: Arc::new(info), sandboxes }
    }
}

#[tonic::async_trait]
impl Service for NodeService {
    async fn info(&self, _request: Request<NodeInfoRequest>) -> Result<Response<NodeInfo>, Status> {
        let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        Ok(Response::new(NodeInfo {
            sandboxes: count(self.sandboxes.count()),
            running: count(self.sandboxes.running()),
            ..NodeInfo::clone(&self.info)
        }))
    }
}
