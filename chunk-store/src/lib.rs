//! Chunks on one disk: how the disk is reached, what is kept in memory, and what is read ahead.
//!
//! Knows nothing of networks, capabilities or the cluster.

pub mod medium;
pub mod page_buffer;
pub mod page_cache;
pub mod read_ahead;
