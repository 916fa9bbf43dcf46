//! What does not belong in the stores of data nodes, or is missing there: planted by hand, found and explained by `fsck`.

use std::{
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::Value;
use xdpfs_chunk_store::{Store, StoreConfig};
use xdpfs_testbed::{CliOutput, Cluster, ClusterOptions, Content, Member};
use xdpfs_wire::ChunkId;

use crate::support::{done, holds, impatient, json, put};

/// What has become garbage is gone by then: a grace, some heartbeats, and inventories in between.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn what_is_planted_in_stores_is_found_and_explained() {
    // Repair moves hardly a byte, so that what is found is not mended before.
    let env = vec![("XDPFS_META_REPAIR_RATE".to_owned(), "1".to_owned())];
    let options = ClusterOptions { meta_servers: 1, data_nodes: 4, env, ..ClusterOptions::default() };
    let mut cluster = Cluster::start(options).expect("the cluster starts");
    done(&cluster, &["mb", "data", "--chunk-size", "64KiB"]);
    let content = Content::new(1, 16 << 16);
    put(&cluster, "data/souvenir", &content);
    put(&cluster, "data/gone", &Content::new(2, 1 << 16));
    let sound = fsck(&cluster, &[], 0);
    assert_eq!(sound["sound"], true);
    assert_eq!((&sound["objects"], &sound["chunks"]), (&2.into(), &17.into()));
    let replicas = sound["nodes"].as_array().expect("there are nodes").iter().map(|node| &node["replicas"]);
    assert_eq!(replicas.filter_map(Value::as_u64).sum::<u64>(), 3 * 17);

    let victim = cluster.all_data_nodes()[0];
    let number = number_of(&cluster, victim);
    let own = chunks_on(&cluster, "data/souvenir", &number);
    let (gone, holders) = chunks_of(&cluster, "data/gone")[0].clone();
    done(&cluster, &["rm", "data/gone"]);
    let others = chunks_of(&cluster, "data/souvenir");
    assert!(own.len() >= 6 && others.len() == 16, "{own:?}");
    let never = ChunkId(gone.0 + (1 << 40));
    assert!(cluster.stop(victim).expect("it ends"), "it ends well");
    let (missing, different) = (&own[..4], own[4]);
    in_store(&cluster, victim, async |store| {
        let mut deleted = missing.to_vec();
        deleted.push(different);
        store.delete(deleted).await.expect("they can be deleted");
        for chunk in [different, never] {
            let bytes = Bytes::from_static(b"other bytes than there should be");
            store.put(chunk, crc32c(&bytes), bytes).await.expect("it can be written");
        }
    });
    // It has no replica of what was deleted, so it will not be told to delete one.
    let stranger = without(&cluster, &holders);
    if stranger != victim {
        assert!(cluster.stop(stranger).expect("it ends"), "it ends well");
    }
    in_store(&cluster, stranger, async |store| {
        let bytes = Bytes::from_static(b"what nobody refers to");
        store.put(gone, crc32c(&bytes), bytes).await.expect("it can be written");
    });
    for node in if stranger == victim { vec![victim] } else { vec![victim, stranger] } {
        cluster.restart(node).expect("it comes back");
    }

    let found = fsck(&cluster, &[], 1);
    let counts = &found["counts"];
    // Repair may move the first of them before it has used up what it may move.
    let is_left =
        |kind: &str, planted: u64| (planted - 1..=planted).contains(&counts[kind].as_u64().unwrap_or(99));
    assert!(is_left("missing", 4), "{found}");
    assert_eq!((&counts["different"], &counts["foreign"]), (&1.into(), &1.into()), "{found}");
    assert_eq!(counts["unreferenced"], 1, "{found}");
    for kind in ["out_of_reach", "node_gone", "too_few", "unknown"] {
        assert_eq!(counts[kind], 0, "{found}");
    }
    for finding in found["findings"].as_array().expect("there are findings") {
        let chunk = finding["chunk"].as_str().expect("it is about a chunk");
        let (kind, explanation) =
            (finding["kind"].as_str(), finding["explanation"].as_str().expect("it is explained"));
        let (object, node) = match kind {
            Some("missing") => {
                assert!(missing.iter().any(|own| own.to_string() == chunk), "{finding}");
                assert!(explanation.contains("nothing is lost"), "{finding}");
                (Some("data/souvenir"), victim)
            }
            Some("different") => {
                assert_eq!(chunk, different.to_string());
                (Some("data/souvenir"), victim)
            }
            Some("unreferenced") => {
                assert!(chunk == gone.to_string() && explanation.contains("--collect"), "{finding}");
                (None, stranger)
            }
            Some("foreign") => {
                assert_eq!(chunk, never.to_string());
                (None, victim)
            }
            _ => panic!("nobody planted {finding}"),
        };
        assert_eq!(finding["object"].as_str(), object);
        assert_eq!(finding["node"].to_string(), number_of(&cluster, node));
    }
    let said = run(&cluster, &["fsck"], 1).text();
    assert!(said.contains("that nothing refers to") && said.contains("of data/souvenir"), "{said}");
    holds(&cluster, "data/souvenir", &content);

    cluster.kill(victim);
    let log = cluster.log(cluster.all_meta_servers()[0]).expect("it has a log");
    assert!(log.contains("an inventory finds") && !log.contains("souvenir"), "no log has names of objects");
    let unasked = until(&cluster, "its silence is told", |record| standing(record, &number) == "silent");
    assert!(run(&cluster, &["fsck"], 1).text().contains("was not asked"), "{unasked}");
}

#[test]
fn garbage_is_collected_after_its_grace_and_nothing_else_is() {
    let options = ClusterOptions { meta_servers: 3, data_nodes: 3, ..impatient() };
    let mut cluster = Cluster::start(options).expect("the cluster starts");
    for bucket in ["data", "thin"] {
        done(&cluster, &["mb", bucket, "--replicas", if bucket == "thin" { "1" } else { "3" }]);
    }
    let content = Content::new(1, 300_000);
    put(&cluster, "data/souvenir", &content);
    put(&cluster, "thin/gone", &Content::new(2, 1000));
    let (gone, nodes) = chunks_of(&cluster, "thin/gone")[0].clone();
    let victim = without(&cluster, &nodes);
    done(&cluster, &["rm", "thin/gone"]);
    assert!(cluster.stop(victim).expect("it ends"), "it ends well");
    // As what a node made for a leader that is no more, of an object that was deleted meanwhile.
    in_store(&cluster, victim, async |store| {
        let bytes = Bytes::from_static(b"what nobody refers to");
        store.put(gone, crc32c(&bytes), bytes).await.expect("it can be written");
    });
    cluster.restart(victim).expect("it comes back");
    let found = fsck(&cluster, &[], 1);
    assert_eq!((&found["counts"]["unreferenced"], &found["collected"]), (&1.into(), &0.into()), "{found}");

    let collected = fsck(&cluster, &["--collect"], 1);
    assert_eq!(collected["collected"], 1, "{collected}");
    assert_eq!(fsck(&cluster, &[], 0)["sound"], true, "a pending delete is no finding");
    let end = Instant::now() + PATIENCE;
    while json(&cluster, &["status"])["pending_deletes"] != 0 {
        assert!(Instant::now() < end, "the grace is over: {}", cluster.log_tails());
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(200));
    }
    let sound = fsck(&cluster, &[], 0);
    let replicas = sound["nodes"].as_array().expect("there are nodes").iter().map(|node| &node["replicas"]);
    let chunks = sound["chunks"].as_u64().expect("it is a number");
    assert_eq!(replicas.filter_map(Value::as_u64).sum::<u64>(), 3 * chunks, "{sound}");
    holds(&cluster, "data/souvenir", &content);
    assert!(cluster.stop(victim).expect("it ends"), "it ends well");
    assert!(!chunks_in(&cluster, victim).contains(&gone), "it is gone from the disk");
}

fn run(cluster: &Cluster, args: &[&str], code: i32) -> CliOutput {
    let output = cluster.cli().invoke(args).within(PATIENCE).run();
    assert_eq!(output.code, Some(code), "{args:?}: {} {}", output.text(), output.stderr);
    output
}

fn fsck(cluster: &Cluster, args: &[&str], code: i32) -> Value {
    let output = run(cluster, &[&["--json", "fsck"], args].concat(), code);
    serde_json::from_str(output.text().trim()).expect("it is JSON")
}

fn until(cluster: &Cluster, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + PATIENCE;
    loop {
        let record = fsck(cluster, &[], 1);
        if is_so(&record) {
            return record;
        }
        assert!(Instant::now() < end, "{what}: {record}");
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(200));
    }
}

fn standing<'a>(record: &'a Value, number: &str) -> &'a str {
    let mut nodes = record["nodes"].as_array().into_iter().flatten();
    let number: u64 = number.parse().expect("nodes have numbers");
    let node = nodes.find(|node| node["node"] == number);
    node.and_then(|node| node["standing"].as_str()).unwrap_or_default()
}

/// The chunks of an object, each with the nodes that its manifest names.
fn chunks_of(cluster: &Cluster, address: &str) -> Vec<(ChunkId, Vec<String>)> {
    let record = json(cluster, &["placement", "explain", address]);
    let chunk = |chunk: &Value| {
        let id = chunk["chunk"].as_str().expect("it has an id").replace('-', "");
        let nodes = chunk["nodes"].as_array().expect("it has nodes").iter().map(Value::to_string);
        (ChunkId(u128::from_str_radix(&id, 16).expect("it is a number")), nodes.collect())
    };
    record["chunks"].as_array().expect("there are chunks").iter().map(chunk).collect()
}

/// A data node that is not among these.
fn without(cluster: &Cluster, numbers: &[String]) -> Member {
    let mut nodes = cluster.all_data_nodes().into_iter();
    nodes.find(|node| !numbers.contains(&number_of(cluster, *node))).expect("not all of them hold it")
}

fn chunks_on(cluster: &Cluster, address: &str, node: &str) -> Vec<ChunkId> {
    let chunks = chunks_of(cluster, address).into_iter();
    chunks.filter(|(_, nodes)| nodes.iter().any(|own| own == node)).map(|(chunk, _)| chunk).collect()
}

/// Does something with the store of a node that does not run.
fn in_store<T>(cluster: &Cluster, node: Member, work: impl AsyncFnOnce(&Store) -> T) -> T {
    let directory = cluster.data_dir(node);
    let uuid = std::fs::read_to_string(directory.join("node-uuid")).expect("the node has a name");
    let uuid = uuid.trim().parse().expect("it is a UUID");
    let (store, _) = Store::open(&StoreConfig::new(directory.join("segments"), uuid)).expect("nobody has it");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("it can be built");
    let worked = runtime.block_on(work(&store));
    store.close();
    worked
}

/// What is in the store of a node that does not run.
fn chunks_in(cluster: &Cluster, node: Member) -> Vec<ChunkId> {
    in_store(cluster, node, async |store| store.chunk_ids(ChunkId(0), usize::MAX))
}

fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> String {
    let line = cluster.ready_line(node);
    let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    number.expect("a ready line has the id").to_owned()
}
