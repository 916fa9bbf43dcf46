//! Damage at rest, which nobody reads, and how operators find it.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{Cluster, Content, Member};

use crate::support::{cluster, done, holds, json, put};

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
    flip_a_byte(&cluster, node);
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

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> String {
    let line = cluster.ready_line(node);
    let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    number.expect("a ready line has the id").to_owned()
}

/// In the middle of the object that was put first.
fn flip_a_byte(cluster: &Cluster, node: Member) {
    let segments = cluster.data_dir(node).join("segments");
    let mut files: Vec<_> = fs::read_dir(segments)
        .expect("there are segments")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    files.sort();
    let mut bytes = fs::read(&files[0]).expect("it can be read");
    bytes[600_000] ^= 0x10;
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
