//! What every request passes on its way in, outermost first: trace, roster, audience, membership, admission, deadline.
//!
//! Invariant: a request that is not admitted costs next to nothing, and one that is admitted ends by its deadline.

mod admission;
mod audience;
mod deadline;
mod membership;
mod request_counts;
mod request_metrics;
mod roster;
mod trace;

use http::Request;

pub(crate) use self::request_metrics::RequestMetrics;
pub(super) use self::{
    admission::{Admission, AdmissionLayer},
    audience::{Audience, AudienceLayer},
    deadline::{Deadline, DeadlineLayer},
    membership::MembershipLayer,
    roster::RosterLayer,
    trace::TraceLayer,
};

/// The kind of work that a request asks for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Of a client.
    Client,
    /// Of a data node. If these were shed together with those of clients, nodes would seem dead whenever clients are
    /// too many.
    Node,
    /// Says how the server is; needed most when it has too much to do, and cheap.
    Observation,
}

impl Kind {
    fn of<B>(request: &Request<B>) -> Self {
        Self::of_path(request.uri().path())
    }

    fn of_path(path: &str) -> Self {
        if path.starts_with("/xdpfs.node.v1.") {
            Self::Node
        } else if path.starts_with("/xdpfs.access.v1.")
            || path.starts_with("/xdpfs.members.v1.") && !path.ends_with("/ListMembers")
            || path.starts_with("/xdpfs.meta.v1.") && !path.ends_with("/GetClusterStatus")
        {
            Self::Client
        } else {
            Self::Observation
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_follows_from_the_method() {
        let check = |path: &str, expect| {
            assert_eq!(Kind::of(&Request::builder().uri(path).body(()).unwrap()), expect, "{path}");
        };
        check("/xdpfs.meta.v1.MetaService/BeginPut", Kind::Client);
        check("/xdpfs.meta.v1.MetaService/GetClusterStatus", Kind::Observation);
        check("/xdpfs.access.v1.AccessService/CreateAccessKey", Kind::Client);
        check("/xdpfs.node.v1.NodeService/Heartbeat", Kind::Node);
        check("/grpc.health.v1.Health/Check", Kind::Observation);
    }
}
