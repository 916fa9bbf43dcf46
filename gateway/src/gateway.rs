//! How a gateway starts, runs and stops.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::{service::Routes, transport::Server};
use xdpfs_client::{Client, ClientConfig, ObjectClient as _};
use xdpfs_observe::{Observer, ObserverError, Scrape, Source};
use xdpfs_proto::object::v1::object_service_server::{ObjectServiceServer, SERVICE_NAME};
use xdpfs_trust::{Limits, PresenceLayer, Trust, TrustError, listen};

use crate::{
    call::Desk,
    config::{GatewayConfig, GatewayConfigError},
    health::{Health, QUESTION_BYTES_MAX},
    inbox::PART_BYTES_MAX,
    link::{self, Link},
    patience::PatienceLayer,
    service::Frontend,
    web::Web,
};

/// A request without bytes, or a part with what is around it.
const MESSAGE_BYTES_MAX: usize = PART_BYTES_MAX + (64 << 10);
/// Calls of one connection: few of the places that there usually are, so that no connection takes all of them.
const STREAMS_PER_CONNECTION_MAX: u32 = 64;
/// What a caller may send of one stream before somebody has read it.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// The same over all streams of one connection.
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// Handshakes under way.
const HANDSHAKES_MAX: usize = 256;
/// Bytes of a request's headers. Names travel in bodies, so that there is little in them.
const HEADERS_BYTES_MAX: u32 = 16 << 10;
/// How long a silent connection is trusted, and then how long its peer has to answer a ping.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Calls that are sent away have so long to hear of it.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why a gateway does not start, or can't go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatewayError {
    /// An address can't be listened on.
    #[error("cannot listen on {address}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The native client can't begin.
    #[error("cannot speak to the cluster")]
    Client(#[from] xdpfs_client::Error),
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] GatewayConfigError),
    /// Metrics can't be told where they should be.
    #[error(transparent)]
    Observer(#[from] ObserverError),
    /// The interfaces' own description is malformed.
    #[error("the interfaces cannot be described")]
    Reflection(#[from] tonic_reflection::server::Error),
    /// Callers can't be served any more.
    #[error("callers cannot be served")]
    Serve(#[from] tonic::transport::Error),
    /// The certificates can't be used.
    #[error(transparent)]
    Trust(#[from] TrustError),
}

/// A running gateway. Dropping it ends it without ceremony; [`Gateway::shutdown`] is kinder to callers.
#[derive(Debug)]
pub struct Gateway {
    address: SocketAddr,
    web_address: Option<SocketAddr>,
    http_address: Option<SocketAddr>,
    client: Client,
    health: Health,
    link: Link,
    shutdown_timeout: Duration,
    /// No more calls.
    stop: CancellationToken,
    /// No calls at all.
    end: CancellationToken,
    serving: JoinHandle<Result<(), tonic::transport::Error>>,
    web: Option<JoinHandle<()>>,
    observer: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts one. It serves at once, whether the cluster does or not.
    ///
    /// # Errors
    /// See [`GatewayError`].
    pub async fn start(config: GatewayConfig) -> Result<Self, GatewayError> {
        config.check()?;
        let bind = |source| GatewayError::Bind { address: config.listen, source };
        let (address, listener) = bound(config.listen).map_err(bind)?;
        let bind_web = |address| {
            let bound = Web::bind(address, config.web_origins.clone());
            bound.map_err(|source| GatewayError::Bind { address, source })
        };
        let web = config.listen_web.map(bind_web).transpose()?;
        let web_address = web.as_ref().map(Web::address);
        let observer = config.listen_http.map(Observer::bind).transpose()?;
        let http_address = observer.as_ref().map(Observer::address);
        let link = Link::open(config.tls.clone()).await?;
        let client = Client::connect(ClientConfig {
            tls: link.dialing(),
            insecure_key: config.insecure,
            buffered_bytes_max: config.memory_bytes,
            ..ClientConfig::new(config.meta.clone())
        })?;
        let (stop, end) = (CancellationToken::new(), CancellationToken::new());
        let health = Health::start(config.meta.clone(), link.dialing()).await;
        let desk = Desk::new(client.clone(), config.calls_max, config.idle_max, end.clone());
        let limits = Limits { connections_max: config.connections_max, handshakes_max: HANDSHAKES_MAX };
        let incoming = listen(listener, link.security(), limits);
        let routes = routes(&desk, &health)?;
        let patience = PatienceLayer { idle_max: config.idle_max, stop: stop.clone() };
        let web = web.map(|web| {
            tokio::spawn(web.serve(routes.clone(), patience.clone(), link.trust().cloned(), limits))
        });
        let server = server().layer(PresenceLayer).layer(patience).add_routes(routes);
        let serving =
            tokio::spawn(server.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned()));
        let observer = observer.map(|observer| {
            let watched = Watched { desk, trust: link.trust().cloned(), serving: health.word() };
            let observed =
                observer.serve(env!("CARGO_PKG_VERSION"), "gateway", Arc::new(watched), stop.clone());
            tokio::spawn(observed)
        });
        tracing::info!(%address, is_secured = link.trust().is_some(), "gRPC is served");
        Ok(Self {
            address,
            web_address,
            http_address,
            client,
            health,
            link,
            shutdown_timeout: config.shutdown_timeout,
            stop,
            end,
            serving,
            web,
            observer,
        })
    }

    /// Where it serves gRPC.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it serves gRPC-Web.
    #[must_use]
    pub const fn web_address(&self) -> Option<SocketAddr> {
        self.web_address
    }

    /// Where metrics are told.
    #[must_use]
    pub const fn http_address(&self) -> Option<SocketAddr> {
        self.http_address
    }

    /// Looks at the certificates at once.
    pub fn look_at_certificates(&self) {
        if let Some(trust) = self.link.trust() {
            trust.look_now();
        }
    }

    /// Stops in good order: takes no more calls, lets those under way end for a while, sends away whoever is left.
    ///
    /// # Errors
    /// Callers could not be served any more, for some time.
    pub async fn shutdown(mut self) -> Result<(), GatewayError> {
        self.health.drain().await;
        self.stop.cancel();
        let web = self.web.take();
        let all = async {
            if let Some(web) = web {
                // Nobody is left who would notice.
                let _ = web.await;
            }
            (&mut self.serving).await
        };
        let mut all = std::pin::pin!(all);
        let mut ended = tokio::time::timeout(self.shutdown_timeout, all.as_mut()).await.ok();
        if ended.is_none() {
            tracing::warn!("calls under way are ended");
            self.end.cancel();
            ended = tokio::time::timeout(FAREWELL, all).await.ok();
        }
        self.end.cancel();
        if let Some(observer) = self.observer.take() {
            // It answers nobody who would notice.
            let _ = observer.await;
        }
        // Puts that were given up are aborted.
        self.client.close().await;
        match ended {
            // Only the end of the runtime ends the task.
            Some(Ok(served)) => Ok(served?),
            Some(Err(_)) | None => Ok(()),
        }
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.stop.cancel();
        self.end.cancel();
        self.serving.abort();
        if let Some(web) = &self.web {
            web.abort();
        }
    }
}

/// What a gateway tells of itself.
#[derive(Debug)]
struct Watched {
    desk: Desk,
    trust: Option<Arc<Trust>>,
    serving: Arc<AtomicBool>,
}

impl Source for Watched {
    fn collect(&self, scrape: &mut Scrape<'_>) {
        self.desk.metrics().collect(self.desk.calls_max(), scrape);
        link::collect(self.trust.as_ref(), scrape);
    }

    fn is_ready(&self) -> bool {
        self.serving.load(Ordering::Relaxed)
    }
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(STREAMS_PER_CONNECTION_MAX)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_max_header_list_size(HEADERS_BYTES_MAX)
}

/// All that is served. Only this service is told of by reflection: what this program knows of others, it does not serve.
fn routes(desk: &Desk, health: &Health) -> Result<Routes, GatewayError> {
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(xdpfs_proto::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE_NAME)
            .with_service_name("grpc.health.v1.Health")
    };
    let objects = ObjectServiceServer::new(Frontend(desk.clone()));
    let objects = objects.max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Routes::new(health.service())
        .add_service(reflection().build_v1()?.max_decoding_message_size(QUESTION_BYTES_MAX))
        // Older tools ask so.
        .add_service(reflection().build_v1alpha()?.max_decoding_message_size(QUESTION_BYTES_MAX))
        .add_service(objects))
}

fn bound(address: SocketAddr) -> io::Result<(SocketAddr, tokio::net::TcpListener)> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok((listener.local_addr()?, tokio::net::TcpListener::from_std(listener)?))
}
