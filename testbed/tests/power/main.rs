//! Metadata servers, and chunk stores, whose disks lose, at a power cut, what was not synced, and whose writes and syncs fail.
//!
//! Needs root and /dev/fuse, which the feature `fuse` says are there.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

mod chunk_store;
mod cuts;
mod disks;
mod failures;
