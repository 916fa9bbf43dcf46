//! Nodes that are all started alike: each finds a directory and an address of its own.

use std::collections::BTreeSet;

use tempfile::TempDir;
use xdpfs_data_node::{Config, DataNode, DataPlace, OwnAddress};

use crate::{config, fake_meta::FakeMeta};

#[tokio::test(flavor = "multi_thread")]
async fn nodes_below_one_root_are_different_ones_and_stay_who_they_are() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let alike = || Config { data: DataPlace::Root(home.path().join("nodes")), ..config(&home, &meta) };
    let uuids = |meta: &FakeMeta, from: usize| -> BTreeSet<String> {
        meta.heard().registrations[from..].iter().map(|request| request.node_uuid.clone()).collect()
    };
    let mut nodes = Vec::new();
    for _ in 0..3 {
        nodes.push(DataNode::start(alike()).await.unwrap());
    }
    let first = uuids(&meta, 0);
    assert_eq!(first.len(), 3);
    for node in nodes.drain(..) {
        node.shutdown().await;
    }
    let before = meta.heard().registrations.len();
    for _ in 0..3 {
        nodes.push(DataNode::start(alike()).await.unwrap());
    }
    assert_eq!(uuids(&meta, before), first);
    for node in nodes {
        node.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn node_on_all_addresses_finds_the_one_that_others_reach_it_at() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let told = Config {
        listen: "0.0.0.0:0".parse().unwrap(),
        advertise: Some(OwnAddress::At("edge.example:7400".into())),
        direct: Some(OwnAddress::Auto),
        ..config(&home, &meta)
    };
    let node = DataNode::start(told).await.unwrap();
    let request = meta.heard().registrations[0].clone();
    assert_eq!(request.address, "edge.example:7400");
    // The metadata service is on loopback, so that is where it would be spoken to from.
    assert_eq!(request.direct_address, format!("127.0.0.1:{}", node.address().port()));
    node.shutdown().await;
}
