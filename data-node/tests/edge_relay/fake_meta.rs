//! A metadata service that knows which nodes are behind an edge, and remembers what edges say.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_data_node::MetaEndpoint;
use xdpfs_proto::node::v1::{
    ExchangeFetchesRequest, ExchangeFetchesResponse, HeartbeatRequest, HeartbeatResponse, KeyEpochSecret,
    RegisterNodeRequest, RegisterNodeResponse, ReportChunksRequest, ReportChunksResponse, RouteRequest,
    RouteResponse, RoutedNode, TellInventoryRequest, TellInventoryResponse,
    node_service_server::{NodeService, NodeServiceServer},
};
use xdpfs_wire::{EpochSecret, Expiry, KeyEpoch, SipKey};

use crate::{fake_node::FakeNode, in_time};

/// What nodes advertise in these tests.
pub(crate) const EDGE: &str = "edge.example:7400";
pub(crate) const KEY_EPOCH: KeyEpoch = KeyEpoch(1);
pub(crate) const SECRET: EpochSecret = EpochSecret(SipKey { k0: 501, k1: 9 });
const POLL_INTERVAL_MS: u64 = 20;

/// What the service tells and has heard.
pub(crate) struct Heard {
    pub(crate) nodes: Vec<RoutedNode>,
    pub(crate) cluster_id: String,
    /// No server leads.
    pub(crate) leaderless: bool,
    pub(crate) questions: Vec<RouteRequest>,
    pub(crate) registrations: Vec<RegisterNodeRequest>,
}

pub(crate) struct FakeMeta {
    address: SocketAddr,
    heard: Arc<Mutex<Heard>>,
    changed: watch::Sender<()>,
    server: JoinHandle<()>,
}

impl Drop for FakeMeta {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeMeta {
    pub(crate) async fn start() -> Self {
        let heard = Arc::new(Mutex::new(Heard {
            nodes: Vec::new(),
            cluster_id: "red".to_owned(),
            leaderless: false,
            questions: Vec::new(),
            registrations: Vec::new(),
        }));
        let changed = watch::Sender::new(());
        let service = NodeServiceServer::new(Service { heard: Arc::clone(&heard), changed: changed.clone() });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(async move { server.await.unwrap() });
        Self { address, heard, changed, server }
    }

    pub(crate) fn endpoint(&self) -> MetaEndpoint {
        self.address.to_string().parse().unwrap()
    }

    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    /// Puts a node behind the edge, or changes what is known of it.
    pub(crate) fn know(&self, node: &FakeNode, epoch: u16) {
        self.know_at(node.id, epoch, &node.address().to_string());
    }

    pub(crate) fn know_at(&self, id: u16, epoch: u16, direct_address: &str) {
        let mut heard = self.heard();
        heard.nodes.retain(|known| known.node_id != u32::from(id));
        let direct_address = direct_address.to_owned();
        heard.nodes.push(RoutedNode { node_id: id.into(), node_epoch: epoch.into(), direct_address });
    }

    /// Waits until an edge has been told what the service tells now, and has taken it over: it asks again only then.
    pub(crate) async fn told(&self) {
        let before = self.heard().questions.len();
        // The first of them may have been under way already.
        self.until("an edge asks", |heard| (heard.questions.len() >= before + 3).then_some(())).await;
    }

    pub(crate) async fn until<T>(&self, what: &str, mut done: impl FnMut(&Heard) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        in_time(what, async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = done(&self.heard()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        })
        .await
    }

    /// Waits until an edge tells of a counter that is at least so high.
    pub(crate) async fn counted(&self, label: &str, at_least: u64) {
        let count = |question: &RouteRequest| {
            let counted = question.packets.get(label).or_else(|| question.rejects.get(label));
            counted.copied().unwrap_or_default()
        };
        self.until(label, |heard| heard.questions.last().filter(|last| count(last) >= at_least).map(drop))
            .await;
    }
}

struct Service {
    heard: Arc<Mutex<Heard>>,
    changed: watch::Sender<()>,
}

impl Service {
    fn answer<T>(&self, answer: impl FnOnce(&mut Heard) -> T) -> Result<Response<T>, Status> {
        let mut heard = self.heard.lock().unwrap();
        if heard.leaderless {
            let details = ErrorDetails::with_error_info("NO_LEADER", "xdpfs", HashMap::new());
            return Err(Status::with_error_details(Code::Unavailable, "no leader", details));
        }
        let answer = answer(&mut heard);
        drop(heard);
        self.changed.send_replace(());
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    /// Each registration is a node of its own: the first one has id 1.
    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        self.answer(|heard| {
            let request = request.into_inner();
            let node_id = heard.registrations.len() as u32 + 1;
            let direct_address = request.direct_address.clone();
            heard.nodes.push(RoutedNode { node_id, node_epoch: 1, direct_address });
            heard.registrations.push(request);
            RegisterNodeResponse {
                cluster_id: heard.cluster_id.clone(),
                node_id,
                node_epoch: 1,
                receipt_key: vec![7; 16],
                key_epochs: key_epochs(),
                heartbeat_interval_ms: 1000,
                leader_time_ms: now_ms(),
                lease_ms: 0,
            }
        })
    }

    async fn heartbeat(&self, _: Request<HeartbeatRequest>) -> Result<Response<HeartbeatResponse>, Status> {
        self.answer(|_| HeartbeatResponse {
            key_epochs: key_epochs(),
            leader_time_ms: now_ms(),
            ..Default::default()
        })
    }

    async fn report_chunks(
        &self,
        _: Request<ReportChunksRequest>,
    ) -> Result<Response<ReportChunksResponse>, Status> {
        self.answer(|_| ReportChunksResponse::default())
    }

    async fn exchange_fetches(
        &self,
        _: Request<ExchangeFetchesRequest>,
    ) -> Result<Response<ExchangeFetchesResponse>, Status> {
        Err(Status::unimplemented("nobody is told to ask"))
    }

    async fn tell_inventory(
        &self,
        _: Request<TellInventoryRequest>,
    ) -> Result<Response<TellInventoryResponse>, Status> {
        Err(Status::unimplemented("nobody takes inventories"))
    }

    async fn route(&self, request: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        self.answer(|heard| {
            let request = request.into_inner();
            let nodes = if request.address == EDGE { heard.nodes.clone() } else { Vec::new() };
            heard.questions.push(request);
            RouteResponse {
                cluster_id: heard.cluster_id.clone(),
                leader_time_ms: now_ms(),
                key_epochs: key_epochs(),
                nodes,
                poll_interval_ms: POLL_INTERVAL_MS,
            }
        })
    }
}

fn key_epochs() -> Vec<KeyEpochSecret> {
    vec![KeyEpochSecret { key_epoch: KEY_EPOCH.0.into(), secret: SECRET.0.to_bytes().to_vec() }]
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// An expiry this far from the present, on the service's clock.
pub(crate) fn expiry_in(seconds: i64) -> Expiry {
    Expiry((now_ms() as i64 / 1000 + seconds) as u32)
}
