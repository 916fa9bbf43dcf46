//! How the parts of a server start, run and stop.
//!
//! Invariant: nothing votes before the identity is checked and durable, and nobody else gets the data directory before
//! the store is closed. Peers have a listener and a runtime of their own, so that no load of clients can delay a
//! heartbeat; so have administrators, if they are to, so that it never keeps them out.

use std::{
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use tokio::{runtime::Runtime, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use xdpfs_client::EndpointsError;
use xdpfs_console::{Console, ConsoleError};
use xdpfs_observe::{Observer, ObserverError};
use xdpfs_proto::raft::v1::raft_service_server::RaftServiceServer;
use xdpfs_trust::{Audience, Dialer, Limits, Listener, PresenceLayer, Security, Trust, TrustError};

use crate::{
    audit::Audit,
    config::{Config, ConfigError, Member},
    consensus::{
        self, Bootstrap, Consensus, Halt, RaftStatus, Role, StageLatencies, StartError, Threads, Workers,
    },
    console,
    directory_lock::DirectoryLock,
    duties, identity,
    identity::IdentityError,
    join,
    join::JoinError,
    metrics::MetaMetrics,
    peers::{self, Addresses, PeerOutbox, RaftReceiver, Traffic, Wiring},
    quarantine,
    service::{self, Gateway, Health, RequestMetrics},
    state_machine::Members,
    storage::{Identity, LogStore, Recovered, SledStore, SnapshotSource, StoreError},
};

/// The store, inside of the data directory.
pub(crate) const STORE: &str = "store";
/// Threads for the traffic with other servers: nothing else runs on them, and with a second one they would wake each other
/// for every message.
const PEER_THREADS: usize = 1;
/// Threads for administrators, where they have a listener of their own.
const ADMIN_THREADS: usize = 1;
/// Connections of other servers at once: each has two, and a few more while it finds out that one is dead.
const PEER_CONNECTIONS_MAX: usize = 64;
/// How long a shutdown waits for another server to lead.
const TRANSFER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the peers' runtime may take to end what is under way.
const PEER_RUNTIME_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which one.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Consensus cannot go on from what is stored.
    #[error(transparent)]
    Consensus(#[from] StartError),
    /// The data directory cannot be used.
    #[error("the data directory {} cannot be used", .directory.display())]
    Directory {
        /// Which one.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The data directory is not this server's.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// No cluster takes this server.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// Administrative acts can't be noted.
    #[error("the audit log {} cannot be written", .file.display())]
    AuditLog {
        /// Where.
        file: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Everybody could do everything.
    #[error(
        "{address} can be reached from other machines, and without a key everybody there may do everything: give \
         --root-key-file FILE, with what `xdpfs-cli key generate` has printed, or --open if that is what you want"
    )]
    Open {
        /// Where it was to serve.
        address: SocketAddr,
    },
    /// Another server runs on the data directory.
    #[error("the data directory {} is in use by another server", .directory.display())]
    InUse {
        /// Which one.
        directory: PathBuf,
    },
    /// Metrics can't be told where they should be.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// Browsers can't be listened to where they should be.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// The status page could not reach the members.
    #[error("the status page cannot use the members' addresses for clients")]
    ConsoleEndpoints(#[from] EndpointsError),
    /// The certificates cannot be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The system gives no threads or no sockets.
    #[error("the system refuses what a server needs")]
    Runtime(#[from] io::Error),
    /// The store cannot be opened.
    #[error(
        "the store in {} cannot be opened; if it is damaged, the server must come back from a fresh directory under a \
         new id: give --join, --address and --quarantine instead of --id and --member", .directory.display()
    )]
    Store {
        /// Where it is.
        directory: PathBuf,
        /// Why.
        source: StoreError,
    },
}

/// Sockets that a server is given, already bound.
#[derive(Debug)]
pub struct Listeners {
    /// For clients and data nodes.
    pub client: TcpListener,
    /// For other servers.
    pub peer: TcpListener,
}

/// A running metadata server. Dropping it stops it without ceremony; [`Server::shutdown`] is kinder to the others.
#[derive(Debug)]
pub struct Server {
    gateway: Arc<Gateway>,
    client_address: SocketAddr,
    peer_address: SocketAddr,
    admin_address: Option<SocketAddr>,
    http_address: Option<SocketAddr>,
    console_address: Option<SocketAddr>,
    health: Health,
    /// Ends what serves clients.
    stop_clients: CancellationToken,
    /// Ends what speaks to peers.
    stop_peers: CancellationToken,
    clients: JoinHandle<()>,
    administrators: Option<Administrators>,
    observer: Option<JoinHandle<()>>,
    console: Option<JoinHandle<()>>,
    /// Follows consensus into health.
    health_follower: AbortOnDropHandle<()>,
    /// Makes this server a member, if it is not one yet.
    _joining: AbortOnDropHandle<()>,
    _duties: AbortOnDropHandle<()>,
    _repair: AbortOnDropHandle<()>,
    /// The certificates, and what follows their directory.
    trust: Option<(Arc<Trust>, AbortOnDropHandle<()>)>,
    /// Gone once the server has stopped.
    engine: Option<Engine>,
}

/// Serves administrators apart from clients.
#[derive(Debug)]
struct Administrators {
    serving: JoinHandle<()>,
    runtime: Option<Runtime>,
}

/// What must end in order before the data directory is free.
#[derive(Debug)]
struct Engine {
    threads: Threads,
    peer_runtime: Runtime,
    lock: DirectoryLock,
}

impl Server {
    /// Starts a server on the addresses of its configuration.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub async fn start(config: Config) -> Result<Self, ServerError> {
        config.check()?;
        let own = config.own_member().ok_or(ConfigError::NotAMember(config.id))?;
        let listeners = Listeners {
            client: bind(config.listen_client, &own.client_address)?,
            peer: bind(config.listen_peer, &own.peer_address)?,
        };
        Self::start_on(config, listeners).await
    }

    /// Starts a server on sockets that are bound already. They must be what the configuration says of this member.
    ///
    /// # Errors
    ///
    /// See [`ServerError`].
    pub async fn start_on(config: Config, listeners: Listeners) -> Result<Self, ServerError> {
        config.check()?;
        let (client_address, client) = prepare(listeners.client)?;
        let (peer_address, peer) = prepare(listeners.peer)?;
        let console = config.listen_console.map(Console::bind).transpose()?;
        let console_address = console.as_ref().map(Console::address);
        let bind_admin = |listen: SocketAddr| prepare(bind(Some(listen), "")?).map_err(ServerError::from);
        let (admin_address, admin) = config.listen_admin.map(bind_admin).transpose()?.unzip();
        for address in [client_address, peer_address].into_iter().chain(admin_address).chain(console_address)
        {
            config.check_address(address)?;
        }
        let mut open = [client_address].into_iter().chain(admin_address).chain(console_address);
        if let Some(address) = open.find(|address| !address.ip().is_loopback())
            && config.root_key.is_none()
            && !config.open
        {
            return Err(ServerError::Open { address });
        }
        let audit = open_audit(&config)?;
        let client = tokio::net::TcpListener::from_std(client)?;
        let observer = config.listen_http.map(Observer::bind).transpose()?;
        let http_address = observer.as_ref().map(Observer::address);
        let latencies = StageLatencies::default();
        let stop_peers = CancellationToken::new();
        let (mut config, opened, trust) = {
            let open = tokio::task::spawn_blocking(move || {
                let open = |directory: &PathBuf| Trust::open(directory, &[xdpfs_trust::Role::Meta]);
                let trust = config.tls.as_ref().map(open).transpose()?;
                let opened = Opened::open(&config)?;
                Ok::<_, ServerError>((config, opened, trust))
            });
            open.await.map_err(io::Error::other)??
        };
        let joined = match opened.recovered.identity {
            None => join::reserve(&config, trust.as_ref()).await?,
            Some(_) => None,
        };
        let (engine, consensus, traffic) = {
            let (latencies, stop, trust) = (latencies.clone(), stop_peers.clone(), trust.clone());
            let start = tokio::task::spawn_blocking(move || {
                let started =
                    start_engine(&mut config, opened, joined, trust.as_ref(), peer, latencies, &stop)?;
                Ok::<_, ServerError>((config, started))
            });
            let (known, started) = start.await.map_err(io::Error::other)??;
            config = known;
            started
        };
        let security = security(trust.as_ref(), Audience::Anyone);
        let follow = |trust: Arc<Trust>| {
            let following = tokio::spawn(Arc::clone(&trust).follow(CancellationToken::new()));
            (trust, AbortOnDropHandle::new(following))
        };
        tracing::info!(id = config.id, %client_address, %peer_address, "the server has started");
        let joining = join::become_member(config.clone(), trust.clone(), consensus.clone());

        let gateway = Arc::new(Gateway::new(config, consensus, audit, trust.clone()));
        let health = Health::new();
        let follower = health.clone().follow(gateway.consensus().watch_standing());
        let stop_clients = CancellationToken::new();
        let show = |console| {
            let (config, trust) = (gateway.config(), trust.as_ref());
            console::serve(console, config, client_address, trust, stop_clients.clone()).map(tokio::spawn)
        };
        let console = console.map(show).transpose()?;
        let requests = Arc::clone(gateway.requests());
        let serving = (Arc::clone(&gateway), Arc::clone(&requests));
        let start_admin = |listener| {
            let serving = (Arc::clone(&serving.0), Arc::clone(&serving.1));
            Administrators::start(serving, health.clone(), listener, security.clone(), stop_clients.clone())
        };
        let administrators = admin.map(start_admin).transpose()?;
        let clients = serve_clients(serving, health.clone(), client, security, stop_clients.clone());
        let metrics = MetaMetrics { gateway: Arc::clone(&gateway), latencies, traffic, requests };
        let observe = |observer: Observer| {
            let version = env!("CARGO_PKG_VERSION");
            tokio::spawn(observer.serve(version, "meta", Arc::new(metrics), stop_clients.clone()))
        };
        let observer = observer.map(observe);
        Ok(Self {
            client_address,
            peer_address,
            admin_address,
            http_address,
            console_address,
            health,
            stop_clients,
            stop_peers,
            clients: tokio::spawn(clients),
            administrators,
            observer,
            console,
            health_follower: AbortOnDropHandle::new(tokio::spawn(follower)),
            _joining: AbortOnDropHandle::new(tokio::spawn(joining)),
            _duties: AbortOnDropHandle::new(tokio::spawn(duties::run(Arc::clone(&gateway)))),
            _repair: AbortOnDropHandle::new(tokio::spawn(service::run_repair(Arc::clone(&gateway)))),
            trust: trust.map(follow),
            gateway,
            engine: Some(engine),
        })
    }

    /// Where clients and data nodes reach this server.
    #[must_use]
    pub const fn client_address(&self) -> SocketAddr {
        self.client_address
    }

    /// Where other servers reach this server.
    #[must_use]
    pub const fn peer_address(&self) -> SocketAddr {
        self.peer_address
    }

    /// Where administrators reach this server, if they are served apart from clients.
    #[must_use]
    pub const fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Where this server tells its metrics, if it does.
    #[must_use]
    pub const fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Where this server shows the cluster to browsers, if it does.
    #[must_use]
    pub const fn console_address(&self) -> Option<SocketAddr> {
        self.console_address
    }

    /// Goes by this configuration from here on, as far as that takes no restart: the bounds on connections and requests, and
    /// the root key. New certificates are looked for at once.
    ///
    /// # Errors
    ///
    /// The parts of the configuration contradict each other; nothing has changed then.
    pub fn reload(&self, config: &Config) -> Result<(), ConfigError> {
        config.check()?;
        self.gateway.live().follow(config);
        if let Some((trust, _)) = &self.trust {
            trust.look_now();
        }
        Ok(())
    }

    /// Resolves once a leader is known, and this server knows that the cluster can serve: it has an id, and a secret
    /// to make capabilities with.
    pub async fn ready(&self) {
        let mut status = self.gateway.consensus().watch_status();
        loop {
            let leader_id = status.borrow_and_update().leader_id;
            let is_founded = {
                let state = self.gateway.state();
                !state.cluster_id().is_empty() && !state.key_epochs().live().is_empty()
            };
            if leader_id != 0 && is_founded {
                return;
            }
            if status.changed().await.is_err() {
                // Consensus has ended: this server will not be ready any more.
                std::future::pending::<()>().await;
            }
        }
    }

    /// This server's id.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.gateway.config().id
    }

    /// Resolves once this server was removed from the cluster: it does nothing any more, and must not come back.
    pub async fn removed(&self) {
        let mut standing = self.gateway.consensus().watch_standing();
        if standing.wait_for(|standing| standing.removed).await.is_err() {
            // Consensus has ended by itself.
            std::future::pending::<()>().await;
        }
    }

    /// Resolves once this server must not go on, and why: what is in its directory is left as it is.
    pub async fn halted(&self) -> Halt {
        let mut standing = self.gateway.consensus().watch_standing();
        let halted = standing.wait_for(|standing| standing.halt.is_some()).await;
        let halted = halted.ok().and_then(|standing| standing.halt);
        match halted {
            Some(halt) => halt,
            // Consensus has ended by itself.
            None => std::future::pending().await,
        }
    }

    /// Stops in good order: gives leadership away, lets what is under way end, closes the store. It takes no longer
    /// than the configuration says; what has not ended then is cut off.
    pub async fn shutdown(mut self) {
        // The other half is for the parts behind.
        let timeout = self.gateway.config().shutdown_timeout / 2;
        let stopped = tokio::time::timeout(timeout, async {
            self.health_follower.abort();
            self.health.drain().await;
            self.give_leadership_away(timeout / 2).await;
            self.stop_clients.cancel();
            if (&mut self.clients).await.is_err() {
                tracing::warn!("serving clients has ended before its time");
            }
            if let Some(administrators) = &mut self.administrators
                && (&mut administrators.serving).await.is_err()
            {
                tracing::warn!("serving administrators has ended before its time");
            }
            for task in [self.observer.take(), self.console.take()].into_iter().flatten() {
                // It answers nobody who would notice.
                let _ = task.await;
            }
        });
        if stopped.await.is_err() {
            tracing::warn!("connections of clients are cut off");
            self.clients.abort();
        }
        self.stop_peers.cancel();
        if let Some(engine) = self.engine.take() {
            // Only the runtime's own end can keep the task from running.
            let _ = tokio::task::spawn_blocking(|| engine.stop()).await;
        }
        tracing::info!("the server has stopped");
    }

    /// Clients notice a change of leadership less than the loss of a leader.
    async fn give_leadership_away(&self, patience: Duration) {
        let consensus = self.gateway.consensus();
        let id = self.gateway.config().id;
        let mut status = consensus.watch_status();
        let has_successor = |status: &RaftStatus| {
            let others_live =
                status.voters.iter().any(|voter| voter.id != id && voter.active && !voter.learner);
            status.role == Role::Leader && others_live
        };
        if !has_successor(&status.borrow_and_update()) {
            return;
        }
        consensus.transfer_leadership();
        let another_leads = status.wait_for(|status| status.leader_id != id && status.leader_id != 0);
        match tokio::time::timeout(patience.min(TRANSFER_TIMEOUT), another_leads).await {
            Ok(_) => tracing::info!("leadership was given away"),
            Err(_) => tracing::warn!("nobody took leadership over in time"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop_clients.cancel();
        self.stop_peers.cancel();
        if let Some(engine) = self.engine.take() {
            // A runtime must not end on a thread that serves another one.
            let stopping = std::thread::spawn(|| engine.stop());
            let _ = stopping.join();
        }
    }
}

impl Engine {
    /// Blocks until the store is closed.
    fn stop(self) {
        self.threads.stop();
        self.peer_runtime.shutdown_timeout(PEER_RUNTIME_TIMEOUT);
        drop(self.lock);
    }
}

impl Administrators {
    fn start(
        (gateway, requests): (Arc<Gateway>, Arc<RequestMetrics>),
        health: Health,
        listener: TcpListener,
        security: Security,
        stop: CancellationToken,
    ) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(ADMIN_THREADS)
            .thread_name("admin")
            .enable_all()
            .build()?;
        let serve = async move {
            let served = match tokio::net::TcpListener::from_std(listener) {
                Ok(listener) => {
                    service::serve_administrators(gateway, &health, requests, listener, security, stop).await
                }
                Err(error) => Err(error.into()),
            };
            if let Err(error) = served {
                tracing::error!(error = &error as &dyn std::error::Error, "administrators are not served");
            }
        };
        Ok(Self { serving: runtime.spawn(serve), runtime: Some(runtime) })
    }
}

impl Drop for Administrators {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not end on a thread that serves another one, unless it need not be waited for.
            runtime.shutdown_background();
        }
    }
}

async fn serve_clients(
    (gateway, requests): (Arc<Gateway>, Arc<RequestMetrics>),
    health: Health,
    listener: tokio::net::TcpListener,
    security: Security,
    stop: CancellationToken,
) {
    if let Err(error) = service::serve(gateway, &health, requests, listener, security, stop).await {
        tracing::error!(error = &error as &dyn std::error::Error, "clients are not served");
    }
}

fn security(trust: Option<&Arc<Trust>>, audience: Audience) -> Security {
    trust.map_or(Security::Plaintext, |trust| Security::Tls(Arc::clone(trust), audience))
}

/// A data directory that is this process's alone.
struct Opened {
    lock: DirectoryLock,
    store: SledStore,
    recovered: Recovered,
}

impl Opened {
    fn open(config: &Config) -> Result<Self, ServerError> {
        let lock = lock_directory(config)?;
        let directory = config.data_dir.join(STORE);
        let opened = quarantine::open(&directory, config.quarantine);
        let (store, recovered) = opened.map_err(|source| ServerError::Store { directory, source })?;
        Ok(Self { lock, store, recovered })
    }
}

/// Starts everything that works without clients, as the server that the data directory belongs to. Blocks.
fn start_engine(
    config: &mut Config,
    opened: Opened,
    joined: Option<Identity>,
    trust: Option<&Arc<Trust>>,
    peer_listener: TcpListener,
    latencies: StageLatencies,
    stop: &CancellationToken,
) -> Result<(Engine, Consensus, Traffic), ServerError> {
    let Opened { lock, mut store, recovered } = opened;
    let identity = identity::establish(config, &mut store, recovered.identity.clone(), joined)?;
    config.become_server(identity.raft_id);
    let config = &*config;
    let bootstrap = Bootstrap { recovered, identity, config: config.consensus.clone() };
    let peer_runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(PEER_THREADS)
        .thread_name("peers")
        .enable_all()
        .build()?;
    let in_runtime = peer_runtime.enter();
    let peering = Peering {
        listener: tokio::net::TcpListener::from_std(peer_listener)?.into(),
        security: security(trust, Audience::MetaServers),
        dialer: Dialer::new(trust.map(Trust::dialing), peers::CONNECT_TIMEOUT),
    };
    let (consensus, workers) = meet_peers(config, bootstrap, store, peering, latencies, stop)?;
    let traffic = workers.outbox().traffic().clone();
    let threads = workers.start()?;
    drop(in_runtime);
    Ok((Engine { threads, peer_runtime, lock }, consensus, traffic))
}

/// How a server reaches others, and is reached by them.
pub(crate) struct Peering {
    pub(crate) listener: Listener,
    pub(crate) security: Security,
    pub(crate) dialer: Dialer,
}

/// Consensus, and what has yet to be started for it.
type Met<S> = (Consensus, Workers<S, PeerOutbox<<S as LogStore>::Snapshots>>);

/// Puts consensus and the traffic with other servers together, the latter on the current runtime. Consensus begins with
/// what is returned.
pub(crate) fn meet_peers<S: LogStore>(
    config: &Config,
    bootstrap: Bootstrap,
    store: S,
    Peering { listener, security, dialer }: Peering,
    latencies: StageLatencies,
    stop: &CancellationToken,
) -> Result<Met<S>, StartError> {
    let has_joined = !bootstrap.identity.voters.contains(&bootstrap.identity.raft_id);
    let snapshots = store.snapshots();
    let known = config.members.iter().map(|member| (member.id, member.peer_address.clone()));
    let own_addresses = config
        .own_member()
        .map(|own| Addresses { peer: own.peer_address.clone(), client: own.client_address.clone() });
    let mut outbox = None;
    let (consensus, workers) =
        consensus::assemble(bootstrap, store, latencies, |inputs, cluster_id, programs, fingerprints| {
            let wiring = Wiring {
                own: config.id,
                own_addresses: own_addresses.unwrap_or_default(),
                configured: known.clone().collect(),
                dialer,
                inputs,
                cluster_id,
                programs,
                fingerprints,
                snapshots,
                stop: stop.clone(),
                runtime: tokio::runtime::Handle::current(),
            };
            outbox.insert(PeerOutbox::start(known, wiring)).clone()
        })?;
    let outbox = outbox.expect("consensus makes it");
    tokio::spawn(follow_members(config.members.clone(), consensus.clone(), outbox.clone(), stop.clone()));
    let receiver = RaftReceiver::service(consensus.clone(), outbox, config.id, has_joined);
    tokio::spawn(serve_peers(receiver, listener, security, stop.clone()));
    Ok((consensus, workers))
}

/// Speaks to those that are members now.
async fn follow_members<S: SnapshotSource>(
    configured: Vec<Member>,
    consensus: Consensus,
    outbox: PeerOutbox<S>,
    stop: CancellationToken,
) {
    let mut members = consensus.watch_members();
    drop(consensus);
    let mut contradiction = None;
    let follow = async {
        loop {
            let now = Arc::clone(&members.borrow_and_update());
            outbox.follow(&now);
            let found = contradiction_in(&configured, &now);
            if found != contradiction
                && let Some(what) = &found
            {
                tracing::warn!(
                    what,
                    "the configuration is out of date: the cluster's own list of its servers counts"
                );
            }
            contradiction = found;
            if members.changed().await.is_err() {
                return;
            }
        }
    };
    stop.run_until_cancelled(follow).await;
}

/// What a configuration says of the members that is not so. Members that were added since are no contradiction.
fn contradiction_in(configured: &[Member], members: &Members) -> Option<String> {
    let wrong = |own: &&Member| match members.find(own.id) {
        Some(member) => {
            (&member.peer_address, &member.client_address) != (&own.peer_address, &own.client_address)
        }
        None => members.is_known() && members.is_former(own.id),
    };
    let found = configured.iter().find(wrong)?;
    Some(match members.find(found.id) {
        Some(member) => {
            format!("server {} is at {},{}", found.id, member.peer_address, member.client_address)
        }
        None => format!("server {} is no member any more", found.id),
    })
}

async fn serve_peers<S: SnapshotSource>(
    receiver: RaftServiceServer<RaftReceiver<S>>,
    listener: Listener,
    security: Security,
    stop: CancellationToken,
) {
    let limits = Limits { connections_max: PEER_CONNECTIONS_MAX, handshakes_max: PEER_CONNECTIONS_MAX };
    let incoming = xdpfs_trust::listen(listener, security, limits);
    let server = peers::server().layer(PresenceLayer).add_service(receiver);
    if let Err(error) = server.serve_with_incoming_shutdown(incoming, stop.cancelled_owned()).await {
        tracing::error!(error = &error as &dyn std::error::Error, "peers are not served");
    }
}

fn open_audit(config: &Config) -> Result<Audit, ServerError> {
    let opened = Audit::open(config.audit_log.as_deref());
    opened.map_err(|source| ServerError::AuditLog {
        file: config.audit_log.clone().unwrap_or_default(),
        source,
    })
}

fn lock_directory(config: &Config) -> Result<DirectoryLock, ServerError> {
    let directory = || config.data_dir.clone();
    DirectoryLock::try_acquire(&config.data_dir)
        .map_err(|source| ServerError::Directory { directory: directory(), source })?
        .ok_or_else(|| ServerError::InUse { directory: directory() })
}

/// Listens on `listen`, or else on what the member's own address stands for.
fn bind(listen: Option<SocketAddr>, own_address: &str) -> Result<TcpListener, ServerError> {
    let address = listen.map_or_else(|| own_address.to_owned(), |listen| listen.to_string());
    let bound =
        address.to_socket_addrs().and_then(|addresses| TcpListener::bind(&addresses.collect::<Vec<_>>()[..]));
    bound.map_err(|source| ServerError::Bind { address, source })
}

fn prepare(listener: TcpListener) -> io::Result<(SocketAddr, TcpListener)> {
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, listener))
}
