//! What processes of xdpfs tell of themselves: metrics, whether they are ready, and the log.
//!
//! Invariant: every metric stands in [`catalogue`] with its unit; a process gives values and never names. No value names
//! an object or a bucket, so whoever may scrape learns load and health and nothing about anybody's data.

pub mod catalogue;
mod latency;
mod logging;
mod process;
mod scrape;
mod server;

pub use latency::Latency;
pub use logging::{Log, LogFilter, LogFilterError, MoreLayers};
pub use scrape::{Scrape, Source};
pub use server::{Observer, ObserverError};
