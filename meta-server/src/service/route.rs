//! What an edge asks: `Route` of `xdpfs.node.v1.NodeService`.
//!
//! Invariant: an edge is told of the nodes that name its address as theirs, and of no others.

use std::time::Instant;

use xdpfs_proto::node::v1::{RouteRequest, RouteResponse, RoutedNode};

use super::{
    Refusal,
    gateway::{Gateway, NodeCall, duration_ms},
    node::{key_epochs, parse_address},
};
use crate::{
    edges::EdgeWord,
    state_machine::{Node, State},
};

impl Gateway {
    pub(super) async fn route(&self, call: NodeCall<RouteRequest>) -> Result<RouteResponse, Refusal> {
        let request = call.message;
        let address = parse_address("address", &request.address)?.to_owned();
        let term = self.read_barrier(call.deadline).await?;
        self.check_begun()?;
        if !request.cluster_id.is_empty() {
            self.check_member(&request.cluster_id)?;
        }
        let RouteRequest { xdp_mode, xdp_reason, replies, packets, rejects, certificate_expiry_s, .. } =
            request;
        let word = EdgeWord { xdp_mode, xdp_reason, replies, packets, rejects, certificate_expiry_s };
        self.edges().heard(term, address.clone(), word, Instant::now());
        let leader_time_ms = self.now_ms();
        let state = self.state();
        Ok(RouteResponse {
            cluster_id: state.cluster_id().to_owned(),
            leader_time_ms,
            key_epochs: key_epochs(&state),
            nodes: nodes_at(&state, &address).map(routed).collect(),
            poll_interval_ms: duration_ms(self.config().times.edge_poll_interval),
        })
    }
}

/// The nodes that clients reach at `address`, by their ids.
pub(super) fn nodes_at<'a>(state: &'a State, address: &'a str) -> impl Iterator<Item = &'a Node> {
    state.nodes().filter(move |node| node.address == address)
}

fn routed(node: &Node) -> RoutedNode {
    RoutedNode {
        node_id: node.id.0.into(),
        node_epoch: node.wire_epoch().0.into(),
        direct_address: node.reached_at().to_owned(),
    }
}
