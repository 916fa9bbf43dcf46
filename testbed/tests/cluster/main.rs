//! What a whole cluster promises, asked of real processes through the command line tool.
//!
//! Invariant: nothing here is skipped, and every wait has an end that fails the test.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

mod access;
mod backup;
mod bad_input;
mod console;
mod copies;
mod debug_bundle;
mod edge;
mod formats;
mod fsck;
mod hostile;
mod interrupted;
mod lossy;
mod membership;
mod metrics;
mod placement;
mod reload;
mod restart;
mod round_trip;
mod scrub;
mod settings;
mod support;
mod traces;
mod trust;
mod versions;
