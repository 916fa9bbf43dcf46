//! A chunk store on a file system that loses, at a power cut, what was not synced, whose writes, syncs and reads fail when they
//! are told to, and whose space runs out. `XDPFS_TEST_CUTS` says how many cuts, `XDPFS_TEST_SEED` which ones.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod bench;
mod client;
mod cuts;
mod failures;
mod full;
