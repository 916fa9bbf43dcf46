//! Where there is no loader: nothing can be loaded, and that is said.

use std::{convert::Infallible, net::SocketAddr};

use super::{
    Place, PlaneCounts, XdpError,
    edge_plane::{EdgeXdpConfig, Order, SharedReport},
};
use crate::node_state::NodeState;

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

    pub(super) fn update(&mut self, _: &NodeState) -> Result<(), XdpError> {
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
