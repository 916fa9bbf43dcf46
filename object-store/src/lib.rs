//! Arrow's [`ObjectStore`] over xdpfs, so that DataFusion, delta-rs, Lance, Polars and whatever else speaks it work on a
//! bucket at the full speed of the native client.
//!
//! Invariants: what the trait says of atomicity holds, also while servers fail: a put with [`PutMode::Create`] or
//! [`PutMode::Update`] takes effect for one of several writers, a rename is one step, and the ranges of one
//! [`get_ranges`](ObjectStore::get_ranges) are of one version. Nothing here knows of chunks, nodes or servers.
//!
//! [`PutMode::Create`]: object_store::PutMode::Create
//! [`PutMode::Update`]: object_store::PutMode::Update
//!
//! ```
//! use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, path::Path};
//! use xdpfs_client::{BucketOptions, ObjectClient as _, mock::MockClient};
//! use xdpfs_object_store::XdpfsStore;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A real one is `XdpfsStoreBuilder::from_env()?.with_bucket("lake").build()?`.
//! let client = MockClient::new();
//! client.create_bucket("lake", BucketOptions::default()).await?;
//! let store = XdpfsStore::new(client, "lake");
//!
//! let log = Path::from("_delta_log/00000000000000000000.json");
//! store.put_opts(&log, "{}".into(), PutMode::Create.into()).await?;
//! let second = store.put_opts(&log, "{}".into(), PutMode::Create.into()).await;
//! assert!(matches!(second, Err(object_store::Error::AlreadyExists { .. })));
//! assert_eq!(store.get(&log).await?.bytes().await?, "{}");
//! # Ok(())
//! # }
//! ```
//!
//! # What maps to what
//!
//! | `object_store` | xdpfs |
//! |---|---|
//! | path | key, as it stands; keys that no path can be, such as `a//b`, make a listing fail by name |
//! | `e_tag` | etag |
//! | `version` | version number, if the store was made [with versions](XdpfsStore::with_versions) |
//! | `last_modified` | when the version was put |
//! | content type | content type |
//! | other attributes | user metadata: those that HTTP knows under their names there, such as `Cache-Control` |
//! | tags | left out, as the trait wants it of stores without any |
//! | multipart upload | one put, which is fed by the parts in their order and commits at the end |
//! | `copy` | a copy that shares its chunks: no byte moves |
//! | `rename` | copy and delete in one batch: both or neither |

mod attributes;
mod builder;
mod error;
mod listing;
mod payload;
mod store;
mod upload;

pub use builder::{BuildError, XdpfsStoreBuilder, parse_url, parse_url_opts};
#[cfg(doc)]
use object_store::ObjectStore;
pub use store::XdpfsStore;
