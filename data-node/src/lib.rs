//! A data node: chunks on disk, served over the chunk protocol, under the metadata service's orders.
//!
//! Invariant: nothing is acknowledged that isn't durable, and no byte is served that fails its checksum. What the
//! node may do, and for whom, it is told by the metadata leader; it decides nothing of that itself.

mod admin;
mod check;
mod cluster_clock;
mod command_line;
mod config;
mod control;
mod data_directory;
mod data_path;
mod directory_pool;
mod disks;
mod edge;
mod event_tap;
mod health;
mod lease;
mod link;
mod metrics;
mod node;
mod node_failure;
mod node_label;
mod node_state;
mod node_view;
mod own_address;
mod run_as;
mod scrub;
mod source_prefix;
pub mod storage_probe;
mod xdp;
pub mod xdp_probe;

pub use xdpfs_chunk_store as store;

pub use admin::AdminError;
pub use check::{CheckArguments, CheckEnd, CheckRefusal, DiskCheck, check_directory, run as run_check};
pub use command_line::CommandLine;
pub use config::{Arguments, Config, ConfigError, DataPlace, MetaEndpoint};
pub use data_directory::DirectoryError;
pub use disks::DiskError;
pub use disks::{IoChoice, StoreOptions};
pub use edge::{Edge, EdgeArguments, EdgeConfig, EdgeConfigError, EdgeFailure, EdgeStartError, PreparedEdge};
pub use health::HealthConfig;
pub use link::{Link, LinkError};
pub use node::{DataNode, StartError};
pub use node_failure::NodeFailure;
pub use node_label::NodeLabelError;
pub use own_address::OwnAddress;
pub use run_as::{RunAs, RunAsError};
pub use scrub::ScrubConfig;
pub use source_prefix::{SourcePrefix, SourcePrefixError};
pub use store::{Store, StoreConfig, StoreReport};
pub use xdp::{OnExit, PlaneThread, Prepare, Replies, SourceConfig, XdpConfig, XdpError, XdpMode};
