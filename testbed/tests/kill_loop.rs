//! Clients put, get, overwrite, move and delete without a pause while members of the cluster are killed at random moments
//! and come back. What the clients saw must be what one single store could have answered; what was acknowledged must
//! be there at the end; and the loop must go on soon after every kill.
//!
//! `XDPFS_TEST_KILLS` says how many kills, `XDPFS_TEST_SEED` which ones.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

use std::{
    env, thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{
    Cluster, ClusterOptions, Member, Rng,
    load::{BUCKET, CHUNK_SIZE, Kind, Load},
};

const KILLS: u64 = 36;
const SEED: u64 = 1;
/// Kills after which other keys are used, so that no key's history becomes too long to be judged.
const KILLS_PER_GENERATION: u64 = 12;
/// How soon after a leader's death the loop must go on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);

#[test]
fn whoever_is_killed_nothing_acknowledged_is_lost_and_the_loop_goes_on() {
    let (kills, seed) = (setting("XDPFS_TEST_KILLS", KILLS), setting("XDPFS_TEST_SEED", SEED));
    println!("{kills} kills, seed {seed}");
    let mut cluster = Cluster::start(ClusterOptions::default()).expect("the cluster starts");
    assert_eq!(cluster.cli().run(["mb", BUCKET, "--chunk-size", CHUNK_SIZE]).code, Some(0));

    let mut load = Load::start(vec![cluster.cli().clone()], seed);
    let mut rounds: Vec<Round> = Vec::new();
    let mut rng = Rng::new(seed);
    while count(&rounds) < kills {
        load.use_generation(count(&rounds) / KILLS_PER_GENERATION);
        rounds.push(kill_and_restart(&mut cluster, &load, &mut rng));
    }
    load.stop();
    report(&rounds, &load);

    load.judge();
    for member in cluster.all_meta_servers() {
        cluster.kill(member);
    }
    cluster.restart_all(&cluster.all_meta_servers()).expect("the metadata servers come back");
    load.judge();
    let summary = load.check().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
    println!("{summary}");
    assert!(summary.known as u64 > kills * 20, "the clients hardly did anything: {summary}");
}

fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name)
        .map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

/// Who was killed at once, and how long it took until a put or a delete, and until a get, that began after it had
/// succeeded.
struct Round {
    victims: Vec<Member>,
    leader_died: bool,
    write: Duration,
    read: Duration,
}

fn count(rounds: &[Round]) -> u64 {
    rounds.iter().map(|round| round.victims.len() as u64).sum()
}

/// Kills one member, or one of each kind at once; waits until the loop has gone on; brings back who was killed.
fn kill_and_restart(cluster: &mut Cluster, load: &Load, rng: &mut Rng) -> Round {
    thread::sleep(Duration::from_millis(100 + rng.below(900)));
    let leader = cluster.leader(GOES_ON_WITHIN).expect("there is a leader between two kills");
    let meta_server = *rng.choose(&cluster.all_meta_servers());
    let data_node = *rng.choose(&cluster.all_data_nodes());
    let victims = match rng.below(6) {
        0 | 1 => vec![leader],
        2 => vec![meta_server],
        3 => vec![leader, data_node],
        _ => vec![data_node],
    };
    let killed = Instant::now();
    for victim in &victims {
        cluster.kill(*victim);
    }
    let comes_back_after = Duration::from_millis(rng.below(2500));
    let went_on = |kind| match load.first_success_after(killed, kind, GOES_ON_WITHIN) {
        Some(at) => at - killed,
        None => panic!(
            "{victims:?} were killed (leader: {leader}), and no {kind:?} succeeded for {GOES_ON_WITHIN:?}"
        ),
    };
    let (write, read) = (went_on(Kind::Write), went_on(Kind::Read));
    thread::sleep(comes_back_after.saturating_sub(killed.elapsed()));
    cluster.restart_all(&victims).unwrap_or_else(|error| panic!("{error}"));
    Round { leader_died: victims.contains(&leader), victims, write, read }
}

fn report(rounds: &[Round], load: &Load) {
    let pauses = |leader_died: bool| {
        let fitting = rounds.iter().filter(|round| round.leader_died == leader_died);
        let mut pauses: Vec<Duration> = fitting.map(|round| round.write.max(round.read)).collect();
        pauses.sort_unstable();
        pauses
    };
    let victims = rounds.iter().flat_map(|round| &round.victims);
    let meta_servers = victims.filter(|victim| matches!(victim, Member::MetaServer(_))).count();
    println!("{} kills in {} rounds, {meta_servers} of metadata servers", count(rounds), rounds.len());
    for (who, pauses) in [("a leader", pauses(true)), ("others", pauses(false))] {
        let Some(longest) = pauses.last() else { continue };
        let median = pauses[pauses.len() / 2];
        println!(
            "pause after the death of {who} ({} times): median {median:?}, longest {longest:?}",
            pauses.len()
        );
    }
    println!("longest single operation: {:?}", load.longest());
    assert!(pauses(true).len() * 5 >= rounds.len(), "hardly a leader was killed");
}
