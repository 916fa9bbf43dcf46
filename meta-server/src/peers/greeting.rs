//! What two servers say to each other before anything else on a connection: what they run, and what the cluster uses of
//! it.
//!
//! Invariant: no entry of the log goes to a server that could not apply it as all others do.

use tonic::{Code, Status, transport::Channel};
use xdpfs_proto::raft::v1::{self as pb, raft_service_client::RaftServiceClient};

use super::{CONNECT_TIMEOUT, Lane};
use crate::{
    consensus::{Halt, Input, Program, Programs},
    service::Refusal,
    state_machine::{FeatureLevel, Reason},
};

impl Lane {
    /// Learns what the peer runs, and says what runs here.
    pub(super) async fn greet(&self, channel: Channel) -> Result<FeatureLevel, Status> {
        let request = pb::GreetRequest {
            cluster_id: self.cluster_id(),
            id: self.own,
            program: Some(self.programs.own().record()),
            cluster_feature_level: self.programs.cluster_level().0,
        };
        let mut client = RaftServiceClient::new(channel);
        let asked = tokio::time::timeout(CONNECT_TIMEOUT, client.greet(request)).await;
        let asked =
            asked.map_err(|_| Status::deadline_exceeded("the peer does not say in time what it runs"))?;
        let greeted = match asked {
            Ok(response) => response.into_inner(),
            // It is of the release before levels.
            Err(status) if status.code() == Code::Unimplemented => pb::GreetResponse::default(),
            Err(status) => return Err(status),
        };
        if let Some(halt) =
            too_old(&self.programs, &self.cluster_id(), &greeted.cluster_id, greeted.cluster_feature_level)
        {
            self.inputs.offer(Input::Halt(halt));
        }
        if greeted.id != 0 && greeted.id != self.peer {
            return Err(Status::unavailable("another server is there"));
        }
        let program = Program::from_record(greeted.program);
        let theirs = program.feature_level;
        self.programs.hear(self.peer, program);
        self.check_level(theirs).map(|()| theirs)
    }

    /// Whether the peer may be told of what the cluster does now.
    pub(super) fn check_level(&self, theirs: FeatureLevel) -> Result<(), Status> {
        Ok(check_level(&self.programs, theirs)?)
    }
}

/// Whether a server that supports `theirs` may take part.
pub(super) fn check_level(programs: &Programs, theirs: FeatureLevel) -> Result<(), Refusal> {
    let cluster = programs.cluster_level();
    if theirs >= cluster {
        return Ok(());
    }
    let words = format!(
        "the cluster is at {cluster}, and the server that is to take part supports {theirs}: start the later release there"
    );
    Err(Refusal::new(Reason::FeatureLevelTooLow, words))
}

/// Whether this server is too old for the cluster, by the word of another one of the same cluster.
pub(super) fn too_old(programs: &Programs, ours: &str, theirs: &str, cluster: u32) -> Option<Halt> {
    let (cluster, own) = (FeatureLevel(cluster), programs.own().feature_level);
    let is_same = ours.is_empty() || ours == theirs;
    (is_same && cluster > own).then_some(Halt::TooOld { cluster, own })
}

impl Program {
    pub(super) fn record(&self) -> pb::Program {
        pb::Program { version: self.version.clone(), feature_level: self.feature_level.0 }
    }

    pub(super) fn from_record(record: Option<pb::Program>) -> Self {
        let pb::Program { version, feature_level } = record.unwrap_or_default();
        Self { version, feature_level: FeatureLevel(feature_level) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(own: u32, cluster: u32) -> Programs {
        let programs = Programs::new(Program { version: "1".into(), feature_level: FeatureLevel(own) });
        programs.follow_cluster(FeatureLevel(cluster));
        programs
    }

    #[test]
    fn server_below_the_level_of_the_cluster_is_refused() {
        let check = |cluster, theirs| check_level(&programs(2, cluster), FeatureLevel(theirs));
        assert_eq!(check(0, 0), Ok(()));
        assert_eq!(check(1, 2), Ok(()));
        assert_eq!(check(2, 1).unwrap_err().reason(), Reason::FeatureLevelTooLow);
    }

    #[test]
    fn server_that_hears_of_a_higher_level_is_too_old() {
        let own = programs(1, 0);
        let check = |ours, theirs, cluster| too_old(&own, ours, theirs, cluster).is_some();
        assert!(check("a", "a", 2) && check("", "a", 2));
        assert!(!check("a", "a", 1) && !check("a", "b", 2));
    }
}
