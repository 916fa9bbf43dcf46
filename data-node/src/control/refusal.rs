//! What a failed attempt means: a `google.rpc.Status` and its `ErrorInfo` (`docs/protocol.md §10`).

use thiserror::Error;
use tonic::{Code, Status};
use tonic_types::StatusExt as _;

use crate::{config::MetaEndpoint, node_failure::NodeFailure};

const DOMAIN: &str = "xdpfs";
const LEADER_KEY: &str = "leaderEndpoint";

/// What to do after a failed attempt.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// Ask another server.
    Elsewhere,
    /// Asking again gives the same.
    Final(Refusal),
    /// The same server, later.
    Later,
    /// Ask this leader.
    Leader(MetaEndpoint),
}

/// The metadata service says no, and will again.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{message} ({reason})")]
pub(crate) struct Refusal {
    /// Why, for programs.
    pub(crate) reason: String,
    /// Why, for people.
    pub(crate) message: String,
}

impl Refusal {
    /// The service doesn't know the node by its id.
    pub(super) fn node_is_unknown(&self) -> bool {
        self.reason == "NODE_UNKNOWN"
    }

    /// The service is another cluster's.
    pub(crate) fn cluster_is_wrong(&self) -> bool {
        self.reason == "WRONG_CLUSTER"
    }
}

impl From<Refusal> for NodeFailure {
    fn from(refusal: Refusal) -> Self {
        let cluster_is_wrong = refusal.cluster_is_wrong();
        let Refusal { reason, message } = refusal;
        if cluster_is_wrong { Self::WrongCluster { message } } else { Self::Refused { reason, message } }
    }
}

impl Verdict {
    pub(super) fn on(status: &Status) -> Self {
        let info = status.get_details_error_info().filter(|info| info.domain == DOMAIN);
        let Some(info) = info else { return Self::by_code(status.code()) };
        let leader = info.metadata.get(LEADER_KEY).and_then(|leader| leader.parse().ok());
        match info.reason.as_str() {
            "NOT_LEADER" => leader.map_or(Self::Elsewhere, Self::Leader),
            "NO_LEADER" | "OUTCOME_UNKNOWN" | "DEADLINE_EXCEEDED" | "INTERNAL" => Self::Elsewhere,
            "OVERLOADED" => Self::Later,
            _ => match status.code() {
                Code::Unavailable | Code::ResourceExhausted => Self::Later,
                _ => Self::Final(Refusal { reason: info.reason, message: status.message().to_owned() }),
            },
        }
    }

    /// Without a reason the status comes from tonic or the network, or from something that is no metadata server,
    /// perhaps in place of one that will be back.
    const fn by_code(code: Code) -> Self {
        match code {
            Code::ResourceExhausted => Self::Later,
            _ => Self::Elsewhere,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tonic_types::ErrorDetails;

    use super::*;

    fn with_info(code: Code, reason: &str, domain: &str, leader: Option<&str>) -> Status {
        let metadata: HashMap<_, _> =
            leader.map(|leader| (LEADER_KEY.to_owned(), leader.to_owned())).into_iter().collect();
        Status::with_error_details(code, "words", ErrorDetails::with_error_info(reason, domain, metadata))
    }

    #[test]
    fn reasons_decide_what_happens_next() {
        let check = |code, reason, leader, expect| {
            assert_eq!(Verdict::on(&with_info(code, reason, DOMAIN, leader)), expect, "{reason}");
        };
        let refusal =
            |reason: &str| Verdict::Final(Refusal { reason: reason.into(), message: "words".into() });
        check(Code::Unavailable, "NOT_LEADER", Some("b:1"), Verdict::Leader("b:1".parse().unwrap()));
        check(Code::Unavailable, "NOT_LEADER", Some("rubbish"), Verdict::Elsewhere);
        check(Code::Unavailable, "NOT_LEADER", None, Verdict::Elsewhere);
        check(Code::Unavailable, "OUTCOME_UNKNOWN", None, Verdict::Elsewhere);
        check(Code::ResourceExhausted, "OVERLOADED", None, Verdict::Later);
        check(Code::Unavailable, "NEW_REASON", None, Verdict::Later);
        check(Code::FailedPrecondition, "WRONG_CLUSTER", None, refusal("WRONG_CLUSTER"));
        check(Code::FailedPrecondition, "NODE_UNKNOWN", None, refusal("NODE_UNKNOWN"));
        check(Code::InvalidArgument, "INVALID_ARGUMENT", None, refusal("INVALID_ARGUMENT"));
    }

    #[test]
    fn a_status_without_reason_is_never_final() {
        for code in [Code::Unavailable, Code::Unknown, Code::Unimplemented, Code::PermissionDenied] {
            assert_eq!(Verdict::on(&Status::new(code, "")), Verdict::Elsewhere, "{code:?}");
        }
        let foreign = with_info(Code::FailedPrecondition, "WRONG_CLUSTER", "another.example", None);
        assert_eq!(Verdict::on(&foreign), Verdict::Elsewhere);
    }

    #[test]
    fn another_cluster_is_told_apart_from_other_refusals() {
        let failure =
            |reason: &str| NodeFailure::from(Refusal { reason: reason.into(), message: String::new() });
        assert!(matches!(failure("WRONG_CLUSTER"), NodeFailure::WrongCluster { .. }));
        assert!(matches!(failure("INVALID_ARGUMENT"), NodeFailure::Refused { .. }));
    }
}
