//! What processes of xdpfs tell of themselves: metrics, and whether they are ready.
//!
//! Invariant: every metric stands in [`catalogue`] with its unit; a process gives values and never names. No value names
//! an object or a bucket, so whoever may scrape learns load and health and nothing about anybody's data.

pub mod catalogue;
mod latency;
mod process;
mod scrape;
mod server;

pub use latency::Latency;
pub use scrape::{Scrape, Source};
pub use server::{Observer, ObserverError};
