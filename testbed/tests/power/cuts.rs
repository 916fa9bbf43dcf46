//! Clients put, get, overwrite, move and delete while the power of metadata servers is cut, often of all at once.
//!
//! `XDPFS_TEST_CUTS` says how many times, `XDPFS_TEST_SEED` whose.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{
    ClusterOptions, Member, Rng,
    faulty_fs::Losses,
    load::{BUCKET, CHUNK_SIZE, Kind, Load},
};

use crate::disks::{Field, setting};

const CUTS: u64 = 12;
const SEED: u64 = 1;
/// Cuts after which other keys are used, so that no key's history becomes too long to be judged.
const CUTS_PER_GENERATION: u64 = 6;
/// How soon after the power is back the loop must go on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn whoever_loses_power_nothing_acknowledged_is_lost_and_no_vote_is_forgotten() {
    let (cuts, seed) = (setting("XDPFS_TEST_CUTS", CUTS), setting("XDPFS_TEST_SEED", SEED));
    let mut field = Field::start(seed, often_compacting());
    assert_eq!(field.cluster.cli().run(["mb", BUCKET, "--chunk-size", CHUNK_SIZE]).code, Some(0));
    let mut load = Load::start(vec![field.cluster.cli().clone()], seed);
    let (mut rng, mut losses) = (Rng::new(seed), Losses::default());
    let mut stored: BTreeMap<Member, (u64, u64)> = BTreeMap::new();
    for cut in 0..cuts {
        load.use_generation(cut / CUTS_PER_GENERATION);
        thread::sleep(Duration::from_millis(100 + rng.below(900)));
        let victims = victims(&field, &mut rng);
        losses += field.cut(&victims);
        for victim in &victims {
            let now = field.stored(*victim);
            let before = stored.insert(*victim, now).unwrap_or_default();
            assert!(
                now.0 >= before.0 && now.1 >= before.1,
                "seed {seed}, {victim}: {now:?} after {before:?}"
            );
        }
        let powered = Instant::now();
        field.cluster.restart_all(&victims).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        for kind in [Kind::Write, Kind::Read] {
            let went_on = load.first_success_after(powered, kind, GOES_ON_WITHIN).is_some();
            assert!(went_on, "seed {seed}: no {kind:?} after {victims:?} had lost power");
        }
    }
    load.stop();
    load.judge();
    let all = field.cluster.all_meta_servers();
    losses += field.cut(&all);
    field.cluster.restart_all(&all).expect("the metadata servers come back");
    load.judge();
    let summary = load.check().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    println!("seed {seed}: {cuts} cuts, {losses:?}; {summary}");
    assert!(summary.known as u64 > cuts * 10, "the clients hardly did anything: {summary}");
}

/// Servers that write snapshots and compact their logs all the time.
fn often_compacting() -> ClusterOptions {
    let env = vec![("XDPFS_META_SNAPSHOT_COUNT".to_owned(), "200".to_owned())];
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// All, two or one: the leader, if there is one just now.
fn victims(field: &Field, rng: &mut Rng) -> Vec<Member> {
    let mut all = field.cluster.all_meta_servers();
    match rng.below(4) {
        0 | 1 => all,
        2 => {
            all.swap_remove(rng.below(all.len() as u64) as usize);
            all
        }
        _ => vec![field.cluster.leader(GOES_ON_WITHIN).expect("there is a leader between two cuts")],
    }
}
