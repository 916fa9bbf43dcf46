//! What the leader last told the edge, as datagrams are judged by it.
//!
//! Invariant: the verdict is the kernel program's: the same steps, in the same order, by the same functions of `wire`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Instant,
};

use xdpfs_wire::{Accepted, EpochSecret, HEADER_LEN, KeyEpoch, KeyEpochs, NodeId, Reject, validate_request};

use crate::{
    cluster_clock::ClusterClock,
    xdp::{NodeRoute, RouteTable},
};

/// What an edge knows.
#[derive(Debug)]
pub(super) struct Table {
    told: Arc<RouteTable>,
    nodes: BTreeMap<NodeId, NodeRoute>,
    direct: BTreeSet<SocketAddr>,
    clock: Arc<ClusterClock>,
}

/// A refused datagram: why, and the request itself if its sender may be told.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refused {
    pub(super) reject: Reject,
    pub(super) asker: Option<Accepted>,
}

struct Secrets<'a>(&'a BTreeMap<KeyEpoch, EpochSecret>);

impl KeyEpochs for Secrets<'_> {
    fn secret(&self, epoch: KeyEpoch) -> Option<EpochSecret> {
        self.0.get(&epoch).copied()
    }
}

impl Table {
    pub(super) fn new(
        nodes: Vec<NodeRoute>,
        key_epochs: BTreeMap<KeyEpoch, EpochSecret>,
        clock: Arc<ClusterClock>,
    ) -> Self {
        Self {
            nodes: nodes.iter().map(|route| (route.target.node, *route)).collect(),
            direct: nodes.iter().map(|route| route.direct).collect(),
            told: Arc::new(RouteTable { nodes, key_epochs, unix_ms: clock.now_ms().0, made: Instant::now() }),
            clock,
        }
    }

    /// What the kernel program is told.
    pub(super) fn told(&self) -> Arc<RouteTable> {
        Arc::clone(&self.told)
    }

    /// Whether a node of this edge is there.
    pub(super) fn is_node(&self, address: SocketAddr) -> bool {
        self.direct.contains(&address)
    }

    /// Judges a datagram by everything but its sender and its way.
    pub(super) fn validate(&self, datagram: &[u8]) -> Result<Accepted, Refused> {
        let Some((header, payload)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(Refused { reject: Reject::TooShort, asker: None });
        };
        let secrets = Secrets(&self.told.key_epochs);
        validate_request(header, payload.len(), &secrets, self.clock.now())
            .map_err(|(reject, asker)| Refused { reject, asker })
    }

    /// The node that a request goes to.
    pub(super) fn route(&self, request: &Accepted) -> Result<NodeRoute, Refused> {
        let refused = |reject| Refused { reject, asker: Some(*request) };
        let route = self.nodes.get(&request.header.node).ok_or(refused(Reject::WrongNode))?;
        route.target.route_check(&request.header).map_err(refused)?;
        Ok(*route)
    }
}
