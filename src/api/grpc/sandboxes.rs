//! `hands.v1.Sandboxes`

use futures_util::stream;
use tonic::{Code, Request, Response, Status, Streaming};

use super::doors::Doors;
use super::{ReplyStream, forward};
use crate::api::convert;
use crate::api::http::preview::{Links, Previews};
use crate::api::proto::sandboxes_server::Sandboxes as Service;
use crate::api::proto::{
    CreateSandboxRequest, DestroySandboxRequest, DestroySandboxResponse, ErrorReason, ForwardRequest, ForwardResponse,
    GetSandboxRequest, HibernateSandboxRequest, ListSandboxesRequest, ListSandboxesResponse, PortsRequest,
    PortsResponse, PreviewRequest, PreviewResponse, Sandbox as Message, SetLimitsRequest, SetNetworkRequest,
    TouchSandboxRequest, WakeSandboxRequest, WatchSandboxRequest,
};
use crate::api::status::Fault;
use crate::sandbox::{Sandbox, Sandboxes};

/// The service.
pub struct SandboxesService {
    doors: Doors,
    previews: Previews,
}

impl SandboxesService {
    /// Serves these sandboxes.
    #[must_use]
    pub fn new(sandboxes: Sandboxes, previews: Previews) -> Self {
        Self { doors: Doors::new(sandboxes), previews }
    }
}

/// A sandbox as it stands.
fn answer(sandbox: &Sandbox) -> Response<Message> {
    Response::new(convert::sandbox(sandbox, &sandbox.snapshot()))
}

#[tonic::async_trait]
impl Service for SandboxesService {
    type WatchStream = ReplyStream<Message>;
    type ForwardStream = ReplyStream<ForwardResponse>;

    async fn create(&self, request: Request<CreateSandboxRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (wish, key) = convert::wish(request)?;
        Ok(answer(&door.create(wish, key).await?))
    }

    async fn get(&self, request: Request<GetSandboxRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        Ok(answer(&door.find(&request.sandbox_id)?))
    }

    async fn list(&self, request: Request<ListSandboxesRequest>) -> Result<Response<ListSandboxesResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let (after, limit) = convert::sandbox_page(&request)?;
        let (page, more) = door.list(after.as_ref(), limit, &request.labels)?;
        let last = page.last().filter(|_| more).map(|sandbox| sandbox.profile().id.to_string());
        let sandboxes = page.iter().map(|sandbox| convert::sandbox(sandbox, &sandbox.snapshot())).collect();
        Ok(Response::new(ListSandboxesResponse { sandboxes, next_page_token: last.unwrap_or_default() }))
    }

    async fn watch(&self, request: Request<WatchSandboxRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
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

    async fn hibernate(&self, request: Request<HibernateSandboxRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        sandbox.hibernate(convert::tier(request.tier)?).await.map_err(Fault::from)?;
        Ok(answer(&sandbox))
    }

    async fn wake(&self, request: Request<WakeSandboxRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        sandbox.wake().await.map_err(Fault::from)?;
        Ok(answer(&sandbox))
    }

    async fn touch(&self, request: Request<TouchSandboxRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        sandbox.touch();
        Ok(answer(&sandbox))
    }

    async fn set_limits(&self, request: Request<SetLimitsRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        let limits = convert::limits(&request.limits.unwrap_or_default())?;
        sandbox.set_limits(limits).await.map_err(Fault::from)?;
        Ok(answer(&sandbox))
    }

    async fn set_network(&self, request: Request<SetNetworkRequest>) -> Result<Response<Message>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        let policy = convert::network(request.network)?.ok_or_else(|| Fault::argument("network.mode", "is missing"))?;
        door.set_network(&sandbox, policy, convert::secrets(request.secrets)?).await?;
        Ok(answer(&sandbox))
    }

    async fn ports(&self, request: Request<PortsRequest>) -> Result<Response<PortsResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        let network = sandbox.network().map_err(Fault::from)?;
        // A guest that is gone is about to be seen by the sandbox's driver, too.
        let lost = |error| Fault::new(Code::Unavailable, ErrorReason::SandboxLost, format!("list the ports: {error}"));
        Ok(Response::new(convert::ports(&network.ports().map_err(lost)?)))
    }

    async fn preview(&self, request: Request<PreviewRequest>) -> Result<Response<PreviewResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        let sandbox = door.find(&request.sandbox_id)?;
        let Links { url, path, token } = self.previews.links(&sandbox.profile().id, convert::port(request.port)?);
        Ok(Response::new(PreviewResponse { url, path, token }))
    }

    async fn forward(
        &self,
        request: Request<Streaming<ForwardRequest>>,
    ) -> Result<Response<Self::ForwardStream>, Status> {
        let (door, mut messages) = self.doors.enter(request)?;
        let open = forward::open(&mut messages).await?;
        let sandbox = door.find(&open.sandbox_id)?;
        let connection = sandbox.connect(convert::port(open.port)?).await.map_err(Fault::from)?;
        Ok(Response::new(Box::pin(forward::relay(messages, connection))))
    }

    async fn destroy(
        &self,
        request: Request<DestroySandboxRequest>,
    ) -> Result<Response<DestroySandboxResponse>, Status> {
        let (door, request) = self.doors.enter(request)?;
        match door.find(&request.sandbox_id) {
            // One that is gone, or never was, is as destroyed as can be.
            Err(fault) if fault.is_not_found() => {}
            sandbox => sandbox?.destroy().await.map_err(Fault::from)?,
        }
        Ok(Response::new(DestroySandboxResponse {}))
    }
}
