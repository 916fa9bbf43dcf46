//! A metadata server whose writes or syncs fail, or whose disk is full, says so and ends; what it has acknowledged is there
//! when it is started again.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use xdpfs_testbed::{ClusterOptions, Member, Rng, faulty_fs::FaultyFs};

use crate::disks::{Field, setting};

const SEED: u64 = 1;
const ROUNDS: u64 = 4;
/// How often a disk is filled up, which takes longer than a failure.
const FILLINGS: u64 = 2;
/// Of an object's metadata; about as much as it may have.
const WORDS_BYTES: usize = 2000;
const ONLY: Member = Member::MetaServer(0);
/// How long a failure may take to happen, while buckets are made all the time.
const FAILS_WITHIN: Duration = Duration::from_secs(30);
/// How soon the server must end then.
const ENDS_WITHIN: Duration = Duration::from_secs(5);
/// How long a client waits for a server that may have ended.
const PATIENCE: Duration = Duration::from_secs(2);

#[test]
fn server_whose_write_fails_ends_and_loses_nothing() {
    check("a write", ROUNDS, 0, |disk, rng| disk.fail_write_after(rng.below(20)), "Input/output error");
}

#[test]
fn server_whose_sync_fails_ends_and_loses_nothing() {
    check("a sync", ROUNDS, 0, |disk, rng| disk.fail_sync_after(rng.below(20)), "Input/output error");
}

#[test]
fn server_whose_disk_is_full_ends_and_goes_on_when_there_is_space() {
    // A store that has been opened once more has all of the space that it needs at first.
    for number in 0..FILLINGS {
        let fill = |disk: &FaultyFs, rng: &mut Rng| disk.limit_growth(Some(rng.below(10_000)));
        check("space", 1, number, fill, "No space left on device");
    }
}

fn check(what: &str, rounds: u64, variant: u64, arm: impl Fn(&FaultyFs, &mut Rng), words: &str) {
    let seed = setting("XDPFS_TEST_SEED", SEED) + variant;
    let mut rng = Rng::new(seed);
    let options = ClusterOptions { meta_servers: 1, data_nodes: 0, ..ClusterOptions::default() };
    let mut field = Field::start(seed, options);
    let mut made = BTreeSet::new();
    let mut next = 0;
    for round in 0..rounds {
        make_buckets(&field, &mut made, &mut next, |count, _| count == 5);
        arm(field.disk(ONLY), &mut rng);
        make_buckets(&field, &mut made, &mut next, |_, disk| disk.has_failed());
        let end = field.cluster.await_end(ONLY, ENDS_WITHIN);
        let end = end
            .unwrap_or_else(|| panic!("{what} failed, and the server goes on: seed {seed}, round {round}"));
        assert!(end.contains(words), "{what} failed, and the log does not say so: {end}");
        field.disk(ONLY).limit_growth(None);
        // What the kernel still shows may not be on the disk.
        if rng.chance(50.0) {
            let _losses = field.cut(&[ONLY]);
        }
        field.cluster.restart(ONLY).unwrap_or_else(|error| panic!("seed {seed}, round {round}: {error}"));
        let lost: Vec<_> = made.difference(&buckets(&field)).cloned().collect();
        assert!(lost.is_empty(), "seed {seed}, round {round}: {lost:?} were acknowledged and are lost");
    }
    println!(
        "{what}, seed {seed}: {rounds} rounds, {} buckets of {next} acknowledged, all there",
        made.len()
    );
}

/// Makes buckets, one after the other, until this says that it is enough, and remembers those that were acknowledged.
fn make_buckets(
    field: &Field,
    made: &mut BTreeSet<String>,
    next: &mut u64,
    is_enough: impl Fn(u64, &FaultyFs) -> bool,
) {
    let give_up = Instant::now() + FAILS_WITHIN;
    let mut count = 0;
    while !is_enough(count, field.disk(ONLY)) {
        assert!(Instant::now() < give_up, "nothing has failed");
        let bucket = format!("bucket-{next}");
        *next += 1;
        if field.cluster.cli().invoke(["mb", &bucket]).within(PATIENCE).run().code == Some(0) {
            // So that a journal soon has to grow: it does so in large steps.
            let words = format!("words={}", "x".repeat(WORDS_BYTES));
            let object = format!("{bucket}/empty");
            field.cluster.cli().invoke(["put", "--metadata", &words, "-", &object]).within(PATIENCE).run();
            made.insert(bucket);
            count += 1;
        }
    }
}

fn buckets(field: &Field) -> BTreeSet<String> {
    let output = field.cluster.cli().run(["--json", "ls"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let name = |line: &str| {
        let bucket: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        bucket["bucket"].as_str().expect("a name").to_owned()
    };
    output.text().lines().map(name).collect()
}
