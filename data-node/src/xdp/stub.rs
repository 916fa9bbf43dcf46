//! Where there is no loader: nothing can be loaded, and that is said.

use std::convert::Infallible;

use super::{Place, PlaneCounts, XdpError};
use crate::node_state::NodeState;

/// A program that can't be.
pub(super) struct Plane(Infallible);

impl Plane {
    pub(super) fn load(_: Place, _: u16, _: &[String]) -> Result<Self, XdpError> {
        Err(XdpError::NotBuilt)
    }

    pub(super) fn attached(self, _: &[String], _: &NodeState) -> Result<Self, XdpError> {
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
