//! Whole clusters of metadata servers in one process, over loopback, as clients and data nodes see them.
#![allow(missing_docs, unreachable_pub, reason = "a test has no users")]
#![allow(clippy::unwrap_used, reason = "what fails here is a failed test")]

mod access;
mod administration;
mod backup;
mod batches;
mod buckets;
mod copies;
mod divergence;
mod edges;
mod failover;
mod feature_levels;
mod harness;
mod idempotency;
mod inventories;
mod listing;
mod load;
mod membership;
mod nodes;
mod objects;
mod observation;
mod peers;
mod placement;
mod puts;
mod repair;
mod scrubs;
mod start;
mod trust;
mod versions;
