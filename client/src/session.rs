//! What a put or a get knows in order to speak to data nodes: their addresses and registrations, and a capability.
//!
//! Invariant: a node's address and registration come from one answer of the leader, the newest one.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use tokio::time::Instant;
use tracing::debug;
use xdpfs_proto::meta::v1 as proto;
use xdpfs_transport::{SessionKey, Target};
use xdpfs_wire::{
    BucketId, Capability, CapabilityKey, ChunkId, ClientId, Expiry, KeyEpoch, NodeEpoch, NodeId, Rights,
    SipKey,
};

/// The most nodes that one put or get remembers.
const NODES_MAX: usize = 4096;

/// Shared by the transfers of one put or get.
#[derive(Debug)]
pub(crate) struct Session(RwLock<State>);

#[derive(Debug)]
struct State {
    key: SessionKey,
    /// When to ask for a new capability: half-way to the end of this one.
    renew_at: Instant,
    nodes: BTreeMap<NodeId, Target>,
    /// How often the session was renewed.
    generation: u64,
}

/// How to reach a node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Access {
    pub(crate) target: Target,
    pub(crate) key: SessionKey,
}

/// What the leader says about nodes and rights.
#[derive(Debug, Default)]
pub(crate) struct Introduction {
    pub(crate) capability: Option<proto::Capability>,
    pub(crate) nodes: Vec<proto::NodeAddress>,
}

/// A capability that makes no sense.
#[derive(Debug)]
pub(crate) struct BadCapability;

impl Session {
    pub(crate) async fn start(introduction: Introduction) -> Result<Self, BadCapability> {
        let (key, renew_at) = parse_capability(introduction.capability)?;
        let nodes = resolve(introduction.nodes).await;
        Ok(Self(RwLock::new(State { key, renew_at, nodes, generation: 0 })))
    }

    /// Takes in a newer answer of the leader.
    pub(crate) async fn renew(&self, introduction: Introduction) -> Result<(), BadCapability> {
        let (key, renew_at) = parse_capability(introduction.capability)?;
        let nodes = resolve(introduction.nodes).await;
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if state.nodes.len() + nodes.len() > NODES_MAX {
            state.nodes.clear();
        }
        state.nodes.extend(nodes);
        (state.key, state.renew_at) = (key, renew_at);
        state.generation += 1;
        Ok(())
    }

    /// How to reach `node`; `None` if the leader gave no address for it.
    pub(crate) fn access(&self, node: NodeId) -> Option<Access> {
        self.with(|state| {
            let target = *state.nodes.get(&node)?;
            Some(Access { target, key: state.key })
        })
    }

    pub(crate) fn generation(&self) -> u64 {
        self.with(|state| state.generation)
    }

    /// Whether the capability should be renewed before more work is begun.
    pub(crate) fn is_half_spent(&self) -> bool {
        self.with(|state| Instant::now() >= state.renew_at)
    }

    fn with<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse_capability(capability: Option<proto::Capability>) -> Result<(SessionKey, Instant), BadCapability> {
    let capability = capability.ok_or(BadCapability)?;
    let key = <[u8; 16]>::try_from(capability.key.as_slice()).map_err(|_| BadCapability)?;
    let session_key = SessionKey {
        capability: Capability {
            client: ClientId(capability.client_id),
            bucket: BucketId(capability.bucket_id),
            rights: Rights(u8::try_from(capability.rights).map_err(|_| BadCapability)?),
            expiry: Expiry(capability.expiry_s),
            key_epoch: KeyEpoch(u8::try_from(capability.key_epoch).map_err(|_| BadCapability)?),
        },
        key: CapabilityKey(SipKey::from_bytes(key)),
    };
    let valid_for = Duration::from_millis(capability.valid_for_ms.min(24 * 3600 * 1000));
    Ok((session_key, Instant::now() + valid_for / 2))
}

/// Nodes with addresses that can be found; the others are left out, as if the leader had not named them.
async fn resolve(nodes: Vec<proto::NodeAddress>) -> BTreeMap<NodeId, Target> {
    let mut targets = BTreeMap::new();
    for node in nodes.into_iter().take(NODES_MAX) {
        let ids = (u16::try_from(node.node_id), u16::try_from(node.node_epoch));
        let (Ok(id), Ok(epoch), Some(address)) = (ids.0, ids.1, lookup(&node.address).await) else {
            debug!(node = node.node_id, address = node.address, "data node has no usable address");
            continue;
        };
        let node = NodeId(id);
        targets.insert(node, Target { address, node, node_epoch: NodeEpoch(epoch) });
    }
    targets
}

async fn lookup(address: &str) -> Option<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Some(address);
    }
    tokio::net::lookup_host(address).await.ok()?.next()
}

/// A chunk id as gRPC carries it.
pub(crate) fn parse_chunk_id(bytes: &[u8]) -> Option<ChunkId> {
    Some(ChunkId(u128::from_be_bytes(bytes.try_into().ok()?)))
}

/// Node ids as gRPC carries them; ids that cannot be are left out.
pub(crate) fn parse_node_ids(ids: &[u32]) -> Vec<NodeId> {
    ids.iter().filter_map(|id| u16::try_from(*id).ok().filter(|id| *id != 0).map(NodeId)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn capability() -> proto::Capability {
        proto::Capability {
            rights: 1,
            key: vec![7; 16],
            key_epoch: 3,
            valid_for_ms: 60_000,
            ..Default::default()
        }
    }

    fn node(node_id: u32, address: &str) -> proto::NodeAddress {
        proto::NodeAddress { node_id, node_epoch: 1, address: address.into() }
    }

    async fn start(nodes: Vec<proto::NodeAddress>) -> Session {
        Session::start(Introduction { capability: Some(capability()), nodes }).await.unwrap()
    }

    #[tokio::test]
    async fn a_malformed_capability_is_refused() {
        let bad = [
            proto::Capability { key: vec![7; 15], ..capability() },
            proto::Capability { key_epoch: 256, ..capability() },
            proto::Capability { rights: 256, ..capability() },
        ];
        for capability in bad.into_iter().map(Some).chain([None]) {
            let introduction = Introduction { capability, nodes: vec![] };
            assert!(Session::start(introduction).await.is_err());
        }
    }

    #[tokio::test]
    async fn nodes_without_a_usable_address_are_left_out() {
        let session =
            start(vec![node(1, "127.0.0.1:9001"), node(2, "nonsense"), node(70_000, "127.0.0.1:9002")]).await;
        let target = session.access(NodeId(1)).unwrap().target;
        assert_eq!((target.address, target.node_epoch), ("127.0.0.1:9001".parse().unwrap(), NodeEpoch(1)));
        assert!(session.access(NodeId(2)).is_none());
        assert!(session.access(NodeId(4464)).is_none(), "an id that is too large is not cut short");
    }

    #[tokio::test]
    async fn a_newer_answer_replaces_an_address_and_keeps_the_others() {
        let session = start(vec![node(1, "127.0.0.1:9001"), node(2, "127.0.0.1:9002")]).await;
        let moved = proto::NodeAddress { node_epoch: 2, ..node(1, "127.0.0.1:9101") };
        let newer = Introduction { capability: Some(capability()), nodes: vec![moved] };
        session.renew(newer).await.unwrap();
        let target = |id| session.access(NodeId(id)).unwrap().target;
        assert_eq!((target(1).address.port(), target(1).node_epoch), (9101, NodeEpoch(2)));
        assert_eq!(target(2).address.port(), 9002);
        assert_eq!(session.generation(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_capability_is_half_spent_after_half_of_its_time() {
        let session = start(vec![]).await;
        tokio::time::advance(Duration::from_secs(29)).await;
        assert!(!session.is_half_spent());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(session.is_half_spent());
        session.renew(Introduction { capability: Some(capability()), nodes: vec![] }).await.unwrap();
        assert!(!session.is_half_spent());
    }
}
