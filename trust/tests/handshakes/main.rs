//! Both ends of real connections: who gets in, who does not and hears why, and what a change of certificates does.
//!
//! Invariant: every wait has an end that fails the test.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod browsers;
mod crowd;
mod refused;
mod rotation;
mod scene;
