//! The spans of a client's work, for those who gather traces of requests.
//!
//! Invariant: they tell sizes, nodes and methods, and never a name or a key.

use tonic::metadata::MetadataMap;
use tracing::{Span, field::Empty, trace_span};

/// Also in the crate `xdpfs-trace`, which this one does without unless the feature `trace` asks for it.
const TARGET: &str = "xdpfs_trace";

/// A whole put; its size becomes known at its end.
pub(crate) fn put() -> Span {
    trace_span!(target: TARGET, "put", size = Empty)
}

/// The beginning of a get, until its first bytes are there.
pub(crate) fn get() -> Span {
    trace_span!(target: TARGET, "get", size = Empty)
}

/// A request to metadata servers, with all its attempts.
pub(crate) fn call(method: &'static str) -> Span {
    trace_span!(target: TARGET, "call", otel.name = method, otel.kind = "client", attempts = Empty)
}

/// A chunk on its way to a node.
pub(crate) fn write_chunk(node: u16, bytes: usize) -> Span {
    trace_span!(target: TARGET, "write chunk", node, bytes)
}

/// A part of a chunk on its way from a node.
pub(crate) fn read_chunk(node: u16, bytes: u32) -> Span {
    trace_span!(target: TARGET, "read chunk", node, bytes)
}

/// Tells the server which trace the request belongs to.
#[cfg(feature = "trace")]
pub(crate) fn inject(metadata: &mut MetadataMap) {
    let mut headers = std::mem::take(metadata).into_headers();
    xdpfs_trace::inject(&mut headers);
    *metadata = MetadataMap::from_headers(headers);
}

/// Nobody gathers traces.
#[cfg(not(feature = "trace"))]
pub(crate) const fn inject(_: &mut MetadataMap) {}
