//! What the server says about itself to whoever watches it, by grpc.health.v1.
//!
//! The empty name is served as long as the process lives; the services are served while this server knows a leader.

use tokio::sync::watch;
use tonic_health::{
    ServingStatus,
    pb::health_server::{Health as HealthApi, HealthServer},
    server::{HealthReporter, HealthService},
};
use xdpfs_proto::{
    meta::v1::meta_service_server::MetaServiceServer, node::v1::node_service_server::NodeServiceServer,
};

use super::{meta::MetaFrontend, node::NodeFrontend};
use crate::consensus::Standing;

/// The health of this server.
#[derive(Clone, Debug)]
pub(crate) struct Health(HealthReporter);

impl Health {
    pub(crate) fn new() -> Self {
        Self(HealthReporter::new())
    }

    pub(super) fn service(&self) -> HealthServer<impl HealthApi + use<>> {
        HealthServer::new(HealthService::from_health_reporter(self.0.clone()))
    }

    /// Follows consensus for as long as it runs.
    pub(crate) async fn follow(self, mut standing: watch::Receiver<Standing>) {
        loop {
            let knows_leader = standing.borrow_and_update().leader_id != 0;
            self.set(if knows_leader { ServingStatus::Serving } else { ServingStatus::NotServing }).await;
            if standing.changed().await.is_err() {
                return;
            }
        }
    }

    /// Sends everyone elsewhere. Nobody may follow consensus any more.
    pub(crate) async fn drain(&self) {
        self.set(ServingStatus::NotServing).await;
    }

    async fn set(&self, status: ServingStatus) {
        let meta = <MetaServiceServer<MetaFrontend> as tonic::server::NamedService>::NAME;
        let node = <NodeServiceServer<NodeFrontend> as tonic::server::NamedService>::NAME;
        self.0.set_service_status(meta, status).await;
        self.0.set_service_status(node, status).await;
    }
}
