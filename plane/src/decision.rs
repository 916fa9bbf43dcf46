//! What is to be done with a datagram.

use xdpfs_wire::{NodeId, Reject};

use crate::fate::Fate;

/// What is to be done with a datagram.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Decision {
    /// Tell the sender why it was refused.
    Answer(Reject),
    /// Nothing more.
    End(Fate),
    /// Send it to a node that has a route.
    Forward(NodeId),
    /// Drop it.
    Refuse(Reject),
}
