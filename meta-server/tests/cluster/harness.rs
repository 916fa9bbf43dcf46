//! A cluster to try things on, and the ways to do so.

mod cluster;
mod fake_node;
mod puts;

use tonic::{Code, Status};
use tonic_types::StatusExt as _;
use uuid::Uuid;

pub use self::{
    cluster::{Access, Cluster, Members, Meta, Node, PATIENCE, eventually, show},
    fake_node::{FakeNode, register_nodes},
    puts::{CHUNK_SIZE, Writer},
};

/// A name for a request that nobody has used.
pub fn request_id() -> String {
    Uuid::new_v4().to_string()
}

/// The reason that a refusal gives.
pub fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

/// Fails unless the answer is this refusal.
#[track_caller]
pub fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, expect: &str) {
    let status = answer.expect_err("a refusal");
    assert_eq!((status.code(), reason(&status).as_str()), (code, expect), "{}", status.message());
}
