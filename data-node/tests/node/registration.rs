//! Finding the leader, becoming known to it, and what a change of either does.

use std::{collections::BTreeSet, sync::Arc};

use tempfile::TempDir;
use tokio::task::JoinSet;
use xdpfs_data_node::{Config, DataNode, DirectoryError, NodeFailure, OwnAddress, StartError, StoreOptions};
use xdpfs_transport::TransferError;
use xdpfs_wire::{NodeId, Status};

use crate::{
    config,
    fake_meta::{CLUSTER_ID, FakeMeta, Heard, NODE_ID, Role},
    start,
    writer::{Writer, bytes_of, chunk},
};

fn request_ids(meta: &FakeMeta) -> BTreeSet<String> {
    meta.heard().registrations.iter().map(|request| request.request_id.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn node_tells_who_and_where_it_is() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let told = Config {
        advertise: Some(OwnAddress::At("node-a.example:7100".into())),
        direct: Some(OwnAddress::At("10.0.0.7:7100".into())),
        failure_domain: "rack-9".into(),
        store: StoreOptions { capacity_bytes: Some(1 << 30), ..StoreOptions::default() },
        ..config(&home, &meta)
    };
    let node = DataNode::start(told).await.unwrap();
    assert_eq!(node.node_id(), NodeId(NODE_ID));
    let request = meta.heard().registrations[0].clone();
    assert_eq!(request.address, "node-a.example:7100");
    assert_eq!(request.direct_address, "10.0.0.7:7100");
    assert_eq!(request.failure_domain, "rack-9");
    assert_eq!(request.capacity_bytes, 1 << 30);
    node.shutdown().await;

    let node = start(&home, &meta).await;
    assert_eq!(meta.heard().registrations[1].address, node.address().to_string());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_is_found_by_hint_and_followed_when_it_changes() {
    let (home, first, second) = (TempDir::new().unwrap(), FakeMeta::start().await, FakeMeta::start().await);
    first.heard().role = Role::Follower(Some(second.address));
    // Only the follower is configured; the leader is known by the hint alone.
    let node = start(&home, &first).await;
    assert!(first.heard().registrations.is_empty());
    assert_eq!(second.heard().registrations.len(), 1);
    second.next_heartbeat().await;

    second.heard().role = Role::Follower(Some(first.address));
    first.heard().role = Role::Leader;
    first.next_heartbeat().await;
    assert_eq!(second.heard().registrations.len(), 1, "another leader is no reason to register again");
    assert!(first.heard().registrations.is_empty());
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_and_absent_servers_are_passed_over() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let follower = FakeMeta::start().await;
    follower.heard().role = Role::Follower(None);
    let absent = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let endpoints = vec![absent.to_string().parse().unwrap(), follower.endpoint(), meta.endpoint()];
    let node = DataNode::start(Config { meta: endpoints, ..config(&home, &meta) }).await.unwrap();
    meta.next_heartbeat().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn repeated_registration_keeps_its_request_id() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    // An answer that makes no sense is as good as none.
    meta.heard().cluster_id = String::new();
    let starting = tokio::spawn(DataNode::start(config(&home, &meta)));
    meta.until("two attempts", |heard| (heard.registrations.len() >= 2).then_some(())).await;
    meta.heard().cluster_id = "red".into();
    let node = starting.await.unwrap().unwrap();
    assert_eq!(request_ids(&meta).len(), 1);
    assert_eq!(meta.heard().epoch(), 1);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_registers_again_when_it_is_told_to() {
    for unknown in [false, true] {
        let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
        let node = start(&home, &meta).await;
        let writer = Writer::to(&node);
        writer.write_checked(&meta, chunk(1), &bytes_of(chunk(1), 10_000)).await;
        if unknown {
            meta.heard().node_unknown = true;
        } else {
            meta.heard().register_again = true;
        }
        meta.until("another registration", |heard| (heard.epoch() == 2).then_some(())).await;
        meta.until("a heartbeat of it", |heard| {
            heard.heartbeats.last().filter(|beat| beat.node_epoch == 2).map(|_| ())
        })
        .await;
        let stale = writer.write(1, chunk(2), &bytes_of(chunk(2), 10_000)).await;
        assert_eq!(stale, Err(TransferError::Refused(Status::StaleNode)));
        writer.write_checked(&meta, chunk(1), &bytes_of(chunk(1), 10_000)).await;
        writer.write_checked(&meta, chunk(2), &bytes_of(chunk(2), 10_000)).await;
        assert_eq!(request_ids(&meta).len(), 2);
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn receipts_never_mix_two_registrations() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let (writer, meta) = (Arc::new(Writer::to(&node)), Arc::new(meta));
    let mut writes = JoinSet::new();
    for client in 0..4_u64 {
        let (writer, meta) = (Arc::clone(&writer), Arc::clone(&meta));
        writes.spawn(async move {
            let mut receipts = Vec::new();
            let mut number = 0;
            while receipts.len() < 30 || meta.heard().epoch() < 12 {
                number += 1;
                let id = chunk(client << 32 | number);
                let epoch = meta.heard().epoch();
                match writer.write(epoch, id, &bytes_of(id, 3000)).await {
                    Ok(receipt) => receipts.push(receipt),
                    Err(error) => assert_eq!(error, TransferError::Refused(Status::StaleNode)),
                }
            }
            receipts
        });
    }
    // A node that never finds its registration in place would take itself for one of two.
    let in_place = |heard: &Heard| {
        let beaten = heard.heartbeats.last().is_some_and(|last| last.node_epoch == u32::from(heard.epoch()));
        (beaten && !heard.register_again).then_some(())
    };
    let mut receipts = Vec::new();
    while !writes.is_empty() {
        meta.heard().register_again = true;
        tokio::select! {
            done = writes.join_next() => receipts.extend(done.unwrap().unwrap()),
            () = meta.until("another registration", in_place) => {}
        }
    }
    let keys = meta.heard().receipt_keys.clone();
    let epochs: BTreeSet<_> = receipts.iter().map(|receipt| receipt.node_epoch.0).collect();
    assert!(epochs.len() > 3, "{epochs:?}");
    for receipt in receipts {
        assert!(keys[&receipt.node_epoch.0].verifies(&receipt), "{receipt:?}");
    }
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_of_another_cluster_does_not_start() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    start(&home, &meta).await.shutdown().await;
    meta.heard().cluster_id = "blue".into();
    let unnoticed = DataNode::start(config(&home, &meta)).await;
    let failure = unnoticed.expect_err("the directory knows its cluster, even if the service doesn't ask");
    assert!(matches!(failure, StartError::Refused(NodeFailure::WrongCluster { .. })), "{failure:?}");
    assert!(failure.to_string().contains("blue"), "{failure}");

    meta.heard().role = Role::Refusing("WRONG_CLUSTER");
    let refused = DataNode::start(config(&home, &meta)).await.expect_err("the service refuses");
    assert!(matches!(refused, StartError::Refused(NodeFailure::WrongCluster { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn running_node_fails_when_the_cluster_turns_out_to_be_another() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    meta.next_heartbeat().await;
    meta.heard().role = Role::Refusing("WRONG_CLUSTER");
    let failure = node.failed().await;
    assert!(matches!(failure, NodeFailure::WrongCluster { .. }), "{failure:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_says_whose_orders_it_obeys() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    assert_eq!(meta.next_heartbeat().await.cluster_id, CLUSTER_ID);
    let report = meta.until("a report", |heard| heard.reports.first().cloned()).await;
    assert_eq!(report.cluster_id, CLUSTER_ID);
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_whose_registration_is_always_taken_over_fails() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    meta.heard().register_again_always = true;
    let node = start(&home, &meta).await;
    let failure = node.failed().await;
    assert!(matches!(failure, NodeFailure::Superseded), "{failure:?}");
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_a_leader_serves_on() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let writer = Writer::to(&node);
    meta.next_heartbeat().await;
    meta.heard().role = Role::Follower(None);
    writer.write_checked(&meta, chunk(1), &bytes_of(chunk(1), 10_000)).await;
    assert!(writer.read(chunk(1), 0..10_000).await.unwrap() == bytes_of(chunk(1), 10_000));
    meta.heard().role = Role::Leader;
    meta.next_heartbeat().await;
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn directory_in_use_is_refused() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let node = start(&home, &meta).await;
    let second = DataNode::start(config(&home, &meta)).await.expect_err("the directory is taken");
    assert!(matches!(second, StartError::Directory(DirectoryError::Locked { .. })), "{second:?}");
    assert_eq!(meta.heard().epoch(), 1, "it never got as far as registering");
    node.shutdown().await;
    start(&home, &meta).await.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn start_that_is_given_up_lets_go_of_the_directory() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    meta.heard().role = Role::Follower(None);
    let starting = tokio::spawn(DataNode::start(config(&home, &meta)));
    // The lock's file is there once the directory is open.
    let lock = home.path().join("data").join("segments").join("LOCK");
    while !lock.exists() {
        tokio::task::yield_now().await;
    }
    starting.abort();
    assert!(starting.await.is_err());
    meta.heard().role = Role::Leader;
    // What blocks may end a little after the task that was aborted.
    let node = loop {
        match DataNode::start(config(&home, &meta)).await {
            Ok(node) => break node,
            Err(StartError::Directory(DirectoryError::Locked { .. }) | StartError::Store(_)) => {
                tokio::task::yield_now().await;
            }
            Err(other) => panic!("{other:?}"),
        }
    };
    node.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn node_without_a_word_of_the_leader_takes_no_writes_and_goes_on_reading() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    meta.heard().lease_ms = 1000;
    let node = start(&home, &meta).await;
    meta.next_heartbeat().await;
    let writer = Writer::to(&node);
    let data = bytes_of(chunk(1), 1000);
    writer.write_checked(&meta, chunk(1), &data).await;

    meta.heard().role = Role::Refusing("OVERLOADED");
    let epoch = meta.heard().epoch();
    // Half of the lease is over at some moment, and from then on it is.
    let mut number = 2;
    while let Ok(receipt) = writer.write(epoch, chunk(number), &data).await {
        assert_eq!(receipt.chunk, chunk(number));
        number += 1;
    }
    let refused = writer.write(epoch, chunk(number), &data).await;
    assert_eq!(refused.unwrap_err(), TransferError::Refused(Status::StaleNode));
    assert!(writer.read(chunk(1), 0..data.len() as u32).await.unwrap() == data);

    meta.heard().role = Role::Leader;
    // When it sends the second one, it has heard the answer to the first.
    meta.next_heartbeat().await;
    meta.next_heartbeat().await;
    writer.write_checked(&meta, chunk(number), &data).await;
    node.shutdown().await;
}
