//! Where there is no loader: nothing can be loaded, and that is said.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use super::{
    Place, PlaneCounts, XdpError,
    edge_plane::{EdgeXdpConfig, Events, Order, SharedReport},
};
use crate::{event_tap::EventTap, node_state::NodeState};

/// A node's program that can't be.
#[derive(Debug)]
pub(super) struct Plane(Infallible);

impl Plane {
    pub(super) fn load(_: Place, _: SocketAddr, _: &[String]) -> Result<Self, XdpError> {
        Err(XdpError::NotBuilt)
    }

    pub(super) fn attached(self, _: &[String], _: &NodeState) -> Result<Self, XdpError> {
        match self.0 {}
    }

    pub(super) fn settled(self) -> Result<Self, XdpError> {
        match self.0 {}
    }

    pub(super) fn tend(&mut self) -> Result<(), XdpError> {
        match self.0 {}
    }

    pub(super) fn muteness(&self) -> Option<String> {
        match self.0 {}
    }

    pub(super) fn update(&mut self, _: &NodeState, _: u64) -> Result<(), XdpError> {
        match self.0 {}
    }

    pub(super) fn take_events(&mut self) -> Result<Events, XdpError> {
        match self.0 {}
    }

    pub(super) fn counts(&self) -> Result<PlaneCounts, XdpError> {
        match self.0 {}
    }
}

/// An edge's thread that can't be.
#[derive(Debug)]
pub(super) struct EdgeThread(Infallible);

impl EdgeThread {
    pub(super) fn start(_: EdgeXdpConfig, _: SharedReport) -> Result<Self, XdpError> {
        Err(XdpError::NotBuilt)
    }

    pub(super) fn order(&self, _: Order) {
        match self.0 {}
    }
}

pub(crate) async fn forward_events(events: Events, _: Arc<EventTap>) {
    match events {}
}

pub(crate) fn try_load() -> Result<(), XdpError> {
    Err(XdpError::NotBuilt)
}
