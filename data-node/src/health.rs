//! Whether this process serves, for whoever watches it, by grpc.health.v1.
//!
//! The empty name is served as long as the process lives; the role's name while it can do its work. Nothing depends on
//! what is said here.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    time::Duration,
};

use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Server;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};

/// A leader is replaced within two seconds; one that is missed for longer than this is no matter of a failover.
pub(crate) const LEADER_SILENT_MAX: Duration = Duration::from_secs(10);
/// How often it is judged anew.
const JUDGED_EVERY: Duration = Duration::from_millis(250);
/// Questions of one connection that are answered at a time.
const QUESTIONS_MAX: usize = 16;
/// A connection whose peer is silent for this long, and does not answer for as long again, is closed.
const KEEPALIVE: Duration = Duration::from_secs(20);

/// Where a data node or an edge says whether it serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HealthConfig {
    /// Where questions are answered.
    pub listen: SocketAddr,
    /// Who has not heard from a leader for this long does not serve.
    pub leader_silent_max: Duration,
}

impl HealthConfig {
    /// With the usual patience.
    #[must_use]
    pub const fn new(listen: SocketAddr) -> Self {
        Self { listen, leader_silent_max: LEADER_SILENT_MAX }
    }
}

/// What is watched.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    DataNode,
    Edge,
}

impl Role {
    /// The service's name.
    const fn service(self) -> &'static str {
        match self {
            Self::DataNode => "xdpfs.DataNode",
            Self::Edge => "xdpfs.Edge",
        }
    }
}

/// Answers until it is dropped.
#[derive(Debug)]
pub(crate) struct Health {
    server: AbortOnDropHandle<()>,
    reporter: HealthReporter,
    role: Role,
    follower: Option<AbortOnDropHandle<()>>,
}

impl Health {
    /// Begins to answer: that the role doesn't serve, until [`Health::follow`].
    ///
    /// # Errors
    /// The system does not take the listener.
    pub(crate) async fn start(listener: TcpListener, role: Role) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener)?);
        let reporter = HealthReporter::new();
        reporter.set_service_status(role.service(), ServingStatus::NotServing).await;
        let service = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let server = Server::builder()
            .concurrency_limit_per_connection(QUESTIONS_MAX)
            .http2_keepalive_interval(Some(KEEPALIVE))
            .http2_keepalive_timeout(Some(KEEPALIVE))
            .add_service(service)
            .serve_with_incoming(incoming);
        let server = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::warn!(%error, "nobody can ask any more whether this process serves");
            }
        });
        Ok(Self { server: AbortOnDropHandle::new(server), reporter, role, follower: None })
    }

    /// From now on the role serves whenever `is_serving` says so.
    pub(crate) fn follow(&mut self, is_serving: impl Fn() -> bool + Send + 'static) {
        let (reporter, service) = (self.reporter.clone(), self.role.service());
        let following = async move {
            let mut said = None;
            loop {
                let now = is_serving();
                if said != Some(now) {
                    tracing::info!(service, serving = now, "health");
                    let status = if now { ServingStatus::Serving } else { ServingStatus::NotServing };
                    reporter.set_service_status(service, status).await;
                    said = Some(now);
                }
                tokio::time::sleep(JUDGED_EVERY).await;
            }
        };
        self.follower = Some(AbortOnDropHandle::new(tokio::spawn(following)));
    }

    /// Sends everyone elsewhere, for as long as the role takes to end.
    pub(crate) async fn drain(&mut self) {
        self.follower = None;
        self.reporter.set_service_status(self.role.service(), ServingStatus::NotServing).await;
    }

    /// Answers no more, and has let go of its address.
    pub(crate) async fn end(self) {
        self.server.abort();
        // That it was aborted is no news.
        let _aborted = self.server.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    };

    use tonic::transport::Endpoint;
    use tonic_health::pb::{
        HealthCheckRequest, health_check_response::ServingStatus as Said, health_client::HealthClient,
    };

    use super::*;

    #[tokio::test]
    async fn a_role_serves_when_it_says_so_and_not_before() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let uri = format!("http://{address}");
        let mut health = Health::start(listener, Role::Edge).await.unwrap();
        let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
        let ask = |service: &'static str| {
            let mut client = HealthClient::new(channel.clone());
            async move {
                let answer = client.check(HealthCheckRequest { service: service.to_owned() }).await;
                answer.map(|answer| answer.into_inner().status())
            }
        };
        let becomes = |expect: Said| async move {
            let wait = async {
                while ask("xdpfs.Edge").await.unwrap() != expect {
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(Duration::from_secs(20), wait).await.unwrap();
        };
        assert_eq!(ask("").await.unwrap(), Said::Serving);
        assert_eq!(ask("xdpfs.Edge").await.unwrap(), Said::NotServing);
        assert!(ask("xdpfs.DataNode").await.is_err(), "it is no data node");
        let is_serving = Arc::new(AtomicBool::new(true));
        let word = Arc::clone(&is_serving);
        health.follow(move || word.load(Ordering::Relaxed));
        becomes(Said::Serving).await;
        is_serving.store(false, Ordering::Relaxed);
        becomes(Said::NotServing).await;
        is_serving.store(true, Ordering::Relaxed);
        becomes(Said::Serving).await;
        health.drain().await;
        assert_eq!(ask("xdpfs.Edge").await.unwrap(), Said::NotServing);
        health.end().await;
        TcpListener::bind(address).unwrap();
    }
}
