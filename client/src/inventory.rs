//! Inventories: what manifests say, held against what data nodes hold.

use std::collections::BTreeMap;

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::ChunkId;

use crate::{
    client::{Client, request_id},
    control::{Meta, Operation},
    error::{Error, Result},
    name::parse_object,
    session::parse_chunk_id,
};

/// What an inventory has shown so far.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Inventory {
    /// With which it is gone on with.
    pub number: u64,
    /// All manifests were looked at, and all nodes that can be asked have told all that they hold.
    pub complete: bool,
    /// What nothing refers to becomes pending deletes.
    pub collect: bool,
    /// Every data node that was not removed.
    pub nodes: Vec<InventoryNode>,
    /// Objects and older versions that were looked at.
    pub objects: u64,
    /// Their chunks.
    pub chunks: u64,
    /// How many findings there are of each kind.
    pub counts: BTreeMap<InventoryKind, u64>,
    /// The first of each kind.
    pub findings: Vec<InventoryFinding>,
}

/// A data node in an inventory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct InventoryNode {
    /// Its number.
    pub node: u32,
    /// How far it is.
    pub standing: InventoryStanding,
    /// Chunks that it has told.
    pub chunks: u64,
    /// Replicas of it that became pending deletes.
    pub collected: u64,
}

/// How far a data node is with telling what it holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum InventoryStanding {
    /// It has yet to tell all.
    Telling,
    /// It has told all.
    Told,
    /// It can't be asked: it is silent, or fell silent on the way.
    Silent,
    /// It can't be asked: its release knows no inventories.
    Unable,
    /// Something that this client doesn't know.
    Unknown,
}

/// What is not as it should be.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct InventoryFinding {
    /// What is wrong.
    pub kind: InventoryKind,
    /// With which chunk.
    pub chunk: ChunkId,
    /// The data node that it is about, if it is about one.
    pub node: Option<u32>,
    /// The first object that has the chunk, if one does: `bucket/key`.
    pub object: Option<String>,
    /// Other replicas, on nodes that are heard of, that nothing was found against.
    pub others: u32,
}

/// What is wrong with a chunk.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum InventoryKind {
    /// No node that is to hold it is heard of.
    OutOfReach,
    /// A manifest names the node, and the node does not hold it.
    Missing,
    /// The node holds other bytes under its id.
    Different,
    /// Manifests name fewer nodes than the bucket wants replicas.
    TooFew,
    /// A manifest names a node that was removed, or never was.
    NodeGone,
    /// The node holds it, and manifests name others.
    Surplus,
    /// The node holds it, and nothing refers to it.
    Unreferenced,
    /// The same, and its id was never given out by this cluster.
    Foreign,
    /// Something that this client doesn't know.
    Unknown,
}

impl InventoryStanding {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Telling => "telling",
            Self::Told => "told",
            Self::Silent => "silent",
            Self::Unable => "unable",
            Self::Unknown => "unknown",
        }
    }
}

impl InventoryKind {
    /// Its name in output.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::OutOfReach => "out_of_reach",
            Self::Missing => "missing",
            Self::Different => "different",
            Self::TooFew => "too_few",
            Self::NodeGone => "node_gone",
            Self::Surplus => "surplus",
            Self::Unreferenced => "unreferenced",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

impl Inventory {
    /// How many findings there are of a kind.
    #[must_use]
    pub fn count(&self, kind: InventoryKind) -> u64 {
        self.counts.get(&kind).copied().unwrap_or_default()
    }

    /// Nodes that could not be asked, so that what they hold is not known.
    pub fn unasked(&self) -> impl Iterator<Item = &InventoryNode> {
        let is_asked = |standing| matches!(standing, InventoryStanding::Told | InventoryStanding::Telling);
        self.nodes.iter().filter(move |node| !is_asked(node.standing))
    }

    /// Replicas that became pending deletes.
    #[must_use]
    pub fn collected(&self) -> u64 {
        self.nodes.iter().map(|node| node.collected).sum()
    }

    /// Whether all was looked at and is as it should be.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.complete && self.counts.values().all(|count| *count == 0) && self.unasked().next().is_none()
    }

    fn parse(reply: proto::TakeInventoryResponse) -> Result<Self> {
        let finding = |finding: &proto::InventoryFinding| {
            let object = parse_object(&finding.object).map(|(bucket, key)| format!("{bucket}/{key}"));
            Some(InventoryFinding {
                kind: finding.kind().into(),
                chunk: parse_chunk_id(&finding.chunk_id)?,
                node: Some(finding.node_id).filter(|node| *node != 0),
                object,
                others: finding.others,
            })
        };
        let findings: Option<Vec<_>> = reply.findings.iter().map(finding).collect();
        let operation = Operation::TakeInventory.label();
        let findings = findings.ok_or(Error::BadReply { operation, what: "a chunk has no good id" })?;
        let mut counts = BTreeMap::new();
        for of_kind in &reply.counts {
            *counts.entry(of_kind.kind().into()).or_default() += of_kind.count;
        }
        Ok(Self {
            number: reply.number,
            complete: reply.complete,
            collect: reply.collect,
            nodes: reply.nodes.iter().map(InventoryNode::from).collect(),
            objects: reply.objects,
            chunks: reply.chunks,
            counts,
            findings,
        })
    }
}

impl From<&proto::InventoryNode> for InventoryNode {
    fn from(node: &proto::InventoryNode) -> Self {
        use proto::inventory_node::Standing as Number;
        let standing = match node.standing() {
            Number::Unspecified => InventoryStanding::Unknown,
            Number::Telling => InventoryStanding::Telling,
            Number::Told => InventoryStanding::Told,
            Number::Silent => InventoryStanding::Silent,
            Number::Unable => InventoryStanding::Unable,
        };
        Self { node: node.node_id, standing, chunks: node.chunks, collected: node.collected }
    }
}

impl From<proto::InventoryKind> for InventoryKind {
    fn from(kind: proto::InventoryKind) -> Self {
        use proto::InventoryKind as Number;
        match kind {
            Number::Unspecified => Self::Unknown,
            Number::OutOfReach => Self::OutOfReach,
            Number::Missing => Self::Missing,
            Number::Different => Self::Different,
            Number::TooFew => Self::TooFew,
            Number::NodeGone => Self::NodeGone,
            Number::Surplus => Self::Surplus,
            Number::Unreferenced => Self::Unreferenced,
            Number::Foreign => Self::Foreign,
        }
    }
}

pub(crate) async fn take(client: &Client, number: Option<u64>, collect: bool) -> Result<Inventory> {
    let request =
        proto::TakeInventoryRequest { number: number.unwrap_or_default(), collect, request_id: request_id() };
    let operation = Operation::TakeInventory;
    let send = |mut meta: Meta, request| async move { meta.take_inventory(request).await };
    let reply = client.shared().control.call(operation, request, send).await;
    Inventory::parse(reply.map_err(|refusal| refusal.about(operation, "", ""))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inventory_is_sound_only_if_everybody_was_asked() {
        let node = |standing| InventoryNode { node: 1, standing, chunks: 0, collected: 0 };
        let told =
            Inventory { complete: true, nodes: vec![node(InventoryStanding::Told)], ..Inventory::default() };
        assert!(told.is_sound());
        assert!(!Inventory { complete: false, ..told.clone() }.is_sound());
        let counts = [(InventoryKind::Unknown, 1)].into();
        assert!(!Inventory { counts, ..told.clone() }.is_sound(), "whatever a later release finds");
        for standing in [InventoryStanding::Silent, InventoryStanding::Unable, InventoryStanding::Unknown] {
            assert!(!Inventory { nodes: vec![node(standing)], ..told.clone() }.is_sound(), "{standing:?}");
        }
    }

    #[test]
    fn reply_is_taken_as_it_is_or_not_at_all() {
        let finding = |chunk_id: Vec<u8>| proto::InventoryFinding {
            kind: proto::InventoryKind::Missing.into(),
            chunk_id,
            node_id: 2,
            object: "buckets/b/objects/k/l".into(),
            others: 1,
        };
        let reply = |finding| proto::TakeInventoryResponse {
            counts: vec![proto::InventoryCount { kind: 99, count: 3 }],
            findings: vec![finding],
            ..Default::default()
        };
        let good = Inventory::parse(reply(finding(vec![0; 16]))).unwrap();
        assert_eq!(good.count(InventoryKind::Unknown), 3);
        assert_eq!((good.findings[0].node, good.findings[0].object.as_deref()), (Some(2), Some("b/k/l")));
        assert!(Inventory::parse(reply(finding(vec![0; 3]))).is_err());
    }
}
