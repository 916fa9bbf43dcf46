//! Why an edge that has started can't go on.

use std::{io, sync::Arc};

use thiserror::Error;

use crate::control::Refusal;

/// Why an edge can't go on.
#[derive(Clone, Debug, Error)]
pub enum EdgeFailure {
    /// A part of the program has ended that never should.
    #[error("{part} ended unexpectedly")]
    Ended {
        /// Which part.
        part: &'static str,
    },
    /// The metadata service doesn't take the edge as it is.
    #[error("the metadata service refuses this edge: {message} ({reason})")]
    Refused {
        /// Why, for programs.
        reason: String,
        /// Why, for people.
        message: String,
    },
    /// Datagrams can't be received any more.
    #[error("no datagrams can be received any more: {0}")]
    Socket(Arc<io::Error>),
    /// The metadata servers are of another cluster than before: what the edge knows is of no use.
    #[error("the metadata servers are of another cluster than before; start the edge again if that is right")]
    WrongCluster,
}

impl From<Refusal> for EdgeFailure {
    fn from(refusal: Refusal) -> Self {
        if refusal.cluster_is_wrong() {
            return Self::WrongCluster;
        }
        let Refusal { reason, message } = refusal;
        Self::Refused { reason, message }
    }
}
