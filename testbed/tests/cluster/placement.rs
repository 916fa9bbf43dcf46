//! Labels, what they do to placement, and what operators are told of it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, Member};

use crate::support::{cluster_with, done, holds, json, put};

const CHUNK: u64 = 64 << 10;

/// Two data nodes in each of three zones.
fn three_zones() -> Cluster {
    let labels = ["zone=a", "zone=a", "zone=b", "zone=b", "zone=c", "zone=c"];
    let data_node_labels = labels.map(str::to_owned).to_vec();
    let cluster =
        cluster_with(ClusterOptions { data_nodes: 6, data_node_labels, ..ClusterOptions::default() });
    done(&cluster, &["mb", "small", "--chunk-size", "64KiB"]);
    cluster
}

/// The JSON lines that a command printed.
fn lines(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let text = done(cluster, &[&["--json"], args].concat()).text();
    text.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect()
}

/// Of each node, the value of a label.
fn labels(cluster: &Cluster, key: &str) -> BTreeMap<u64, String> {
    let nodes = lines(cluster, &["node", "list"]);
    nodes
        .iter()
        .filter_map(|node| Some((node["id"].as_u64()?, node["labels"][key].as_str()?.to_owned())))
        .collect()
}

/// The nodes of each chunk, as `stat` says it, and the chunk's bytes.
fn chunks(cluster: &Cluster, address: &str) -> Vec<(Vec<u64>, u64)> {
    let stat = json(cluster, &["stat", "--chunks", address]);
    let chunk = |chunk: &Value| {
        let nodes = chunk["nodes"].as_array()?.iter();
        let nodes = nodes.map(|node| node.as_str()?.parse().ok()).collect::<Option<_>>()?;
        Some((nodes, chunk["length"].as_u64()?))
    };
    let chunks: Option<_> = stat["chunks"].as_array().expect("chunks").iter().map(chunk).collect();
    chunks.expect("chunks have nodes and a length")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is a number"))
}

#[test]
fn objects_lie_in_distinct_zones_and_all_that_is_told_agrees() {
    let cluster = three_zones();
    let zones = labels(&cluster, "zone");
    assert_eq!(zones.len(), 6, "{zones:?}");
    let addresses: Vec<String> = (0..10).map(|at| format!("small/{at}")).collect();
    for (at, address) in addresses.iter().enumerate() {
        put(&cluster, address, &Content::new(at as u64, 5 * CHUNK + 17 * at as u64));
    }
    let mut held: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for address in &addresses {
        let said = json(&cluster, &["placement", "explain", address]);
        let chunks = chunks(&cluster, address);
        assert_eq!(number(&said["chunk_count"]), chunks.len() as u64);
        assert_eq!(number(&said["spreads"]["zones"]), chunks.len() as u64, "{said}");
        for ((nodes, length), explained) in chunks.iter().zip(said["chunks"].as_array().expect("chunks")) {
            let distinct: BTreeSet<&String> = nodes.iter().map(|node| &zones[node]).collect();
            assert_eq!((nodes.len(), distinct.len()), (3, 3), "{address}: {nodes:?}");
            let explained: Vec<u64> =
                explained["nodes"].as_array().expect("nodes").iter().map(number).collect();
            assert_eq!(&explained, nodes, "{address}");
            for node in nodes {
                let (replicas, bytes) = held.entry(*node).or_default();
                (*replicas, *bytes) = (*replicas + 1, *bytes + length);
            }
        }
    }

    for (node, (replicas, bytes)) in &held {
        let plan = json(&cluster, &["node", "drain-plan", &node.to_string()]);
        assert_eq!((number(&plan["replicas"]), number(&plan["bytes"])), (*replicas, *bytes), "{plan}");
        assert_eq!(
            (&plan["dry_run"], &plan["fits"], &plan["complete"]),
            (&true.into(), &true.into(), &true.into())
        );
        let target = &plan["targets"][0];
        assert_eq!(zones[&number(&target["node"])], zones[node], "the other node of the zone: {plan}");
        assert_eq!(plan["targets"].as_array().map(Vec::len), Some(1), "{plan}");
    }
    let one_zone_left = json(&cluster, &["node", "drain-plan", "1", "2", "3", "4"]);
    assert_eq!(one_zone_left["fits"], false, "{one_zone_left}");
    assert!(number(&one_zone_left["replicas_unplaced"]) > 0, "{one_zone_left}");
    // It was a plan only.
    for (at, address) in addresses.iter().enumerate() {
        holds(&cluster, address, &Content::new(at as u64, 5 * CHUNK + 17 * at as u64));
    }
}

#[test]
fn operators_labels_decide_where_chunks_go_and_outlive_every_process() {
    let mut cluster = cluster_with(ClusterOptions { data_nodes: 4, ..ClusterOptions::default() });
    done(&cluster, &["mb", "small", "--chunk-size", "64KiB"]);
    // Four nodes on two hosts: two failure domains, and a third replica on another disk.
    for (node, host) in [(1, "h1"), (2, "h1"), (3, "h2"), (4, "h2")] {
        let set = json(&cluster, &["node", "label", &node.to_string(), &format!("host={host}")]);
        assert_eq!(set["labels"]["host"], host);
    }
    let refused = cluster.cli().run(["node", "label", "1", "host=h9"]);
    assert_eq!(refused.code, Some(4), "{}", refused.stderr);
    assert!(refused.stderr.contains("--overwrite"), "{}", refused.stderr);
    assert_eq!(cluster.cli().run(["node", "label", "99", "host=h9"]).code, Some(3));
    assert_eq!(cluster.cli().run(["node", "label", "1", "Host=h9"]).code, Some(2));
    let content = Content::new(1, 20 * CHUNK);
    put(&cluster, "small/one", &content);
    let of_hosts = |nodes: &[u64]| nodes.iter().map(|node| (node - 1) / 2).collect::<BTreeSet<u64>>().len();
    for (nodes, _) in chunks(&cluster, "small/one") {
        assert_eq!((nodes.len(), of_hosts(&nodes)), (3, 2), "{nodes:?}");
    }
    let said = json(&cluster, &["placement", "explain", "small/one"]);
    assert_eq!(number(&said["spreads"]["disks"]), 20, "{said}");

    let everybody: Vec<Member> =
        cluster.all_meta_servers().into_iter().chain(cluster.all_data_nodes()).collect();
    for member in &everybody {
        cluster.stop(*member).expect("it stops");
    }
    cluster.restart_all(&everybody).expect("all come back");
    let hosts: Vec<String> = labels(&cluster, "host").into_values().collect();
    assert_eq!(hosts, ["h1", "h1", "h2", "h2"]);
    holds(&cluster, "small/one", &content);

    done(&cluster, &["node", "label", "4", "host=h3", "--overwrite"]);
    done(&cluster, &["node", "label", "1", "host-"]);
    let new = json(&cluster, &["placement", "explain", "small/two"]);
    assert!(new["object"].is_null(), "{new}");
    put(&cluster, "small/two", &content);
    let domains = |node: u64| if node == 2 { 0 } else { node };
    for (nodes, _) in chunks(&cluster, "small/two") {
        let distinct: BTreeSet<u64> = nodes.iter().map(|node| domains(*node)).collect();
        assert_eq!(distinct.len(), 3, "each node is a host of its own by now: {nodes:?}");
    }
    let shown = json(&cluster, &["node", "show", "4"]);
    assert_eq!(
        (&shown["failure_domain"], &shown["version"]),
        (&"h3".into(), &env!("CARGO_PKG_VERSION").into())
    );
    assert!(shown["registered"].is_string(), "{shown}");
}
