//! The gRPC services.

use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::HealthReporter;

use super::DaemonError;
use crate::api::convert::Deadlines;
use crate::api::grpc::hands::HandsService;
use crate::api::grpc::node::NodeService;
use crate::api::grpc::sandboxes::SandboxesService;
use crate::api::grpc::sessions::SessionsService;
use crate::api::http::preview::Previews;
use crate::api::proto::hands_server::HandsServer;
use crate::api::proto::node_server::NodeServer;
use crate::api::proto::sandboxes_server::SandboxesServer;
use crate::api::proto::sessions_server::SessionsServer;
use crate::api::proto::{DESCRIPTORS, NodeInfo};
use crate::client::MESSAGE_BYTES;
use crate::sandbox::Sandboxes;
use crate::session::Sessions;

/// Services that the engine has to answer for.
pub const OF_ENGINE: [&str; 1] = [SandboxesServer::<SandboxesService>::NAME];

/// Services that the daemon alone answers for.
pub const OF_DAEMON: [&str; 3] =
    [HandsServer::<HandsService>::NAME, SessionsServer::<SessionsService>::NAME, NodeServer::<NodeService>::NAME];

/// What the services serve; HTTP serves the same.
pub struct Services {
    pub previews: Previews,
    pub deadlines: Deadlines,
    pub sandboxes: Sandboxes,
    pub sessions: Sessions,
    pub node: NodeInfo,
    /// Told when a caller wants the daemon to end.
    pub end: CancellationToken,
}

impl Services {
    /// All services, with reflection.
    ///
    /// # Errors
    /// [`DaemonError::Reflection`].
    pub fn routes(&self, health: HealthServer<impl Health>) -> Result<Routes, DaemonError> {
        let Self { previews, deadlines, sandboxes, sessions, node, end } = self;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .map_err(DaemonError::Reflection)?;
        // Chunks of files and output are longer than gRPC's usual limit allows with what is around them.
        let hands = HandsServer::new(HandsService::new(sandboxes.clone(), *deadlines))
            .max_decoding_message_size(MESSAGE_BYTES)
            .max_encoding_message_size(MESSAGE_BYTES);
        let mut routes = Routes::builder();
        routes
            .add_service(hands)
            .add_service(SandboxesServer::new(SandboxesService::new(sandboxes.clone(), previews.clone())))
            .add_service(SessionsServer::new(SessionsService::new(sessions.clone())))
            .add_service(NodeServer::new(NodeService::new(node.clone(), sandboxes.clone(), end.clone())))
            .add_service(health)
            .add_service(reflection);
        Ok(routes.routes())
    }
}

/// Says of all of them that they serve; from then on the health of the node says it.
pub async fn begin(reporter: &HealthReporter) {
    for name in OF_ENGINE.into_iter().chain(OF_DAEMON) {
        reporter.set_service_status(name, ServingStatus::Serving).await;
    }
}
