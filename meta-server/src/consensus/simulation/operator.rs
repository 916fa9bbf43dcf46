//! Somebody who adds, removes and replaces servers, whatever else goes on.

use tokio::sync::oneshot;
use xdpfs_proto::state::v1::{self as pb, command::Kind, outcome};

use super::{
    super::{Applied, ConsensusError},
    cluster::Cluster,
};
use crate::state_machine::{Reason, Wanted};

/// Members that an operator keeps at least, and beyond as many as there were at first.
const MEMBERS_MIN: usize = 3;
const MEMBERS_MORE_MAX: usize = 2;
/// Servers that ever were, in one run.
const SERVERS_MAX: usize = 14;

type Answer = oneshot::Receiver<Result<Applied, ConsensusError>>;

/// What an operator is about.
#[derive(Default)]
pub(super) struct Operator {
    /// What was asked for last, and who answers.
    asked: Option<(Kind, Answer)>,
    /// A server that has an id and is to be added, and whether it is to stay a learner.
    joins: Option<(u64, bool)>,
    /// What was asked for and done.
    pub(super) done: u64,
    /// What was refused because something else was under way.
    pub(super) busy: u64,
}

pub(super) fn member(id: u64) -> pb::MetaMember {
    let address = || format!("s{id}:1");
    pb::MetaMember { id, peer_address: address(), client_address: address(), ..Default::default() }
}

pub(super) fn seed(voters: &[u64]) -> Kind {
    Kind::SeedMembers(pb::SeedMembers { members: voters.iter().copied().map(member).collect() })
}

impl Operator {
    pub(super) fn act(&mut self, cluster: &mut Cluster) {
        if let Some((kind, mut answer)) = self.asked.take() {
            match answer.try_recv() {
                Err(oneshot::error::TryRecvError::Empty) => self.asked = Some((kind, answer)),
                Ok(Ok(applied)) => self.hear(&kind, applied.outcome.kind, cluster),
                // Nobody knows whether it happened. What is asked for next shows it.
                Ok(Err(_)) | Err(_) => {}
            }
            return;
        }
        if !cluster.random.one_in(cluster.faults.wish_every_ms) {
            return;
        }
        if let Some(kind) = self.wish(cluster)
            && let Some(answer) = cluster.command(kind.clone())
        {
            self.asked = Some((kind, answer));
        }
    }

    fn wish(&self, cluster: &mut Cluster) -> Option<Kind> {
        let members = std::sync::Arc::clone(cluster.checks.reference.members());
        if !members.is_known() {
            return Some(seed(&cluster.voters));
        }
        if let Some((id, learner)) = self.joins {
            let wanted =
                if learner { pb::meta_member::Wanted::Learner } else { pb::meta_member::Wanted::Voter };
            let member = pb::MetaMember { wanted: wanted.into(), ..member(id) };
            return Some(Kind::AddMember(pb::AddMember { member: Some(member) }));
        }
        let staying = members.iter().filter(|member| member.wanted != Wanted::Gone);
        let ids: Vec<u64> = staying.map(|member| member.id).collect();
        let learners = members.iter().filter(|member| member.wanted == Wanted::Learner);
        let learner = learners.map(|member| member.id).next();
        let id = cluster.random.pick(&ids);
        match (cluster.random.below(3), learner) {
            (0, _)
                if ids.len() < cluster.voters.len() + MEMBERS_MORE_MAX
                    && cluster.servers.len() < SERVERS_MAX =>
            {
                Some(Kind::ReserveMember(pb::ReserveMember {}))
            }
            (1, Some(new_id)) if new_id != id => {
                Some(Kind::ReplaceMember(pb::ReplaceMember { old_id: id, new_id }))
            }
            (1, Some(id)) => Some(Kind::PromoteMember(pb::PromoteMember { id })),
            (2, _) if ids.len() > MEMBERS_MIN => Some(Kind::RemoveMember(pb::RemoveMember { id })),
            _ => None,
        }
    }

    fn hear(&mut self, asked: &Kind, answer: Option<outcome::Kind>, cluster: &mut Cluster) {
        match (asked, answer) {
            (_, Some(outcome::Kind::Rejected(rejected))) => {
                let busy = rejected.reason == Reason::MembershipBusy.as_str();
                self.busy += u64::from(busy);
                if matches!(asked, Kind::AddMember(_)) && !busy {
                    self.joins = None;
                }
            }
            (_, Some(outcome::Kind::MemberReserved(reserved))) => {
                cluster.join(reserved.id);
                self.joins = Some((reserved.id, cluster.random.one_in(2)));
            }
            (Kind::AddMember(_), Some(_)) => {
                self.joins = None;
                self.done += 1;
            }
            (_, Some(_)) => self.done += 1,
            (_, None) => {}
        }
    }
}
