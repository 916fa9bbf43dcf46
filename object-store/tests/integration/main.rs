//! The integration tests that come with `object_store`, on a cluster in memory and on one of real processes, and what they
//! do not ask: two writers of one log while servers are killed, and renames that nobody sees half done.
//!
//! Left out of theirs are the tests of `MultipartStore`, an interface of its own to uploads that go on under an id, which
//! xdpfs does not have; those of signed URLs, which there are none of; and those of headers of HTTP responses.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod cluster;
mod memory;
mod suite;
