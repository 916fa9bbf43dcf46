//! Real processes in a network of namespaces: clients, an edge that routes or relays or forwards in the kernel, data
//! nodes behind it. Each test makes its network and removes it.
//!
//! That takes root, iproute2 and the built kernel program; the feature `kernel` says that they are there.

#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod crossing;
mod frames;
mod frozen;
mod hostile;
mod modes;
mod outages;
mod pausing;
mod routed;
mod support;
