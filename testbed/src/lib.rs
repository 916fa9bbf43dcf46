//! A cluster of real processes, on loopback or in a network of namespaces, and what a test of it needs: content that
//! proves itself, a lossy path, a checker of histories.
//!
//! Invariant: everything started here ends here, by process id, also when a test panics. This crate knows the
//! binaries by their command lines only and depends on none of the project's libraries.

mod cli;
mod cluster;
mod content;
#[cfg(all(feature = "fuse", target_os = "linux"))]
pub mod faulty_fs;
pub mod history;
pub mod keepsake;
pub mod kept;
mod lan;
pub mod load;
pub mod namespace;
pub mod packet_socket;
pub mod ports;
mod process;
mod rng;
pub mod udp_shim;
pub mod upgrade;

pub use cli::{Cli, CliOutput, Invocation};
pub use cluster::{Cluster, ClusterOptions, ClusterStatus, EdgeOptions, Member, ShimOptions};
pub use content::{Content, ContentCheck, SharedContentCheck};
pub use lan::{IpVersion, Lan, LanOptions, UPLINK};
pub use process::{Process, ProcessSpec, StartError, StopError, peak_memory_bytes};
pub use rng::Rng;
