//! Damage at rest, which nobody reads, and how operators find it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{Cluster, ClusterOptions, Content, Member};

use crate::{
    metrics,
    support::{cluster, cluster_with, done, holds, json, put},
};

/// A heartbeat and a pass take less than this.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn damage_that_nobody_reads_is_found_and_shown_and_the_object_is_read_from_other_nodes() {
    let mut cluster = cluster();
    let content = Content::new(1, 1 << 20);
    put(&cluster, "data/rotten", &content);
    // What was written last is looked at by every start.
    put(&cluster, "data/last", &Content::new(2, 1000));
    let node = cluster.all_data_nodes()[0];
    let number = number_of(&cluster, node);
    assert!(cluster.stop(node).expect("it ends"), "it ends well");
    // In the middle of the object that was put first.
    flip_bytes(&cluster, node, [600_000]);
    cluster.restart(node).expect("it comes back");
    assert_eq!(number_of(&cluster, node), number);

    let began = done(&cluster, &["node", "scrub", "start", &number]);
    assert!(began.text().contains("is to start"), "{}", began.text());
    let scrub = until(&cluster, &number, "the damage is found", |scrub| {
        scrub["last_pass"]["damaged_chunks"] == 1 && scrub["state"] == "waiting"
    });
    assert_eq!((&scrub["last_pass"]["chunks"], &scrub["last_pass"]["read_errors"]), (&1.into(), &0.into()));
    assert!(done(&cluster, &["node", "scrub"]).text().contains("DAMAGED"));
    let status = json(&cluster, &["status"]);
    let warnings = status["warnings"].as_array().expect("there is a list");
    assert!(warnings.iter().any(|warning| warning["code"] == "chunks_damaged"), "{status}");
    let nodes = status["data_nodes"].as_array().expect("there is a list");
    let of_node =
        nodes.iter().find(|other| other["id"].as_u64() == number.parse().ok()).expect("it is listed");
    assert_eq!(of_node["chunks"], 1, "what is damaged is out of service");
    for _ in 0..5 {
        holds(&cluster, "data/rotten", &content);
    }

    done(&cluster, &["node", "scrub", "pause", "--all"]);
    for member in cluster.all_data_nodes() {
        until(&cluster, &number_of(&cluster, member), "the pause", |scrub| scrub["state"] == "paused");
    }
    assert!(cluster.stop(node).expect("it ends"));
    cluster.restart(node).expect("it comes back");
    until(&cluster, &number, "it stays paused", |scrub| scrub["state"] == "paused");
    done(&cluster, &["node", "scrub", "resume", &number]);
    until(&cluster, &number, "it goes on", |scrub| scrub["state"] == "waiting");
}

#[test]
fn damage_that_a_reader_meets_is_passed_over_reported_and_mended() {
    let listen = ("XDPFS_META_HTTP_LISTEN".to_owned(), "127.0.0.1:0".to_owned());
    let mut cluster = cluster_with(ClusterOptions { env: vec![listen], ..ClusterOptions::default() });
    done(&cluster, &["mb", "small", "--chunk-size", "65536"]);
    let content = Content::new(1, 4 << 20);
    put(&cluster, "small/rotten", &content);
    // What was written last is looked at by every start.
    put(&cluster, "data/last", &Content::new(2, 1000));
    let node = cluster.all_data_nodes()[0];
    assert!(cluster.stop(node).expect("it ends"), "it ends well");
    // One in each chunk, and a third of those are read from this node first.
    flip_bytes(&cluster, node, (100_000..4_000_000).step_by(65_536));
    cluster.restart(node).expect("it comes back");
    let reports = |cluster: &Cluster| -> f64 {
        let told = cluster.all_meta_servers().into_iter().map(|server| {
            let text = metrics::get(cluster, server, "/metrics");
            metrics::sum(&text, "xdpfs_meta_requests_total", &["MetaService/ReportReplicas\"", "code=\"OK\""])
        });
        told.sum()
    };
    // A leader that has only just begun has nothing to say yet.
    let repaired = |cluster: &Cluster| -> Option<u64> {
        let told = cluster.cli().run(["--json", "repair", "status"]);
        let record: Value = serde_json::from_str(told.text().trim()).ok()?;
        record["chunks_repaired"].as_u64()
    };
    assert_eq!(reports(&cluster), 0.0);
    holds(&cluster, "small/rotten", &content);
    assert!(reports(&cluster) >= 1.0, "whoever gets an object reports before he ends");
    let end = Instant::now() + PATIENCE;
    while repaired(&cluster) < Some(1) {
        assert!(Instant::now() < end, "nothing is mended\n{}", cluster.log_tails());
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(100));
    }
    holds(&cluster, "small/rotten", &content);
}

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> String {
    let line = cluster.ready_line(node);
    let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    number.expect("a ready line has the id").to_owned()
}

/// In the first file of the node's data directory.
fn flip_bytes(cluster: &Cluster, node: Member, places: impl IntoIterator<Item = usize>) {
    let segments = cluster.data_dir(node).join("segments");
    let mut files: Vec<_> = fs::read_dir(segments)
        .expect("there are segments")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    files.sort();
    let mut bytes = fs::read(&files[0]).expect("it can be read");
    places.into_iter().for_each(|place| bytes[place] ^= 0x10);
    fs::write(&files[0], bytes).expect("it can be written");
}

/// The scrub of the node, once it is so.
fn until(cluster: &Cluster, number: &str, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let record = json(cluster, &["node", "scrub", "status", number]);
        if is_so(&record["scrub"]) {
            return record["scrub"].clone();
        }
        assert!(Instant::now() < end, "{what}: {record}\n{}", cluster.log_tails());
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(100));
    }
}
