//! How the servers that take part in consensus become those that the state wants: what a leader does next about it.
//! Pure: decides, and proposes nothing itself.
//!
//! Invariant: one change at a time; a server that votes has nearly all of the log; a leader never proposes its own end,
//! but gives leadership away first; and two sets of voters at once are always on their way to one.

use prost::Message as _;
use raft::eraftpb::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Message,
};
use xdpfs_proto::raft::v1 as pb;

use super::VoterStatus;
use crate::{
    mistake::{Mistake, is_planted},
    state_machine::{Configuration, MEMBERS_MAX, Members, Wanted},
};

/// A learner votes once it lacks fewer entries than this.
pub(super) const LAG_MAX: u64 = 100;
/// Changes in one entry: every member, and everyone who takes their place.
const CHANGES_MAX: usize = 2 * MEMBERS_MAX;

/// What a leader does next about the members.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Put this into the log.
    Change(ConfChangeV2),
    /// Let this server lead, because the leader itself is to go.
    Transfer(u64),
}

/// What raft-rs calls a configuration.
pub(super) fn configuration(conf_state: &ConfState) -> Configuration {
    let set = |ids: &[u64]| ids.iter().copied().collect();
    Configuration {
        voters: set(&conf_state.voters),
        voters_outgoing: set(&conf_state.voters_outgoing),
        learners: set(&conf_state.learners),
        learners_next: set(&conf_state.learners_next),
        auto_leave: conf_state.auto_leave,
    }
}

/// Who takes part, by the snapshot that the message carries.
pub(crate) fn configuration_of(message: &Message) -> Configuration {
    configuration(message.get_snapshot().get_metadata().get_conf_state())
}

/// What an entry that changes the configuration says; `None` if it is nothing that a leader writes. It may have come from
/// the network, so raft-rs' own parser is not let near it.
pub(super) fn decode_change(data: &[u8]) -> Option<ConfChangeV2> {
    let wire = pb::ConfChange::decode(data).ok()?;
    if wire.changes.len() > CHANGES_MAX {
        return None;
    }
    let transitions =
        [ConfChangeTransition::Auto, ConfChangeTransition::Implicit, ConfChangeTransition::Explicit];
    let transition = transitions.into_iter().find(|known| *known as u32 == wire.transition)?;
    let changes = wire.changes.iter().map(decode_single).collect::<Option<Vec<_>>>()?;
    let mut change = ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() };
    change.set_transition(transition);
    Some(change)
}

fn decode_single(wire: &pb::ConfChangeSingle) -> Option<ConfChangeSingle> {
    let types = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
    let change_type = types.into_iter().find(|known| *known as u32 == wire.change_type)?;
    (wire.node_id > 0).then(|| single(change_type, wire.node_id))
}

fn single(change_type: ConfChangeType, node_id: u64) -> ConfChangeSingle {
    let mut single = ConfChangeSingle { node_id, ..ConfChangeSingle::default() };
    single.set_change_type(change_type);
    single
}

fn change(changes: Vec<ConfChangeSingle>) -> Step {
    // More than one of them go through two sets of voters at once, which ends by itself.
    Step::Change(ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() })
}

/// What the leader `own`, whose log ends at `last`, does next. `servers` is what it knows of those that take part.
pub(super) fn next_step(
    own: u64,
    last: u64,
    members: &Members,
    configuration: &Configuration,
    servers: &[VoterStatus],
) -> Option<Step> {
    if configuration.is_joint() {
        // raft-rs ends it by itself, unless leadership changed in the wrong moment.
        return Some(change(Vec::new()));
    }
    if !members.is_known() {
        return None;
    }
    let new =
        members.iter().find(|member| member.wanted != Wanted::Gone && !configuration.contains(member.id));
    if let Some(new) = new {
        let joins = match is_planted(Mistake::VotesWithoutLearning) {
            true => ConfChangeType::AddNode,
            false => ConfChangeType::AddLearnerNode,
        };
        return Some(change(vec![single(joins, new.id)]));
    }
    let status = |id: u64| servers.iter().find(|server| server.id == id);
    let has_caught_up = |id: u64| {
        status(id).is_some_and(|server| server.active && server.matched_index.saturating_add(LAG_MAX) > last)
    };
    let rises = |id: &u64| members.find(*id).is_some_and(|member| member.wanted == Wanted::Voter);
    let (ready, waiting): (Vec<u64>, Vec<u64>) =
        configuration.learners.iter().copied().filter(rises).partition(|id| has_caught_up(*id));
    let leaves = |id: &u64| members.find(*id).is_none_or(|member| member.wanted == Wanted::Gone);
    let leaving: Vec<u64> = configuration.ids().into_iter().filter(leaves).collect();
    let promotions = ready.iter().map(|id| single(ConfChangeType::AddNode, *id));
    if leaving.contains(&own) {
        let stays = |server: &&VoterStatus| {
            server.id != own && configuration.voters.contains(&server.id) && !leaving.contains(&server.id)
        };
        let heirs = servers.iter().filter(stays);
        return match heirs.filter(|server| server.active).max_by_key(|server| server.matched_index) {
            Some(heir) if waiting.is_empty() => Some(Step::Transfer(heir.id)),
            // With nobody to give leadership to, whoever takes the place votes first.
            None if !ready.is_empty() => Some(change(promotions.collect())),
            Some(_) | None => None,
        };
    }
    if !waiting.is_empty() && !leaving.is_empty() {
        // Whoever takes the place of another has yet to catch up.
        return None;
    }
    let removals = leaving.iter().map(|id| single(ConfChangeType::RemoveNode, *id));
    let changes: Vec<_> = promotions.chain(removals).collect();
    (!changes.is_empty()).then(|| change(changes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::{Config as RaftConfig, RawNode, eraftpb::EntryType, storage::MemStorage};
    use xdpfs_proto::state::v1::{self as state, command::Kind};

    use super::*;
    use crate::state_machine::State;

    fn members(commands: Vec<Kind>) -> State {
        let member = |id: u64| state::MetaMember {
            id,
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            ..Default::default()
        };
        let mut state = State::default();
        let seed = Kind::SeedMembers(state::SeedMembers { members: (1..=3).map(member).collect() });
        let reserve = Kind::ReserveMember(state::ReserveMember {});
        let add = Kind::AddMember(state::AddMember { member: Some(member(4)) });
        for kind in [seed, reserve].into_iter().chain(if commands.is_empty() { vec![] } else { vec![add] }) {
            state.apply(1, &state::Command { kind: Some(kind), ..Default::default() });
        }
        configure(&mut state, &[1, 2, 3], &[4]);
        for kind in commands {
            let outcome = state.apply(1, &state::Command { kind: Some(kind), ..Default::default() });
            assert!(matches!(outcome.kind, Some(state::outcome::Kind::Done(_))), "{outcome:?}");
        }
        state
    }

    fn configure(state: &mut State, voters: &[u64], learners: &[u64]) {
        let learners = learners.iter().copied().collect();
        state.configure(Configuration { learners, ..Configuration::of_voters(voters.iter().copied()) });
    }

    fn remove(id: u64) -> Kind {
        Kind::RemoveMember(state::RemoveMember { id })
    }

    fn replace(old_id: u64, new_id: u64) -> Kind {
        Kind::ReplaceMember(state::ReplaceMember { old_id, new_id })
    }

    fn promote(id: u64) -> Kind {
        Kind::PromoteMember(state::PromoteMember { id })
    }

    /// The step of server 1, which leads; server 4 has this many entries of 1000.
    fn step(state: &State, fourth: u64) -> Option<String> {
        let status = |id| VoterStatus {
            id,
            matched_index: if id == 4 { fourth } else { 1000 - id },
            active: true,
            learner: id == 4,
        };
        let servers: Vec<_> = (1..=4).map(status).collect();
        let members = state.members();
        next_step(1, 1000, members, members.configuration(), &servers).map(said)
    }

    fn said(step: Step) -> String {
        match step {
            Step::Change(change) => ConfChangeV2::get_changes(&change)
                .iter()
                .map(|single| format!("{:?} {}", single.get_change_type(), single.node_id))
                .collect::<Vec<_>>()
                .join(", "),
            Step::Transfer(to) => format!("transfer {to}"),
        }
    }

    #[test]
    fn learner_votes_once_it_has_caught_up() {
        let mut state = members(vec![promote(4)]);
        configure(&mut state, &[1, 2, 3], &[]);
        assert_eq!(step(&state, 0).as_deref(), Some("AddLearnerNode 4"));
        configure(&mut state, &[1, 2, 3], &[4]);
        assert_eq!(step(&state, 900), None);
        assert_eq!(step(&state, 901).as_deref(), Some("AddNode 4"));
        configure(&mut state, &[1, 2, 3, 4], &[]);
        assert_eq!(step(&state, 1000), None);
    }

    #[test]
    fn successor_votes_in_the_step_in_which_the_other_leaves() {
        let state = members(vec![replace(2, 4)]);
        assert_eq!(step(&state, 0), None, "it has yet to catch up");
        assert_eq!(step(&state, 1000).as_deref(), Some("AddNode 4, RemoveNode 2"));
    }

    #[test]
    fn leader_gives_leadership_away_before_it_leaves() {
        let mut state = members(vec![remove(4)]);
        configure(&mut state, &[1, 2, 3], &[]);
        let kind = Some(remove(1));
        state.apply(1, &state::Command { kind, ..Default::default() });
        assert_eq!(step(&state, 0).as_deref(), Some("transfer 2"));
    }

    #[test]
    fn only_voter_is_replaced_by_one_that_votes_before_it_goes() {
        let mut state = members(vec![remove(4)]);
        for id in [2, 3] {
            configure(&mut state, if id == 2 { &[1, 2, 3] } else { &[1, 3] }, &[]);
            state.apply(1, &state::Command { kind: Some(remove(id)), ..Default::default() });
        }
        configure(&mut state, &[1], &[]);
        let member = state::MetaMember {
            id: 5,
            peer_address: "a:1".into(),
            client_address: "a:2".into(),
            wanted: state::meta_member::Wanted::Learner.into(),
            ..Default::default()
        };
        let add = Kind::AddMember(state::AddMember { member: Some(member) });
        for kind in [Kind::ReserveMember(state::ReserveMember {}), add, replace(1, 5)] {
            state.apply(1, &state::Command { kind: Some(kind), ..Default::default() });
        }
        let step = |state: &State, matched_index| {
            let own = VoterStatus { id: 1, matched_index: 1000, active: true, learner: false };
            let servers = [own, VoterStatus { id: 5, matched_index, ..own }];
            let members = state.members();
            next_step(1, 1000, members, members.configuration(), &servers).map(said)
        };
        assert_eq!(step(&state, 0).as_deref(), Some("AddLearnerNode 5"));
        configure(&mut state, &[1], &[5]);
        assert_eq!(step(&state, 0), None);
        assert_eq!(step(&state, 1000).as_deref(), Some("AddNode 5"));
        configure(&mut state, &[1, 5], &[]);
        assert_eq!(step(&state, 1000).as_deref(), Some("transfer 5"));
    }

    #[test]
    fn stuck_joint_state_is_left() {
        let mut state = members(vec![]);
        let outgoing = [1, 2, 3].into();
        state.configure(Configuration { voters_outgoing: outgoing, ..Configuration::of_voters([2, 3, 4]) });
        assert_eq!(step(&state, 1000).as_deref(), Some(""), "an empty change ends it");
    }

    #[test]
    fn server_that_is_no_member_leaves() {
        let state = members(vec![]);
        assert_eq!(step(&state, 1000).as_deref(), Some("RemoveNode 4"));
    }

    /// The change as a leader's raft-rs puts it into the log.
    fn written(change: &ConfChangeV2) -> Vec<u8> {
        let mut before = ConfState { voters: vec![1], ..ConfState::default() };
        if ConfChangeV2::get_changes(change).is_empty() {
            // It is taken only where it ends something.
            before.voters_outgoing = vec![1];
        }
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let storage = MemStorage::new_with_conf_state(before);
        let mut node = RawNode::new(&RaftConfig::new(1), storage, &logger).unwrap();
        node.campaign().unwrap();
        node.propose_conf_change(Vec::new(), change.clone()).unwrap();
        let entry = node.raft.raft_log.unstable_entries().last().unwrap();
        assert_eq!(entry.get_entry_type(), EntryType::EntryConfChangeV2, "it was swallowed");
        entry.data.to_vec()
    }

    proptest! {
        #[test]
        fn any_change_is_read_as_it_was_written(kinds in prop::collection::vec((0..3usize, 1..u64::MAX), 0..9), joint in 0..3usize) {
            let types = [ConfChangeType::AddNode, ConfChangeType::RemoveNode, ConfChangeType::AddLearnerNode];
            let transitions =
                [ConfChangeTransition::Auto, ConfChangeTransition::Implicit, ConfChangeTransition::Explicit];
            let changes: Vec<_> = kinds.iter().map(|(kind, id)| single(types[*kind], *id)).collect();
            let mut change = ConfChangeV2 { changes: changes.into(), ..ConfChangeV2::default() };
            change.set_transition(transitions[joint]);
            prop_assert_eq!(decode_change(&written(&change)), Some(change));
        }

        #[test]
        fn hostile_change_never_panics(bytes: Vec<u8>) {
            let _ = decode_change(&bytes);
        }
    }
}
