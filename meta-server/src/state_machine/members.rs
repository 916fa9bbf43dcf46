//! Who the metadata servers are, who each of them is to become, and who takes part in consensus.
//!
//! Invariant: an id is given out once, and whoever had it and is gone never takes part again. What is wanted of members
//! changes by commands, one change at a time; the configuration changes only by the log's own entries for it, and
//! follows.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use xdpfs_proto::state::v1::{self as pb, outcome};

use super::{
    State,
    reject::{Reason, Reject},
};

/// Metadata servers of one cluster, with those that join and leave.
pub const MEMBERS_MAX: usize = 16;
/// Ids that were given out and not come back with. Beyond that the oldest one is worth nothing.
const RESERVED_MAX: usize = 64;
/// Ids that a cluster may have given out between a backup and the day that it is needed.
const RESTORED_JUMP: u64 = 1 << 10;
/// Bytes of an address and of a certificate's name.
const TEXT_BYTES_MAX: usize = 256;

/// All metadata servers.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Members {
    by_id: BTreeMap<u64, MetaMember>,
    reserved: BTreeSet<u64>,
    /// Zero: nobody has written down yet who the members are.
    next_id: u64,
    configuration: Configuration,
}

/// A metadata server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct MetaMember {
    /// Its Raft id; never given to another server.
    pub id: u64,
    /// `host:port` for other servers.
    pub peer_address: String,
    /// `host:port` for clients and data nodes.
    pub client_address: String,
    /// The name in the certificate that it speaks to others with. Empty: its id, or no name.
    pub certificate: String,
    /// What it is to become.
    pub wanted: Wanted,
}

/// What a member is to become. What it is, is in the [`Configuration`].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Wanted {
    /// No member.
    Gone,
    /// One that gets the log and does not vote.
    Learner,
    /// One that votes.
    Voter,
}

/// Who takes part in consensus.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Configuration {
    /// Who votes.
    pub voters: BTreeSet<u64>,
    /// While one set of voters takes over from another: those that were voters before. A majority of both must agree.
    pub voters_outgoing: BTreeSet<u64>,
    /// Who gets the log and does not vote.
    pub learners: BTreeSet<u64>,
    /// Voters that become learners when that has ended.
    pub learners_next: BTreeSet<u64>,
    /// Whether that ends by itself.
    pub auto_leave: bool,
}

const NOT_KNOWN: Reject = Reject::new(
    Reason::MembershipBusy,
    "the cluster has yet to write down who its metadata servers are: try again in a moment",
);
const BUSY: Reject = Reject::new(
    Reason::MembershipBusy,
    "another change of the metadata servers is under way: see xdpfs-cli meta list, and try again when it is done",
);
const NOT_FOUND: Reject = Reject::new(Reason::MemberNotFound, "no metadata server of this id");
const REMOVED: Reject = Reject::new(
    Reason::MemberRemoved,
    "the server was removed from the cluster, and its id is never used again: let it join with a fresh data directory",
);
const LAST_VOTER: Reject =
    Reject::new(Reason::LastVoter, "it is the last metadata server that votes: add another one first");
const TOO_MANY: Reject =
    Reject::new(Reason::InvalidArgument, "there are 16 metadata servers already: remove one first");
const MALFORMED: Reject = Reject::new(Reason::InvalidArgument, "half a metadata server");

impl Configuration {
    /// Those that vote, and nobody else.
    #[must_use]
    pub fn of_voters(voters: impl IntoIterator<Item = u64>) -> Self {
        Self { voters: voters.into_iter().collect(), ..Self::default() }
    }

    /// Whether one set of voters is taking over from another.
    #[must_use]
    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether the server takes part in any way.
    #[must_use]
    pub fn contains(&self, id: u64) -> bool {
        self.ids().contains(&id)
    }

    /// Whether the server votes, in either set of voters.
    #[must_use]
    pub fn votes(&self, id: u64) -> bool {
        self.voters.contains(&id) || self.voters_outgoing.contains(&id)
    }

    /// All that take part.
    #[must_use]
    pub fn ids(&self) -> BTreeSet<u64> {
        let sets = [&self.voters, &self.voters_outgoing, &self.learners, &self.learners_next];
        sets.into_iter().flatten().copied().collect()
    }

    /// Whether those of which this is so are a majority of every set of voters.
    pub fn is_quorum(&self, is_so: impl Fn(u64) -> bool) -> bool {
        let has_majority = |voters: &BTreeSet<u64>| {
            voters.is_empty() || voters.iter().filter(|id| is_so(**id)).count() > voters.len() / 2
        };
        !self.voters.is_empty() && has_majority(&self.voters) && has_majority(&self.voters_outgoing)
    }

    /// Whether it could have come about: raft-rs ends the process over one that could not.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let votes = |id: &u64| self.votes(*id);
        !self.voters.is_empty()
            && !self.contains(0)
            && !self.learners.iter().any(votes)
            && self.learners_next.is_subset(&self.voters_outgoing)
            && self.learners_next.is_disjoint(&self.voters)
            && (self.is_joint() || !self.auto_leave)
    }

    pub(super) fn record(&self) -> pb::Configuration {
        let ids = |set: &BTreeSet<u64>| set.iter().copied().collect();
        pb::Configuration {
            voters: ids(&self.voters),
            voters_outgoing: ids(&self.voters_outgoing),
            learners: ids(&self.learners),
            learners_next: ids(&self.learners_next),
            auto_leave: self.auto_leave,
        }
    }

    fn from_record(record: &pb::Configuration) -> Self {
        let set = |ids: &[u64]| ids.iter().copied().collect();
        Self {
            voters: set(&record.voters),
            voters_outgoing: set(&record.voters_outgoing),
            learners: set(&record.learners),
            learners_next: set(&record.learners_next),
            auto_leave: record.auto_leave,
        }
    }
}

impl MetaMember {
    /// `None` if it makes no sense.
    fn from_record(record: pb::MetaMember) -> Option<Self> {
        let wanted = match record.wanted() {
            pb::meta_member::Wanted::Gone => Wanted::Gone,
            pb::meta_member::Wanted::Learner => Wanted::Learner,
            pb::meta_member::Wanted::Voter => Wanted::Voter,
        };
        let pb::MetaMember { id, peer_address, client_address, certificate, .. } = record;
        let texts = [&peer_address, &client_address, &certificate];
        let fits = id > 0
            && texts.into_iter().all(|text| text.len() <= TEXT_BYTES_MAX)
            && [&peer_address, &client_address].into_iter().all(|address| !address.is_empty());
        fits.then_some(Self { id, peer_address, client_address, certificate, wanted })
    }

    /// As commands and snapshots carry it.
    pub(crate) fn record(&self) -> pb::MetaMember {
        let wanted = match self.wanted {
            Wanted::Gone => pb::meta_member::Wanted::Gone,
            Wanted::Learner => pb::meta_member::Wanted::Learner,
            Wanted::Voter => pb::meta_member::Wanted::Voter,
        };
        pb::MetaMember {
            id: self.id,
            peer_address: self.peer_address.clone(),
            client_address: self.client_address.clone(),
            certificate: self.certificate.clone(),
            wanted: wanted.into(),
        }
    }
}

impl Members {
    /// Whether anybody has written down who the members are. A cluster that an earlier program has made has its members
    /// from the servers' configuration until then.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.next_id > 0
    }

    /// The member of this id.
    #[must_use]
    pub fn find(&self, id: u64) -> Option<&MetaMember> {
        self.by_id.get(&id)
    }

    /// All members, by their ids.
    pub fn iter(&self) -> impl Iterator<Item = &MetaMember> {
        self.by_id.values()
    }

    /// Who takes part in consensus.
    #[must_use]
    pub const fn configuration(&self) -> &Configuration {
        &self.configuration
    }

    /// Whether the id was a member's that is gone for good.
    #[must_use]
    pub fn is_former(&self, id: u64) -> bool {
        id < self.next_id && !self.by_id.contains_key(&id) && !self.reserved.contains(&id)
    }

    /// Whether a change is under way: somebody is not yet what it is to become.
    #[must_use]
    pub fn is_changing(&self) -> bool {
        self.is_changing_besides(None)
    }

    pub(super) const fn next_id(&self) -> u64 {
        self.next_id
    }

    pub(super) fn reserved(&self) -> impl Iterator<Item = u64> {
        self.reserved.iter().copied()
    }

    pub(super) fn records(&self) -> impl Iterator<Item = pb::MetaMember> {
        self.by_id.values().map(MetaMember::record)
    }

    pub(super) fn from_header(header: &pb::SnapshotHeader) -> Self {
        Self {
            by_id: BTreeMap::new(),
            reserved: header.reserved_member_ids.iter().copied().collect(),
            next_id: header.next_member_id,
            configuration: header.configuration.as_ref().map(Configuration::from_record).unwrap_or_default(),
        }
    }

    /// Takes in what a snapshot says of a member. False: it makes no sense.
    pub(super) fn load(&mut self, record: pb::MetaMember) -> bool {
        let member = MetaMember::from_record(record)
            .filter(|member| member.id < self.next_id && self.by_id.len() < MEMBERS_MAX);
        member.is_some_and(|member| self.by_id.insert(member.id, member).is_none())
    }

    /// These and nobody else, as voters of a cluster that goes on from this one. Ids that this one has given out since are
    /// not given out again.
    pub(super) fn replaced_by(&self, members: impl IntoIterator<Item = pb::MetaMember>) -> Option<Self> {
        let by_id: Option<BTreeMap<u64, MetaMember>> = members
            .into_iter()
            .map(|record| MetaMember::from_record(record).map(|member| (member.id, member)))
            .collect();
        let by_id = by_id.filter(|by_id| (1..=MEMBERS_MAX).contains(&by_id.len()))?;
        let last = by_id.keys().last().copied().unwrap_or_default();
        let next_id = self.next_id.max(last.saturating_add(1)).saturating_add(RESTORED_JUMP);
        let configuration = Configuration::of_voters(by_id.keys().copied());
        Some(Self { by_id, reserved: BTreeSet::new(), next_id, configuration })
    }

    fn is_changing_besides(&self, id: Option<u64>) -> bool {
        let configuration = &self.configuration;
        let is_settled = |member: &MetaMember| match member.wanted {
            Wanted::Gone => false,
            Wanted::Learner => configuration.learners.contains(&member.id),
            Wanted::Voter => configuration.voters.contains(&member.id),
        };
        let others = self.by_id.values().filter(|member| Some(member.id) != id);
        configuration.is_joint() || others.into_iter().any(|member| !is_settled(member))
    }

    /// Whether something about this member may change: nothing else is under way, and it does not vote on the way.
    fn check_free_for(&self, id: u64) -> Result<(), Reject> {
        if !self.is_known() {
            return Err(NOT_KNOWN);
        }
        if !self.by_id.contains_key(&id) {
            return Err(if self.is_former(id) { REMOVED } else { NOT_FOUND });
        }
        if self.is_changing_besides(Some(id)) { Err(BUSY) } else { Ok(()) }
    }

    fn forget_gone(&mut self) {
        let configuration = &self.configuration;
        self.by_id.retain(|id, member| member.wanted != Wanted::Gone || configuration.contains(*id));
    }

    fn want(&mut self, id: u64, wanted: Wanted) {
        if let Some(member) = self.by_id.get_mut(&id) {
            member.wanted = wanted;
        }
    }

    fn check_another_votes(&self, id: u64) -> Result<(), Reject> {
        let is_other = |member: &MetaMember| {
            member.id != id
                && member.wanted == Wanted::Voter
                && self.configuration.voters.contains(&member.id)
        };
        if self.by_id.values().any(is_other) { Ok(()) } else { Err(LAST_VOTER) }
    }
}

fn done() -> Result<outcome::Kind, Reject> {
    Ok(outcome::Kind::Done(pb::Done {}))
}

impl State {
    /// Who the metadata servers are.
    #[must_use]
    pub const fn members(&self) -> &Arc<Members> {
        &self.members
    }

    /// An entry of the log has changed who takes part in consensus. It is no command: nothing can refuse it.
    pub fn configure(&mut self, configuration: Configuration) {
        let members = Arc::make_mut(&mut self.members);
        members.configuration = configuration;
        members.forget_gone();
    }

    pub(super) fn seed_members(&mut self, seed: &pb::SeedMembers) -> outcome::Kind {
        let members = Arc::make_mut(&mut self.members);
        let named = seed.members.iter().cloned().map(MetaMember::from_record).collect::<Option<Vec<_>>>();
        let named = named.filter(|named| (1..=MEMBERS_MAX).contains(&named.len()));
        if let Some(named) = named.filter(|_| !members.is_known()) {
            members.by_id = named.into_iter().map(|member| (member.id, member)).collect();
            members.next_id = members.by_id.keys().last().map_or(1, |last| last.saturating_add(1));
            // Entries that change it may have come before, from a later program.
            if members.configuration.voters.is_empty() {
                members.configuration = Configuration::of_voters(members.by_id.keys().copied());
            }
        }
        outcome::Kind::Done(pb::Done {})
    }

    pub(super) fn reserve_member(&mut self) -> Result<outcome::Kind, Reject> {
        if !self.members.is_known() {
            return Err(NOT_KNOWN);
        }
        let members = Arc::make_mut(&mut self.members);
        let id = members.next_id;
        members.next_id += 1;
        members.reserved.insert(id);
        if members.reserved.len() > RESERVED_MAX {
            members.reserved.pop_first();
        }
        Ok(outcome::Kind::MemberReserved(pb::MemberReserved { id }))
    }

    /// A server that asks again while it is a member is told so.
    pub(super) fn add_member(&mut self, add: &pb::AddMember) -> Result<outcome::Kind, Reject> {
        let member = add.member.clone().and_then(MetaMember::from_record).ok_or(MALFORMED)?;
        let members = &self.members;
        if !members.is_known() {
            return Err(NOT_KNOWN);
        }
        if members.find(member.id).is_some() {
            // Also while it leaves: it has to vote for that.
            return done();
        }
        if !members.reserved.contains(&member.id) {
            return Err(if member.id < members.next_id { REMOVED } else { NOT_FOUND });
        }
        if members.is_changing() {
            return Err(BUSY);
        }
        if members.by_id.len() >= MEMBERS_MAX {
            return Err(TOO_MANY);
        }
        let members = Arc::make_mut(&mut self.members);
        members.reserved.remove(&member.id);
        members.by_id.insert(member.id, member);
        done()
    }

    pub(super) fn promote_member(&mut self, promote: &pb::PromoteMember) -> Result<outcome::Kind, Reject> {
        self.members.check_free_for(promote.id)?;
        if self.members.find(promote.id).is_some_and(|member| member.wanted == Wanted::Gone) {
            return Err(BUSY);
        }
        Arc::make_mut(&mut self.members).want(promote.id, Wanted::Voter);
        done()
    }

    pub(super) fn remove_member(&mut self, remove: &pb::RemoveMember) -> Result<outcome::Kind, Reject> {
        self.members.check_free_for(remove.id)?;
        self.members.check_another_votes(remove.id)?;
        let members = Arc::make_mut(&mut self.members);
        members.want(remove.id, Wanted::Gone);
        members.forget_gone();
        done()
    }

    pub(super) fn replace_member(&mut self, replace: &pb::ReplaceMember) -> Result<outcome::Kind, Reject> {
        let (old, new) = (replace.old_id, replace.new_id);
        if old == new {
            return Err(Reject::new(Reason::InvalidArgument, "a server cannot replace itself"));
        }
        self.members.check_free_for(new)?;
        match self.members.find(old) {
            None if self.members.is_former(old) => return Err(REMOVED),
            None => return Err(NOT_FOUND),
            Some(_) => {}
        }
        if self.members.find(new).is_some_and(|member| member.wanted == Wanted::Gone) {
            return Err(BUSY);
        }
        let members = Arc::make_mut(&mut self.members);
        members.want(new, Wanted::Voter);
        members.want(old, Wanted::Gone);
        members.forget_gone();
        done()
    }

    pub(super) fn update_member(&mut self, update: &pb::UpdateMember) -> Result<outcome::Kind, Reject> {
        if !self.members.is_known() {
            return Err(NOT_KNOWN);
        }
        let Some(member) = self.members.find(update.id) else {
            return Err(if self.members.is_former(update.id) { REMOVED } else { NOT_FOUND });
        };
        let mut record = member.record();
        let texts = [
            (&mut record.peer_address, &update.peer_address),
            (&mut record.client_address, &update.client_address),
        ];
        for (old, new) in texts.into_iter().filter(|(_, new)| !new.is_empty()) {
            old.clone_from(new);
        }
        let member = MetaMember::from_record(record).ok_or(MALFORMED)?;
        Arc::make_mut(&mut self.members).by_id.insert(member.id, member);
        done()
    }
}

#[cfg(test)]
mod tests {
    use xdpfs_proto::state::v1::command::Kind;

    use super::*;

    fn member(id: u64) -> pb::MetaMember {
        let [peer_address, client_address] = [format!("p{id}:1"), format!("c{id}:1")];
        pb::MetaMember { id, peer_address, client_address, ..Default::default() }
    }

    fn apply(state: &mut State, kind: Kind) -> Result<u64, Reason> {
        let outcome = state.apply(1, &pb::Command { time_ms: 1, kind: Some(kind), ..Default::default() });
        match outcome.kind.unwrap() {
            outcome::Kind::Rejected(rejected) => Err(Reason::parse(&rejected.reason).unwrap()),
            outcome::Kind::MemberReserved(reserved) => Ok(reserved.id),
            _ => Ok(0),
        }
    }

    fn of_three() -> State {
        let mut state = State::default();
        let seed = pb::SeedMembers { members: (1..=3).map(member).collect() };
        apply(&mut state, Kind::SeedMembers(seed)).unwrap();
        state
    }

    fn reserve(state: &mut State) -> u64 {
        apply(state, Kind::ReserveMember(pb::ReserveMember {})).unwrap()
    }

    fn add(state: &mut State, id: u64) -> Result<u64, Reason> {
        apply(state, Kind::AddMember(pb::AddMember { member: Some(member(id)) }))
    }

    fn remove(state: &mut State, id: u64) -> Result<u64, Reason> {
        apply(state, Kind::RemoveMember(pb::RemoveMember { id }))
    }

    fn replace(state: &mut State, old_id: u64, new_id: u64) -> Result<u64, Reason> {
        apply(state, Kind::ReplaceMember(pb::ReplaceMember { old_id, new_id }))
    }

    fn configure(state: &mut State, voters: &[u64], learners: &[u64]) {
        let learners = learners.iter().copied().collect();
        state.configure(Configuration { learners, ..Configuration::of_voters(voters.iter().copied()) });
    }

    fn ids(state: &State) -> Vec<u64> {
        state.members().iter().map(|member| member.id).collect()
    }

    #[test]
    fn members_are_written_down_once() {
        let mut state = of_three();
        let again = pb::SeedMembers { members: vec![member(9)] };
        apply(&mut state, Kind::SeedMembers(again)).unwrap();
        assert_eq!(ids(&state), [1, 2, 3]);
        assert!(!state.members().is_changing());
        assert_eq!(add(&mut State::default(), 1), Err(Reason::MembershipBusy));
    }

    #[test]
    fn id_is_given_to_one_server_only() {
        let mut state = of_three();
        let id = reserve(&mut state);
        assert_eq!((id, reserve(&mut state)), (4, 5));
        assert_eq!(add(&mut state, 2), Ok(0), "it is a member already");
        assert_eq!(add(&mut state, 6), Err(Reason::MemberNotFound));
        add(&mut state, 4).unwrap();
        assert_eq!(add(&mut state, 4), Ok(0), "it asks again");
        assert!(!state.members().is_former(4) && !state.members().is_former(5));
        remove(&mut state, 4).unwrap();
        assert!(state.members().is_former(4));
        assert_eq!(add(&mut state, 4), Err(Reason::MemberRemoved));
        assert_eq!(reserve(&mut state), 6);
    }

    #[test]
    fn members_change_one_at_a_time() {
        let mut state = of_three();
        let [four, five] = [reserve(&mut state), reserve(&mut state)];
        add(&mut state, four).unwrap();
        assert_eq!(add(&mut state, five), Err(Reason::MembershipBusy));
        assert_eq!(remove(&mut state, 1), Err(Reason::MembershipBusy));
        configure(&mut state, &[1, 2, 3], &[4]);
        assert_eq!(remove(&mut state, 1), Err(Reason::MembershipBusy), "it has yet to catch up");
        configure(&mut state, &[1, 2, 3, 4], &[]);
        remove(&mut state, 1).unwrap();
        assert_eq!(add(&mut state, five), Err(Reason::MembershipBusy));
        assert_eq!(ids(&state), [1, 2, 3, 4], "it is a member until the log says otherwise");
        configure(&mut state, &[2, 3, 4], &[]);
        assert_eq!(ids(&state), [2, 3, 4]);
        add(&mut state, five).unwrap();
    }

    #[test]
    fn learner_takes_the_place_of_a_voter() {
        let mut state = of_three();
        let id = reserve(&mut state);
        assert_eq!(replace(&mut state, 1, id), Err(Reason::MemberNotFound));
        add(&mut state, id).unwrap();
        configure(&mut state, &[1, 2, 3], &[id]);
        replace(&mut state, 1, id).unwrap();
        assert_eq!(replace(&mut state, 2, 2), Err(Reason::InvalidArgument));
        configure(&mut state, &[2, 3, id], &[]);
        assert_eq!(ids(&state), [2, 3, id]);
        assert_eq!(replace(&mut state, 1, id), Err(Reason::MemberRemoved));
    }

    #[test]
    fn last_voter_stays() {
        let mut state = State::default();
        apply(&mut state, Kind::SeedMembers(pb::SeedMembers { members: vec![member(1)] })).unwrap();
        assert_eq!(remove(&mut state, 1), Err(Reason::LastVoter));
    }

    #[test]
    fn members_and_configuration_are_in_snapshots() {
        let mut state = of_three();
        let id = reserve(&mut state);
        reserve(&mut state);
        add(&mut state, id).unwrap();
        state.configure(Configuration {
            voters_outgoing: [1, 2, 3].into(),
            auto_leave: true,
            ..Configuration::of_voters([2, 3, 4])
        });
        let decoded = State::decode(&state.encode(7).concat()[..]).unwrap();
        assert_eq!(decoded, state);
        assert_eq!(decoded.digest(), state.digest());
    }

    #[test]
    fn configuration_that_cannot_be_is_not_sound() {
        let voters = || Configuration::of_voters([1, 2, 3]);
        let joint = || Configuration { voters_outgoing: [2, 3, 4].into(), auto_leave: true, ..voters() };
        let sound = [
            voters(),
            joint(),
            Configuration { learners: [5].into(), ..voters() },
            Configuration { learners_next: [4].into(), ..joint() },
        ];
        assert!(sound.iter().all(Configuration::is_sound));
        let unsound = [
            Configuration::default(),
            Configuration::of_voters([0, 1]),
            Configuration { learners: [1].into(), ..voters() },
            Configuration { learners: [4].into(), ..joint() },
            Configuration { learners_next: [4].into(), ..voters() },
            Configuration { learners_next: [3].into(), ..joint() },
            Configuration { auto_leave: true, ..voters() },
        ];
        assert!(!unsound.iter().any(Configuration::is_sound));
    }

    #[test]
    fn majorities_of_both_sets_of_voters_agree() {
        let joint =
            Configuration { voters_outgoing: [1, 2, 3].into(), ..Configuration::of_voters([3, 4, 5]) };
        let agree = |ids: &[u64]| joint.is_quorum(|id| ids.contains(&id));
        assert!(agree(&[2, 3, 4]));
        assert!(!agree(&[1, 2, 4]));
        assert!(!agree(&[3, 4, 5]));
        assert!(!Configuration::default().is_quorum(|_| true));
    }
}
