//! What a node shows operators of its kernel program.

use std::{net::SocketAddr, sync::Arc};

use xdpfs_proto::admin::v1::{InterfaceStatus, StatusResponse};

use crate::{admin::PlaneView, event_tap::EventTap, node_state::NodeState, xdp::PlaneCounts};

/// A node, as operators see it.
#[derive(Debug)]
pub(crate) struct NodeView {
    state: Arc<NodeState>,
    address: SocketAddr,
    /// Those that the program should be on.
    interfaces: Vec<String>,
    events: Option<Arc<EventTap>>,
}

impl NodeView {
    pub(crate) fn new(
        state: Arc<NodeState>,
        address: SocketAddr,
        interfaces: Vec<String>,
        events: Option<Arc<EventTap>>,
    ) -> Self {
        Self { state, address, interfaces, events }
    }
}

impl PlaneView for NodeView {
    fn report(&self) -> StatusResponse {
        let plane = self.state.plane();
        let program_id = |name: &String| xdpfs_host::interface(name).ok().and_then(|found| found.program);
        let interface = |name: &String| InterfaceStatus {
            name: name.clone(),
            // Without a plane, a program that is there is somebody else's.
            program_id: self.events.as_ref().and_then(|_| program_id(name)).unwrap_or_default(),
        };
        StatusResponse {
            role: "node".to_owned(),
            address: self.address.to_string(),
            mode: plane.mode.to_string(),
            reason: plane.why,
            interfaces: self.interfaces.iter().map(interface).collect(),
            ..StatusResponse::default()
        }
    }

    fn stats(&self) -> PlaneCounts {
        self.state.plane().counts
    }

    fn events(&self) -> Option<Arc<EventTap>> {
        self.events.clone()
    }
}
