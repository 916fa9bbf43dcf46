//! Why a node that has started can't go on.

use std::{io, sync::Arc};

use thiserror::Error;

use crate::data_directory::DirectoryError;

/// Why a node can't go on. Nothing heals by itself here: somebody has to look.
#[derive(Clone, Debug, Error)]
pub enum NodeFailure {
    /// The data directory can't be changed any more.
    #[error(transparent)]
    Directory(Arc<DirectoryError>),
    /// A part of the program has ended that never should.
    #[error("{part} ended unexpectedly")]
    Ended {
        /// Which part.
        part: &'static str,
    },
    /// The metadata service doesn't take the node as it is.
    #[error("the metadata service refuses this node: {message} ({reason})")]
    Refused {
        /// Why, for programs.
        reason: String,
        /// Why, for people.
        message: String,
    },
    /// Datagrams can't be received any more.
    #[error("no datagrams can be received any more: {0}")]
    Socket(Arc<io::Error>),
    /// Another node registers with the uuid of this one, again and again: each takes the other's place, and half of what
    /// is asked of either is asked of the wrong one.
    #[error("another data node runs under the uuid of this one: its data directory was copied")]
    Superseded,
    /// The directory belongs to one cluster, the metadata servers to another.
    #[error("the data directory belongs to another cluster: {message}")]
    WrongCluster {
        /// In the words of whoever noticed.
        message: String,
    },
}

impl From<DirectoryError> for NodeFailure {
    fn from(error: DirectoryError) -> Self {
        match error {
            DirectoryError::WrongCluster { .. } => Self::WrongCluster { message: error.to_string() },
            other => Self::Directory(Arc::new(other)),
        }
    }
}
