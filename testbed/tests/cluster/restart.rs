//! Members that go and come back, politely.

use std::time::{Duration, Instant};

use xdpfs_testbed::{Cluster, Content, Member};

use crate::support::{cluster, done, get_within, holds, put, put_within};

#[test]
fn any_member_can_be_stopped_and_started_while_the_rest_serves() {
    let mut cluster = cluster();
    let content = Content::new(1, 9 << 20);
    put(&cluster, "data/before", &content);
    let leader = cluster.leader(Duration::from_secs(10)).expect("there is a leader");
    let mut members = vec![leader];
    members.extend(cluster.all_meta_servers().into_iter().filter(|member| *member != leader));
    members.extend(cluster.all_data_nodes());
    for member in members {
        stop(&mut cluster, member);
        let address = format!("data/without-{member}");
        put(&cluster, &address, &content);
        holds(&cluster, "data/before", &content);
        cluster.restart(member).expect("it comes back");
        holds(&cluster, &address, &content);
    }
}

#[test]
fn a_leader_that_is_asked_to_stop_hands_over_at_once() {
    let mut cluster = cluster();
    put(&cluster, "data/key", &Content::new(1, 1000));
    let leader = cluster.leader(Duration::from_secs(10)).expect("there is a leader");
    let began = Instant::now();
    stop(&mut cluster, leader);
    put(&cluster, "data/key", &Content::new(2, 2000));
    let took = began.elapsed();
    println!("from SIGTERM to the next put: {took:?}");
    assert!(took < Duration::from_secs(5), "{took:?}");
    let next = cluster.leader(Duration::from_secs(10)).expect("there is another leader");
    assert_ne!(leader, next);
}

#[test]
fn a_cluster_that_was_stopped_comes_back_with_everything() {
    let mut cluster = cluster();
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    let contents: Vec<(String, Content)> = [0, 1, 4096, 70_000, 300_000, 5 << 20]
        .into_iter()
        .flat_map(|size| {
            ["data", "small-chunks"].map(|bucket| (format!("{bucket}/{size}"), Content::new(size, size)))
        })
        .collect();
    for (address, content) in &contents {
        put(&cluster, address, content);
    }
    put(&cluster, "data/overwritten", &Content::new(7, 100));
    put(&cluster, "data/overwritten", &Content::new(8, 200));
    put(&cluster, "data/deleted", &Content::new(9, 100));
    done(&cluster, &["rm", "data/deleted"]);
    let before = listing(&cluster);
    let id = cluster_id(&cluster);

    for member in cluster.all_data_nodes().into_iter().chain(cluster.all_meta_servers()) {
        stop(&mut cluster, member);
    }
    cluster.restart_all(&cluster.all_meta_servers()).expect("the metadata servers come back");
    cluster.restart_all(&cluster.all_data_nodes()).expect("the data nodes come back");

    assert_eq!(listing(&cluster), before);
    assert_eq!(cluster_id(&cluster), id);
    for (address, content) in &contents {
        holds(&cluster, address, content);
    }
    holds(&cluster, "data/overwritten", &Content::new(8, 200));
    put(&cluster, "data/new", &Content::new(10, 100_000));
    holds(&cluster, "data/new", &Content::new(10, 100_000));
}

/// A hung process keeps its sockets, so nothing but time tells that it does not answer.
#[test]
fn a_data_node_that_hangs_stops_neither_puts_nor_gets() {
    let cluster = cluster();
    let content = Content::new(4, 20 << 20);
    put(&cluster, "data/before", &content);
    for node in cluster.all_data_nodes() {
        cluster.pause(node).expect("it runs");
        let within = Duration::from_secs(30);
        let get = get_within(&cluster, "data/before", &content, within);
        let put = put_within(&cluster, &format!("data/without-{node}"), &content, within);
        cluster.resume(node).expect("it runs");
        println!("{node} hung: get took {:?}, put {:?}", get.took, put.took);
        assert_eq!((get.code, put.code), (Some(0), Some(0)), "{node}: {} {}", get.stderr, put.stderr);
        let all_alive = cluster.await_status(Duration::from_secs(30), |status| status.data_nodes_alive == 3);
        assert!(all_alive.is_some(), "{node} is not alive again");
    }
}

fn stop(cluster: &mut Cluster, member: Member) {
    let is_clean = cluster.stop(member).unwrap_or_else(|error| panic!("{error}"));
    assert!(is_clean, "{member} did not exit with 0");
}

fn listing(cluster: &Cluster) -> Vec<String> {
    ["data", "small-chunks"]
        .iter()
        .flat_map(|bucket| {
            let text = done(cluster, &["--json", "ls", "-r", bucket]).text();
            text.lines().map(ToOwned::to_owned).collect::<Vec<_>>()
        })
        .collect()
}

fn cluster_id(cluster: &Cluster) -> String {
    let status = cluster.status().expect("somebody answers");
    status.raw["cluster_id"].as_str().expect("it has one").to_owned()
}
