//! The metadata servers themselves, for those who run a cluster.

use std::{fmt, future::Future};

use xdpfs_proto::members::v1::{self as proto, member};

use crate::{
    client::{Client, request_id},
    control::{Members, Operation},
    error::{Error, Result},
};

/// What a metadata server is to the others.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Standing {
    /// It is to take part, and does not yet.
    Joining,
    /// It gets the log and does not vote.
    Learner,
    /// It votes.
    Voter,
}

/// What a metadata server is to become.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum WantedStanding {
    /// No member any more.
    Gone,
    /// One that does not vote.
    Learner,
    /// One that votes.
    Voter,
}

/// A metadata server as the leader knows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaMember {
    /// Its id, which nobody else ever has.
    pub id: u64,
    /// `host:port` for other servers.
    pub peer_address: String,
    /// `host:port` for clients and data nodes.
    pub client_address: String,
    /// What it is.
    pub standing: Standing,
    /// What it is to become.
    pub wanted: WantedStanding,
    /// It leads.
    pub leads: bool,
    /// The leader has heard of it of late.
    pub active: bool,
    /// Entries of the log that it is known to hold.
    pub matched_index: u64,
    /// Of its program; empty if it has not said, or is of a release that doesn't.
    pub version: String,
    /// The highest feature level that its program supports, if the leader knows.
    pub feature_level: Option<u32>,
}

/// All metadata servers.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaMembers {
    /// By their ids.
    pub members: Vec<MetaMember>,
    /// Entries that a majority holds.
    pub last_index: u64,
    /// One set of voters is taking over from another.
    pub joint: bool,
    /// What the cluster uses of what its metadata servers can do.
    pub feature_level: u32,
}

impl Standing {
    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Joining => "joining",
            Self::Learner => "learner",
            Self::Voter => "voter",
        }
    }
}

impl WantedStanding {
    /// Its name.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Learner => "learner",
            Self::Voter => "voter",
        }
    }
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl MetaMember {
    /// Whether it is what it is to become.
    #[must_use]
    pub const fn is_settled(&self) -> bool {
        matches!(
            (self.standing, self.wanted),
            (Standing::Learner, WantedStanding::Learner) | (Standing::Voter, WantedStanding::Voter)
        )
    }
}

/// What it takes to change the metadata servers of a cluster. All but the list needs a key with the right admin on all
/// buckets, and is answered when it is decided: the list shows when it is done.
pub trait Membership: Clone + Send + Sync + 'static {
    /// All of them.
    fn meta_members(&self) -> impl Future<Output = Result<MetaMembers>> + Send;

    /// A learner is to vote.
    fn promote_meta_member(&self, id: u64) -> impl Future<Output = Result<()>> + Send;

    /// A member leaves for good; `force`: though too few of those that are left are heard of.
    fn remove_meta_member(&self, id: u64, force: bool) -> impl Future<Output = Result<()>> + Send;

    /// A member is to vote, and another one leaves in the same step.
    fn replace_meta_member(&self, old: u64, new: u64) -> impl Future<Output = Result<()>> + Send;

    /// A member is reached elsewhere. None: as before.
    fn update_meta_member(
        &self,
        id: u64,
        peer_address: Option<String>,
        client_address: Option<String>,
    ) -> impl Future<Output = Result<()>> + Send;

    /// Another member leads.
    fn transfer_leadership(&self, id: u64) -> impl Future<Output = Result<()>> + Send;
}

macro_rules! call {
    ($client:expr, $operation:ident, $method:ident, $request:expr) => {{
        let send = |mut members: Members, request| async move { members.$method(request).await };
        let reply = $client.shared().control.call(Operation::$operation, $request, send).await;
        reply.map_err(|refusal| refusal.about(Operation::$operation, "", ""))
    }};
}

impl Membership for Client {
    async fn meta_members(&self) -> Result<MetaMembers> {
        let reply = call!(self, ListMembers, list_members, proto::ListMembersRequest {})?;
        let members = reply.members.into_iter().map(parse).collect::<Option<_>>();
        let what = "a metadata server makes no sense";
        let members = members.ok_or(Error::BadReply { operation: Operation::ListMembers.label(), what })?;
        let proto::ListMembersResponse { last_index, joint, feature_level, .. } = reply;
        Ok(MetaMembers { members, last_index, joint, feature_level })
    }

    async fn promote_meta_member(&self, id: u64) -> Result<()> {
        let request = proto::PromoteMemberRequest { request_id: request_id(), id };
        call!(self, PromoteMember, promote_member, request).map(|_| ())
    }

    async fn remove_meta_member(&self, id: u64, force: bool) -> Result<()> {
        let request = proto::RemoveMemberRequest { request_id: request_id(), id, force };
        call!(self, RemoveMember, remove_member, request).map(|_| ())
    }

    async fn replace_meta_member(&self, old_id: u64, new_id: u64) -> Result<()> {
        let request = proto::ReplaceMemberRequest { request_id: request_id(), old_id, new_id };
        call!(self, ReplaceMember, replace_member, request).map(|_| ())
    }

    async fn update_meta_member(
        &self,
        id: u64,
        peer_address: Option<String>,
        client_address: Option<String>,
    ) -> Result<()> {
        let request = proto::UpdateMemberRequest {
            request_id: request_id(),
            id,
            peer_address: peer_address.unwrap_or_default(),
            client_address: client_address.unwrap_or_default(),
        };
        call!(self, UpdateMember, update_member, request).map(|_| ())
    }

    async fn transfer_leadership(&self, id: u64) -> Result<()> {
        let request = proto::TransferLeadershipRequest { request_id: request_id(), id };
        call!(self, TransferLeadership, transfer_leadership, request).map(|_| ())
    }
}

/// `None` if it makes no sense.
fn parse(member: proto::Member) -> Option<MetaMember> {
    let standing = match member.standing() {
        member::Standing::Unspecified => return None,
        member::Standing::Joining => Standing::Joining,
        member::Standing::Learner => Standing::Learner,
        member::Standing::Voter => Standing::Voter,
    };
    let wanted = match member.wanted() {
        member::Wanted::Unspecified => return None,
        member::Wanted::Gone => WantedStanding::Gone,
        member::Wanted::Learner => WantedStanding::Learner,
        member::Wanted::Voter => WantedStanding::Voter,
    };
    let proto::Member { id, peer_address, client_address, leads, active, matched_index, .. } = member;
    let proto::Member { version, feature_level, .. } = member;
    Some(MetaMember {
        id,
        peer_address,
        client_address,
        standing,
        wanted,
        leads,
        active,
        matched_index,
        version,
        feature_level,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_is_taken_from_a_reply_that_makes_sense() {
        let member = proto::Member { id: 4, standing: 2, wanted: 2, ..Default::default() };
        let parsed = parse(member.clone()).unwrap();
        assert_eq!((parsed.standing, parsed.wanted), (Standing::Learner, WantedStanding::Voter));
        assert!(!parsed.is_settled());
        assert_eq!(parse(proto::Member { standing: 0, ..member.clone() }), None);
        assert_eq!(parse(proto::Member { wanted: 9, ..member.clone() }), None);
        assert!(parse(proto::Member { standing: 3, ..member }).unwrap().is_settled());
    }
}
