//! What a gateway promises to programs that only speak gRPC, asked of real processes.
//!
//! Invariant: nothing here is skipped, and every wait has an end that fails the test.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod access;
mod bounds;
mod failures;
mod objects;
mod support;
mod uploads;
mod web;
