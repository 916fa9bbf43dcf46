//! A running edge: clients reach the data nodes behind it at its address.
//!
//! Invariant: it holds nothing that matters. What it knows it was told by the leader within the last second or so, and
//! an edge that is killed and started again is the same edge.

mod config;
mod control;
mod failure;
mod lru;
mod metrics;
mod relay;
mod resolver;
mod table;
mod view;

use std::{
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    sync::Arc,
};

use rustix::process::{Resource, getrlimit, setrlimit};
use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use xdpfs_observe::{Observer, ObserverError};
use xdpfs_proto::node::v1::RouteRequest;
use xdpfs_transport::shell::Socket;
use xdpfs_trust::{Role, Trust, TrustError};
use xdpfs_wire::Reject;

pub use self::{
    config::{EdgeArguments, EdgeConfig, EdgeConfigError},
    failure::EdgeFailure,
};
use self::{
    control::{Control, Place},
    metrics::EdgeMetrics,
    relay::{Relay, RelayCounters},
    table::Table,
    view::EdgeView,
};
use crate::{
    admin::{self, AdminError, AdminSocket, SocketPlace},
    event_tap::{EventTap, KEEP_NONE},
    health::{self, Health, HealthConfig},
    run_as::RunAs,
    xdp::{EdgePlane, EdgeReport, XdpError, XdpMode, forward_events},
};

/// Descriptors that are no flows.
const OTHER_DESCRIPTORS: u64 = 256;

/// Why an edge did not start.
#[derive(Debug, Error)]
pub enum EdgeStartError {
    /// Operators can't ask where they were promised to.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// The address to receive on can't be had.
    #[error("can't receive datagrams on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// The configuration can't work.
    #[error(transparent)]
    Config(#[from] EdgeConfigError),
    /// The address where the edge should say whether it serves can't be had.
    #[error("can't answer questions about health on {address}")]
    Health {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        #[source]
        source: io::Error,
    },
    /// Metrics can't be told where they should be.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The metadata service doesn't take the edge.
    #[error(transparent)]
    Refused(#[from] EdgeFailure),
    /// The certificates can't be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The user that it is to become is out of reach.
    #[error("the process can't become another user; that takes root")]
    User(#[source] io::Error),
    /// XDP was demanded and can't be had.
    #[error(transparent)]
    Xdp(#[from] XdpError),
}

/// An edge that has what only a privileged process with one thread gets.
#[derive(Debug)]
pub struct PreparedEdge {
    config: EdgeConfig,
    listener: UdpSocket,
    address: SocketAddr,
    health: Option<(TcpListener, HealthConfig)>,
    plane: EdgePlane,
}

/// An edge that relays. Dropping it ends it at once; [`Edge::shutdown`] takes the kernel program along.
#[derive(Debug)]
pub struct Edge {
    address: String,
    bound: SocketAddr,
    http_address: Option<SocketAddr>,
    plane: Arc<EdgePlane>,
    counters: Arc<RelayCounters>,
    failure: watch::Receiver<Option<EdgeFailure>>,
    tasks: Vec<(&'static str, JoinHandle<()>)>,
    health: Option<Health>,
    trust: Option<Arc<Trust>>,
    stop: DropGuard,
}

impl PreparedEdge {
    /// Binds the edge's address and loads the kernel program. Blocks; call before the process has a second thread.
    ///
    /// # Errors
    /// See [`EdgeStartError`].
    pub fn new(config: EdgeConfig) -> Result<Self, EdgeStartError> {
        config.check()?;
        let error = |source| EdgeStartError::Bind { address: config.listen, source };
        let listener = UdpSocket::bind(config.listen).map_err(error)?;
        let address = listener.local_addr().map_err(error)?;
        let health = config.health.map(listen_for_health).transpose()?;
        allow_descriptors(config.flows_max);
        let plane = EdgePlane::start(config.xdp(address))?;
        // Nothing if the plane has needed privileges, and seen to that.
        config.user.map_or(Ok(()), RunAs::assume).map_err(EdgeStartError::User)?;
        Ok(Self { config, listener, address, health, plane })
    }

    /// Starts the edge. Waits until a metadata leader has said which nodes there are, however long that takes, but not
    /// longer than `stop`. `None` if that came first: the kernel program, which an earlier run may have left in force,
    /// is then taken off or left, as configured.
    ///
    /// # Errors
    /// See [`EdgeStartError`].
    pub async fn start(self, stop: impl Future<Output = ()>) -> Result<Option<Edge>, EdgeStartError> {
        let Self { config, listener, address: bound, health, plane } = self;
        // First of all, so that whoever asks is told that the edge is not there yet.
        let mut health = match health {
            Some((listener, config)) => Some((start_health(listener, config).await?, config)),
            None => None,
        };
        let error = |source| EdgeStartError::Bind { address: bound, source };
        // Privileges bring large buffers.
        let listener = plane.privileged(move || Socket::new(listener)).await?.map_err(error)?;
        let link = config.link.open(&[Role::Edge, Role::Node]).await?;
        let trust = link.trust();
        let certificate = link.certificate();
        let admin = admin_place(&config, bound).map_or(Ok(None), |place| AdminSocket::offered(&place))?;
        let observer = config.listen_http.map(Observer::bind).transpose()?;
        let http_address = observer.as_ref().map(Observer::address);
        let advertised = config.advertise.clone().unwrap_or_else(|| bound.to_string());
        let (plane, counters) = (Arc::new(plane), Arc::new(RelayCounters::default()));
        let word = {
            let (plane, counters) = (Arc::clone(&plane), Arc::clone(&counters));
            let certificate = certificate.clone();
            let expiry_s = move || certificate.expiry_s().unwrap_or_default();
            move || RouteRequest { certificate_expiry_s: expiry_s(), ..word(&plane.report(), &counters) }
        };
        let place = Place { advertised: advertised.clone(), bound };
        let mut control = Control::new(&config.meta, link, place, word);
        let asked = tokio::select! {
            asked = control.ask() => Some(asked?),
            () = stop => None,
        };
        let Some(table) = asked.map(Arc::new) else {
            drop(control);
            stop_plane(plane).await;
            return Ok(None);
        };
        plane.follow(table.told()).await?;
        announce(&plane.report(), config.xdp);
        tracing::info!(address = %bound, advertised, "relaying to data nodes");
        let (tables, latest) = watch::channel(table);
        let silent_max =
            health.as_ref().map_or(health::LEADER_SILENT_MAX, |(_, told)| told.leader_silent_max);
        let metrics =
            EdgeMetrics::new(&plane, Arc::clone(&counters), latest.clone(), silent_max, certificate);
        let metrics = Arc::new(metrics);
        if let Some((health, _)) = &mut health {
            let edge = Arc::clone(&metrics);
            health.follow(move || edge.is_serving());
        }
        let relay = Relay::new(listener, latest.clone(), &config, Arc::clone(&counters));
        let stop = CancellationToken::new();
        let (failed, failure) = watch::channel(None);
        let tap = Arc::new(EventTap::new());
        let mut tasks = vec![
            ("relay", tokio::spawn(serve(relay, stop.clone(), failed.clone()))),
            ("control connection", tokio::spawn(obey(control.run(tables), stop.clone(), failed))),
            ("kernel program", tokio::spawn(follow(Arc::clone(&plane), latest.clone(), stop.clone()))),
            ("trace", tokio::spawn(trace(Arc::clone(&plane), Arc::clone(&tap), stop.clone()))),
        ];
        if let Some(observer) = observer {
            let version = env!("CARGO_PKG_VERSION");
            tasks.push(("metrics", tokio::spawn(observer.serve(version, "edge", metrics, stop.clone()))));
        }
        if let Some(socket) = admin {
            let view = EdgeView::new(&plane, bound, config.uplink, tap);
            tasks.push(("admin socket", tokio::spawn(admin::serve(socket, view, stop.clone()))));
        }
        Ok(Some(Edge {
            address: advertised,
            bound,
            http_address,
            plane,
            counters,
            failure,
            tasks,
            health: health.map(|(health, _)| health),
            trust,
            stop: stop.drop_guard(),
        }))
    }
}

impl Edge {
    /// Where clients reach it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Where it receives datagrams.
    #[must_use]
    pub fn bound(&self) -> SocketAddr {
        self.bound
    }

    /// Where it tells its metrics, if it does.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Where its kernel program runs; never [`XdpMode::Auto`].
    #[must_use]
    pub fn xdp_mode(&self) -> XdpMode {
        self.plane.report().mode
    }

    /// How replies of nodes cross it.
    #[must_use]
    pub fn replies(&self) -> String {
        self.plane.report().replies.to_string()
    }

    /// Clients that are relayed in user space at present.
    #[must_use]
    pub fn flows(&self) -> u64 {
        self.counters.flows()
    }

    /// Looks for new certificates at once.
    pub fn look_at_certificates(&self) {
        if let Some(trust) = &self.trust {
            trust.look_now();
        }
    }

    /// Resolves only if the edge can't go on; it should then be shut down.
    pub async fn failed(&self) -> EdgeFailure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // All parts have ended without one.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Relays no more, and takes the kernel program off or leaves it, as configured.
    pub async fn shutdown(self) {
        let Self { address, plane, tasks, mut health, stop, .. } = self;
        if let Some(health) = &mut health {
            health.drain().await;
        }
        drop(stop);
        for (part, task) in tasks {
            if task.await.is_err() {
                tracing::error!(part, "a part of the edge has died");
            }
        }
        stop_plane(plane).await;
        if let Some(health) = health {
            health.end().await;
        }
        tracing::info!(address, "stopped");
    }
}

fn listen_for_health(config: HealthConfig) -> Result<(TcpListener, HealthConfig), EdgeStartError> {
    let listener = TcpListener::bind(config.listen);
    let listener = listener.map_err(|source| EdgeStartError::Health { address: config.listen, source })?;
    Ok((listener, config))
}

async fn start_health(listener: TcpListener, config: HealthConfig) -> Result<Health, EdgeStartError> {
    let started = Health::start(listener, health::Role::Edge).await;
    started.map_err(|source| EdgeStartError::Health { address: config.listen, source })
}

/// Whoever else used it must have ended.
async fn stop_plane(plane: Arc<EdgePlane>) {
    match Arc::into_inner(plane) {
        Some(plane) => plane.stop().await,
        None => tracing::error!("the kernel program is still in use"),
    }
}

async fn serve(relay: Relay, stop: CancellationToken, failed: watch::Sender<Option<EdgeFailure>>) {
    if let Err(failure) = relay.run(stop).await {
        failed.send_replace(Some(failure));
    }
}

async fn obey(
    control: impl Future<Output = EdgeFailure>,
    stop: CancellationToken,
    failed: watch::Sender<Option<EdgeFailure>>,
) {
    if let Some(failure) = stop.run_until_cancelled(control).await {
        failed.send_replace(Some(failure));
    }
}

/// Tells the kernel program what the leader has told. Apart from asking the leader, because the kernel may hold it up.
async fn follow(plane: Arc<EdgePlane>, mut tables: watch::Receiver<Arc<Table>>, stop: CancellationToken) {
    let following = async {
        while tables.changed().await.is_ok() {
            let told = tables.borrow_and_update().told();
            if let Err(error) = plane.follow(told).await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the kernel program is out of step");
            }
        }
    };
    stop.run_until_cancelled(following).await;
}

/// Hands the kernel program's events to whoever traces, and has it keep none while nobody does.
async fn trace(plane: Arc<EdgePlane>, tap: Arc<EventTap>, stop: CancellationToken) {
    let events = match plane.take_events().await {
        Ok(Some(events)) => events,
        Ok(None) => return,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(error, "the kernel program can't be traced");
            return;
        }
    };
    let sampling = async {
        loop {
            tap.changed().await;
            plane.sample(tap.mask());
        }
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = sampling => {}
        () = forward_events(events, Arc::clone(&tap)) => {}
    }
    plane.sample(KEEP_NONE);
}

/// Where operators may ask: somewhere, if there is a kernel program to ask about.
fn admin_place(config: &EdgeConfig, address: SocketAddr) -> Option<SocketPlace> {
    let usual = || SocketPlace::Usual { name: format!("edge-{}.sock", address.port()), otherwise: None };
    let named = config.admin_socket.clone().map(SocketPlace::Named);
    named.or_else(|| (config.xdp != XdpMode::Off).then(usual))
}

/// What the leader is told, but where this is and whom it asks.
fn word(report: &EdgeReport, counters: &RelayCounters) -> RouteRequest {
    let fates = report.counts.fates.iter().map(|(fate, packets)| ((*fate).to_owned(), *packets));
    let mut packets = fates.collect();
    counters.add_events(&mut packets);
    let refused = Reject::ALL.iter().zip(report.counts.rejects).filter(|(_, count)| *count > 0);
    let mut rejects = refused.map(|(reject, count)| (reject.label().to_owned(), count)).collect();
    counters.add_rejects(&mut rejects);
    RouteRequest {
        xdp_mode: report.mode.to_string(),
        xdp_reason: report.why.clone(),
        replies: report.replies.to_string(),
        packets,
        rejects,
        ..RouteRequest::default()
    }
}

/// Says what is in force. That it isn't what was hoped for should be looked at.
fn announce(report: &EdgeReport, hoped: XdpMode) {
    let EdgeReport { mode, why, replies, .. } = report;
    if *mode == XdpMode::Off && hoped != XdpMode::Off {
        tracing::warn!(%mode, why, "datagrams cross the edge in user space only");
    } else {
        tracing::info!(%mode, why, %replies, "kernel program");
    }
}

/// Each flow is a descriptor, and many systems allow a process only 1024 until it asks for more.
fn allow_descriptors(flows_max: usize) {
    let mut limit = getrlimit(Resource::Nofile);
    let wanted = flows_max as u64 + OTHER_DESCRIPTORS;
    let allowed = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
    if limit.current.is_none_or(|current| current >= allowed) {
        return;
    }
    limit.current = Some(allowed);
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the system allows few clients at a time");
    }
}
