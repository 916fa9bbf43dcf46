//! Whether this gateway can serve, by grpc.health.v1: it can while one metadata server at least says that it does.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures::future::join_all;
use tokio_util::task::AbortOnDropHandle;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use xdpfs_client::{Endpoints, Health as Said, check_health};
use xdpfs_proto::object::v1::object_service_server::SERVICE_NAME;
use xdpfs_trust::TlsTrust;

/// What is asked of metadata servers: it is served by whoever knows a leader.
const META_SERVICE: &str = "xdpfs.meta.v1.MetaService";
/// What is answered for: the service, and all of the gateway, which has no other.
const SERVICES: [&str; 2] = [SERVICE_NAME, ""];
/// A question here is a name.
pub(crate) const QUESTION_BYTES_MAX: usize = 16 << 10;
const ASKED_EVERY: Duration = Duration::from_secs(2);
/// A server that says nothing for so long does not serve.
const PATIENCE: Duration = Duration::from_secs(1);

/// Follows the cluster until it is dropped.
#[derive(Debug)]
pub(crate) struct Health {
    reporter: HealthReporter,
    serving: Arc<AtomicBool>,
    follower: AbortOnDropHandle<()>,
}

impl Health {
    pub(crate) async fn start(endpoints: Endpoints, tls: Option<TlsTrust>) -> Self {
        let (reporter, serving) = (HealthReporter::new(), Arc::new(AtomicBool::new(false)));
        say(&reporter, ServingStatus::NotServing).await;
        let follow = follow(endpoints, tls, reporter.clone(), Arc::clone(&serving));
        Self { reporter, serving, follower: AbortOnDropHandle::new(tokio::spawn(follow)) }
    }

    pub(crate) fn service(&self) -> HealthServer<HealthService> {
        let server = HealthServer::new(HealthService::from_health_reporter(self.reporter.clone()));
        server.max_decoding_message_size(QUESTION_BYTES_MAX)
    }

    /// What it says at present, for as long as somebody asks.
    pub(crate) fn word(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.serving)
    }

    /// Sends everyone elsewhere, and has nobody watch any longer.
    pub(crate) async fn drain(&self) {
        self.follower.abort();
        self.serving.store(false, Ordering::Relaxed);
        say(&self.reporter, ServingStatus::NotServing).await;
        let mut reporter = self.reporter.clone();
        for service in SERVICES {
            // Whoever watches gets the last word, and then the end of the stream.
            reporter.clear_service_status(service).await;
        }
    }
}

async fn follow(
    endpoints: Endpoints,
    tls: Option<TlsTrust>,
    reporter: HealthReporter,
    serving: Arc<AtomicBool>,
) {
    let mut said = None;
    loop {
        let now = serves(&endpoints, tls.as_ref()).await;
        if said != Some(now) {
            tracing::info!(service = SERVICE_NAME, serving = now, "health");
            serving.store(now, Ordering::Relaxed);
            let status = if now { ServingStatus::Serving } else { ServingStatus::NotServing };
            say(&reporter, status).await;
            said = Some(now);
        }
        tokio::time::sleep(ASKED_EVERY).await;
    }
}

async fn say(reporter: &HealthReporter, status: ServingStatus) {
    for service in SERVICES {
        reporter.set_service_status(service, status).await;
    }
}

async fn serves(endpoints: &Endpoints, tls: Option<&TlsTrust>) -> bool {
    let asked = endpoints.iter().map(|endpoint| check_health(endpoint, META_SERVICE, PATIENCE, tls));
    join_all(asked).await.into_iter().any(|said| matches!(said, Ok(Said::Serving)))
}
