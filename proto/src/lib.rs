//! The control plane's interfaces, generated from `proto/xdpfs/**/*.proto`. Documentation lives there.
//!
//! Invariant: no logic. What a message means is decided by the crate that receives it.
#![allow(
    missing_docs,
    missing_debug_implementations,
    unreachable_pub,
    unused_qualifications,
    clippy::allow_attributes_without_reason,
    clippy::use_self,
    clippy::unused_async,
    clippy::all,
    rustdoc::all,
    reason = "generated code"
)]

/// Access keys and key epochs, for those who run the cluster.
pub mod access {
    pub mod v1 {
        tonic::include_proto!("xdpfs.access.v1");

        impl std::fmt::Debug for CreateAccessKeyResponse {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_struct("CreateAccessKeyResponse")
                    .field("access_key", &self.access_key)
                    .finish_non_exhaustive()
            }
        }
    }
}

/// What operators see of a kernel program, on a socket of its host.
pub mod admin {
    pub mod v1 {
        tonic::include_proto!("xdpfs.admin.v1");
    }
}

/// All metadata as one picture, for those who run the cluster.
pub mod backup {
    pub mod v1 {
        tonic::include_proto!("xdpfs.backup.v1");
    }
}

/// The metadata servers themselves, for those who run the cluster.
pub mod members {
    pub mod v1 {
        tonic::include_proto!("xdpfs.members.v1");
    }
}

/// Objects and buckets, for clients.
pub mod meta {
    pub mod v1 {
        tonic::include_proto!("xdpfs.meta.v1");
    }
}

/// Registration, heartbeats and chunk reports, for data nodes.
pub mod node {
    pub mod v1 {
        tonic::include_proto!("xdpfs.node.v1");
    }
}

/// Objects and buckets through a gateway, for programs in any language.
pub mod object {
    pub mod v1 {
        tonic::include_proto!("xdpfs.object.v1");
    }
}

/// Consensus traffic between metadata servers.
pub mod raft {
    pub mod v1 {
        tonic::include_proto!("xdpfs.raft.v1");
    }
}

/// What the replicated log and snapshots hold. Not a service.
pub mod state {
    pub mod v1 {
        tonic::include_proto!("xdpfs.state.v1");
    }
}

/// All files of all packages, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = tonic::include_file_descriptor_set!("descriptors");
