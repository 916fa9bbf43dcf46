//! How many requests there were, how they ended and how long they took, by method.
//!
//! Invariant: bounded, whatever clients ask for: methods that no service has are counted together.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use prost::Message as _;
use prost_types::FileDescriptorSet;
use tonic::Code;
use xdpfs_observe::{
    Latency, Scrape,
    catalogue::{META_REQUEST, META_REQUESTS},
};
use xdpfs_proto::meta::v1 as proto;

use super::{Kind, request_counts::RequestCounts};

/// All codes, in the order of their numbers.
const CODES: [(Code, &str); 17] = [
    (Code::Ok, "OK"),
    (Code::Cancelled, "CANCELLED"),
    (Code::Unknown, "UNKNOWN"),
    (Code::InvalidArgument, "INVALID_ARGUMENT"),
    (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"),
    (Code::NotFound, "NOT_FOUND"),
    (Code::AlreadyExists, "ALREADY_EXISTS"),
    (Code::PermissionDenied, "PERMISSION_DENIED"),
    (Code::ResourceExhausted, "RESOURCE_EXHAUSTED"),
    (Code::FailedPrecondition, "FAILED_PRECONDITION"),
    (Code::Aborted, "ABORTED"),
    (Code::OutOfRange, "OUT_OF_RANGE"),
    (Code::Unimplemented, "UNIMPLEMENTED"),
    (Code::Internal, "INTERNAL"),
    (Code::Unavailable, "UNAVAILABLE"),
    (Code::DataLoss, "DATA_LOSS"),
    (Code::Unauthenticated, "UNAUTHENTICATED"),
];

/// What was counted since the start.
#[derive(Debug)]
pub(crate) struct RequestMetrics {
    /// By the path of the method, as in `/xdpfs.meta.v1.MetaService/BeginPut`.
    methods: BTreeMap<String, Counts>,
    /// Of no method that there is.
    others: Counts,
    /// Of all methods of clients.
    of_clients: RequestCounts,
}

#[derive(Debug, Default)]
struct Counts {
    codes: [AtomicU64; CODES.len()],
    latency: Latency,
}

impl RequestMetrics {
    /// The method of this path, without its service, if there is such a method.
    pub(super) fn method(&self, path: &str) -> Option<&str> {
        let (path, _) = self.methods.get_key_value(path)?;
        path.rsplit('/').next()
    }
}

impl Counts {
    fn is_used(&self) -> bool {
        self.codes.iter().any(|count| count.load(Ordering::Relaxed) > 0)
    }
}

impl RequestMetrics {
    pub(in crate::service) fn note(&self, path: &str, code: Code, took: Duration) {
        let counts = self.methods.get(path).unwrap_or(&self.others);
        counts.codes[code as usize].fetch_add(1, Ordering::Relaxed);
        counts.latency.observe(took);
        // What waits because it is asked to says nothing of how fast the server is.
        if Kind::of_path(path) == Kind::Client && !path.ends_with("/ContinueCopy") {
            self.of_clients.note(code, took);
        }
    }

    /// Those of clients, for the cluster's status.
    pub(in crate::service) fn record(&self) -> proto::RequestCounts {
        self.of_clients.record()
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        let methods = self.methods.iter().map(|(path, counts)| (path.trim_start_matches('/'), counts));
        let used: Vec<_> =
            methods.chain([("other", &self.others)]).filter(|(_, counts)| counts.is_used()).collect();
        let ended = used.iter().flat_map(|(method, counts)| {
            let codes = CODES.iter().zip(&counts.codes);
            codes.map(|((_, code), count)| ([*method, *code], count.load(Ordering::Relaxed)))
        });
        scrape.counters(&META_REQUESTS, ended.filter(|(_, count)| *count > 0));
        scrape.latencies(&META_REQUEST, used.iter().map(|(method, counts)| ([*method], &counts.latency)));
    }
}

impl Default for RequestMetrics {
    fn default() -> Self {
        let files = [xdpfs_proto::FILE_DESCRIPTOR_SET, tonic_health::pb::FILE_DESCRIPTOR_SET];
        let methods = files.into_iter().flat_map(paths).map(|path| (path, Counts::default()));
        Self { methods: methods.collect(), others: Counts::default(), of_clients: RequestCounts::default() }
    }
}

fn paths(descriptors: &[u8]) -> Vec<String> {
    let set = FileDescriptorSet::decode(descriptors).expect("the interfaces describe themselves");
    let mut paths = Vec::new();
    for file in &set.file {
        for service in &file.service {
            let methods = service.method.iter();
            paths.extend(
                methods.map(|method| format!("/{}.{}/{}", file.package(), service.name(), method.name())),
            );
        }
    }
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_stand_at_their_numbers() {
        for (number, (code, _)) in CODES.iter().enumerate() {
            assert_eq!(*code as usize, number);
        }
    }

    #[test]
    fn made_up_methods_are_counted_together() {
        let metrics = RequestMetrics::default();
        let methods = metrics.methods.len();
        for number in 0..1000 {
            metrics.note(&format!("/made.up/{number}"), Code::Unimplemented, Duration::ZERO);
        }
        metrics.note("/xdpfs.meta.v1.MetaService/BeginPut", Code::Ok, Duration::ZERO);
        assert_eq!(metrics.methods.len(), methods);
        assert_eq!(metrics.others.codes[Code::Unimplemented as usize].load(Ordering::Relaxed), 1000);
        assert!(metrics.methods["/xdpfs.meta.v1.MetaService/BeginPut"].is_used());
        assert!(metrics.methods.contains_key("/grpc.health.v1.Health/Check"));
    }

    #[test]
    fn status_has_the_requests_of_clients_alone() {
        let metrics = RequestMetrics::default();
        for path in [
            "/xdpfs.meta.v1.MetaService/BeginPut",
            "/xdpfs.meta.v1.MetaService/GetClusterStatus",
            "/xdpfs.node.v1.NodeService/Heartbeat",
            "/grpc.health.v1.Health/Check",
        ] {
            metrics.note(path, Code::Unavailable, Duration::ZERO);
        }
        let record = metrics.record();
        assert_eq!((record.failed, record.took.iter().sum::<u64>()), (1, 1));
    }
}
