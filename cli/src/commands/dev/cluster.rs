//! The servers of a cluster in this process, from their start to their end.

use std::{net::SocketAddr, time::Duration};

use futures::future::{join_all, select_all, try_join_all};
use tokio::time::{MissedTickBehavior, interval};
use xdpfs_client::{Client, ClientConfig, DataNodeState, Endpoints, ErrorKind, ObjectClient as _};
use xdpfs_data_node::{Config as NodeConfig, DataNode, MetaEndpoint};
use xdpfs_meta_server::{Config as MetaConfig, Listeners, Member, Server};

use super::{
    addresses::Bound,
    directory::{Directory, Memory, MetaAddresses},
};
use crate::failure::Failure;

/// How often the cluster is asked whether it is ready.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// All metadata servers stop at once: none will find another one that could lead in its place.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

/// A running cluster.
#[derive(Debug)]
pub(super) struct Cluster {
    addresses: Vec<MetaAddresses>,
    servers: Vec<Server>,
    nodes: Vec<DataNode>,
    /// The last to go: nobody else may use it before all servers have ended.
    _directory: Directory,
}

impl Cluster {
    /// Starts all servers; the nodes wait for the metadata servers to agree on a leader.
    pub(super) async fn start(mut directory: Directory, bound: Bound, is_new: bool) -> Result<Self, Failure> {
        let (addresses, listeners): (Vec<_>, Vec<_>) = bound.meta_servers.into_iter().unzip();
        let members = members(&addresses);
        let servers = listeners.into_iter().zip(1_usize..).map(|(listeners, id)| {
            let config = MetaConfig {
                bootstrap: is_new,
                shutdown_timeout: SHUTDOWN_TIMEOUT,
                ..MetaConfig::new(id as u64, members.clone(), directory.meta_server(id))
            };
            start_server(config, listeners)
        });
        let servers = try_join_all(servers).await?;
        let endpoints = node_endpoints(&addresses)?;
        let nodes = bound.data_nodes.iter().zip(1_usize..).map(|(listen, number)| {
            let config = NodeConfig::new(directory.data_node(number), endpoints.clone());
            start_node(NodeConfig { listen: *listen, ..config })
        });
        let nodes = try_join_all(nodes).await?;
        let data_nodes = nodes.iter().map(DataNode::address).collect();
        directory.remember(&Memory { has_been_ready: true, meta_servers: addresses.clone(), data_nodes })?;
        Ok(Self { addresses, servers, nodes, _directory: directory })
    }

    /// Waits until a put would succeed: there is a leader, and it hears of every node.
    pub(super) async fn ready(&self) -> Result<(), Failure> {
        join_all(self.servers.iter().map(Server::ready)).await;
        let endpoints: Endpoints =
            self.endpoints().parse().map_err(|error| Failure::machine(format!("{error}")))?;
        let client = Client::connect(ClientConfig::new(endpoints))?;
        let mut ask = interval(ASK_EVERY);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ask.tick().await;
            match client.cluster_status().await {
                Ok(status) if status.leader_id.is_some() => {
                    let alive = |address: SocketAddr| {
                        let address = address.to_string();
                        status
                            .data_nodes
                            .iter()
                            .any(|node| node.state == DataNodeState::Alive && node.address == address)
                    };
                    if self.nodes.iter().map(DataNode::address).all(alive) {
                        break;
                    }
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Unavailable => {}
                // Its users have closed it by a key of theirs. There is a leader, and the nodes have registered.
                Err(error) if error.kind() == ErrorKind::Unauthenticated => break,
                Err(error) => return Err(error.into()),
            }
        }
        client.close().await;
        Ok(())
    }

    /// Where clients find it, separated by commas.
    pub(super) fn endpoints(&self) -> String {
        let endpoints: Vec<_> = self.addresses.iter().map(|addresses| addresses.client.to_string()).collect();
        endpoints.join(",")
    }

    /// Resolves only if a part of the cluster cannot go on.
    pub(super) async fn failed(&self) -> Failure {
        let (failure, index, _) = select_all(self.nodes.iter().map(|node| Box::pin(node.failed()))).await;
        Failure::machine(format!("data node {} cannot go on: {failure}", index + 1))
    }

    /// Stops everything in good order: those that hold bytes first, then those that know where they are.
    pub(super) async fn stop(self) {
        join_all(self.nodes.into_iter().map(DataNode::shutdown)).await;
        join_all(self.servers.into_iter().map(Server::shutdown)).await;
    }
}

fn members(addresses: &[MetaAddresses]) -> Vec<Member> {
    let member = |(addresses, id): (&MetaAddresses, u64)| Member {
        id,
        peer_address: addresses.peer.to_string(),
        client_address: addresses.client.to_string(),
    };
    addresses.iter().zip(1..).map(member).collect()
}

fn node_endpoints(addresses: &[MetaAddresses]) -> Result<Vec<MetaEndpoint>, Failure> {
    let endpoint = |addresses: &MetaAddresses| addresses.client.to_string().parse();
    let endpoints: Result<Vec<_>, _> = addresses.iter().map(endpoint).collect();
    endpoints.map_err(|error| Failure::machine(format!("{error}")))
}

async fn start_server(config: MetaConfig, listeners: Listeners) -> Result<Server, Failure> {
    let id = config.id;
    let started = Server::start_on(config, listeners).await;
    started.map_err(|error| Failure::caused(format_args!("start metadata server {id}"), &error))
}

async fn start_node(config: NodeConfig) -> Result<DataNode, Failure> {
    let directory = config.data.path().display().to_string();
    let started = DataNode::start(config).await;
    started.map_err(|error| Failure::caused(format_args!("start the data node in {directory}"), &error))
}
