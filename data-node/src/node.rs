//! A running data node: its parts, in the order in which they start and stop.
//!
//! Invariant: nothing is served before the directory is locked, the stores of its disks are repaired and the node is registered.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
};

use thiserror::Error;
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};
use xdpfs_observe::{Observer, ObserverError};
use xdpfs_transport::shell::Socket;
use xdpfs_trust::{Role, Trust, TrustError};
use xdpfs_wire::NodeId;

use crate::{
    admin::{self, AdminError, AdminSocket, SocketPlace},
    config::{Config, ConfigError, DataPlace},
    control::{Control, Identity},
    data_directory::{DataDirectory, DirectoryError},
    data_path::DataPath,
    directory_pool,
    disks::{DiskError, Disks, Told, muster},
    health::{self, Health, HealthConfig},
    metrics::NodeMetrics,
    node_failure::NodeFailure,
    node_view::NodeView,
    own_address::{self, OwnAddress},
    scrub::{ScrubConfig, Scrubbers},
    storage_probe::{self, StorageDoubt},
    store::OpenError,
    xdp::{PlaneThread, Xdp, XdpError, XdpMode},
};

/// Why a data node did not start.
#[derive(Debug, Error)]
pub enum StartError {
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
    Config(#[from] ConfigError),
    /// The data directory can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The disks can't be used as they are named.
    #[error(transparent)]
    Disks(DiskError),
    /// The address where the node should say whether it serves can't be had.
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
    /// The metadata service doesn't take the node.
    #[error(transparent)]
    Refused(#[from] NodeFailure),
    /// What is acknowledged there would be lost with the power, and it was demanded that it isn't.
    #[error("{directory} can't hold chunks: {doubt}; {}, or leave out --require-durable", .doubt.advice())]
    Storage {
        /// The directory.
        directory: PathBuf,
        /// What speaks against it.
        doubt: StorageDoubt,
    },
    /// The chunk store can't be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// The certificates can't be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The system has no thread or no randomness left.
    #[error("the system lacks resources")]
    System(#[source] io::Error),
    /// XDP was demanded and can't be had.
    #[error(transparent)]
    Xdp(#[from] XdpError),
}

impl From<DiskError> for StartError {
    /// A node with one disk, or with several: a reason is the same one.
    fn from(error: DiskError) -> Self {
        match error {
            DiskError::Directory(error) => Self::Directory(error),
            DiskError::Store(error) => Self::Store(error),
            error => Self::Disks(error),
        }
    }
}

/// A data node that serves. Dropping it ends it without waiting for what is under way; [`DataNode::shutdown`] waits.
#[derive(Debug)]
pub struct DataNode {
    node_id: NodeId,
    address: SocketAddr,
    http_address: Option<SocketAddr>,
    disks: Disks,
    scrubbers: Scrubbers,
    failure: watch::Receiver<Option<NodeFailure>>,
    data_path: JoinHandle<()>,
    control: JoinHandle<()>,
    filter: JoinHandle<()>,
    admin: Option<JoinHandle<()>>,
    observer: Option<JoinHandle<()>>,
    health: Option<Health>,
    trust: Option<Arc<Trust>>,
    stop: DropGuard,
}

impl DataNode {
    /// Starts a node with the privileges that the process has. Waits until a metadata leader has registered it, however
    /// long that takes; dropping the future gives up.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: Config) -> Result<Self, StartError> {
        Self::start_by(PlaneThread::start().map_err(StartError::System)?, config).await
    }

    /// Starts a node whose `thread` does what takes privileges. Otherwise as [`DataNode::start`].
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start_by(thread: PlaneThread, config: Config) -> Result<Self, StartError> {
        config.check()?;
        // First of all, so that whoever asks is told that the node is not there yet.
        let mut health = start_health(config.health).await?;
        let link = config.link.open(&[Role::Node]).await?;
        let trust = link.trust();
        let (directory, disks, doubts) = open(config.clone()).await?;
        let scrubbers = Scrubbers::spawn(&disks, config.scrub).map_err(StartError::System)?;
        let scrub = scrubbers.handle();
        // Privileges bring large buffers and low ports.
        let (socket, address) = thread.run(move || bind(config.listen)).await??;
        let observer = config.listen_http.map(Observer::bind).transpose()?;
        let http_address = observer.as_ref().map(Observer::address);
        let place = admin_place(&config, directory.path(), address);
        let interfaces = config.xdp.interfaces.clone();
        // Before the node registers: a node that can't start as it is told should not become known.
        let xdp = Xdp::load(config.xdp, address, thread).await?;
        let is_asked =
            [&config.advertise, &config.direct].into_iter().flatten().any(|to| *to == OwnAddress::Auto);
        let own = if is_asked { own_address::find(&config.meta, address).await } else { address };
        let clients_address = config.advertise.map_or_else(|| address.to_string(), |to| to.told(own));
        let identity = Identity {
            direct_address: match config.direct {
                Some(direct) => direct.told(own),
                None if address.ip().is_unspecified() => clients_address.clone(),
                None => address.to_string(),
            },
            address: clients_address,
            failure_domain: config.failure_domain,
            labels: config.labels,
            capacity_bytes: disks.usage().capacity_bytes,
            storage_doubts: doubts,
        };
        let certificate = link.certificate();
        let control =
            Control::register(&config.meta, link, identity, directory, disks.clone(), scrub.clone()).await?;
        let state = Arc::clone(control.state());
        let node_id = state.registration().target.node;
        // After the node has registered: until then the program would refuse what belongs to it.
        let filter = xdp.attach(Arc::clone(&state)).await?;
        filter.announce(&state);
        let view = NodeView::new(Arc::clone(&state), address, interfaces, filter.events());
        let admin = place.map_or(Ok(None), |place| AdminSocket::offered(&place))?;
        let data_path =
            DataPath::new(socket, disks.clone(), Arc::clone(&state)).map_err(StartError::System)?;
        tracing::info!(node = %node_id, %address, "serving chunks");
        let leader_silent_max =
            config.health.map_or(health::LEADER_SILENT_MAX, |health| health.leader_silent_max);
        let metrics = NodeMetrics {
            state: Arc::clone(&state),
            disks: disks.clone(),
            scrub,
            leader_silent_max,
            certificate,
        };
        if let Some(health) = &mut health {
            let node = metrics.clone();
            health.follow(move || node.is_serving());
        }
        let stop = CancellationToken::new();
        let (failed, failure) = watch::channel(None);
        let data_path = tokio::spawn(serve(data_path, stop.clone(), failed.clone()));
        let control = tokio::spawn(obey(control, stop.clone(), failed));
        let filter = tokio::spawn(filter.run(state, stop.clone()));
        let admin = admin.map(|socket| tokio::spawn(admin::serve(socket, view, stop.clone())));
        let observe = |observer: Observer| {
            let version = env!("CARGO_PKG_VERSION");
            tokio::spawn(observer.serve(version, "node", Arc::new(metrics), stop.clone()))
        };
        let observer = observer.map(observe);
        let stop = stop.drop_guard();
        Ok(Self {
            node_id,
            address,
            http_address,
            disks,
            scrubbers,
            failure,
            data_path,
            control,
            filter,
            admin,
            observer,
            health,
            trust,
            stop,
        })
    }

    /// The node's id, the same for the life of its data directory.
    #[must_use]
    pub fn node_id(&self) -> NodeId {
        self.node_id
    }

    /// Where datagrams are received.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where metrics are told, if they are.
    #[must_use]
    pub fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// From here on damage is looked for so hard.
    pub fn configure_scrub(&self, config: ScrubConfig) {
        self.scrubbers.handle().configure(config);
    }

    /// Looks for new certificates at once.
    pub fn look_at_certificates(&self) {
        if let Some(trust) = &self.trust {
            trust.look_now();
        }
    }

    /// Resolves only if the node can't go on; it should then be shut down.
    pub async fn failed(&self) -> NodeFailure {
        let mut failure = self.failure.clone();
        match failure.wait_for(Option::is_some).await.map(|failure| failure.clone()) {
            Ok(Some(failure)) => failure,
            // Both parts have ended without one.
            Ok(None) | Err(_) => std::future::pending().await,
        }
    }

    /// Takes no more requests, finishes the stores that are under way, closes the disks and lets go of the directory.
    pub async fn shutdown(self) {
        let Self {
            node_id,
            disks,
            scrubbers,
            data_path,
            control,
            filter,
            admin,
            observer,
            mut health,
            stop,
            ..
        } = self;
        if let Some(health) = &mut health {
            health.drain().await;
        }
        drop(stop);
        let tasks = [("data path", data_path), ("control connection", control), ("kernel program", filter)];
        let others = [admin.map(|task| ("admin socket", task)), observer.map(|task| ("metrics", task))];
        for (part, task) in tasks.into_iter().chain(others.into_iter().flatten()) {
            if task.await.is_err() {
                tracing::error!(part, "a part of the node has died");
            }
        }
        let close = move || {
            drop(scrubbers);
            disks.close();
        };
        if tokio::task::spawn_blocking(close).await.is_err() {
            tracing::error!("the disks could not be closed");
        }
        if let Some(health) = health {
            health.end().await;
        }
        tracing::info!(node = %node_id, "stopped");
    }
}

async fn serve(data_path: DataPath, stop: CancellationToken, failed: watch::Sender<Option<NodeFailure>>) {
    if let Err(failure) = data_path.run(stop).await {
        failed.send_replace(Some(failure));
    }
}

async fn obey(control: Control, stop: CancellationToken, failed: watch::Sender<Option<NodeFailure>>) {
    if let Some(failure) = stop.run_until_cancelled(control.run()).await {
        failed.send_replace(Some(failure));
    }
}

async fn start_health(config: Option<HealthConfig>) -> Result<Option<Health>, StartError> {
    let Some(HealthConfig { listen: address, .. }) = config else { return Ok(None) };
    let error = |source| StartError::Health { address, source };
    let listener = TcpListener::bind(address).map_err(error)?;
    Health::start(listener, health::Role::DataNode).await.map(Some).map_err(error)
}

/// What speaks against each directory.
type Doubts = BTreeMap<PathBuf, Option<StorageDoubt>>;

async fn open(config: Config) -> Result<(Arc<DataDirectory>, Disks, Vec<StorageDoubt>), StartError> {
    let opened = tokio::task::spawn_blocking(move || open_here(config));
    let ended = |error| StartError::System(io::Error::other(error));
    let (directory, disks, doubts) = opened.await.map_err(ended)??;
    let mut told = BTreeSet::new();
    for (directory, doubt) in doubts {
        let Some(doubt) = doubt else { continue };
        let (directory, advice) = (directory.display(), doubt.advice());
        tracing::warn!(%directory, %doubt, advice, "THE DIRECTORY DOES NOT KEEP WHAT RECEIPTS PROMISE");
        told.insert(doubt);
    }
    Ok((Arc::new(directory), disks, told.into_iter().collect()))
}

/// Blocks.
fn open_here(config: Config) -> Result<(DataDirectory, Disks, Doubts), StartError> {
    let Config { data: place, disks: directories, forget_disks: forget, store, .. } = config;
    // Before anything is made there.
    let look = |directory: &Path| match storage_probe::of_file_system(directory) {
        Some(doubt) if config.require_durable && doubt.is_certain() => {
            Err(StartError::Storage { directory: directory.to_owned(), doubt })
        }
        doubt => Ok(doubt),
    };
    let doubt = look(place.path())?;
    let directory = match place {
        DataPlace::Directory(path) => DataDirectory::open(&path)?,
        DataPlace::Root(root) => directory_pool::take(&root)?,
    };
    let mut doubts = Doubts::from([(directory.path().to_owned(), doubt)]);
    tracing::info!(directory = %directory.path().display(), "data directory");
    let mustered = muster(&directory, Told { directories: &directories, forget: &forget })?;
    for disk in mustered.iter().filter(|disk| disk.is_usable()) {
        doubts.insert(disk.directory().to_owned(), look(disk.directory())?);
    }
    let disks = Disks::open(&directory, mustered, &store)?;
    for (_, directory, _) in disks.opened() {
        let doubt = doubts.entry(directory.to_owned()).or_default();
        // Of what was doubted already nobody needs to know how fast it is.
        *doubt = doubt.or_else(|| storage_probe::of_sync(directory));
    }
    Ok((directory, disks, doubts))
}

/// Where operators may ask: somewhere, if there is a kernel program to ask about.
fn admin_place(config: &Config, directory: &Path, address: SocketAddr) -> Option<SocketPlace> {
    let usual = || SocketPlace::Usual {
        name: format!("node-{}.sock", address.port()),
        otherwise: Some(directory.join("xdp.sock")),
    };
    let named = config.admin_socket.clone().map(SocketPlace::Named);
    named.or_else(|| (config.xdp.mode != XdpMode::Off).then(usual))
}

fn bind(address: SocketAddr) -> Result<(Socket, SocketAddr), StartError> {
    let error = |source| StartError::Bind { address, source };
    let socket = UdpSocket::bind(address).and_then(Socket::new).map_err(error)?;
    let address = socket.local_addr().map_err(error)?;
    Ok((socket, address))
}
