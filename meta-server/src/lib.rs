//! Metadata servers: buckets, objects and placements, replicated by Raft.
//!
//! From below: [`storage`] keeps what must not be forgotten, [`state_machine`] says what commands mean, [`consensus`]
//! agrees on their order, and the service in front of them speaks to clients, data nodes and the other servers.
//! [`Server`] puts the parts together. Invariant: everything below the service knows nothing of gRPC.

mod audit;
pub mod backup;
mod blocking;
mod check;
mod clock;
mod config;
pub mod consensus;
mod console;
pub mod copies;
mod credential;
mod directory_lock;
mod duties;
pub mod edges;
pub mod fetches;
mod hearsay;
mod identity;
pub mod inventory;
mod join;
pub mod liveness;
mod manifests;
mod metrics;
mod mistake;
mod peers;
pub mod placement;
mod quarantine;
pub mod rebalance;
pub mod repair;
mod restore;
pub mod scrubs;
mod server;
mod service;
#[cfg(test)]
mod simulated_cluster;
#[cfg(test)]
mod simulated_network;
pub mod state_machine;
pub mod storage;
#[cfg(test)]
mod totals;

pub use check::{CheckError, StoreReport, check_store};
pub use config::{
    Arguments, Config, ConfigError, ConsensusConfig, Join, Member, MemberError, RootKey, Times,
};
pub use consensus::Halt;
pub use credential::{Credential, KeyId, MalformedCredential, SecretHash};
pub use identity::IdentityError;
pub use join::JoinError;
pub use restore::{RestoreError, restore};
pub use server::{Listeners, Server, ServerError};
