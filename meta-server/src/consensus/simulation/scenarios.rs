//! Single traps of consensus, one test each, named after what must hold.

use raft::{
    SnapshotStatus,
    eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, ConfState, Message, MessageType},
};
use tokio::sync::oneshot::{self, error::TryRecvError};
use xdpfs_proto::state::v1::{self as pb, command::Kind, outcome};

use super::{
    super::{ConsensusError, Input, core::ReceivedSnapshot},
    cluster::{Cluster, VOTERS},
    operator::{member, seed},
    options::calm_config,
};
use crate::{config::ConsensusConfig, state_machine::State, storage::PART_LEN_MAX};

fn others(id: u64) -> impl Iterator<Item = u64> {
    VOTERS.into_iter().filter(move |other| *other != id)
}

fn hang_disks(cluster: &mut Cluster, hangs: bool) {
    cluster.servers.values_mut().for_each(|server| server.disk_hangs = hangs);
}

fn small_log() -> ConsensusConfig {
    ConsensusConfig { snapshot_entries: 5, log_entries_kept: 0, ..calm_config() }
}

#[test]
fn votes_leave_only_after_they_are_durable() {
    let mut cluster = Cluster::calm(1);
    cluster.run(50);
    hang_disks(&mut cluster, true);
    cluster.run(2000);
    let sent = |cluster: &Cluster, msg_type| {
        VOTERS.iter().map(|id| cluster.network.sent(*id, msg_type)).sum::<u64>()
    };
    assert_eq!(sent(&cluster, MessageType::MsgRequestVote), 0);
    assert_eq!(sent(&cluster, MessageType::MsgRequestVoteResponse), 0);
    assert_eq!(cluster.leader(), None);
    hang_disks(&mut cluster, false);
    cluster.elect();
}

#[test]
fn entries_are_acknowledged_only_after_they_are_durable() {
    let mut cluster = Cluster::calm(2);
    let leader = cluster.elect();
    cluster.run(100);
    others(leader).for_each(|id| cluster.servers.get_mut(&id).unwrap().disk_hangs = true);
    let mut answer = cluster.propose(leader);
    let committed = cluster.checks.committed_index();
    cluster.run(80);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty));
    assert_eq!(cluster.checks.committed_index(), committed);
    others(leader).for_each(|id| cluster.crash(id));
    cluster.run(700);
    hang_disks(&mut cluster, false);
    let leader = cluster.elect();
    let mut answer = cluster.propose(leader);
    cluster.run(200);
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn leaders_own_copy_counts_only_after_it_is_durable() {
    let mut cluster = Cluster::calm(3);
    let leader = cluster.elect();
    cluster.run(100);
    let off = others(leader).next().unwrap();
    // A server that crashes comes back by itself, and two of three are a majority without the leader.
    cluster.isolate(off);
    cluster.servers.get_mut(&leader).unwrap().disk_hangs = true;
    let committed = cluster.checks.committed_index();
    let mut answer = cluster.propose(leader);
    cluster.run(60);
    assert_eq!(answer.try_recv(), Err(TryRecvError::Empty), "one durable copy of three is no majority");
    assert_eq!(cluster.checks.committed_index(), committed);
    cluster.servers.get_mut(&leader).unwrap().disk_hangs = false;
    cluster.run(60);
    assert!(answer.try_recv().unwrap().is_ok());
}

#[test]
fn many_commands_become_durable_in_one_sync() {
    let mut cluster = Cluster::calm(4);
    let leader = cluster.elect();
    cluster.run(100);
    hang_disks(&mut cluster, true);
    let mut answers: Vec<_> = (0..200).map(|_| cluster.propose(leader)).collect();
    cluster.run(50);
    let before = cluster.running(leader).syncs();
    hang_disks(&mut cluster, false);
    cluster.run(300);
    let syncs = cluster.running(leader).syncs() - before;
    assert!(answers.iter_mut().all(|answer| matches!(answer.try_recv(), Ok(Ok(_)))));
    assert!(syncs <= 5, "{syncs} syncs for 200 commands");
}

#[test]
fn followers_never_forward_proposals() {
    let mut cluster = Cluster::calm(5);
    let leader = cluster.elect();
    let follower = others(leader).next().unwrap();
    let mut answer = cluster.propose(follower);
    cluster.run(50);
    assert_eq!(answer.try_recv(), Ok(Err(ConsensusError::NotLeader)));
    assert_eq!(cluster.network.sent(follower, MessageType::MsgPropose), 0);
    let committed = cluster.checks.committed_index();
    for msg_type in [MessageType::MsgPropose, MessageType::MsgReadIndex] {
        let mut message = Message {
            to: leader,
            from: follower,
            entries: vec![Default::default()].into(),
            ..Default::default()
        };
        message.set_msg_type(msg_type);
        cluster.tell(leader, Input::Message(Box::new(message)));
    }
    cluster.run(100);
    assert_eq!(cluster.checks.committed_index(), committed, "what others forward is dropped");
    let mut read = cluster.read(follower);
    cluster.run(10);
    assert_eq!(read.try_recv(), Ok(Err(ConsensusError::NotLeader)));
}

#[test]
fn outcome_is_unknown_after_leadership_changed() {
    let mut cluster = Cluster::calm(6);
    let old = cluster.elect();
    cluster.isolate(old);
    let mut answer = cluster.propose_until(old, 60_000);
    cluster.run_until("another server leads", |cluster| cluster.leader().is_some_and(|id| id != old));
    cluster.heal();
    cluster.run_until("the answer comes", |_| match answer.try_recv() {
        Ok(result) => {
            assert_eq!(result, Err(ConsensusError::OutcomeUnknown));
            true
        }
        Err(error) => {
            assert_eq!(error, TryRecvError::Empty, "nobody is left without an answer");
            false
        }
    });
}

#[test]
fn command_whose_deadline_has_passed_is_never_proposed() {
    let mut cluster = Cluster::calm(7);
    let leader = cluster.elect();
    cluster.run(100);
    let last = cluster.running(leader).core.raft().raft_log.last_index();
    cluster.servers.get_mut(&leader).unwrap().paused_until_ms = cluster.now_ms + 60;
    let mut late = cluster.propose_until(leader, cluster.now_ms + 50);
    let abandoned = cluster.propose(leader);
    drop(abandoned);
    cluster.run(100);
    assert_eq!(late.try_recv(), Ok(Err(ConsensusError::DeadlineExceeded)));
    assert_eq!(cluster.running(leader).core.raft().raft_log.last_index(), last);
}

#[test]
fn commands_beyond_what_may_wait_are_refused() {
    let mut cluster = Cluster::calm(8);
    let leader = cluster.elect();
    others(leader).for_each(|id| cluster.servers.get_mut(&id).unwrap().disk_hangs = true);
    let mut answers: Vec<_> = (0..17_000).map(|_| cluster.propose(leader)).collect();
    let (start, inputs) = (cluster.now(), std::mem::take(&mut cluster.running(leader).inputs));
    inputs.into_iter().for_each(|input| cluster.running(leader).core.handle(input, start));
    let refused = answers.iter_mut().filter_map(|answer| answer.try_recv().ok());
    assert_eq!(refused.filter(|result| *result == Err(ConsensusError::Overloaded)).count(), 17_000 - 16_384);
}

#[test]
fn a_read_at_a_new_leader_waits_for_its_first_commit() {
    let mut cluster = Cluster::calm(9);
    cluster.run_until("a leader is elected", |cluster| cluster.leader().is_some());
    let leader = cluster.leader().unwrap();
    assert!(!cluster.running(leader).core.raft().commit_to_current_term());
    let mut read = cluster.read(leader);
    cluster.run(1);
    assert_eq!(read.try_recv(), Err(TryRecvError::Empty));
    cluster.run(100);
    let term = cluster.running(leader).status().term;
    assert_eq!(read.try_recv(), Ok(Ok(term)));
}

#[test]
fn reads_of_a_leader_that_is_cut_off_are_refused() {
    let mut cluster = Cluster::calm(10);
    let leader = cluster.elect();
    cluster.isolate(leader);
    let mut read = cluster.read(leader);
    cluster.run(250);
    let answer = read.try_recv();
    let refused = [Ok(Err(ConsensusError::NotLeader)), Ok(Err(ConsensusError::DeadlineExceeded))];
    assert!(refused.contains(&answer), "{answer:?}");
}

#[test]
fn a_read_waits_until_the_state_includes_what_was_acknowledged() {
    let mut cluster = Cluster::calm(11);
    let leader = cluster.elect();
    cluster.run(100);
    let mut change = cluster.propose(leader);
    cluster.run(100);
    let index = change.try_recv().unwrap().unwrap().index;
    cluster.faults.apply_slowness = 0;
    let mut unapplied = cluster.propose(leader);
    cluster.run(50);
    assert_eq!(cluster.checks.committed_index(), index + 1);
    let mut read = cluster.read(leader);
    cluster.run(100);
    assert_eq!(read.try_recv(), Err(TryRecvError::Empty), "what is committed is not yet applied");
    cluster.faults.apply_slowness = 1;
    cluster.run(20);
    assert!(read.try_recv().unwrap().is_ok());
    assert!(unapplied.try_recv().unwrap().is_ok());
}

#[test]
fn a_read_beyond_its_deadline_is_told_so() {
    let mut cluster = Cluster::calm(12);
    let leader = cluster.elect();
    cluster.faults.apply_slowness = 0;
    let _change = cluster.propose(leader);
    cluster.run(50);
    let mut waits = cluster.read(leader);
    cluster.run(320);
    assert_eq!(waits.try_recv(), Ok(Err(ConsensusError::DeadlineExceeded)));
    cluster.servers.get_mut(&leader).unwrap().paused_until_ms = cluster.now_ms + 310;
    let mut comes_late = cluster.read(leader);
    cluster.run(320);
    assert_eq!(comes_late.try_recv(), Ok(Err(ConsensusError::DeadlineExceeded)));
}

#[test]
fn a_read_tells_the_term_in_which_it_was_confirmed() {
    let mut cluster = Cluster::calm(13);
    let leader = cluster.elect();
    let term = cluster.running(leader).status().term;
    cluster.faults.apply_slowness = 0;
    let _change = cluster.propose(leader);
    cluster.run(50);
    let mut read = cluster.read(leader);
    cluster.run(50);
    cluster.tell(leader, Input::TransferLeadership(None));
    cluster.run_until("another server leads", |cluster| cluster.leader().is_some_and(|id| id != leader));
    cluster.faults.apply_slowness = 1;
    cluster.run(50);
    assert!(cluster.running(leader).status().term > term);
    assert_eq!(read.try_recv(), Ok(Ok(term)));
}

#[test]
fn leadership_goes_to_the_server_that_lags_least() {
    let mut cluster = Cluster::calm(14);
    let leader = cluster.elect();
    let (lags, next) = (others(leader).next().unwrap(), others(leader).last().unwrap());
    cluster.network.blocked.extend([(leader, lags)]);
    let mut answer = cluster.propose(leader);
    cluster.run(60);
    assert!(answer.try_recv().unwrap().is_ok());
    cluster.tell(leader, Input::TransferLeadership(None));
    cluster.run(60);
    assert_eq!(cluster.leader(), Some(next));
}

#[test]
fn server_that_lags_behind_the_log_gets_a_snapshot() {
    let mut cluster = Cluster::calm_with(15, small_log());
    let leader = cluster.elect();
    let lags = others(leader).next().unwrap();
    cluster.isolate(lags);
    for _ in 0..40 {
        let _answer = cluster.propose(leader);
        cluster.run(50);
    }
    assert!(cluster.medium(leader).content().kept.compacted.index >= 15);
    cluster.heal();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    assert!(cluster.network.snapshots > 0);
    assert!(cluster.medium(lags).content().kept.snapshot.as_ref().unwrap().position.index >= 15);
    cluster.crash(lags);
    cluster.run(1000);
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

#[test]
fn snapshot_whose_sending_failed_is_sent_again() {
    let mut cluster = Cluster::calm_with(16, small_log());
    let leader = cluster.elect();
    let lags = others(leader).next().unwrap();
    cluster.isolate(lags);
    for _ in 0..20 {
        let _answer = cluster.propose(leader);
        cluster.run(50);
    }
    cluster.network.blocked = [(leader, lags)].into();
    cluster.run(500);
    cluster.tell(leader, Input::SnapshotSent(lags, SnapshotStatus::Failure));
    cluster.heal();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

/// A snapshot of an empty state, as if the leader had made it at this index.
fn received(cluster: &mut Cluster, from: u64, to: u64, index: u64) -> (Input, oneshot::Receiver<()>) {
    let term = cluster.running(from).status().term;
    let mut message = Message { from, to, term, ..Default::default() };
    message.set_msg_type(MessageType::MsgSnapshot);
    let metadata = message.mut_snapshot().mut_metadata();
    (metadata.index, metadata.term) = (index, term);
    metadata.set_conf_state(ConfState::from((VOTERS.to_vec(), Vec::new())));
    let state = Box::new(State::default());
    let (installed, answer) = oneshot::channel();
    let received = ReceivedSnapshot { message, pieces: state.encode(PART_LEN_MAX), state, installed };
    (Input::PeerSnapshot(Box::new(received)), answer)
}

#[test]
fn snapshot_that_is_wanted_survives_one_that_is_not() {
    for (first, second) in [(90, 80), (80, 90), (90, 90)] {
        let mut cluster = Cluster::calm(17);
        let leader = cluster.elect();
        let follower = others(leader).next().unwrap();
        cluster.isolate(follower);
        let now = cluster.now();
        let (one, mut one_ends) = received(&mut cluster, leader, follower, first);
        let (two, mut two_ends) = received(&mut cluster, leader, follower, second);
        let core = &mut cluster.running(follower).core;
        core.handle(one, now);
        core.handle(two, now);
        cluster.servers.get_mut(&follower).unwrap().disk_hangs = true;
        cluster.run(1);
        cluster.servers.get_mut(&follower).unwrap().disk_hangs = false;
        assert!(
            one_ends.try_recv().is_ok() ^ two_ends.try_recv().is_ok(),
            "{first}, {second}: the other one ends at once"
        );
        cluster.run(1);
        let kept = cluster.medium(follower).content().kept.snapshot.clone().unwrap();
        assert_eq!(kept.position.index, 90, "{first}, {second}");
    }
}

#[test]
fn server_that_installs_a_snapshot_does_not_stand_for_election() {
    let mut cluster = Cluster::calm(18);
    let leader = cluster.elect();
    let follower = others(leader).next().unwrap();
    cluster.run(100);
    cluster.isolate(follower);
    let (snapshot, mut ends) = received(&mut cluster, leader, follower, 90);
    let server = cluster.servers.get_mut(&follower).unwrap();
    server.disk_hangs = true;
    cluster.tell(follower, snapshot);
    cluster.run(50);
    assert_eq!(ends.try_recv(), Err(TryRecvError::Empty), "it is being stored");
    let term = cluster.running(leader).status().term;
    let mut message = Message { from: leader, to: follower, term, ..Default::default() };
    message.set_msg_type(MessageType::MsgTimeoutNow);
    cluster.tell(follower, Input::Message(Box::new(message)));
    cluster.run(500);
    assert_eq!(cluster.running(follower).status().term, term);
    cluster.faults.apply_slowness = 0;
    cluster.servers.get_mut(&follower).unwrap().disk_hangs = false;
    cluster.run(500);
    assert!(ends.try_recv().is_ok());
    assert!(
        cluster.network.sent(follower, MessageType::MsgRequestPreVote) > 0,
        "it stands as soon as it can"
    );
}

#[test]
fn server_restarts_behind_its_snapshot_though_the_commit_was_not_stored() {
    let mut cluster = Cluster::calm_with(19, small_log());
    let leader = cluster.elect();
    for _ in 0..10 {
        let _answer = cluster.propose(leader);
        cluster.run(50);
    }
    let follower = others(leader).next().unwrap();
    let snapshot = cluster.medium(follower).content().kept.snapshot.clone().unwrap().position.index;
    cluster.crash(follower);
    cluster.medium(follower).content().kept.hard_state.commit = snapshot - 3;
    cluster.restart(follower);
    assert_eq!(cluster.running(follower).status().commit_index, snapshot);
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

#[test]
fn cluster_goes_on_after_all_servers_lost_power_at_once() {
    let mut cluster = Cluster::calm_with(20, small_log());
    let leader = cluster.elect();
    let mut answers: Vec<_> = (0..30).map(|_| cluster.propose(leader)).collect();
    cluster.run(100);
    let acknowledged = answers.iter_mut().filter_map(|answer| answer.try_recv().ok()?.ok());
    let highest = acknowledged.map(|applied| applied.index).max().unwrap();
    VOTERS.into_iter().for_each(|id| cluster.crash(id));
    cluster.run(700);
    cluster.elect();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    assert!(VOTERS.into_iter().all(|id| cluster.running(id).applied() >= highest));
}

/// A command of an operator that does what it says, waited for.
fn order(cluster: &mut Cluster, kind: Kind) -> outcome::Kind {
    let mut answer = None;
    let mut said = None;
    cluster.run_until("an order is carried out", |cluster| {
        let Some(waiting) = &mut answer else {
            answer = cluster.command(kind.clone());
            return false;
        };
        match waiting.try_recv() {
            Ok(Ok(applied)) => said = applied.outcome.kind,
            Err(TryRecvError::Empty) => return false,
            Ok(Err(_)) | Err(TryRecvError::Closed) => {
                answer = None;
                return false;
            }
        }
        true
    });
    said.unwrap()
}

fn settle(cluster: &mut Cluster) {
    cluster.run_until("the members are what is wanted of them", |cluster| {
        !cluster.checks.reference.members().is_changing()
    });
}

/// A fourth server joins, as a learner or as a voter. Gives its id.
fn grow(cluster: &mut Cluster, wanted: pb::meta_member::Wanted) -> u64 {
    if !cluster.checks.reference.members().is_known() {
        order(cluster, seed(&VOTERS));
    }
    let outcome::Kind::MemberReserved(reserved) = order(cluster, Kind::ReserveMember(pb::ReserveMember {}))
    else {
        panic!("no id was given");
    };
    cluster.join(reserved.id);
    let member = pb::MetaMember { wanted: wanted.into(), ..member(reserved.id) };
    order(cluster, Kind::AddMember(pb::AddMember { member: Some(member) }));
    settle(cluster);
    reserved.id
}

#[test]
fn server_that_joins_behind_the_log_gets_a_snapshot_that_knows_it() {
    let mut cluster = Cluster::calm_with(21, small_log());
    let leader = cluster.elect();
    for _ in 0..40 {
        let _answer = cluster.propose(leader);
        cluster.run(50);
    }
    assert!(cluster.medium(leader).content().kept.compacted.index >= 10);
    let joined = grow(&mut cluster, pb::meta_member::Wanted::Voter);
    assert_eq!(cluster.checks.configuration().voters, [1, 2, 3, joined].into());
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    assert!(cluster.network.snapshots > 0);
}

#[test]
fn configuration_comes_back_with_the_state_of_the_same_entry() {
    let mut cluster = Cluster::calm_with(22, small_log());
    cluster.elect();
    grow(&mut cluster, pb::meta_member::Wanted::Voter);
    for round in 0..12 {
        let leader = cluster.elect();
        let _answer = cluster.propose(leader);
        cluster.run(40);
        if round % 4 == 3 {
            cluster.ids().into_iter().for_each(|id| cluster.crash(id));
            cluster.run(700);
        }
    }
    cluster.elect();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    let expect = cluster.checks.configuration().clone();
    for id in cluster.members() {
        assert_eq!(cluster.running(id).status().configuration, expect, "server {id}");
        let snapshot = cluster.medium(id).content().kept.snapshot.clone().unwrap();
        assert_eq!(snapshot.conf_state.voters.len(), 4, "server {id}");
    }
}

#[test]
fn joint_change_is_ended_after_all_servers_restart_in_the_middle_of_it() {
    let mut cluster = Cluster::calm(23);
    let leader = cluster.elect();
    let joined = grow(&mut cluster, pb::meta_member::Wanted::Learner);
    let old_id = others(leader).next().unwrap();
    order(&mut cluster, Kind::ReplaceMember(pb::ReplaceMember { old_id, new_id: joined }));
    cluster.run_until("two sets of voters", |cluster| cluster.checks.configuration().is_joint());
    cluster.ids().into_iter().for_each(|id| cluster.crash(id));
    assert!(cluster.checks.configuration().is_joint(), "it was interrupted");
    cluster.run(700);
    settle(&mut cluster);
    let voters = cluster.checks.configuration().voters.clone();
    assert!(voters.contains(&joined) && !voters.contains(&old_id), "{voters:?}");
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

#[test]
fn joint_state_whose_leader_steps_down_before_it_is_applied_is_left_by_the_next_one() {
    let mut cluster = Cluster::calm(24);
    let leader = cluster.elect();
    let joined = grow(&mut cluster, pb::meta_member::Wanted::Learner);
    let old_id = others(leader).next().unwrap();
    order(&mut cluster, Kind::ReplaceMember(pb::ReplaceMember { old_id, new_id: joined }));
    cluster.run_until("two sets of voters", |cluster| cluster.checks.configuration().is_joint());
    cluster.faults.apply_slowness = 0;
    cluster.isolate(leader);
    cluster.run_until("another server leads", |cluster| cluster.leader().is_some_and(|id| id != leader));
    cluster.faults.apply_slowness = 1;
    settle(&mut cluster);
    cluster.heal();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

#[test]
fn leader_that_is_to_leave_gives_leadership_away_and_is_heard_no_more() {
    let mut cluster = Cluster::calm(25);
    let leader = cluster.elect();
    grow(&mut cluster, pb::meta_member::Wanted::Voter);
    let leader = cluster.leader().unwrap_or(leader);
    order(&mut cluster, Kind::RemoveMember(pb::RemoveMember { id: leader }));
    settle(&mut cluster);
    assert_ne!(cluster.leader(), Some(leader));
    let next = cluster.elect();
    let term = cluster.running(next).status().term;
    // It has missed its removal, or not; whatever it asks for is not heard.
    cluster.crash(leader);
    cluster.run(3000);
    assert_eq!(cluster.running(next).status().term, term, "it disturbs nobody");
    assert_eq!(cluster.leader(), Some(next));
}

#[test]
fn change_of_the_servers_is_not_lost_among_others_that_wait() {
    let mut cluster = Cluster::calm(26);
    let leader = cluster.elect();
    let joined = grow(&mut cluster, pb::meta_member::Wanted::Learner);
    // An entry that nobody can apply keeps every change of the servers waiting: raft-rs would make it an empty one.
    cluster.faults.apply_slowness = 0;
    let mut answers: Vec<_> = (0..20).map(|_| cluster.propose(leader)).collect();
    cluster.run(100);
    cluster.faults.apply_slowness = 1;
    order(&mut cluster, Kind::PromoteMember(pb::PromoteMember { id: joined }));
    settle(&mut cluster);
    assert!(cluster.checks.configuration().voters.contains(&joined));
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_ok()));
}

#[test]
fn leader_that_finds_itself_removed_leads_no_more() {
    let mut cluster = Cluster::calm(29);
    let leader = cluster.elect();
    let mut remove = ConfChangeSingle { node_id: leader, ..ConfChangeSingle::default() };
    remove.set_change_type(ConfChangeType::RemoveNode);
    let change = ConfChangeV2 { changes: vec![remove].into(), ..ConfChangeV2::default() };
    cluster.running(leader).core.propose_change(change);
    let mut answers: Vec<_> = (0..5).map(|_| cluster.propose(leader)).collect();
    cluster.run_until("another server leads", |cluster| cluster.leader().is_some_and(|id| id != leader));
    assert!(!cluster.running(leader).leads() && !cluster.checks.configuration().votes(leader));
    cluster.elect();
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
    assert!(answers.iter_mut().all(|answer| answer.try_recv().is_ok()), "nobody is left without an answer");
}

#[test]
fn lone_voter_tells_learners_of_no_term_that_it_could_forget() {
    let mut cluster = Cluster::calm(28);
    cluster.elect();
    grow(&mut cluster, pb::meta_member::Wanted::Learner);
    let leader = cluster.elect();
    for id in others(leader) {
        order(&mut cluster, Kind::RemoveMember(pb::RemoveMember { id }));
        settle(&mut cluster);
    }
    assert_eq!(cluster.checks.configuration().voters, [leader].into());
    // It has stored that the others are gone once it stores what comes behind that.
    for _ in 0..3 {
        let _answer = cluster.propose(leader);
        cluster.run(100);
    }
    cluster.crash(leader);
    cluster.restart(leader);
    cluster.servers.get_mut(&leader).unwrap().disk_hangs = true;
    let sent = |cluster: &Cluster| {
        let types = [MessageType::MsgAppend, MessageType::MsgHeartbeat];
        types.map(|msg_type| cluster.network.sent(leader, msg_type))
    };
    let before = sent(&cluster);
    cluster.run(1000);
    assert!(cluster.running(leader).leads(), "nobody else has to agree");
    assert_eq!(sent(&cluster), before);
    hang_disks(&mut cluster, false);
    cluster.run_until("all servers are equal", Cluster::all_are_equal);
}

#[test]
fn learner_that_restarts_with_all_others_does_not_stand_for_election() {
    let mut cluster = Cluster::calm(27);
    cluster.elect();
    let learner = grow(&mut cluster, pb::meta_member::Wanted::Learner);
    cluster.ids().into_iter().for_each(|id| cluster.crash(id));
    cluster.ids().into_iter().for_each(|id| cluster.restart(id));
    cluster.running(learner).core.campaign();
    cluster.run(2000);
    assert_eq!(cluster.network.sent(learner, MessageType::MsgRequestPreVote), 0);
    let leader = cluster.elect();
    assert_ne!(leader, learner);
}
