//! Servers come and go while the others serve.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tonic::{Code, Status};
use xdpfs_meta_server::{
    state_machine::FeatureLevel,
    storage::{Change, LogStore as _, SledStore},
};
use xdpfs_proto::{
    members::v1::{
        AddMemberRequest, PromoteMemberRequest, RemoveMemberRequest, ReplaceMemberRequest,
        TransferLeadershipRequest, UpdateMemberRequest, member::Standing,
        members_service_client::MembersServiceClient,
    },
    meta::v1::{CreateBucketRequest, GetBucketRequest},
};

use crate::harness::{Cluster, assert_refused, eventually, request_id};

async fn remove(cluster: &Cluster, id: u64, force: bool) -> Result<(), Status> {
    let request = RemoveMemberRequest { request_id: request_id(), id, force };
    cluster.members_call(request, async |mut members, request| members.remove_member(request).await).await?;
    Ok(())
}

async fn replace(cluster: &Cluster, old_id: u64, new_id: u64) -> Result<(), Status> {
    let request = ReplaceMemberRequest { request_id: request_id(), old_id, new_id };
    cluster.members_call(request, async |mut members, request| members.replace_member(request).await).await?;
    Ok(())
}

async fn promote(cluster: &Cluster, id: u64) -> Result<(), Status> {
    let request = PromoteMemberRequest { request_id: request_id(), id };
    cluster.members_call(request, async |mut members, request| members.promote_member(request).await).await?;
    Ok(())
}

async fn transfer(cluster: &Cluster, id: u64) -> Result<(), Status> {
    let request = TransferLeadershipRequest { request_id: request_id(), id };
    let send =
        async |mut members: crate::harness::Members, request| members.transfer_leadership(request).await;
    cluster.members_call(request, send).await?;
    Ok(())
}

async fn create(cluster: &Cluster, bucket: &str) {
    let request = CreateBucketRequest {
        request_id: request_id(),
        name: format!("buckets/{bucket}"),
        ..CreateBucketRequest::default()
    };
    cluster.call(request, async |mut meta, request| meta.create_bucket(request).await).await.unwrap();
}

async fn has(cluster: &Cluster, bucket: &str) -> bool {
    let request = GetBucketRequest { name: format!("buckets/{bucket}") };
    cluster.call(request, async |mut meta, request| meta.get_bucket(request).await).await.is_ok()
}

async fn learner_is_there(cluster: &Cluster, id: u64) {
    eventually("a learner", async || {
        let members = cluster.list_members().await.ok()?;
        members.iter().find(|member| member.id == id && member.standing() == Standing::Learner)?;
        Some(())
    })
    .await;
}

#[tokio::test]
async fn cluster_grows_from_one_server_to_five_and_shrinks_to_three() {
    let mut cluster = Cluster::start_one().await;
    create(&cluster, "first").await;
    let mut voters = vec![1];
    for _ in 0..4 {
        let id = cluster.join(false).await;
        voters.push(id);
        cluster.voters_are(&voters).await;
    }
    assert_eq!(voters, [1, 2, 3, 4, 5]);
    cluster.ready().await;
    // Every server has the list, and three that were not there at first carry the cluster alone.
    for id in cluster.ids() {
        eventually("the whole list", async || {
            (cluster.status_of(id).await.meta_servers.len() == 5).then_some(())
        })
        .await;
    }
    for id in [1, 2] {
        remove(&cluster, id, false).await.unwrap();
        voters.retain(|voter| *voter != id);
        cluster.voters_are(&voters).await;
        cluster.is_removed(id).await;
        cluster.stop(id).await;
    }
    assert!(has(&cluster, "first").await);
    create(&cluster, "second").await;
}

#[tokio::test]
async fn all_servers_are_replaced_one_by_one_under_load() {
    let mut cluster = Cluster::start_with(|config| {
        config.consensus.snapshot_entries = 30;
        config.consensus.log_entries_kept = 5;
    })
    .await;
    let (ends, made) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    for old in 1..=3 {
        for number in 0..20 {
            create(&cluster, &format!("before-{old}-{number}")).await;
        }
        let new = cluster.join(true).await;
        learner_is_there(&cluster, new).await;
        let load = async {
            while !ends.load(Ordering::Relaxed) {
                create(&cluster, &format!("load-{}", made.fetch_add(1, Ordering::Relaxed))).await;
            }
        };
        let change = async {
            replace(&cluster, old, new).await.unwrap();
            let voters: Vec<u64> = (old + 1..=3).chain(4..=new).collect();
            cluster.voters_are(&voters).await;
            ends.store(true, Ordering::Relaxed);
        };
        tokio::join!(load, change);
        ends.store(false, Ordering::Relaxed);
        cluster.is_removed(old).await;
        cluster.stop(old).await;
    }
    assert_eq!(cluster.running(), [4, 5, 6]);
    cluster.ready().await;
    for number in 0..made.load(Ordering::Relaxed) {
        assert!(has(&cluster, &format!("load-{number}")).await, "{number}");
    }
    // What came by snapshot and by log is the same, and so is what they know of each other after a restart of all.
    for id in [4, 5, 6] {
        cluster.kill(id);
    }
    for id in [4, 5, 6] {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    cluster.voters_are(&[4, 5, 6]).await;
    assert!(has(&cluster, "before-1-0").await);
}

#[tokio::test]
async fn leader_that_is_removed_gives_leadership_away_first() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    eventually("the members are written down", async || {
        cluster.list_members().await.ok().filter(|list| list.len() == 3)
    })
    .await;
    remove(&cluster, leader, false).await.unwrap();
    cluster.is_removed(leader).await;
    let left: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    cluster.voters_are(&left).await;
    create(&cluster, "after").await;
}

#[tokio::test]
async fn dead_server_is_removed_and_one_too_many_is_not() {
    let mut cluster = Cluster::start().await;
    eventually("the members are written down", async || {
        cluster.list_members().await.ok().filter(|list| list.len() == 3)
    })
    .await;
    let dead = cluster.follower().await;
    cluster.kill(dead);
    let live = cluster.running().into_iter().max().unwrap();
    eventually("the leader misses it", async || {
        let members = cluster.list_members().await.ok()?;
        members.iter().find(|member| member.id == dead && !member.active).map(|_| ())
    })
    .await;
    assert_refused(remove(&cluster, live, false).await, Code::FailedPrecondition, "QUORUM_AT_RISK");
    assert_refused(remove(&cluster, 9, false).await, Code::NotFound, "MEMBER_NOT_FOUND");
    remove(&cluster, dead, false).await.unwrap();
    let left = cluster.running();
    cluster.voters_are(&left).await;
    assert_refused(remove(&cluster, dead, false).await, Code::FailedPrecondition, "MEMBER_REMOVED");
    create(&cluster, "after").await;
}

#[tokio::test]
async fn members_change_one_at_a_time() {
    let mut cluster = Cluster::start().await;
    let learner = cluster.join(true).await;
    learner_is_there(&cluster, learner).await;
    // It is to vote, and never hears of it.
    cluster.kill(learner);
    eventually("the leader misses it", async || {
        let members = cluster.list_members().await.ok()?;
        members.iter().find(|member| member.id == learner && !member.active).map(|_| ())
    })
    .await;
    promote(&cluster, learner).await.unwrap();
    assert_refused(remove(&cluster, 1, false).await, Code::FailedPrecondition, "MEMBERSHIP_BUSY");
    cluster.restart(learner).await;
    cluster.voters_are(&[1, 2, 3, learner]).await;
    let follower = cluster.follower().await;
    transfer(&cluster, follower).await.unwrap();
    assert_eq!(cluster.leader().await, follower);
}

#[tokio::test]
async fn leadership_is_offered_again_to_a_server_that_did_not_hear() {
    let mut cluster = Cluster::start().await;
    let follower = cluster.follower().await;
    let leader = cluster.leader().await;
    let mut members = MembersServiceClient::new(cluster.channel(leader));
    // It was heard of a moment ago, so it is asked, and is not there.
    cluster.kill(follower);
    let request = TransferLeadershipRequest { id: follower, request_id: request_id() };
    let asking = tokio::spawn(async move { members.transfer_leadership(request).await });
    tokio::time::sleep(Duration::from_millis(200)).await;
    cluster.restart(follower).await;
    asking.await.unwrap().unwrap();
    assert_eq!(cluster.leader().await, follower);
}

#[tokio::test]
async fn removed_server_that_missed_its_removal_disturbs_nobody_and_is_told() {
    let mut cluster = Cluster::start().await;
    eventually("the members are written down", async || {
        cluster.list_members().await.ok().filter(|list| list.len() == 3)
    })
    .await;
    let follower = cluster.follower().await;
    cluster.kill(follower);
    remove(&cluster, follower, true).await.unwrap();
    let left = cluster.running();
    cluster.voters_are(&left).await;
    let term = cluster.status_of(cluster.leader().await).await.term;
    cluster.restart(follower).await;
    cluster.is_removed(follower).await;
    cluster.stop(follower).await;
    create(&cluster, "after").await;
    assert_eq!(cluster.status_of(cluster.leader().await).await.term, term, "there was no election");
}

#[tokio::test]
async fn server_that_lost_its_directory_comes_back_under_a_fresh_id() {
    let mut cluster = Cluster::start().await;
    let lost = cluster.follower().await;
    cluster.kill(lost);
    let directory = cluster.data_dir(lost);
    std::fs::remove_dir_all(&directory).unwrap();
    let fresh = cluster.join_in(directory, true).await;
    assert_eq!(fresh, 4);
    learner_is_there(&cluster, fresh).await;
    replace(&cluster, lost, fresh).await.unwrap();
    let voters: Vec<u64> = (1..=4).filter(|id| *id != lost).collect();
    cluster.voters_are(&voters).await;
    // Nobody gets an id twice, whatever becomes of its directory.
    let again = AddMemberRequest {
        request_id: request_id(),
        id: lost,
        peer_address: "127.0.0.1:1".into(),
        client_address: "127.0.0.1:2".into(),
        learner: true,
        cluster_id: cluster.status_of(fresh).await.cluster_id,
        feature_level: FeatureLevel::SUPPORTED.0,
    };
    let send = async |mut members: crate::harness::Members, request| members.add_member(request).await;
    assert_refused(cluster.members_call(again, send).await, Code::FailedPrecondition, "MEMBER_REMOVED");
}

#[tokio::test]
async fn damaged_store_is_moved_aside_and_its_server_joins_anew() {
    let mut cluster = Cluster::start().await;
    let id = cluster.follower().await;
    cluster.stop(id).await;
    let directory = cluster.data_dir(id);
    {
        let (mut store, recovered) = SledStore::open(&directory.join("store")).unwrap();
        let mut hard_state = recovered.hard_state;
        hard_state.commit += 1000;
        store.stage(Change::HardState(hard_state));
        store.sync().unwrap();
    }
    let fresh = cluster.join_in(directory.clone(), true).await;
    assert!(directory.join("store.damaged-1").exists());
    learner_is_there(&cluster, fresh).await;
    replace(&cluster, id, fresh).await.unwrap();
    let voters: Vec<u64> = (1..=4).filter(|voter| *voter != id).collect();
    cluster.voters_are(&voters).await;
    cluster.ready().await;
}

#[tokio::test]
async fn cluster_that_moved_as_a_whole_finds_together_and_writes_it_down() {
    let mut cluster = Cluster::start().await;
    eventually("the members are written down", async || {
        cluster.list_members().await.ok().filter(|list| list.len() == 3)
    })
    .await;
    for id in 1..=3 {
        cluster.stop(id).await;
    }
    for id in 1..=3 {
        cluster.move_elsewhere(id);
    }
    for id in 1..=3 {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    let expect: BTreeSet<String> = (1..=3).map(|id| cluster.endpoint(id)).collect();
    eventually("the new addresses", async || {
        let listed = cluster.list_members().await.ok()?;
        let listed: BTreeSet<String> = listed.into_iter().map(|member| member.client_address).collect();
        (listed == expect).then_some(())
    })
    .await;
    create(&cluster, "after").await;
}

#[tokio::test]
async fn member_that_moved_is_reached_at_its_new_address() {
    let mut cluster = Cluster::start().await;
    eventually("the members are written down", async || {
        cluster.list_members().await.ok().filter(|list| list.len() == 3)
    })
    .await;
    let moved = cluster.follower().await;
    cluster.stop(moved).await;
    cluster.move_elsewhere(moved);
    let request = UpdateMemberRequest {
        request_id: request_id(),
        id: moved,
        peer_address: cluster.peer_address(moved),
        client_address: cluster.endpoint(moved),
    };
    let send = async |mut members: crate::harness::Members, request| members.update_member(request).await;
    cluster.members_call(request, send).await.unwrap();
    create(&cluster, "after").await;
    cluster.restart(moved).await;
    cluster.ready().await;
    transfer(&cluster, moved).await.unwrap();
    let ids: BTreeSet<String> =
        cluster.status_of(moved).await.meta_servers.into_iter().map(|server| server.endpoint).collect();
    assert!(ids.contains(&cluster.endpoint(moved)), "{ids:?}");
}
