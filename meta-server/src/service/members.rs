//! The metadata servers themselves: `xdpfs.members.v1.MembersService`.
//!
//! Invariant: what is decided here is written into the log as a wish, and whether it holds is decided where it is applied;
//! the leader's consensus brings it about. A server that joins speaks for itself by its certificate, if it has one.

use std::{sync::Arc, time::Duration};

use tonic::{Request, Response, Status};
use xdpfs_proto::{
    members::v1::{members_service_server::MembersService, *},
    state::v1::{self as pb, command, outcome},
};
use xdpfs_trust::{Caller as Connected, Role as TrustRole};

use super::{
    Gateway, Refusal,
    access::Caller,
    gateway::{Call, RequestId, reused_request_id},
};
use crate::{
    config::is_host_and_port,
    consensus::{Program, RaftStatus, Role, VoterStatus},
    state_machine::{Configuration, FeatureLevel, MetaMember, Reason, Wanted},
};

#[derive(Debug)]
pub(super) struct MembersFrontend(pub(super) Arc<Gateway>);

/// How long a leader may need to hear of everybody who is there.
const HEARING: Duration = Duration::from_secs(1);

/// How long a server may take to stand before it is asked once more: longer than an election's timeout, after which a
/// leader gives an attempt up.
const TRANSFER_INTERVAL: Duration = Duration::from_secs(1);

/// The certificate of a metadata server, by the name in it.
struct Certified(String);

macro_rules! methods {
    ($($name:ident: $request:ident => $response:ident,)*) => {
        #[tonic::async_trait]
        impl MembersService for MembersFrontend {
            $(async fn $name(&self, request: Request<$request>) -> Result<Response<$response>, Status> {
                self.0.serve(request, |call| self.0.$name(call)).await
            })*

            async fn reserve_member(
                &self,
                request: Request<ReserveMemberRequest>,
            ) -> Result<Response<ReserveMemberResponse>, Status> {
                let certified = certified(&request);
                let call = self.0.accept(request);
                let entered = self.0.enter_joining(&call, certified.as_ref()).await;
                let is_certified = certified.is_some();
                self.0.serve_entered(entered, call, |call| self.0.reserve_member(call, is_certified)).await
            }

            async fn add_member(
                &self,
                request: Request<AddMemberRequest>,
            ) -> Result<Response<AddMemberResponse>, Status> {
                let certified = certified(&request);
                let call = self.0.accept(request);
                let entered = self.0.enter_joining(&call, certified.as_ref()).await;
                self.0.serve_entered(entered, call, |call| self.0.add_member(call, certified)).await
            }
        }
    };
}

methods! {
    list_members: ListMembersRequest => ListMembersResponse,
    promote_member: PromoteMemberRequest => PromoteMemberResponse,
    remove_member: RemoveMemberRequest => RemoveMemberResponse,
    replace_member: ReplaceMemberRequest => ReplaceMemberResponse,
    update_member: UpdateMemberRequest => UpdateMemberResponse,
    transfer_leadership: TransferLeadershipRequest => TransferLeadershipResponse,
}

/// The caller's certificate, if it is one of a metadata server of this cluster. Only then has the handshake let it in with
/// one.
fn certified<T>(request: &Request<T>) -> Option<Certified> {
    let principal = request.extensions().get::<Connected>()?.principal.as_ref()?;
    (principal.role == TrustRole::Meta).then(|| Certified(principal.name.clone().unwrap_or_default()))
}

impl Gateway {
    /// Lets in a server that joins: by its certificate, or else like anybody else.
    async fn enter_joining<T>(
        &self,
        call: &Call<T>,
        certified: Option<&Certified>,
    ) -> Result<Caller, Refusal> {
        match certified {
            Some(Certified(name)) => Ok(Caller::Member(format!("meta/{name}"))),
            None => self.enter(call).await,
        }
    }

    async fn list_members(&self, call: Call<ListMembersRequest>) -> Result<ListMembersResponse, Refusal> {
        self.admit(call.deadline, &call.access).await?;
        let raft = self.consensus().status();
        let state = self.state();
        let members = state.members();
        Ok(ListMembersResponse {
            cluster_id: state.cluster_id().to_owned(),
            members: members
                .iter()
                .map(|member| shown(member, &raft, members.configuration(), self.program(member.id)))
                .collect(),
            feature_level: state.feature_level().0,
            last_index: raft.commit_index,
            joint: members.configuration().is_joint(),
        })
    }

    async fn reserve_member(
        &self,
        call: Call<ReserveMemberRequest>,
        is_certified: bool,
    ) -> Result<ReserveMemberResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        self.check_joining(FeatureLevel(call.message.feature_level))?;
        let kind = command::Kind::ReserveMember(pb::ReserveMember {});
        let reserved = self.propose_joining(&call, is_certified, request_id, kind).await?;
        let outcome::Kind::MemberReserved(pb::MemberReserved { id }) = reserved else {
            return Err(reused_request_id());
        };
        tracing::info!(id, "a server that joins has an id");
        Ok(ReserveMemberResponse {
            id,
            cluster_id: self.state().cluster_id().to_owned(),
            first_voters: self.consensus().first_voters().to_vec(),
        })
    }

    async fn add_member(
        &self,
        call: Call<AddMemberRequest>,
        certified: Option<Certified>,
    ) -> Result<AddMemberResponse, Refusal> {
        let request = &call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        self.check_member(&request.cluster_id)?;
        self.check_joining(FeatureLevel(request.feature_level))?;
        let wanted = match request.learner {
            true => pb::meta_member::Wanted::Learner,
            false => pb::meta_member::Wanted::Voter,
        };
        let is_certified = certified.is_some();
        let member = pb::MetaMember {
            id: request.id,
            peer_address: parse_address("peer_address", &request.peer_address)?,
            client_address: parse_address("client_address", &request.client_address)?,
            certificate: certified.map(|Certified(name)| name).unwrap_or_default(),
            wanted: wanted.into(),
        };
        let id = member.id;
        let kind = command::Kind::AddMember(pb::AddMember { member: Some(member) });
        self.propose_joining(&call, is_certified, request_id, kind).await?;
        tracing::info!(id, learner = call.message.learner, "a server joins the cluster");
        Ok(AddMemberResponse {})
    }

    /// A server of an earlier release could not apply what comes in the log.
    fn check_joining(&self, theirs: FeatureLevel) -> Result<(), Refusal> {
        let cluster = self.state().feature_level();
        if theirs >= cluster {
            return Ok(());
        }
        let words = format!(
            "the cluster is at {cluster}, and the server that joins supports {theirs}: start the later release there"
        );
        Err(Refusal::invalid("feature_level", words))
    }

    async fn propose_joining<T>(
        &self,
        call: &Call<T>,
        is_certified: bool,
        request_id: RequestId,
        kind: command::Kind,
    ) -> Result<outcome::Kind, Refusal> {
        if is_certified {
            return self.propose(call.deadline, request_id, kind).await;
        }
        self.propose_for(&call.access, call.deadline, request_id, kind).await
    }

    async fn promote_member(
        &self,
        call: Call<PromoteMemberRequest>,
    ) -> Result<PromoteMemberResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let kind = command::Kind::PromoteMember(pb::PromoteMember { id: call.message.id });
        self.propose_for(&call.access, call.deadline, request_id, kind).await?;
        Ok(PromoteMemberResponse {})
    }

    async fn remove_member(&self, call: Call<RemoveMemberRequest>) -> Result<RemoveMemberResponse, Refusal> {
        let RemoveMemberRequest { id, force, .. } = call.message;
        let request_id = RequestId::parse(&call.message.request_id)?;
        self.admit(call.deadline, &call.access).await?;
        if !force {
            self.check_quorum_without(id).await?;
        }
        let kind = command::Kind::RemoveMember(pb::RemoveMember { id });
        self.propose_for(&call.access, call.deadline, request_id, kind).await?;
        tracing::info!(id, force, "a server is to leave the cluster");
        Ok(RemoveMemberResponse {})
    }

    /// What a leader has heard of late begins anew at times, so it is given a moment.
    async fn check_quorum_without(&self, id: u64) -> Result<(), Refusal> {
        let mut status = self.consensus().watch_status();
        let is_enough = status.wait_for(|status| check_quorum_without(id, status).is_ok());
        match tokio::time::timeout(HEARING, is_enough).await {
            Ok(_) => Ok(()),
            Err(_) => check_quorum_without(id, &self.consensus().status()),
        }
    }

    async fn replace_member(
        &self,
        call: Call<ReplaceMemberRequest>,
    ) -> Result<ReplaceMemberResponse, Refusal> {
        let ReplaceMemberRequest { old_id, new_id, .. } = call.message;
        let request_id = RequestId::parse(&call.message.request_id)?;
        let kind = command::Kind::ReplaceMember(pb::ReplaceMember { old_id, new_id });
        self.propose_for(&call.access, call.deadline, request_id, kind).await?;
        tracing::info!(old_id, new_id, "a server is to take another one's place");
        Ok(ReplaceMemberResponse {})
    }

    async fn update_member(&self, call: Call<UpdateMemberRequest>) -> Result<UpdateMemberResponse, Refusal> {
        let UpdateMemberRequest { id, peer_address, client_address, .. } = &call.message;
        let request_id = RequestId::parse(&call.message.request_id)?;
        if peer_address.is_empty() && client_address.is_empty() {
            return Err(Refusal::invalid("peer_address", "name an address that changes"));
        }
        let parse = |field, address: &String| match address.is_empty() {
            true => Ok(String::new()),
            false => parse_address(field, address),
        };
        let kind = command::Kind::UpdateMember(pb::UpdateMember {
            id: *id,
            peer_address: parse("peer_address", peer_address)?,
            client_address: parse("client_address", client_address)?,
        });
        self.propose_for(&call.access, call.deadline, request_id, kind).await?;
        Ok(UpdateMemberResponse {})
    }

    /// Answered when the other server leads, as far as this one knows.
    async fn transfer_leadership(
        &self,
        call: Call<TransferLeadershipRequest>,
    ) -> Result<TransferLeadershipResponse, Refusal> {
        let id = call.message.id;
        RequestId::parse(&call.message.request_id)?;
        self.admit(call.deadline, &call.access).await?;
        let raft = self.consensus().status();
        if raft.leader_id == id {
            return Ok(TransferLeadershipResponse {});
        }
        if !raft.configuration.voters.contains(&id) {
            return Err(Refusal::new(Reason::MemberNotFound, format!("server {id} does not vote")));
        }
        let mut status = self.consensus().watch_status();
        let is_heard = |status: &RaftStatus| status.voters.iter().any(|voter| voter.id == id && voter.active);
        if tokio::time::timeout(HEARING, status.wait_for(is_heard)).await.is_err() {
            return Err(Refusal::new(Reason::QuorumAtRisk, format!("server {id} was not heard of of late")));
        }
        // A server that has yet to apply a change of the members does not stand, and is asked only once each time.
        let leads = async {
            loop {
                self.consensus().transfer_leadership_to(id);
                let taken = status.wait_for(|status| status.leader_id == id);
                if let Ok(taken) = tokio::time::timeout(TRANSFER_INTERVAL, taken).await {
                    return taken.map(drop);
                }
            }
        };
        let not_taken = || {
            let words = format!("server {id} has not taken leadership over in time: try again");
            Refusal::new(Reason::MembershipBusy, words)
        };
        match tokio::time::timeout_at(call.deadline.into(), leads).await {
            Ok(Ok(_)) => Ok(TransferLeadershipResponse {}),
            Ok(Err(_)) | Err(_) => Err(not_taken()),
        }
    }
}

fn parse_address(field: &'static str, address: &str) -> Result<String, Refusal> {
    if is_host_and_port(address) {
        return Ok(address.to_owned());
    }
    Err(Refusal::invalid(field, "expected HOST:PORT"))
}

/// Refuses to remove a voter if those that are left and heard of are too few to go on.
fn check_quorum_without(id: u64, raft: &RaftStatus) -> Result<(), Refusal> {
    if !raft.configuration.voters.contains(&id) {
        return Ok(());
    }
    let left =
        Configuration::of_voters(raft.configuration.voters.iter().copied().filter(|other| *other != id));
    let is_heard = |id: u64| raft.voters.iter().any(|voter| voter.id == id && voter.active);
    let heard = left.voters.iter().filter(|id| is_heard(**id)).count();
    if left.voters.is_empty() || left.is_quorum(is_heard) {
        // That somebody must be left is decided where it is applied.
        return Ok(());
    }
    let words = format!(
        "of the {} servers that would be left to vote only {heard} were heard of of late, which is no majority: bring \
         others back first, or add some, or force it",
        left.voters.len()
    );
    Err(Refusal::new(Reason::QuorumAtRisk, words))
}

fn shown(
    member: &MetaMember,
    raft: &RaftStatus,
    configuration: &Configuration,
    program: Option<Program>,
) -> Member {
    let status: Option<&VoterStatus> = raft.voters.iter().find(|server| server.id == member.id);
    let standing = if configuration.votes(member.id) {
        member::Standing::Voter
    } else if configuration.contains(member.id) {
        member::Standing::Learner
    } else {
        member::Standing::Joining
    };
    let wanted = match member.wanted {
        Wanted::Gone => member::Wanted::Gone,
        Wanted::Learner => member::Wanted::Learner,
        Wanted::Voter => member::Wanted::Voter,
    };
    Member {
        id: member.id,
        peer_address: member.peer_address.clone(),
        client_address: member.client_address.clone(),
        standing: standing.into(),
        wanted: wanted.into(),
        leads: raft.role == Role::Leader && raft.leader_id == member.id,
        active: status.is_some_and(|server| server.active),
        matched_index: status.map_or(0, |server| server.matched_index),
        certificate: member.certificate.clone(),
        feature_level: program.as_ref().map(|program| program.feature_level.0),
        version: program.map(|program| program.version).unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_leaves_a_majority_that_is_heard_of() {
        let check = |voters: &[u64], heard: &[u64], id: u64| {
            let status = |id: &u64| VoterStatus { id: *id, active: heard.contains(id), ..Default::default() };
            let raft = RaftStatus {
                voters: voters.iter().map(status).collect(),
                configuration: Configuration::of_voters(voters.iter().copied()),
                ..RaftStatus::default()
            };
            check_quorum_without(id, &raft).is_ok()
        };
        assert!(check(&[1, 2, 3], &[1, 2, 3], 3));
        assert!(check(&[1, 2, 3], &[1, 2], 3), "one that is dead may go");
        assert!(!check(&[1, 2, 3], &[1, 2], 2), "one of the two that are left is dead");
        assert!(check(&[1, 2, 3], &[1, 2], 9), "whoever does not vote may go");
        assert!(check(&[1, 2, 3, 4, 5], &[1, 2, 3], 5));
        assert!(!check(&[1, 2, 3, 4, 5], &[1, 2, 3], 3));
    }
}
