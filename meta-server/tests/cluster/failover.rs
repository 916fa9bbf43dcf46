use std::collections::BTreeMap;

use tonic::Code;
use tonic_types::StatusExt as _;
use xdpfs_proto::meta::v1::{
    GetBucketRequest, GetObjectRequest, HeadObjectRequest, meta_server_status::Role,
};

use crate::harness::{Cluster, FakeNode, Meta, Writer, assert_refused, eventually, register_nodes};

const fn writer_of<'a>(cluster: &'a Cluster, nodes: &'a [FakeNode]) -> Writer<'a> {
    Writer { cluster, nodes, bucket: "photos" }
}

async fn version(cluster: &Cluster, key: &str) -> u64 {
    let request = HeadObjectRequest { name: format!("buckets/photos/objects/{key}"), ..Default::default() };
    let send = async |mut meta: Meta, request| meta.head_object(request).await;
    cluster.call(request, send).await.unwrap().object.unwrap().version
}

/// Every server's state is what the leader's is.
async fn all_agree(cluster: &Cluster) {
    eventually("servers that agree", async || {
        let mut seen = Vec::new();
        for id in cluster.running() {
            let status = cluster.status_of(id).await;
            seen.push((
                status.applied_index,
                status.objects,
                status.bytes,
                status.cluster_id,
                status.leader_id,
            ));
        }
        seen.windows(2).all(|pair| pair[0] == pair[1]).then_some(())
    })
    .await;
}

#[tokio::test]
async fn followers_send_clients_to_the_leader() {
    let cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    for id in cluster.ids().into_iter().filter(|id| *id != leader) {
        let request = GetBucketRequest { name: "buckets/photos".into() };
        let status = cluster.meta(id).get_bucket(request).await.unwrap_err();
        let info = status.get_details_error_info().unwrap();
        assert_eq!(info.metadata.get("leaderEndpoint"), Some(&cluster.endpoint(leader)));
        assert_refused::<()>(Err(status), Code::Unavailable, "NOT_LEADER");
    }
}

#[tokio::test]
async fn every_server_says_what_it_knows_of_the_cluster() {
    let cluster = Cluster::start().await;
    register_nodes(&cluster, 2).await;
    let leader = cluster.leader().await;
    all_agree(&cluster).await;
    let seen = cluster.status_of(leader).await;
    assert_eq!((seen.server_id, seen.leader_id, seen.data_nodes.len()), (leader, leader, 2));
    assert!(seen.meta_servers.iter().all(|server| server.role() != Role::Unreachable));
    let follower = cluster.follower().await;
    let seen = cluster.status_of(follower).await;
    let roles: BTreeMap<_, _> = seen.meta_servers.iter().map(|server| (server.id, server.role())).collect();
    assert_eq!((roles[&leader], roles[&follower]), (Role::Leader, Role::Follower));
    assert_eq!((seen.server_id, seen.data_nodes.len()), (follower, 2));
}

#[tokio::test]
async fn work_goes_on_after_the_leader_is_killed() {
    let mut cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    writer_of(&cluster, &nodes).create_bucket().await;
    let mut last = 0;
    for _ in 0..2 {
        let writer = writer_of(&cluster, &nodes);
        let begun = writer.begin(writer.begin_request("cat", 1)).await.unwrap();
        let leader = cluster.leader().await;
        cluster.kill(leader);
        // The upload lives on in the next leader's state.
        let writer = writer_of(&cluster, &nodes);
        let commit = writer.commit_request(begun.upload_id, writer.written(&begun.grants, 1));
        let committed = writer.commit(commit).await.unwrap().object.unwrap();
        assert!(committed.version > last);
        last = committed.version;
        assert_eq!(version(&cluster, "cat").await, last);
        cluster.restart(leader).await;
        cluster.ready().await;
    }
    all_agree(&cluster).await;
}

#[tokio::test]
async fn reads_see_every_earlier_write_whoever_leads() {
    let mut cluster = Cluster::start().await;
    writer_of(&cluster, &[]).create_bucket().await;
    for _ in 0..3 {
        let written = writer_of(&cluster, &[]).put("cat", 0, None).await.unwrap().object.unwrap();
        let leader = cluster.leader().await;
        cluster.stop(leader).await;
        assert_eq!(version(&cluster, "cat").await, written.version);
        cluster.restart(leader).await;
        cluster.ready().await;
    }
}

#[tokio::test]
async fn graceful_stop_hands_leadership_over() {
    let mut cluster = Cluster::start().await;
    let leader = cluster.leader().await;
    cluster.stop(leader).await;
    // Nobody has had the time to miss the old leader.
    let mut leads = Vec::new();
    for id in cluster.running() {
        leads.push(cluster.status_of(id).await.leader_id == id);
    }
    assert!(leads.contains(&true), "{leads:?}");
}

#[tokio::test]
async fn whole_cluster_comes_back_with_everything() {
    let mut cluster = Cluster::start().await;
    let nodes = register_nodes(&cluster, 3).await;
    let writer = writer_of(&cluster, &nodes);
    writer.create_bucket().await;
    for number in 0..20 {
        writer.put(&format!("key-{number}"), 1000 * number, None).await.unwrap();
    }
    let open = writer.begin(writer.begin_request("late", 1)).await.unwrap();
    let leader = cluster.leader().await;
    let before = cluster.status_of(leader).await;
    let key = |cluster_nodes: &[FakeNode]| cluster_nodes[0].registered.key_epochs.clone();
    for id in cluster.ids() {
        cluster.kill(id);
    }
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    let leader = cluster.leader().await;
    let after = cluster.status_of(leader).await;
    assert_eq!((after.objects, after.bytes, after.buckets), (20, before.bytes, 1));
    assert_eq!((after.cluster_id, after.data_nodes.len()), (before.cluster_id, 3));
    assert!(after.commit_index >= before.commit_index);
    let beaten = nodes[0].send_heartbeat(&cluster, nodes[0].heartbeat()).await;
    assert!(!beaten.register_again);
    assert_eq!(beaten.key_epochs, key(&nodes), "capabilities outlive the servers");
    let writer = writer_of(&cluster, &nodes);
    let commit = writer.commit_request(open.upload_id, writer.written(&open.grants, 1));
    writer.commit(commit).await.unwrap();
}

#[tokio::test]
async fn server_that_lags_behind_gets_a_snapshot() {
    let mut cluster = Cluster::start_with(|config| {
        config.consensus.snapshot_entries = 20;
        config.consensus.log_entries_kept = 5;
    })
    .await;
    writer_of(&cluster, &[]).create_bucket().await;
    let follower = cluster.follower().await;
    let missed = cluster.status_of(follower).await.applied_index;
    cluster.kill(follower);
    let writer = writer_of(&cluster, &[]);
    for number in 0..40 {
        writer.put(&format!("key-{number}"), 0, None).await.unwrap();
    }
    cluster.restart(follower).await;
    all_agree(&cluster).await;
    let caught_up = cluster.status_of(follower).await;
    assert!(caught_up.applied_index > missed + 60, "{missed} {}", caught_up.applied_index);
    assert_eq!(caught_up.objects, 40);

    // It can lead with what it was sent, and after a restart with what it has stored.
    for id in cluster.ids().into_iter().filter(|id| *id != follower) {
        cluster.kill(id);
    }
    cluster.stop(follower).await;
    for id in cluster.ids() {
        cluster.restart(id).await;
    }
    cluster.ready().await;
    all_agree(&cluster).await;
    let get = GetObjectRequest { name: "buckets/photos/objects/key-39".into(), ..Default::default() };
    cluster.call(get, async |mut meta: Meta, request| meta.get_object(request).await).await.unwrap();
}
