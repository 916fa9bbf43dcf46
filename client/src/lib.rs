//! The Rust SDK: put, get, list, stat and delete objects of an xdpfs cluster.
//!
//! The control plane is gRPC to whichever metadata server leads; the bytes go over UDP straight to and from the data
//! nodes. Invariant: a reader gets one version of an object or an error, never a mix, and a put that returned is
//! durable on at least the bucket's `min_replicas` nodes.
//!
//! ```no_run
//! use tokio::io::AsyncReadExt as _;
//! use xdpfs_client::{BucketOptions, Client, ClientConfig, GetOptions, ObjectClient as _, Precondition, PutOptions};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let client = Client::connect(ClientConfig::new("127.0.0.1:7001,127.0.0.1:7002".parse()?))?;
//! client.create_bucket("demo", BucketOptions::default()).await?;
//!
//! let once = PutOptions { precondition: Some(Precondition::IfNoneMatchAny), ..PutOptions::default() };
//! let put = client.put_bytes("demo", "greeting", "hello".into(), once).await?;
//! println!("version {} on {} nodes", put.object.version, put.object.durable_replicas);
//!
//! let mut reader = client.get("demo", "greeting", GetOptions::default()).await?;
//! let mut text = String::new();
//! reader.read_to_string(&mut text).await?;
//! assert_eq!(text, "hello");
//!
//! client.close().await;
//! # Ok(())
//! # }
//! ```

mod access_control;
mod access_key;
mod backup;
mod batch;
mod bucket;
mod chunk_transport;
mod client;
mod cluster;
mod config;
mod control;
mod copy;
mod error;
pub mod failing;
#[cfg(test)]
mod fake;
mod get;
mod health;
mod list;
mod membership;
pub mod mock;
mod name;
mod node_disk;
mod object;
mod object_client;
mod placement;
mod put;
#[cfg(feature = "json")]
pub mod record;
mod repair;
mod scrub;
mod session;
mod suspects;
mod traces;
mod versions;
mod warnings;
mod writer;

pub use access_control::{
    AccessControl, AccessKeyId, AccessKeyInfo, AccessKeyPage, Grant, NewAccessKey, ParseAccessKeyIdError,
    RevokeOptions, Right, Rotation,
};
pub use access_key::{AccessKey, ParseAccessKeyError};
pub use backup::BackupStream;
pub(crate) use batch::BatchOperation;
pub use batch::{BATCH_OPERATIONS_MAX, Batch, BatchResult};
pub use bucket::{Bucket, BucketOptions, BucketPage, BucketUpdate, Setting};
pub use client::Client;
pub use cluster::{
    ClusterStatus, DataNode, DataNodeState, Edge, MetaRole, MetaServer, RequestCounts, TOOK_PLACES,
};
pub use config::{ClientConfig, Endpoints, EndpointsError, Scheme};
pub use copy::{CopyResult, CopyWay, copy_anywhere, copy_bytes};
pub use error::{Error, ErrorKind, Result};
pub use get::{ByteRange, GetOptions, GetStream, ParseByteRangeError};
pub use health::{Health, HealthError, check_health};
pub use list::{ListOptions, ListPage, objects, objects_at_once};
pub use membership::{Membership, MetaMember, MetaMembers, Standing, WantedStanding};
pub use name::check_key;
pub use node_disk::NodeDisk;
pub use object::{ChunkPlacement, CopyOptions, Object, ObjectMetadata, ParsePreconditionError, Precondition};
pub use object_client::ObjectClient;
pub use placement::{
    DrainPlan, DrainTarget, LabelChange, NodeLabel, PlacedChunk, PlacedNode, PlacementChoice, PlacementQuery,
    PlacementReport, Spread,
};
pub use put::{PutOptions, PutResult};
pub use repair::{LeavingNode, LeavingWhy, RemoveNodeOptions, RepairStatus};
pub use scrub::{NodeScrub, ScrubAction, ScrubAnswer, ScrubPass, ScrubState};
pub use versions::{
    DeleteOptions, Deleted, ObjectVersion, StatOptions, VersionListOptions, VersionPage, Versioning,
    object_versions,
};
pub use warnings::{Warning, warnings};
pub use writer::ObjectWriter;
pub use xdpfs_transport::Counters;
pub use xdpfs_trust::{Mismatch, TlsTrust};
