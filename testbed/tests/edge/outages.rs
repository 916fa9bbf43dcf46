//! What an edge, its interfaces and its nodes live through while objects come and go.

use std::{thread, time::Instant};

use xdpfs_testbed::{Cluster, Content, LanOptions, Member};

use crate::{
    pausing::{Watch, pausing},
    support::{PATIENCE, behind_edges, holds, options, put, rate},
};

const MODES: [&str; 3] = ["native", "generic", "off"];

#[test]
fn interface_of_a_node_is_deleted_and_made_again_during_a_get() {
    let mut cluster = behind_edges(LanOptions::default(), &["--xdp", "native"]);
    let content = Content::new(1, 64 << 20);
    put(&cluster, "data/key", &content);
    for mode in MODES {
        cluster.restart_edge(0, &options(&["--xdp", mode])).unwrap_or_else(|error| panic!("{error}"));
        let lan = cluster.lan();
        let third = content.len() / 3;
        get_while(&cluster, &content, &[third, 2 * third], |watch| {
            watch.at_next_stop(|| lan.unplug(0).unwrap());
            watch.at_next_stop(|| lan.plug(0).unwrap());
        });
        // The new interface serves: nobody else could.
        let is_alive = cluster.await_status(PATIENCE, |status| status.data_nodes_alive == 3);
        assert!(is_alive.is_some(), "{mode}: the node is back");
        for other in [1, 2] {
            lan.unplug(other).unwrap();
        }
        let took = holds(&cluster, "data/key", &content);
        println!("{mode}: from the node that came back, {:.0} MB/s", rate(&content, took));
        for other in [1, 2] {
            lan.plug(other).unwrap();
        }
        let is_alive = cluster.await_status(PATIENCE, |status| status.data_nodes_alive == 3);
        assert!(is_alive.is_some(), "{mode}: all nodes are back");
        put(&cluster, "data/after", &Content::new(2, 1 << 20));
    }
}

#[test]
fn put_goes_on_while_no_edge_process_runs() {
    let mut cluster = behind_edges(LanOptions::default(), &["--xdp", "native"]);
    let content = Content::new(1, 96 << 20);
    let quarter = content.len() / 4;
    let arrived = |cluster: &Cluster| -> u64 {
        let ends = (0..3).map(|node| cluster.lan().node_end(node));
        ends.map(|end| end.namespace.bytes_received(end.device).unwrap()).sum()
    };
    let (stream, watch) = pausing(content.clone(), &[quarter, 3 * quarter]);
    let cli = cluster.cli().clone();
    let put =
        thread::spawn(move || cli.invoke(["put", "-", "data/key"]).stdin(stream).within(PATIENCE).run());
    let before = watch.at_next_stop(|| {
        cluster.kill(Member::Edge(0));
        arrived(&cluster)
    });
    let meanwhile = watch.at_next_stop(|| {
        let meanwhile = arrived(&cluster) - before;
        cluster.restart(Member::Edge(0)).unwrap_or_else(|error| panic!("{error}"));
        meanwhile
    });
    let put = put.join().unwrap();
    assert_eq!(put.code, Some(0), "{}", put.stderr);
    println!("{meanwhile} bytes reached nodes while no edge process ran");
    // Two quarters for three nodes, less what the client may keep.
    assert!(meanwhile > 4 * quarter, "{meanwhile}");
    holds(&cluster, "data/key", &content);
}

#[test]
fn edge_that_is_killed_and_started_again_loses_no_packet_in_between() {
    let mut cluster = behind_edges(LanOptions::default(), &["--xdp", "native"]);
    let content = Content::new(1, 16 << 20);
    put(&cluster, "data/key", &content);
    for round in 0..3 {
        cluster.kill(Member::Edge(0));
        // Nobody but the kernel is there.
        put(&cluster, &format!("data/{round}"), &content);
        holds(&cluster, "data/key", &content);
        let began = Instant::now();
        cluster.restart(Member::Edge(0)).unwrap_or_else(|error| panic!("{error}"));
        println!("started again within {:?}", began.elapsed());
        holds(&cluster, &format!("data/{round}"), &content);
    }
}

#[test]
fn edges_of_different_epochs_serve_side_by_side() {
    let mut cluster = behind_edges(LanOptions { edges: 2, ..LanOptions::default() }, &["--xdp", "native"]);
    let content = Content::new(1, 16 << 20);
    put(&cluster, "data/before", &content);
    // The first edge hears nothing from now on, and its kernel program goes on by what it knew.
    cluster.pause(Member::Edge(0)).unwrap();
    for node in cluster.all_data_nodes() {
        assert!(cluster.stop(node).unwrap(), "{node} ends well");
        cluster.restart(node).unwrap_or_else(|error| panic!("{error}"));
    }
    let is_alive = cluster.await_status(PATIENCE, |status| status.data_nodes_alive == 3);
    assert!(is_alive.is_some(), "all nodes are registered anew");
    holds(&cluster, "data/before", &content);
    put(&cluster, "data/after", &content);
    holds(&cluster, "data/after", &content);
    cluster.resume(Member::Edge(0)).unwrap();
    put(&cluster, "data/caught-up", &content);
    holds(&cluster, "data/caught-up", &content);
}

/// Gets the object that is kept as `data/key`, and does something meanwhile.
fn get_while(cluster: &Cluster, content: &Content, stops: &[u64], meanwhile: impl FnOnce(&Watch)) {
    let check = content.shared_check();
    let (stream, watch) = pausing(check.clone(), stops);
    let cli = cluster.cli().clone();
    let get =
        thread::spawn(move || cli.invoke(["get", "data/key", "-"]).stdout(stream).within(PATIENCE).run());
    meanwhile(&watch);
    let get = get.join().unwrap();
    assert!(get.stream_error.is_none(), "{:?}", get.stream_error);
    assert_eq!(get.code, Some(0), "{}", get.stderr);
    check.finish().unwrap();
}
