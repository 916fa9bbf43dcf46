//! Servers that start, stop and come back on the addresses and directories that they had.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, TcpListener},
    path::PathBuf,
    process,
    sync::atomic::{AtomicU8, Ordering},
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tonic::{Code, Request, Response, Status, transport::Channel};
use tonic_types::StatusExt as _;
use xdpfs_meta_server::{Config, ConsensusConfig, Halt, Join, Listeners, Member, Server, ServerError, Times};
use xdpfs_proto::{
    access::v1::access_service_client::AccessServiceClient,
    members::v1::{
        ListMembersRequest, Member as Listed,
        member::{Standing, Wanted},
        members_service_client::MembersServiceClient,
    },
    meta::v1::{GetClusterStatusRequest, GetClusterStatusResponse, meta_service_client::MetaServiceClient},
    node::v1::node_service_client::NodeServiceClient,
};

use super::reason;

/// How long anything may take that has to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub type Meta = MetaServiceClient<Channel>;
pub type Node = NodeServiceClient<Channel>;
pub type Access = AccessServiceClient<Channel>;
pub type Members = MembersServiceClient<Channel>;

type Configure = fn(&mut Config);

/// A cluster of servers, by their ids from one on.
pub struct Cluster {
    directory: TempDir,
    address: IpAddr,
    members: Vec<Member>,
    /// Servers that have joined, by the directories that they have joined with.
    joined: BTreeMap<u64, (Config, PathBuf)>,
    servers: BTreeMap<u64, Server>,
    configure: Configure,
    /// What requests show, unless they show something else.
    key: Option<String>,
}

/// Shows an access key, in place of any other.
pub fn show<T>(request: &mut Request<T>, key: &str) {
    request.metadata_mut().insert("authorization", format!("Bearer {key}").parse().unwrap());
}

impl Cluster {
    pub fn show_key(&mut self, key: &str) {
        self.key = Some(key.to_owned());
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        self.key.iter().for_each(|key| show(&mut request, key));
        request
    }

    /// Three servers, ready.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Three servers with a configuration of their own, ready.
    pub async fn start_with(configure: Configure) -> Self {
        let mut cluster = Self::prepare(3, configure);
        for id in cluster.ids() {
            let config = Config { bootstrap: true, ..cluster.config(id) };
            cluster.start_server(config).await;
        }
        cluster.ready().await;
        cluster
    }

    fn prepare(count: u64, configure: Configure) -> Self {
        let address = own_address();
        // All are held until the last one is found, so that none is found twice.
        let ports: Vec<_> = (1..=count).map(|id| free_member(address, id)).collect();
        let members = ports.iter().map(|(member, _)| member.clone()).collect();
        Self {
            directory: TempDir::new().unwrap(),
            address,
            members,
            joined: BTreeMap::new(),
            servers: BTreeMap::new(),
            configure,
            key: None,
        }
    }

    /// One server, ready.
    pub async fn start_one() -> Self {
        let mut cluster = Self::prepare(1, |_| {});
        let config = Config { bootstrap: true, ..cluster.config(1) };
        cluster.start_server(config).await;
        cluster.ready().await;
        cluster
    }

    /// A server with an empty directory joins. Gives the id that it gets.
    pub async fn join(&mut self, learner: bool) -> u64 {
        let directory = self.directory.path().join(format!("joined-{}", self.joined.len()));
        self.join_in(directory, learner).await
    }

    /// A server with a configuration of its own and an empty directory tries to join.
    pub async fn try_join(&self, configure: Configure) -> Result<Server, ServerError> {
        let (own, listeners) = free_member(self.address, 0);
        let mut config = self.joining(own, self.directory.path().join("not-joined"), false);
        configure(&mut config);
        Server::start_on(config, listeners).await
    }

    fn joining(&self, own: Member, directory: PathBuf, learner: bool) -> Config {
        let endpoint =
            |id| self.servers[&id].admin_address().map_or(self.endpoint(id), |admin| admin.to_string());
        let endpoints = self.running().into_iter().map(endpoint).collect();
        let join = Some(Join { endpoints, learner, key: None });
        Config { join, quarantine: true, ..self.tune(Config::new(0, vec![own], directory)) }
    }

    /// A server joins with this directory, whatever that holds.
    pub async fn join_in(&mut self, directory: PathBuf, learner: bool) -> u64 {
        let (own, listeners) = free_member(self.address, 0);
        let config = self.joining(own.clone(), directory.clone(), learner);
        let server = Server::start_on(config.clone(), listeners).await.unwrap();
        let id = server.id();
        self.members.push(Member { id, ..own });
        self.joined.insert(id, (config, directory));
        self.servers.insert(id, server);
        id
    }

    /// Waits until those that vote are these, and no change is under way.
    pub async fn voters_are(&self, expect: &[u64]) {
        eventually(&format!("the voters to be {expect:?}"), async || {
            let members = self.list_members().await.ok()?;
            let settled = members
                .iter()
                .all(|member| member.standing() == Standing::Voter && member.wanted() == Wanted::Voter);
            let ids: Vec<u64> = members.iter().map(|member| member.id).collect();
            (settled && ids == expect).then_some(())
        })
        .await;
    }

    /// As the leader knows them.
    pub async fn list_members(&self) -> Result<Vec<Listed>, Status> {
        let listed = self
            .members_call(ListMembersRequest {}, async |mut members, request| {
                members.list_members(request).await
            })
            .await?;
        Ok(listed.members)
    }

    /// The same for changes of the servers.
    pub async fn members_call<Req: Clone, Res>(
        &self,
        request: Req,
        send: impl AsyncFn(Members, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Status> {
        self.insist(request, async |channel, request| send(Members::new(channel), request).await).await
    }

    /// Waits until the server says that it was removed.
    pub async fn is_removed(&self, id: u64) {
        let removed = self.servers[&id].removed();
        tokio::time::timeout(PATIENCE, removed).await.expect("it hears of its removal in time");
    }

    /// Waits until the server says that it must not go on.
    pub async fn halted(&self, id: u64) -> Halt {
        let halted = self.servers[&id].halted();
        tokio::time::timeout(PATIENCE, halted).await.expect("it stops in time")
    }

    /// The server has other addresses the next time that it starts.
    pub fn move_elsewhere(&mut self, id: u64) {
        let (moved, _) = free_member(self.address, id);
        if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
            *member = moved;
        }
    }

    pub fn peer_address(&self, id: u64) -> String {
        self.member(id).peer_address.clone()
    }

    fn member(&self, id: u64) -> &Member {
        self.members.iter().find(|member| member.id == id).expect("there is such a server")
    }

    pub fn ids(&self) -> Vec<u64> {
        self.members.iter().map(|member| member.id).collect()
    }

    pub fn running(&self) -> Vec<u64> {
        self.servers.keys().copied().collect()
    }

    pub fn data_dir(&self, id: u64) -> PathBuf {
        match self.joined.get(&id) {
            Some((_, directory)) => directory.clone(),
            None => self.directory.path().join(id.to_string()),
        }
    }

    /// What the server is started with, the first time aside.
    pub fn config(&self, id: u64) -> Config {
        match self.joined.get(&id) {
            Some((config, _)) => config.clone(),
            None => {
                let first = self.members.iter().filter(|member| !self.joined.contains_key(&member.id));
                self.tune(Config::new(id, first.cloned().collect(), self.data_dir(id)))
            }
        }
    }

    fn tune(&self, mut config: Config) -> Config {
        config.consensus = ConsensusConfig {
            tick: Duration::from_millis(25),
            election_ticks: 12,
            heartbeat_ticks: 2,
            ..ConsensusConfig::default()
        };
        // Nobody sends heartbeats for the nodes of most tests.
        let never = Duration::from_secs(600);
        let (node_silent_after, node_lease, repair_after) = (never, never, never);
        config.times = Times { node_silent_after, node_lease, repair_after, ..Times::default() };
        config.shutdown_timeout = Duration::from_secs(4);
        (self.configure)(&mut config);
        config
    }

    pub async fn start_server(&mut self, config: Config) {
        let own = config.own_member().unwrap().peer_address.clone();
        let member = self.members.iter().find(|member| member.peer_address == own).unwrap().clone();
        let server = self.try_start(config, &member).await.unwrap();
        assert_eq!(server.client_address().to_string(), member.client_address);
        self.servers.insert(server.id(), server);
    }

    async fn try_start(&self, config: Config, member: &Member) -> Result<Server, ServerError> {
        // One that was killed has let go of its addresses only once its runtime has looked at it again.
        let bind = async |address: &str| eventually(address, async || TcpListener::bind(address).ok()).await;
        let listeners =
            Listeners { client: bind(&member.client_address).await, peer: bind(&member.peer_address).await };
        Server::start_on(config, listeners).await
    }

    /// The server comes back with what it had.
    pub async fn restart(&mut self, id: u64) {
        self.start_server(self.config(id)).await;
    }

    /// The server ends without a word.
    pub fn kill(&mut self, id: u64) {
        drop(self.servers.remove(&id).unwrap());
    }

    pub async fn stop(&mut self, id: u64) {
        self.servers.remove(&id).unwrap().shutdown().await;
    }

    pub async fn ready(&self) {
        let all = async {
            for server in self.servers.values() {
                server.ready().await;
            }
        };
        tokio::time::timeout(PATIENCE, all).await.expect("the cluster is ready in time");
    }

    pub fn endpoint(&self, id: u64) -> String {
        self.member(id).client_address.clone()
    }

    /// Where other servers reach it.
    pub fn peer_channel(&self, id: u64) -> Channel {
        let address = &self.member(id).peer_address;
        Channel::from_shared(format!("http://{address}")).unwrap().connect_lazy()
    }

    pub fn channel(&self, id: u64) -> Channel {
        Channel::from_shared(format!("http://{}", self.endpoint(id))).unwrap().connect_lazy()
    }

    /// Where administrators reach it, apart from clients.
    pub fn admin_endpoint(&self, id: u64) -> String {
        self.servers[&id].admin_address().expect("it listens for administrators").to_string()
    }

    pub fn admin_channel(&self, id: u64) -> Channel {
        Channel::from_shared(format!("http://{}", self.admin_endpoint(id))).unwrap().connect_lazy()
    }

    pub fn meta(&self, id: u64) -> Meta {
        MetaServiceClient::new(self.channel(id))
    }

    pub async fn status_of(&self, id: u64) -> GetClusterStatusResponse {
        self.meta(id).get_cluster_status(self.request(GetClusterStatusRequest {})).await.unwrap().into_inner()
    }

    /// The server that leads and serves, waited for.
    pub async fn leader(&self) -> u64 {
        eventually("a leader that serves", async || {
            for id in self.running() {
                // One that has yet to hear of the key sends its holder elsewhere.
                let status = self.meta(id).get_cluster_status(self.request(GetClusterStatusRequest {})).await;
                let leads = status.is_ok_and(|status| status.get_ref().leader_id == id);
                if leads && self.serves(id).await {
                    return Some(id);
                }
            }
            None
        })
        .await
    }

    async fn serves(&self, id: u64) -> bool {
        let request = xdpfs_proto::meta::v1::ListBucketsRequest::default();
        self.meta(id).list_buckets(self.request(request)).await.is_ok()
    }

    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.running().into_iter().find(|id| *id != leader).unwrap()
    }

    /// Asks the leader until it answers yes or no: what is said of leadership and of load is only a reason to ask
    /// again, under the same request id.
    pub async fn call<Req: Clone, Res>(
        &self,
        request: Req,
        send: impl AsyncFn(Meta, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Status> {
        self.insist(request, async |channel, request| send(Meta::new(channel), request).await).await
    }

    /// The same for those who run the cluster.
    pub async fn access_call<Req: Clone, Res>(
        &self,
        request: Req,
        send: impl AsyncFn(Access, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Status> {
        self.insist(request, async |channel, request| send(Access::new(channel), request).await).await
    }

    /// The same for the calls of data nodes.
    pub async fn node_call<Req: Clone, Res>(
        &self,
        request: Req,
        send: impl AsyncFn(Node, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Status> {
        self.insist(request, async |channel, request| send(Node::new(channel), request).await).await
    }

    async fn insist<Req: Clone, Res>(
        &self,
        request: Req,
        send: impl AsyncFn(Channel, Request<Req>) -> Result<Response<Res>, Status>,
    ) -> Result<Res, Status> {
        let mut hint: Option<String> = None;
        eventually("an answer of the leader", async || {
            for id in self.running() {
                let endpoint = hint.take().unwrap_or_else(|| self.endpoint(id));
                let channel = Channel::from_shared(format!("http://{endpoint}")).unwrap().connect_lazy();
                match send(channel, self.request(request.clone())).await {
                    Ok(response) => return Some(Ok(response.into_inner())),
                    Err(status) if asks_again(&status) => {
                        let info = status.get_details_error_info();
                        hint = info.and_then(|info| info.metadata.get("leaderEndpoint").cloned());
                    }
                    Err(status) => return Some(Err(status)),
                }
            }
            None
        })
        .await
    }
}

fn asks_again(status: &Status) -> bool {
    let is_final = ["NOT_ENOUGH_NODES"].contains(&reason(status).as_str());
    !is_final
        && matches!(
            status.code(),
            Code::Unavailable | Code::ResourceExhausted | Code::Unknown | Code::Cancelled
        )
}

/// Looks until there is something to see.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        assert!(started.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A loopback address of this test's own: ports of outgoing connections are taken elsewhere, so one that is free here
/// stays free while its server is down.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = process::id().to_be_bytes();
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

/// A member on ports that nobody has, and what listens there.
fn free_member(address: IpAddr, id: u64) -> (Member, Listeners) {
    let free = || TcpListener::bind((address, 0)).unwrap();
    let listeners = Listeners { client: free(), peer: free() };
    let text = |listener: &TcpListener| listener.local_addr().unwrap().to_string();
    let (peer_address, client_address) = (text(&listeners.peer), text(&listeners.client));
    (Member { id, peer_address, client_address }, listeners)
}
