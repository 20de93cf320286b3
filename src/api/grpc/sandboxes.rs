//! `hands.v1.Sandboxes`

use futures_util::stream;
use tonic::{Request, Response, Status};

use super::ReplyStream;
use crate::api::convert;
use crate::api::proto::sandboxes_server::Sandboxes as Service;
use crate::api::proto::{
    CreateSandboxRequest, DestroySandboxRequest, DestroySandboxResponse, GetSandboxRequest, ListSandboxesRequest,
    ListSandboxesResponse, Sandbox as Message, WatchSandboxRequest,
};
use crate::api::status::Fault;
use crate::sandbox::{SandboxError, Sandboxes};

/// The service.
pub struct SandboxesService {
    sandboxes: Sandboxes,
}

impl SandboxesService {
    /// Serves these sandboxes.
    #[must_use]
    pub fn new(sandboxes: Sandboxes) -> Self {
        Self { sandboxes }
    }
}

#[tonic::async_trait]
impl Service for SandboxesService {
    type WatchStream = ReplyStream<Message>;

    async fn create(&self, request: Request<CreateSandboxRequest>) -> Result<Response<Message>, Status> {
        let (wish, key) = convert::wish(request.into_inner())?;
        let sandbox = self.sandboxes.create(wish, key).await.map_err(Fault::from)?;
        Ok(Response::new(convert::sandbox(&sandbox, &sandbox.snapshot())))
    }

    async fn get(&self, request: Request<GetSandboxRequest>) -> Result<Response<Message>, Status> {
        let id = convert::sandbox_id(&request.get_ref().sandbox_id)?;
        let sandbox = self.sandboxes.get(&id).map_err(Fault::from)?;
        Ok(Response::new(convert::sandbox(&sandbox, &sandbox.snapshot())))
    }

    async fn list(&self, request: Request<ListSandboxesRequest>) -> Result<Response<ListSandboxesResponse>, Status> {
        let request = request.into_inner();
        let (after, limit) = convert::sandbox_page(&request)?;
        let (page, more) = self.sandboxes.list(after.as_ref(), limit, &request.labels);
        let last = page.last().filter(|_| more).map(|sandbox| sandbox.profile().id.to_string());
        let sandboxes = page.iter().map(|sandbox| convert::sandbox(sandbox, &sandbox.snapshot())).collect();
        Ok(Response::new(ListSandboxesResponse { sandboxes, next_page_token: last.unwrap_or_default() }))
    }

    async fn watch(&self, request: Request<WatchSandboxRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        let id = convert::sandbox_id(&request.sandbox_id)?;
        let sandbox = self.sandboxes.get(&id).map_err(Fault::from)?;
        // The first generation is 1, so that 0 has seen none.
        let messages = stream::unfold(Some(request.after_generation), move |seen| {
            let sandbox = sandbox.clone();
            async move {
                let snapshot = sandbox.wait_after(seen?).await?;
                let next = (!snapshot.phase.is_final()).then_some(snapshot.generation);
                Some((Ok(convert::sandbox(&sandbox, &snapshot)), next))
            }
        });
        Ok(Response::new(Box::pin(messages)))
    }

    async fn destroy(
        &self,
        request: Request<DestroySandboxRequest>,
    ) -> Result<Response<DestroySandboxResponse>, Status> {
        // One that is gone, or never was, is as destroyed as can be.
        let id = match convert::sandbox_id(&request.get_ref().sandbox_id) {
            Err(fault) if fault.is_not_found() => return Ok(Response::new(DestroySandboxResponse {})),
            id => id?,
        };
        match self.sandboxes.get(&id) {
            Err(SandboxError::NotFound(_)) => {}
            sandbox => sandbox.map_err(Fault::from)?.destroy().await.map_err(Fault::from)?,
        }
        Ok(Response::new(DestroySandboxResponse {}))
    }
}
