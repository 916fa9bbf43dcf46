//! A data node joins and gets its share of what the others hold, while clients put, get, overwrite and delete without a pause, an
//! operator holds it for a while, and leaders and data nodes are killed. Every object stays readable, byte by byte, with all of its
//! replicas, and in the end each node holds its share.

use std::{
    collections::BTreeSet,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{
    Cluster, ClusterOptions, Member,
    kept::{self, Kept},
    load::{BUCKET, CHUNK_SIZE, Load},
};

const SEED: u64 = 1;
const DATA_NODES: usize = 3;
/// Objects that are written once and read all the time.
const KEPT: u64 = 60;
const REPLICAS: usize = 3;
/// So slow that what happens meanwhile happens in the midst of it.
const RATE: &str = "1MiB";
const WITHIN: Duration = Duration::from_secs(120);
/// As many percent as no node is off its share by in the end.
const OFF_MAX: u64 = 15;

#[test]
fn node_that_joins_gets_its_share_whatever_happens_meanwhile() {
    let mut cluster = Cluster::start(options()).expect("the cluster starts");
    for bucket in [BUCKET, kept::BUCKET] {
        assert_eq!(cluster.cli().run(["mb", bucket, "--chunk-size", CHUNK_SIZE]).code, Some(0));
    }
    let kept = Kept::put(cluster.cli(), KEPT);
    let mut load = Load::start(vec![cluster.cli().clone()], SEED);
    let readers = kept.read_all_the_time();
    let is_in = |state: &'static str| move |record: &Value| record["state"] == state;
    until(&cluster, &["rebalance", "status"], "three nodes are even", is_in("even"));

    let began = Instant::now();
    let newcomer = cluster.join_data_node().expect("a data node joins");
    let plan = until(&cluster, &["rebalance", "plan"], "there is something to move", |record| {
        record["uneven"] == true
    });
    let (bytes, least) = (number(&plan["bytes"]), number(&plan["least_bytes"]));
    println!("{bytes} bytes are to be moved, at least {least}; that takes {} s", plan["seconds"]);
    assert!(bytes > 0 && bytes * 10 <= least * 11, "{plan}");
    until(&cluster, &["rebalance", "status"], "chunks move", |record| number(&record["chunks_moved"]) >= 8);

    done(&cluster, &["rebalance", "pause"]);
    let leader = cluster.leader(WITHIN).expect("somebody leads");
    cluster.kill(leader);
    cluster.next_leader(leader, WITHIN).expect("another one leads");
    until(&cluster, &["rebalance", "status"], "the next leader holds it, too", |record| {
        record["state"] == "paused" && record["in_progress"] == 0
    });
    assert_eq!(number(&status(&cluster)["chunks_moved"]), 0, "it has moved nothing");
    done(&cluster, &["rebalance", "resume"]);
    cluster.restart(leader).expect("it comes back");

    until(&cluster, &["rebalance", "status"], "chunks move again", |record| {
        number(&record["chunks_moved"]) >= 8
    });
    cluster.kill(newcomer);
    cluster.restart(newcomer).expect("it comes back");
    let victim = Member::DataNode(0);
    cluster.kill(victim);
    cluster.restart(victim).expect("it comes back");
    let leader = cluster.leader(WITHIN).expect("somebody leads");
    cluster.kill(leader);
    cluster.restart(leader).expect("it comes back");

    until(&cluster, &["rebalance", "status"], "all nodes are even", is_in("even"));
    println!("each node holds its share after {:.1?}", began.elapsed());
    load.stop();
    let reads = readers.stop();
    load.judge();
    kept.check();
    let summary = load.check().unwrap_or_else(|violation| panic!("seed {SEED}: {violation}"));
    println!("{summary}; {reads} reads of what was kept");
    assert!(reads >= KEPT, "hardly anything was read: {reads}");
    check_replicas(&cluster, &kept, &number_of(&cluster, newcomer));
    let record = status(&cluster);
    let nodes = record["nodes"].as_array().expect("there are nodes");
    assert_eq!(nodes.len(), DATA_NODES + 1, "{record}");
    for node in nodes {
        let (held, share) = (number(&node["bytes"]), number(&node["share_bytes"]));
        assert!(held.abs_diff(share) * 100 <= share * OFF_MAX, "{record}");
    }
}

fn options() -> ClusterOptions {
    let settings = [
        ("NODE_SILENT_AFTER_S", "2"),
        ("NODE_LEASE_S", "4"),
        ("REBALANCE_AFTER_S", "2"),
        ("REBALANCE_RATE", RATE),
        // What was moved away is in its way back for as long.
        ("CAPABILITY_S", "12"),
        ("UPLOAD_LEASE_S", "12"),
        ("DELETION_GRACE_S", "13"),
    ];
    let env = settings.map(|(name, value)| (format!("XDPFS_META_{name}"), value.to_owned())).to_vec();
    ClusterOptions { data_nodes: DATA_NODES, env, ..ClusterOptions::default() }
}

/// Every chunk of what is kept has all of its replicas, on distinct nodes, and some lie on this one.
fn check_replicas(cluster: &Cluster, kept: &Kept, newcomer: &str) {
    let newcomer: u64 = newcomer.parse().expect("it is a number");
    let mut on_newcomer = 0;
    for address in kept.addresses() {
        let record = json(cluster, &["placement", "explain", address]).expect("it is explained");
        for chunk in record["chunks"].as_array().expect("there are chunks") {
            let nodes: BTreeSet<u64> =
                chunk["nodes"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
            assert_eq!(nodes.len(), REPLICAS, "{address}: {record}");
            on_newcomer += usize::from(nodes.contains(&newcomer));
        }
    }
    assert!(on_newcomer > 0, "no chunk of what was kept has moved");
}

fn json(cluster: &Cluster, args: &[&str]) -> Option<Value> {
    let output = cluster.cli().run(["--json"].iter().chain(args));
    if output.code == Some(0) { serde_json::from_str(output.text().trim()).ok() } else { None }
}

fn done(cluster: &Cluster, args: &[&str]) {
    let output = cluster.cli().run(args);
    assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
}

/// What a command says, once it is so.
fn until(cluster: &Cluster, args: &[&str], what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + WITHIN;
    loop {
        let record = json(cluster, args);
        if let Some(record) = record.as_ref().filter(|record| is_so(record)) {
            return record.clone();
        }
        assert!(Instant::now() < end, "{what}: {record:?}");
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(200));
    }
}

fn status(cluster: &Cluster) -> Value {
    // A leader that has only just begun has nothing to say yet.
    until(cluster, &["rebalance", "status"], "the leader says how it is", |_| true)
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_else(|| panic!("{value} is no number"))
}

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> String {
    let line = cluster.ready_line(node);
    let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    number.expect("a ready line has the id").to_owned()
}
