//! Registrations of data nodes.

use bytes::Bytes;
use xdpfs_proto::state::v1::{self as pb, outcome};
use xdpfs_wire::{NodeEpoch, NodeId, Receipt, ReceiptKey, SipKey};

use super::{
    FeatureLevel, State,
    backup::NO_RECEIPTS,
    labels::{self, Labels},
    reject::{NODE_REMOVED, Reason, Reject},
};

const NODES_MAX: usize = 4096;

/// A data node in its present registration.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Stays with its data directory for life.
    pub id: NodeId,
    /// Made with its data directory.
    pub uuid: String,
    /// How often it has registered.
    pub epoch: u32,
    /// `host:port` of the chunk protocol, as clients reach it.
    pub address: String,
    /// Where an edge reaches it; empty: at its address.
    pub direct_address: String,
    /// What it named as its failure domain; if nothing, `node-` and its number.
    pub failure_domain: String,
    /// What it says of itself.
    pub labels: Labels,
    /// What operators say of it, which wins.
    pub operator_labels: Labels,
    /// When it registered, on the cluster's clock. Zero: before that was noted.
    pub register_time_ms: u64,
    /// What it said at registration.
    pub capacity_bytes: u64,
    /// What its receipts are signed with in this registration.
    pub receipt_key: ReceiptKey,
    /// The request that made this registration.
    pub request_id: Bytes,
    /// It gets no new chunks, and what it holds goes elsewhere.
    pub draining: bool,
    /// It never takes part again, and what it held counts as lost.
    pub removed: bool,
}

impl Node {
    /// Its registration as datagrams carry it.
    #[must_use]
    pub const fn wire_epoch(&self) -> NodeEpoch {
        NodeEpoch(self.epoch as u16)
    }

    /// Where whoever is not a client reaches it.
    #[must_use]
    pub fn reached_at(&self) -> &str {
        if self.direct_address.is_empty() { &self.address } else { &self.direct_address }
    }

    /// The value of a label; an operator's word wins.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.operator_labels.get(key).or_else(|| self.labels.get(key)).map(String::as_str)
    }

    /// The failure domain that it named at its start.
    #[must_use]
    pub fn named_domain(&self) -> Option<&str> {
        Some(self.failure_domain.as_str()).filter(|domain| *domain != unnamed_domain(self.id))
    }

    /// What fails together with it, of which `min_replicas` distinct ones have to hold a chunk: the failure domain that
    /// it named at its start; or else its host, as its labels say it, in its rack and zone; or else itself.
    #[must_use]
    pub fn domain(&self) -> String {
        if self.named_domain().is_some() || self.label(labels::HOST).is_none() {
            return self.failure_domain.clone();
        }
        let levels = [labels::ZONE, labels::RACK, labels::HOST].into_iter();
        levels.filter_map(|level| self.label(level)).collect::<Vec<_>>().join("/")
    }

    /// Whether this is the node's own word in its present registration.
    pub(super) fn vouches_for(&self, receipt: &Receipt) -> bool {
        self.receipt_key != NO_RECEIPTS
            && receipt.node == self.id
            && receipt.node_epoch == self.wire_epoch()
            && self.receipt_key.verifies(receipt)
    }

    fn registered(&self) -> outcome::Kind {
        outcome::Kind::Registered(pb::Registered {
            node_id: self.id.0.into(),
            node_epoch: self.wire_epoch().0.into(),
            receipt_key: Bytes::copy_from_slice(&self.receipt_key.0.to_bytes()),
        })
    }

    pub(super) fn record(&self) -> pb::Node {
        pb::Node {
            id: self.id.0.into(),
            uuid: self.uuid.clone(),
            epoch: self.epoch,
            address: self.address.clone(),
            failure_domain: self.failure_domain.clone(),
            capacity_bytes: self.capacity_bytes,
            receipt_key: Bytes::copy_from_slice(&self.receipt_key.0.to_bytes()),
            request_id: self.request_id.clone(),
            direct_address: self.direct_address.clone(),
            labels: self.labels.clone(),
            operator_labels: self.operator_labels.clone(),
            register_time_ms: self.register_time_ms,
            draining: self.draining,
            removed: self.removed,
        }
    }

    pub(super) fn from_record(record: pb::Node) -> Option<Self> {
        [&record.labels, &record.operator_labels].into_iter().all(labels::are_labels).then_some(())?;
        Some(Self {
            id: NodeId(u16::try_from(record.id).ok()?),
            uuid: record.uuid,
            epoch: record.epoch,
            address: record.address,
            failure_domain: record.failure_domain,
            capacity_bytes: record.capacity_bytes,
            receipt_key: receipt_key(&record.receipt_key)?,
            request_id: record.request_id,
            direct_address: record.direct_address,
            labels: record.labels,
            operator_labels: record.operator_labels,
            register_time_ms: record.register_time_ms,
            draining: record.draining,
            removed: record.removed,
        })
    }
}

fn unnamed_domain(id: NodeId) -> String {
    format!("node-{id}")
}

fn receipt_key(bytes: &[u8]) -> Option<ReceiptKey> {
    Some(ReceiptKey(SipKey::from_bytes(bytes.try_into().ok()?)))
}

impl State {
    /// The node of this number.
    #[must_use]
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.get(&id)
    }

    /// All nodes that ever registered, by number.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.nodes.values()
    }

    /// A repeated request gets the registration that it made, however long ago: a node must not take another epoch
    /// than the one that its clients learn.
    pub(super) fn register_node(
        &mut self,
        register: &pb::RegisterNode,
        request_id: &Bytes,
    ) -> Result<outcome::Kind, Reject> {
        let receipt_key = receipt_key(&register.receipt_key)
            .ok_or(Reject::new(Reason::InvalidArgument, "a receipt key has sixteen bytes"))?;
        if !labels::are_labels(&register.labels) {
            return Err(Reject::new(Reason::InvalidArgument, "a label is malformed"));
        }
        let known = self.nodes.values().find(|node| node.uuid == register.node_uuid);
        if let Some(node) = known.filter(|node| node.request_id == request_id) {
            return Ok(node.registered());
        }
        if known.is_some_and(|node| node.removed) {
            return Err(NODE_REMOVED);
        }
        let (id, epoch, operator_labels, draining) = match known {
            // What operators say stays with the node, however often it starts.
            Some(node) => (node.id, node.epoch + 1, node.operator_labels.clone(), node.draining),
            None => (self.next_node_id()?, 1, Labels::new(), false),
        };
        let node = Node {
            id,
            uuid: register.node_uuid.clone(),
            epoch,
            address: register.address.clone(),
            direct_address: register.direct_address.clone(),
            failure_domain: match register.failure_domain.as_str() {
                "" => unnamed_domain(id),
                domain => domain.to_owned(),
            },
            labels: register.labels.clone(),
            operator_labels,
            register_time_ms: self.noted_time_ms(),
            capacity_bytes: register.capacity_bytes,
            receipt_key,
            request_id: request_id.clone(),
            draining,
            removed: false,
        };
        let registered = node.registered();
        self.nodes.insert(id, node);
        Ok(registered)
    }

    /// The first release did not note it: as long as its programs may take part, nobody does.
    fn noted_time_ms(&self) -> u64 {
        if self.feature_level > FeatureLevel::FIRST { self.time_ms } else { 0 }
    }

    fn next_node_id(&mut self) -> Result<NodeId, Reject> {
        let number = u16::try_from(self.counters.node).ok().filter(|_| self.nodes.len() < NODES_MAX);
        let number =
            number.ok_or(Reject::new(Reason::Overloaded, "the cluster has as many nodes as it can have"))?;
        self.counters.node += 1;
        Ok(NodeId(number))
    }
}
