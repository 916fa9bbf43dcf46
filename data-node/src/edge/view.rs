//! What an edge shows operators of its kernel program.
//!
//! Invariant: it holds no part of the program, which must be gone when the edge is, whoever still asks.

use std::{fmt, net::SocketAddr, sync::Arc};

use xdpfs_proto::admin::v1::{InterfaceStatus, NodeRouteStatus, StatusResponse};

use crate::{
    admin::PlaneView,
    event_tap::EventTap,
    xdp::{EdgePlane, EdgeReport, NodePlace, PlaneCounts, XdpMode},
};

/// An edge, as operators see it.
pub(super) struct EdgeView {
    report: Box<dyn Fn() -> EdgeReport + Send + Sync>,
    address: SocketAddr,
    uplink: Option<String>,
    /// None without a program.
    events: Option<Arc<EventTap>>,
}

impl EdgeView {
    pub(super) fn new(
        plane: &EdgePlane,
        address: SocketAddr,
        uplink: Option<String>,
        tap: Arc<EventTap>,
    ) -> Self {
        let events = plane.has_program().then_some(tap);
        Self { report: Box::new(plane.reporter()), address, uplink, events }
    }
}

impl PlaneView for EdgeView {
    fn report(&self) -> StatusResponse {
        let EdgeReport { mode, why, replies, nodes, .. } = (self.report)();
        let program_id = |name: &String| xdpfs_host::interface(name).ok().and_then(|found| found.program);
        let interface = |name: &String| InterfaceStatus {
            name: name.clone(),
            // If it is not ours, it is somebody else's.
            program_id: program_id(name).filter(|_| mode != XdpMode::Off).unwrap_or_default(),
        };
        StatusResponse {
            role: "edge".to_owned(),
            address: self.address.to_string(),
            mode: mode.to_string(),
            reason: why,
            interfaces: self.uplink.iter().map(interface).collect(),
            replies: replies.to_owned(),
            nodes: nodes.iter().map(node_route).collect(),
            ..StatusResponse::default()
        }
    }

    fn stats(&self) -> PlaneCounts {
        (self.report)().counts
    }

    fn events(&self) -> Option<Arc<EventTap>> {
        self.events.clone()
    }
}

impl fmt::Debug for EdgeView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EdgeView").field("address", &self.address).finish_non_exhaustive()
    }
}

fn node_route(node: &NodePlace) -> NodeRouteStatus {
    NodeRouteStatus {
        node_id: node.node.0.into(),
        direct_address: node.direct.to_string(),
        interface: node.device.clone().unwrap_or_default(),
        replies: node.replies.to_owned(),
        reason: node.why.clone(),
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_wire::NodeId;

    use super::*;

    fn view(mode: XdpMode) -> EdgeView {
        let direct = "10.0.0.1:7400".parse().unwrap();
        let node = |node, device: Option<&str>, replies| NodePlace {
            node: NodeId(node),
            direct,
            device: device.map(str::to_owned),
            replies,
            why: "so".into(),
        };
        let nodes = vec![node(1, Some("veth1"), "kernel"), node(2, None, "relay")];
        let report =
            EdgeReport { mode, why: "asked for".into(), replies: "kernel", nodes, ..EdgeReport::default() };
        let (report, uplink) = (Box::new(move || report.clone()), Some("lo".to_owned()));
        EdgeView { report, address: direct, uplink, events: None }
    }

    #[test]
    fn nodes_are_told_with_their_way() {
        let status = view(XdpMode::Native).report();
        let ways: Vec<_> =
            status.nodes.iter().map(|node| (node.node_id, &*node.interface, &*node.replies)).collect();
        assert_eq!(ways, [(1, "veth1", "kernel"), (2, "", "relay")]);
        assert_eq!((&*status.role, &*status.mode, &*status.reason), ("edge", "native", "asked for"));
    }

    #[test]
    fn without_a_program_none_is_claimed() {
        let status = view(XdpMode::Off).report();
        let interfaces: Vec<_> =
            status.interfaces.iter().map(|found| (&*found.name, found.program_id)).collect();
        assert_eq!(interfaces, [("lo", 0)]);
    }
}
