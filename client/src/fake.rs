//! A cluster in memory behind the real wire formats: gRPC over an in-memory pipe, and nodes behind the chunk
//! transport's seam. For this crate's tests; runs on virtual time.
//!
//! Invariant: the fake follows the rules of the protocol by itself; tests make it misbehave by name.

mod meta;
mod nodes;
mod state;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyper_util::rt::TokioIo;
use tokio::{io::DuplexStream, sync::mpsc};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{codegen::http::Uri, transport::Server};
use tower::Service;
use xdpfs_proto::meta::v1::meta_service_server::MetaServiceServer;

pub(crate) use self::{
    meta::{Answer, FakeMeta},
    nodes::{Behaviour, FakeNode},
    state::{BUCKET, State, refuse},
};
use crate::{Client, ClientConfig, control::Dialer};

/// Pipe of one connection, and connections that may wait to be accepted.
const PIPE_BYTES: usize = 256 << 10;
const BACKLOG_MAX: usize = 16;

/// Where the metadata server in memory is connected to.
#[derive(Clone, Debug)]
pub(crate) struct Listener(mpsc::Sender<io::Result<DuplexStream>>);

/// One metadata server and some data nodes.
#[derive(Clone, Debug)]
pub(crate) struct FakeCluster {
    pub(crate) meta: FakeMeta,
    state: Arc<Mutex<State>>,
    listener: Listener,
}

impl Listener {
    pub(crate) fn connector(
        &self,
    ) -> impl Service<Uri, Response = TokioIo<DuplexStream>, Error = io::Error, Future: Send> + Send + 'static
    {
        let connections = self.0.clone();
        tower::service_fn(move |_| {
            let connections = connections.clone();
            async move {
                let (near, far) = tokio::io::duplex(PIPE_BYTES);
                let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
                connections.send(Ok(far)).await.map_err(refused)?;
                Ok(TokioIo::new(near))
            }
        })
    }
}

impl FakeCluster {
    /// A cluster with the bucket [`BUCKET`] and nodes 1 to `nodes`.
    pub(crate) fn start(nodes: u16) -> Self {
        let state = Arc::new(Mutex::new(State::new(nodes)));
        let (connections, accepted) = mpsc::channel(BACKLOG_MAX);
        let meta = FakeMeta::new(&state);
        let service = MetaServiceServer::new(meta.clone()).max_decoding_message_size(64 << 20);
        let serve = Server::builder().add_service(service).serve_with_incoming(ReceiverStream::new(accepted));
        tokio::spawn(async move { serve.await.expect("a pipe does not fail") });
        Self { meta, state, listener: Listener(connections) }
    }

    /// Serves the same state on loopback as well, as another server of the cluster. Needs real time.
    pub(crate) async fn serve_tcp(&self) -> (SocketAddr, FakeMeta) {
        let meta = FakeMeta::new(&self.state);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("a bound socket has an address");
        let serve = Server::builder()
            .add_service(MetaServiceServer::new(meta.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(async move { serve.await.expect("loopback does not fail") });
        (address, meta)
    }

    /// A client with the default configuration.
    pub(crate) fn client(&self) -> Client {
        self.client_with(|_| {})
    }

    pub(crate) fn client_with(&self, tune: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = ClientConfig::new("fake:1".parse().expect("it is an endpoint"));
        tune(&mut config);
        let transport = Arc::new(nodes::FakeNodes::new(&self.state));
        Client::with_transport(config, transport, Dialer::Memory(self.listener.clone()))
    }

    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn behave(&self, node: u16, behaviour: Behaviour) {
        self.with(|state| state.node(node).behaviour = behaviour);
    }

    /// Waits until `condition` holds. Call on virtual time.
    pub(crate) async fn until(&self, condition: impl Fn(&State) -> bool) {
        for _ in 0..10_000 {
            if self.with(|state| condition(state)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("what was waited for has not happened");
    }
}

/// Bytes that no two places of an object share.
pub(crate) fn content(length: usize) -> Vec<u8> {
    let word = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).to_le_bytes();
    (0..length.div_ceil(8)).flat_map(word).take(length).collect()
}
