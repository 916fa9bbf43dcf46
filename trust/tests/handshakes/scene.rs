//! A listener with a service behind it, certificates, and callers.

use std::{
    fs,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    transport::{Channel, Endpoint, Server},
};
use tonic_health::{
    pb::{HealthCheckRequest, health_client::HealthClient, health_server::HealthServer},
    server::{HealthReporter, HealthService},
};
use xdpfs_trust::{
    Audience, Authority, DialError, Dialer, Limits, Mismatch, PresenceLayer, Request, Role, Security,
    TlsTrust, Trust, listen,
};

/// How long anything may take that has to happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of certificates by one authority.
pub(crate) struct Ca {
    pub(crate) authority: Authority,
    pub(crate) directory: TempDir,
}

/// A listener that serves, until it is dropped.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    server: JoinHandle<()>,
}

impl Drop for Service {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Ca {
    pub(crate) fn new(cluster: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::make(cluster).unwrap();
        fs::write(directory.path().join("ca.pem"), authority.certificates_pem()).unwrap();
        Self { authority, directory }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// Trusts it, and shows nothing.
    pub(crate) fn client(&self) -> TlsTrust {
        TlsTrust::from_ca_file(&self.path()).unwrap()
    }

    /// A member's directory, for loopback.
    pub(crate) fn member(&self, principal: &str) -> PathBuf {
        self.member_with(principal, |_| {})
    }

    pub(crate) fn member_with(&self, principal: &str, change: impl FnOnce(&mut Request)) -> PathBuf {
        let directory = self.directory.path().join(principal.replace(['/', ':'], "-"));
        fs::create_dir_all(&directory).unwrap();
        self.write(&directory, principal, self.authority.certificates_pem(), change);
        directory
    }

    /// Writes a new certificate and key to a member's directory, and whom it trusts.
    pub(crate) fn write(
        &self,
        directory: &Path,
        principal: &str,
        ca: &str,
        change: impl FnOnce(&mut Request),
    ) {
        let mut request = Request::new(principal.parse().unwrap(), ["127.0.0.1", "localhost"]);
        change(&mut request);
        let issued = self.authority.issue(&request).unwrap();
        fs::write(directory.join("ca.pem"), ca).unwrap();
        fs::write(directory.join("server.key"), &issued.key_pem).unwrap();
        fs::set_permissions(directory.join("server.key"), fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(directory.join("server.pem"), &issued.certificate_pem).unwrap();
    }
}

pub(crate) fn open(directory: &Path) -> Arc<Trust> {
    Trust::open(directory, Role::ALL).unwrap()
}

/// The same, followed.
pub(crate) fn follow(directory: &Path) -> Arc<Trust> {
    let trust = open(directory);
    tokio::spawn(Arc::clone(&trust).follow(CancellationToken::new()));
    trust
}

/// A member that serves whoever it lets in.
pub(crate) async fn serve(directory: &Path, audience: Audience) -> Service {
    serve_with(Security::Tls(follow(directory), audience), Limits { connections_max: 64, handshakes_max: 16 })
        .await
}

pub(crate) async fn serve_with(security: Security, limits: Limits) -> Service {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let health = HealthServer::new(HealthService::from_health_reporter(HealthReporter::new()));
    let server = Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(1)))
        .http2_keepalive_timeout(Some(Duration::from_secs(1)))
        .layer(PresenceLayer)
        .add_service(health)
        .serve_with_incoming(listen(listener, security, limits));
    Service { address, server: tokio::spawn(async move { server.await.unwrap() }) }
}

pub(crate) fn channel(address: SocketAddr, tls: Option<TlsTrust>) -> Channel {
    let dialer = Dialer::new(tls, PATIENCE);
    let endpoint = Endpoint::from_shared(dialer.uri(&address.to_string())).unwrap();
    endpoint.connect_with_connector_lazy(dialer)
}

pub(crate) async fn ask(channel: Channel) -> Result<(), Status> {
    let request = HealthCheckRequest { service: String::new() };
    let answer = tokio::time::timeout(PATIENCE, HealthClient::new(channel).check(request)).await;
    answer.expect("an answer in time").map(drop)
}

/// Calls, and says on what the two ends do not agree.
pub(crate) async fn call(address: SocketAddr, tls: Option<TlsTrust>) -> Result<(), Mismatch> {
    ask(channel(address, tls)).await.map_err(|status| match DialError::mismatch_in(&status) {
        Some(mismatch) => mismatch.clone(),
        None => panic!("no mismatch: {status:?}"),
    })
}

/// Looks until there is something to see.
pub(crate) async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
