//! Data nodes are lost for good, lose their directory, are frozen for longer than their lease, rot, and are freed, while clients put,
//! get, overwrite, move and delete without a pause. Nobody repairs anything by hand: every object stays readable, byte by byte, and
//! soon every chunk has all its replicas again.
//!
//! `XDPFS_TEST_EVENTS` says how many blows there are; `XDPFS_TEST_SEED` says which.

use std::{
    collections::BTreeMap,
    env, fs, thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use xdpfs_testbed::{
    Cluster, ClusterOptions, Member, Rng,
    kept::{self, Kept},
    load::{BUCKET, CHUNK_SIZE, Load},
};

const EVENTS: u64 = 6;
const SEED: u64 = 1;
const DATA_NODES: usize = 5;
/// Objects that are written once and read all the time.
const KEPT: u64 = 12;
/// Of the metadata servers: when a node is silent, when its registration is over, when its chunks are made anew.
const SILENT_S: u64 = 2;
const LEASE_S: u64 = 4;
const REPAIR_AFTER_S: u64 = 4;
/// A replica that was moved away from a node is in its way back for as long.
const GRACE_S: u64 = 13;
/// How soon after a blow every chunk has all its replicas again.
const WHOLE_WITHIN: Duration = Duration::from_secs(90);
/// Operations that clients get done after a blow, and how soon.
const GOES_ON_FOR: u64 = 20;
const GOES_ON_WITHIN: Duration = Duration::from_secs(30);

/// What happens to a data node.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Blow {
    /// It is asked to hold nothing any more, and then is used again.
    Drain,
    /// It is frozen for longer than its lease.
    Freeze,
    /// It is killed, stays away until all is repaired, and comes back with what it had.
    Leave,
    /// It is killed and removed; another one takes its seat, with an empty directory.
    Lose,
    /// Some bytes of what it holds flip.
    Rot,
    /// It is killed, and comes back with an empty directory.
    Wipe,
}

const BLOWS: [Blow; 6] = [Blow::Leave, Blow::Freeze, Blow::Rot, Blow::Drain, Blow::Wipe, Blow::Lose];

#[test]
fn whatever_becomes_of_nodes_every_object_stays_readable_and_gets_all_its_replicas_back() {
    let (events, seed) = (setting("XDPFS_TEST_EVENTS", EVENTS), setting("XDPFS_TEST_SEED", SEED));
    println!("{events} events, seed {seed}");
    let mut cluster = Cluster::start(options()).expect("the cluster starts");
    for bucket in [BUCKET, kept::BUCKET] {
        assert_eq!(cluster.cli().run(["mb", bucket, "--chunk-size", CHUNK_SIZE]).code, Some(0));
    }
    let kept = Kept::put(cluster.cli(), KEPT);
    let mut load = Load::start(vec![cluster.cli().clone()], seed);
    let readers = kept.read_all_the_time();

    let mut rng = Rng::new(seed);
    let mut times: BTreeMap<Blow, Vec<Duration>> = BTreeMap::new();
    for event in 0..events {
        // Every kind in turn, each time in another order.
        let blow = BLOWS[(event as usize + (event as usize / BLOWS.len()) * 5) % BLOWS.len()];
        load.use_generation(event / 6);
        let victim = match blow {
            Blow::Rot => fullest(&cluster),
            _ => *rng.choose(&cluster.all_data_nodes()),
        };
        let took = strike(&mut cluster, blow, victim, &kept);
        println!("{blow:?} of {victim}: all replicas are back after {took:.1?}");
        times.entry(blow).or_default().push(took);
        assert!(load.goes_on_for(GOES_ON_FOR, GOES_ON_WITHIN), "clients hang after {blow:?} of {victim}");
    }
    load.stop();
    let reads = readers.stop();
    load.judge();
    kept.check();
    let collected = nothing_is_left_over(&cluster);
    let summary = load.check().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    for (blow, mut times) in times {
        times.sort_unstable();
        println!(
            "{blow:?} ({} times): median {:.1?}, longest {:.1?}",
            times.len(),
            times[times.len() / 2],
            times[times.len() - 1]
        );
    }
    println!(
        "{summary}; {reads} reads of what was kept; {collected} replicas left over; longest operation {:?}",
        load.longest()
    );
    assert!(reads >= events * KEPT, "hardly anything was read: {reads}");
}

fn options() -> ClusterOptions {
    let setting = |name: &str, value: u64| (format!("XDPFS_META_{name}"), value.to_string());
    let env = vec![
        setting("NODE_SILENT_AFTER_S", SILENT_S),
        setting("NODE_LEASE_S", LEASE_S),
        setting("REPAIR_AFTER_S", REPAIR_AFTER_S),
        setting("CAPABILITY_S", GRACE_S - 1),
        setting("UPLOAD_LEASE_S", GRACE_S - 1),
        setting("DELETION_GRACE_S", GRACE_S),
    ];
    ClusterOptions { meta_servers: 1, data_nodes: DATA_NODES, env, ..ClusterOptions::default() }
}

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Whatever nodes have made in vain, and nothing refers to, is found and collected; nothing else is amiss. Gives how much that was.
fn nothing_is_left_over(cluster: &Cluster) -> u64 {
    let end = Instant::now() + WHOLE_WITHIN;
    let mut collected = 0;
    loop {
        let output = cluster.cli().run(["--json", "fsck", "--collect"]);
        let record: Value = serde_json::from_str(output.text().trim()).expect("fsck says what it found");
        collected += record["collected"].as_u64().expect("it is a number");
        for kind in ["out_of_reach", "missing", "different", "node_gone", "foreign"] {
            assert_eq!(record["counts"][kind], 0, "{record}");
        }
        if output.code == Some(0) {
            return collected;
        }
        assert!(Instant::now() < end, "something is amiss: {record}");
    }
}

/// Strikes, and waits until every chunk has its replicas again. Gives how long that took from the blow on.
fn strike(cluster: &mut Cluster, blow: Blow, victim: Member, kept: &Kept) -> Duration {
    let began = Instant::now();
    let number = number_of(cluster, victim);
    let repaired_before = repair(cluster)["chunks_repaired"].as_u64().expect("it is a number");
    match blow {
        Blow::Drain => {
            let drained =
                cluster.cli().invoke(["node", "drain", &number, "--wait"]).within(WHOLE_WITHIN).run();
            assert_eq!(drained.code, Some(0), "{}", drained.stderr);
            assert!(repair(cluster)["chunks_repaired"].as_u64() > Some(repaired_before), "nothing has moved");
            check_not_on(cluster, kept, &number);
            done(cluster, &["node", "undrain", &number]);
            // What is told is of a moment ago.
            until(cluster, &["repair", "status"], "it stays", |record| !is_leaving(record, &number));
        }
        Blow::Freeze => {
            cluster.pause(victim).expect("it runs");
            let before = json(cluster, &["status"]).and_then(|record| epoch_of(&record, &number));
            let is_over = |record: &Value| epoch_of(record, &number) > before;
            until(cluster, &["status"], "its registration ends", is_over);
            cluster.resume(victim).expect("it runs");
            await_alive(cluster, DATA_NODES);
        }
        Blow::Leave => {
            cluster.kill(victim);
            await_leaving(cluster, &number);
            await_whole(cluster);
            check_not_on(cluster, kept, &number);
            cluster.restart(victim).expect("it comes back");
            await_alive(cluster, DATA_NODES);
        }
        Blow::Lose => {
            cluster.kill(victim);
            until(cluster, &["status"], "it is silent", |record| state_of(record, &number) == Some("silent"));
            done(cluster, &["node", "remove", &number, "--lost"]);
            fs::remove_dir_all(cluster.data_dir(victim)).expect("it was there");
            cluster.restart(victim).expect("another one comes in its place");
            assert_ne!(number_of(cluster, victim), number);
        }
        Blow::Rot => {
            cluster.kill(victim);
            flip_bytes(cluster, victim);
            cluster.restart(victim).expect("it comes back");
            await_alive(cluster, DATA_NODES);
            done(cluster, &["node", "scrub", "start", &number]);
            let is_made = |record: &Value| record["chunks_repaired"].as_u64() > Some(repaired_before);
            until(cluster, &["repair", "status"], "it is made anew", is_made);
        }
        Blow::Wipe => {
            cluster.kill(victim);
            fs::remove_dir_all(cluster.data_dir(victim)).expect("it was there");
            cluster.restart(victim).expect("it comes back with another number");
            await_leaving(cluster, &number);
        }
    }
    await_whole(cluster);
    if blow == Blow::Wipe {
        done(cluster, &["node", "remove", &number]);
    }
    began.elapsed()
}

/// No manifest of what is kept names the node.
fn check_not_on(cluster: &Cluster, kept: &Kept, node: &str) {
    let number: u64 = node.parse().expect("it is a number");
    for address in kept.addresses() {
        let record = json(cluster, &["placement", "explain", address]).expect("it is explained");
        let nodes = record["chunks"].as_array().expect("there are chunks");
        let named = nodes.iter().flat_map(|chunk| chunk["nodes"].as_array().into_iter().flatten());
        assert!(
            named.clone().count() > 0 && named.clone().all(|own| own.as_u64() != Some(number)),
            "{record}"
        );
    }
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
fn until(cluster: &Cluster, args: &[&str], what: &str, is_so: impl Fn(&Value) -> bool) {
    let end = Instant::now() + WHOLE_WITHIN;
    loop {
        let record = json(cluster, args);
        if record.as_ref().is_some_and(&is_so) {
            return;
        }
        assert!(Instant::now() < end, "{what}: {record:?}");
        // There is nothing to wait on but the servers' own word.
        thread::sleep(Duration::from_millis(200));
    }
}

fn repair(cluster: &Cluster) -> Value {
    // A leader that has only just begun has nothing to say yet.
    until(cluster, &["repair", "status"], "the leader says how repair is", |_| true);
    json(cluster, &["repair", "status"]).expect("the leader says how repair is")
}

fn await_whole(cluster: &Cluster) {
    until(cluster, &["status"], "every chunk has its replicas", |record| {
        record["repair"]["whole"] == true && record["replica_debt"] == 0
    });
}

/// Until repair has begun to count the node as lost.
fn await_leaving(cluster: &Cluster, number: &str) {
    until(cluster, &["repair", "status"], "it is given up", |record| is_leaving(record, number));
}

fn is_leaving(record: &Value, number: &str) -> bool {
    let mut leaving = record["leaving"].as_array().into_iter().flatten();
    leaving.any(|node| node["node"].as_u64() == number.parse().ok())
}

fn await_alive(cluster: &Cluster, nodes: usize) {
    until(cluster, &["status"], "all nodes are alive", |record| {
        let states = record["data_nodes"].as_array().into_iter().flatten();
        states.filter(|node| node["state"] == "alive").count() >= nodes
    });
}

/// The data node that holds most chunks.
fn fullest(cluster: &Cluster) -> Member {
    let status = json(cluster, &["status"]).expect("the leader says who there is");
    let chunks = |member: &Member| of_node(&status, &number_of(cluster, *member))?["chunks"].as_u64();
    cluster.all_data_nodes().into_iter().max_by_key(chunks).expect("there are data nodes")
}

fn of_node<'a>(record: &'a Value, number: &str) -> Option<&'a Value> {
    let mut nodes = record["data_nodes"].as_array()?.iter();
    nodes.find(|node| node["id"].as_u64() == number.parse().ok())
}

fn state_of<'a>(record: &'a Value, number: &str) -> Option<&'a str> {
    of_node(record, number)?["state"].as_str()
}

fn epoch_of(record: &Value, number: &str) -> Option<u64> {
    of_node(record, number)?["epoch"].as_u64()
}

/// As the ready line says: `ready id=N address=..`.
fn number_of(cluster: &Cluster, node: Member) -> String {
    let line = cluster.ready_line(node);
    let number = line.split_whitespace().find_map(|word| word.strip_prefix("id="));
    number.expect("a ready line has the id").to_owned()
}

/// A few in each megabyte.
fn flip_bytes(cluster: &Cluster, node: Member) {
    let segments = cluster.data_dir(node).join("segments");
    let mut files: Vec<_> = fs::read_dir(segments)
        .expect("there are segments")
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "segment"))
        .collect();
    files.sort();
    for file in files {
        let mut bytes = fs::read(&file).expect("it can be read");
        bytes.iter_mut().skip(100_000).step_by(300_000).for_each(|byte| *byte ^= 0x10);
        fs::write(&file, bytes).expect("it can be written");
    }
}
