//! A data node that is all word and no chunks: it registers, and signs whatever it is asked to.

use std::collections::BTreeMap;

use uuid::Uuid;
use xdpfs_proto::{
    meta::v1 as meta,
    node::v1::{HeartbeatRequest, HeartbeatResponse, RegisterNodeRequest, RegisterNodeResponse},
};
use xdpfs_wire::{ChunkId, NodeEpoch, NodeId, Receipt, ReceiptKey, SipKey};

use super::{Cluster, request_id};

pub const CAPACITY: u64 = 1 << 40;

#[derive(Clone, Debug)]
pub struct FakeNode {
    pub uuid: String,
    pub address: String,
    pub direct_address: String,
    pub failure_domain: String,
    pub labels: BTreeMap<String, String>,
    pub registered: RegisterNodeResponse,
}

/// Some nodes, each a failure domain of its own.
pub async fn register_nodes(cluster: &Cluster, count: usize) -> Vec<FakeNode> {
    let mut nodes = Vec::new();
    for number in 0..count {
        nodes.push(FakeNode::register(cluster, &format!("node-{number}:9000")).await);
    }
    nodes
}

impl FakeNode {
    pub async fn register(cluster: &Cluster, address: &str) -> Self {
        let mut node = Self {
            uuid: Uuid::new_v4().to_string(),
            address: address.to_owned(),
            direct_address: String::new(),
            failure_domain: String::new(),
            labels: BTreeMap::new(),
            registered: RegisterNodeResponse::default(),
        };
        node.register_again(cluster).await;
        node
    }

    /// As after a restart.
    pub async fn register_again(&mut self, cluster: &Cluster) {
        let request = self.registration();
        let send = async |mut node: super::cluster::Node, request| node.register_node(request).await;
        self.registered = cluster.node_call(request, send).await.unwrap();
    }

    pub fn registration(&self) -> RegisterNodeRequest {
        RegisterNodeRequest {
            request_id: request_id(),
            node_uuid: self.uuid.clone(),
            cluster_id: self.registered.cluster_id.clone(),
            address: self.address.clone(),
            direct_address: self.direct_address.clone(),
            failure_domain: self.failure_domain.clone(),
            labels: self.labels.clone(),
            capacity_bytes: CAPACITY,
        }
    }

    pub const fn id(&self) -> u32 {
        self.registered.node_id
    }

    pub fn heartbeat(&self) -> HeartbeatRequest {
        HeartbeatRequest {
            node_id: self.id(),
            node_epoch: self.registered.node_epoch,
            capacity_bytes: CAPACITY,
            free_bytes: CAPACITY,
            cluster_id: self.registered.cluster_id.clone(),
            ..Default::default()
        }
    }

    pub async fn send_heartbeat(&self, cluster: &Cluster, request: HeartbeatRequest) -> HeartbeatResponse {
        let send = async |mut node: super::cluster::Node, request| node.heartbeat(request).await;
        cluster.node_call(request, send).await.unwrap()
    }

    /// The node's word that it holds a chunk.
    pub fn receipt(&self, chunk_id: &[u8], length: u32, crc: u32) -> meta::Receipt {
        let key = ReceiptKey(SipKey::from_bytes(self.registered.receipt_key.as_slice().try_into().unwrap()));
        let receipt = Receipt {
            chunk: ChunkId(u128::from_be_bytes(chunk_id.try_into().unwrap())),
            length,
            crc,
            node: NodeId(self.id() as u16),
            node_epoch: NodeEpoch(self.registered.node_epoch as u16),
            mac: 0,
        };
        meta::Receipt { node_id: self.id(), node_epoch: self.registered.node_epoch, mac: key.sign(&receipt) }
    }
}
