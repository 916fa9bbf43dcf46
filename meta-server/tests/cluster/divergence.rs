//! A server whose state is not what the others have stops, whoever leads, and nobody else does.

use prost::Message as _;
use tokio::task::JoinSet;
use tonic::Request;
use xdpfs_meta_server::{
    Halt,
    storage::{Change, LogStore as _, SledStore},
};
use xdpfs_proto::{
    members::v1::TransferLeadershipRequest,
    meta::v1::CreateBucketRequest,
    state::v1::{self as state, command::Kind},
};

use crate::harness::{Cluster, Members, eventually, request_id};

/// Tasks that make changes at once, and how many each makes: in all more than one checkpoint is away.
const TASKS: u64 = 32;
const CHANGES: u64 = 100;

fn create(name: String) -> CreateBucketRequest {
    CreateBucketRequest {
        request_id: request_id(),
        name: format!("buckets/{name}"),
        ..CreateBucketRequest::default()
    }
}

async fn create_at_leader(cluster: &Cluster, name: &str) {
    let send = async |mut meta: crate::harness::Meta, request| meta.create_bucket(request).await;
    cluster.call(create(name.to_owned()), send).await.unwrap();
}

/// The server has another bucket than the others, by a log that was spoilt.
async fn spoil(cluster: &mut Cluster, id: u64) {
    cluster.stop(id).await;
    {
        let (mut store, recovered) = SledStore::open(&cluster.data_dir(id).join("store")).unwrap();
        let mut entries = recovered.entries;
        let mut spoilt = 0;
        for entry in entries.iter_mut().filter(|entry| !entry.data.is_empty()) {
            let Ok(mut command) = state::Command::decode(entry.data.clone()) else { continue };
            let Some(Kind::CreateBucket(create)) = &mut command.kind else { continue };
            create.replicas += 1;
            entry.data = command.encode_to_vec().into();
            spoilt += 1;
        }
        assert_eq!(spoilt, 1, "it has the only bucket that there is");
        store.stage(Change::Append(entries));
        store.sync().unwrap();
    }
    cluster.restart(id).await;
}

/// Changes come in from here on, for as long as the result lives.
fn flood(cluster: &Cluster, leader: u64) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let mut meta = cluster.meta(leader);
        tasks.spawn(async move {
            for number in 0..CHANGES {
                // It may cease to lead meanwhile.
                let _ = meta.create_bucket(Request::new(create(format!("b-{task}-{number}")))).await;
            }
        });
    }
    tasks
}

async fn caught_up(cluster: &Cluster, id: u64, leader: u64) {
    eventually("it to catch up", async || {
        let ahead = cluster.status_of(leader).await.commit_index;
        (cluster.status_of(id).await.applied_index >= ahead).then_some(())
    })
    .await;
}

#[tokio::test]
async fn follower_whose_state_is_another_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start().await;
    create_at_leader(&cluster, "first").await;
    let (leader, odd) = (cluster.leader().await, cluster.follower().await);
    spoil(&mut cluster, odd).await;
    caught_up(&cluster, odd, leader).await;
    let _changes = flood(&cluster, leader);
    let halt = cluster.halted(odd).await;
    assert!(matches!(halt, Halt::Diverged { index } if index % 1024 == 0), "{halt}");
    create_at_leader(&cluster, "other").await;
}

#[tokio::test]
async fn leader_whose_state_is_not_that_of_the_majority_stops_and_the_others_go_on() {
    let mut cluster = Cluster::start().await;
    create_at_leader(&cluster, "first").await;
    let (leader, odd) = (cluster.leader().await, cluster.follower().await);
    spoil(&mut cluster, odd).await;
    caught_up(&cluster, odd, leader).await;
    let transfer = TransferLeadershipRequest { request_id: request_id(), id: odd };
    let send = async |mut members: Members, request| members.transfer_leadership(request).await;
    cluster.members_call(transfer, send).await.unwrap();
    let _changes = flood(&cluster, odd);
    let halt = cluster.halted(odd).await;
    assert!(matches!(halt, Halt::Diverged { index } if index % 1024 == 0), "{halt}");
    cluster.kill(odd);
    create_at_leader(&cluster, "other").await;
}
