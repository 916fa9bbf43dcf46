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
//!
//! All that follows runs on a cluster in memory ([`mock`]), which answers as a real one does. Programs that are written for any
//! [`ObjectClient`] can be tested with it.
//!
//! One of several writers wins, and the others are told:
//!
//! ```
//! # use xdpfs_client::{BucketOptions, GetOptions, ObjectClient, Precondition, PutOptions, Result, mock::MockClient};
//! use xdpfs_client::ErrorKind;
//!
//! /// Adds one to a number that others add to, too.
//! async fn count<C: ObjectClient>(client: &C) -> Result<u64> {
//!     loop {
//!         let (number, precondition) = match client.get("demo", "count", GetOptions::default()).await {
//!             Ok(stream) => {
//!                 let seen = Precondition::IfMatch(stream.object().etag.clone());
//!                 let text = stream.into_bytes().await?;
//!                 (String::from_utf8_lossy(&text).parse().unwrap_or(0) + 1, seen)
//!             }
//!             Err(error) if error.kind() == ErrorKind::NotFound => (1, Precondition::IfNoneMatchAny),
//!             Err(error) => return Err(error),
//!         };
//!         let options = PutOptions { precondition: Some(precondition), ..PutOptions::default() };
//!         match client.put_bytes("demo", "count", number.to_string().into(), options).await {
//!             Ok(_) => return Ok(number),
//!             Err(error) if error.kind() == ErrorKind::PreconditionFailed => {}
//!             Err(error) => return Err(error),
//!         }
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let client = MockClient::new();
//! # client.create_bucket("demo", BucketOptions::default()).await?;
//! assert_eq!((count(&client).await?, count(&client).await?), (1, 2));
//! # Ok(())
//! # }
//! ```
//!
//! Streams in and out, and parts of objects:
//!
//! ```
//! # use xdpfs_client::{BucketOptions, GetOptions, ObjectClient, PutOptions, Result, mock::MockClient};
//! use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _};
//! use xdpfs_client::ByteRange;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let client = MockClient::new();
//! # client.create_bucket("demo", BucketOptions::default()).await?;
//! let mut writer = client.writer("demo", "lines", PutOptions::default());
//! for number in 0..1000 {
//!     writer.write_all(format!("line {number}\n").as_bytes()).await?;
//! }
//! // Without this there is no object.
//! writer.finish().await?;
//!
//! let mut lines = client.get("demo", "lines", GetOptions::default()).await?.lines();
//! assert_eq!(lines.next_line().await?.as_deref(), Some("line 0"));
//!
//! let end = GetOptions { range: Some(ByteRange::Suffix(4)), ..GetOptions::default() };
//! assert_eq!(client.get("demo", "lines", end).await?.into_bytes().await?, "999\n");
//! # Ok(())
//! # }
//! ```
//!
//! Keys by their beginning, and directories as their slashes say:
//!
//! ```
//! # use xdpfs_client::{BucketOptions, ObjectClient, PutOptions, Result, mock::MockClient};
//! use futures::TryStreamExt as _;
//! use xdpfs_client::{ListOptions, objects};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let client = MockClient::new();
//! # client.create_bucket("demo", BucketOptions::default()).await?;
//! for key in ["2025/12/31", "2026/01/01", "2026/01/02", "readme"] {
//!     client.put_bytes("demo", key, "x".into(), PutOptions::default()).await?;
//! }
//! let keys: Vec<_> = objects(&client, "demo", "2026/").map_ok(|object| object.key).try_collect().await?;
//! assert_eq!(keys, ["2026/01/01", "2026/01/02"]);
//!
//! let top = ListOptions { delimiter: "/".to_owned(), ..ListOptions::default() };
//! let page = client.list("demo", top).await?;
//! assert_eq!((page.prefixes, page.objects[0].key.as_str()), (vec!["2025/".into(), "2026/".into()], "readme"));
//! # Ok(())
//! # }
//! ```
//!
//! Several changes in one step ([`Batch`]), so that nobody ever sees both names of what is moved, or neither:
//!
//! ```
//! # use xdpfs_client::{BucketOptions, ObjectClient, PutOptions, Result, mock::MockClient};
//! use xdpfs_client::{Batch, CopyOptions};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<()> {
//! # let client = MockClient::new();
//! # client.create_bucket("demo", BucketOptions::default()).await?;
//! client.put_bytes("demo", "new/cat", "meow".into(), PutOptions::default()).await?;
//! let moved = Batch::new("demo").copy("new/cat", "seen/cat", CopyOptions::default()).delete("new/cat", None);
//! client.commit(moved).await?;
//! assert!(client.stat("demo", "new/cat", None).await.is_err());
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
mod inventory;
mod list;
mod membership;
pub mod mock;
mod name;
mod node_disk;
mod object;
mod object_client;
mod options;
mod placement;
mod put;
mod read_times;
mod rebalance;
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
pub use inventory::{Inventory, InventoryFinding, InventoryKind, InventoryNode, InventoryStanding};
pub use list::{ListOptions, ListPage, objects, objects_at_once};
pub use membership::{Membership, MetaMember, MetaMembers, Standing, WantedStanding};
pub use name::check_key;
pub use node_disk::NodeDisk;
pub use object::{ChunkPlacement, CopyOptions, Object, ObjectMetadata, ParsePreconditionError, Precondition};
pub use object_client::ObjectClient;
pub use options::{ClientOptions, OptionsError};
pub use placement::{
    DrainPlan, DrainTarget, LabelChange, NodeLabel, PlacedChunk, PlacedNode, PlacementChoice, PlacementQuery,
    PlacementReport, Spread,
};
pub use put::{PutOptions, PutResult};
pub use rebalance::{NodeShare, PlannedNode, RebalancePlan, RebalanceState, RebalanceStatus};
pub use repair::{LeavingNode, LeavingWhy, RemoveNodeOptions, RepairStatus};
pub use scrub::{NodeScrub, ScrubAction, ScrubAnswer, ScrubPass, ScrubState};
pub use versions::{
    DeleteOptions, Deleted, ObjectVersion, StatOptions, VersionListOptions, VersionPage, Versioning,
    object_versions,
};
pub use warnings::{Warning, warnings};
pub use writer::ObjectWriter;
pub use xdpfs_transport::Counters;
pub use xdpfs_trust::{Mismatch, TlsTrust, TrustError};
