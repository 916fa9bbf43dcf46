//! A metadata service that knows one data node: answers as told, remembers what it heard.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status};
use tonic_types::{ErrorDetails, StatusExt as _};
use xdpfs_data_node::MetaEndpoint;
use xdpfs_proto::node::v1::{
    ExchangeFetchesRequest, ExchangeFetchesResponse, FetchEnd, HeartbeatRequest, HeartbeatResponse,
    KeyEpochSecret, RegisterNodeRequest, RegisterNodeResponse, ReportChunksRequest, ReportChunksResponse,
    RouteRequest, RouteResponse, TellInventoryRequest, TellInventoryResponse,
    node_service_server::{NodeService, NodeServiceServer},
};
use xdpfs_wire::{ChunkId, EpochSecret, Expiry, KeyEpoch, ReceiptKey, SipKey};

pub(crate) const CLUSTER_ID: &str = "0b0e0000-0000-4000-8000-000000000001";
pub(crate) const NODE_ID: u16 = 7;
/// What a node does within this is soon enough.
const PATIENCE: Duration = Duration::from_secs(20);
const HEARTBEAT_INTERVAL: Duration = Duration::from_millis(20);

/// How a server answers.
#[derive(Clone, Debug)]
pub(crate) enum Role {
    Follower(Option<SocketAddr>),
    Leader,
    Refusing(&'static str),
}

/// What the service has told and heard.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) role: Role,
    pub(crate) cluster_id: String,
    pub(crate) registrations: Vec<RegisterNodeRequest>,
    pub(crate) heartbeats: Vec<HeartbeatRequest>,
    pub(crate) reports: Vec<ReportChunksRequest>,
    /// The receipt key of each registration.
    pub(crate) receipt_keys: BTreeMap<u16, ReceiptKey>,
    pub(crate) key_epochs: BTreeMap<u8, EpochSecret>,
    pub(crate) to_delete: BTreeSet<ChunkId>,
    pub(crate) register_again: bool,
    /// As if another node with the same uuid registered after each registration of this one.
    pub(crate) register_again_always: bool,
    /// Heartbeats are refused until the node has registered.
    pub(crate) node_unknown: bool,
    /// What the node is called.
    pub(crate) node_id: u16,
    /// What the node is to fetch, if it is to ask at all. A fetch that has ended is taken away.
    pub(crate) to_fetch: Option<ExchangeFetchesResponse>,
    /// How fetches ended, each time that it was told.
    pub(crate) fetched: Vec<FetchEnd>,
    /// Of the node's registration. Zero: it has none.
    pub(crate) lease_ms: u64,
    /// The inventory that the node is to tell its chunks for. Zero: none.
    pub(crate) inventory: u64,
    /// How parts of it are answered, the next one first; behind the last, that it is done.
    pub(crate) inventory_answers: VecDeque<TellInventoryResponse>,
    pub(crate) inventory_parts: Vec<TellInventoryRequest>,
    epoch: u16,
}

/// A running server.
pub(crate) struct FakeMeta {
    pub(crate) address: SocketAddr,
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
        let heard = Arc::new(Mutex::new(Heard::new()));
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

    /// What was heard, and what will be told.
    pub(crate) fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap()
    }

    /// Waits until `done` finds what it wants among what was heard.
    pub(crate) async fn until<T>(&self, what: &str, mut done: impl FnMut(&Heard) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        let wait = async {
            loop {
                changed.mark_unchanged();
                if let Some(found) = done(&self.heard()) {
                    return found;
                }
                changed.changed().await.unwrap();
            }
        };
        match tokio::time::timeout(PATIENCE, wait).await {
            Ok(found) => found,
            Err(_) => panic!("{what} did not happen; heard: {:#?}", self.heard()),
        }
    }

    /// Waits until a heartbeat that was sent after this call has been answered.
    pub(crate) async fn next_heartbeat(&self) -> HeartbeatRequest {
        // The first that arrives may have been on its way already.
        let before = self.heard().heartbeats.len();
        self.until("a heartbeat", |heard| heard.heartbeats.get(before + 1).cloned()).await
    }
}

impl Heard {
    fn new() -> Self {
        Self {
            role: Role::Leader,
            cluster_id: CLUSTER_ID.to_owned(),
            registrations: Vec::new(),
            heartbeats: Vec::new(),
            reports: Vec::new(),
            receipt_keys: BTreeMap::new(),
            key_epochs: BTreeMap::from([(1, secret(1)), (2, secret(2))]),
            to_delete: BTreeSet::new(),
            register_again: false,
            register_again_always: false,
            node_unknown: false,
            node_id: NODE_ID,
            to_fetch: None,
            fetched: Vec::new(),
            lease_ms: 0,
            inventory: 0,
            inventory_answers: VecDeque::new(),
            inventory_parts: Vec::new(),
            epoch: 0,
        }
    }

    /// The present registration.
    pub(crate) fn epoch(&self) -> u16 {
        self.epoch
    }

    fn check_role(&self) -> Result<(), Status> {
        match &self.role {
            Role::Leader => Ok(()),
            Role::Follower(leader) => Err(refusal(Code::Unavailable, "NOT_LEADER", *leader)),
            Role::Refusing(reason) => Err(refusal(Code::FailedPrecondition, reason, None)),
        }
    }

    fn register(&mut self, request: RegisterNodeRequest) -> RegisterNodeResponse {
        let repeated = self.registrations.last().is_some_and(|last| last.request_id == request.request_id);
        if !repeated {
            self.epoch += 1;
            self.receipt_keys.insert(self.epoch, ReceiptKey(SipKey { k0: 77, k1: self.epoch.into() }));
        }
        self.registrations.push(request);
        self.register_again = false;
        self.node_unknown = false;
        RegisterNodeResponse {
            cluster_id: self.cluster_id.clone(),
            node_id: self.node_id.into(),
            node_epoch: self.epoch.into(),
            receipt_key: self.receipt_keys[&self.epoch].0.to_bytes().to_vec(),
            key_epochs: self.told_key_epochs(),
            heartbeat_interval_ms: HEARTBEAT_INTERVAL.as_millis() as u64,
            leader_time_ms: now_ms(),
            lease_ms: self.lease_ms,
        }
    }

    fn heartbeat(&mut self, request: HeartbeatRequest) -> HeartbeatResponse {
        for id in &request.deleted_chunk_ids {
            self.to_delete.remove(&parse_chunk_id(id));
        }
        self.heartbeats.push(request);
        HeartbeatResponse {
            scrub_order: None,
            register_again: self.register_again || self.register_again_always,
            key_epochs: self.told_key_epochs(),
            leader_time_ms: now_ms(),
            delete_chunk_ids: self.to_delete.iter().map(|chunk| chunk.0.to_be_bytes().to_vec()).collect(),
            exchange_fetches: self.to_fetch.is_some(),
            lease_ms: self.lease_ms,
            inventory: self.inventory,
        }
    }

    fn exchange_fetches(&mut self, request: ExchangeFetchesRequest) -> ExchangeFetchesResponse {
        let Some(to_fetch) = &mut self.to_fetch else { return ExchangeFetchesResponse::default() };
        let has_ended = |chunk_id: &Vec<u8>| request.ended.iter().any(|ended| ended.chunk_id == *chunk_id);
        to_fetch.fetches.retain(|fetch| !has_ended(&fetch.chunk_id));
        let answer = to_fetch.clone();
        self.fetched.extend(request.ended);
        answer
    }

    fn told_key_epochs(&self) -> Vec<KeyEpochSecret> {
        let told = |(epoch, secret): (&u8, &EpochSecret)| KeyEpochSecret {
            key_epoch: (*epoch).into(),
            secret: secret.0.to_bytes().to_vec(),
        };
        self.key_epochs.iter().map(told).collect()
    }
}

fn refusal(code: Code, reason: &str, leader: Option<SocketAddr>) -> Status {
    let leader = leader.map(|leader| ("leaderEndpoint".to_owned(), leader.to_string()));
    let metadata: HashMap<_, _> = leader.into_iter().collect();
    let details = ErrorDetails::with_error_info(reason, "xdpfs", metadata);
    Status::with_error_details(code, reason, details)
}

struct Service {
    heard: Arc<Mutex<Heard>>,
    changed: watch::Sender<()>,
}

impl Service {
    fn answer<T>(&self, answer: impl FnOnce(&mut Heard) -> T) -> Result<Response<T>, Status> {
        let mut heard = self.heard.lock().unwrap();
        heard.check_role()?;
        let answer = answer(&mut heard);
        drop(heard);
        self.changed.send_replace(());
        Ok(Response::new(answer))
    }
}

#[tonic::async_trait]
impl NodeService for Service {
    async fn register_node(
        &self,
        request: Request<RegisterNodeRequest>,
    ) -> Result<Response<RegisterNodeResponse>, Status> {
        self.answer(|heard| heard.register(request.into_inner()))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        if self.heard.lock().unwrap().node_unknown {
            return Err(refusal(Code::FailedPrecondition, "NODE_UNKNOWN", None));
        }
        self.answer(|heard| heard.heartbeat(request.into_inner()))
    }

    async fn report_chunks(
        &self,
        request: Request<ReportChunksRequest>,
    ) -> Result<Response<ReportChunksResponse>, Status> {
        self.answer(|heard| {
            heard.reports.push(request.into_inner());
            ReportChunksResponse::default()
        })
    }

    async fn exchange_fetches(
        &self,
        request: Request<ExchangeFetchesRequest>,
    ) -> Result<Response<ExchangeFetchesResponse>, Status> {
        // Held back for a while, as a leader does.
        tokio::time::sleep(HEARTBEAT_INTERVAL).await;
        self.answer(|heard| heard.exchange_fetches(request.into_inner()))
    }

    async fn tell_inventory(
        &self,
        request: Request<TellInventoryRequest>,
    ) -> Result<Response<TellInventoryResponse>, Status> {
        self.answer(|heard| {
            heard.inventory_parts.push(request.into_inner());
            let done = TellInventoryResponse { done: true, ..Default::default() };
            heard.inventory_answers.pop_front().unwrap_or(done)
        })
    }

    async fn route(&self, _: Request<RouteRequest>) -> Result<Response<RouteResponse>, Status> {
        Err(Status::unimplemented("no edge asks here"))
    }
}

pub(crate) const fn secret(epoch: u8) -> EpochSecret {
    EpochSecret(SipKey { k0: 500 + epoch as u64, k1: 9 })
}

pub(crate) const KEY_EPOCH: KeyEpoch = KeyEpoch(1);

pub(crate) fn parse_chunk_id(bytes: &[u8]) -> ChunkId {
    ChunkId(u128::from_be_bytes(bytes.try_into().unwrap()))
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

/// An expiry this far from the present, on the service's clock.
pub(crate) fn expiry_in(seconds: i64) -> Expiry {
    Expiry((now_ms() as i64 / 1000 + seconds) as u32)
}
