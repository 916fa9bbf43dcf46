//! A data node: chunks on disk, served over the chunk protocol, under the metadata service's orders.
//!
//! Invariant: nothing is acknowledged that isn't durable, and no byte is served that fails its checksum. What the
//! node may do, and for whom, it is told by the metadata leader; it decides nothing of that itself.

mod cluster_clock;
mod config;
mod control;
mod data_directory;
mod data_path;
mod directory_lock;
mod node;
mod node_failure;
mod node_state;
pub mod store;
mod xdp;

pub use config::{Arguments, Config, ConfigError, MetaEndpoint};
pub use data_directory::DirectoryError;
pub use node::{DataNode, StartError};
pub use node_failure::NodeFailure;
pub use store::{Store, StoreConfig};
pub use xdp::{OnExit, Prepare, Replies, SourceConfig, SourcePrefix, XdpConfig, XdpError, XdpMode};
