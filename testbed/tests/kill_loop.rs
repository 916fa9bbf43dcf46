//! Clients put, get, overwrite, move and delete without a pause while members of the cluster are killed or frozen at random
//! moments and come back. What the clients saw must be what one single store could have answered; what was acknowledged
//! must be there at the end; and the loop must go on soon after every blow.
//!
//! A frozen server is the harder one: it wakes up believing what was true when it stopped, with requests waiting in its
//! sockets. So each client asks another server first, and some ask one that was the leader until a moment ago.
//!
//! `XDPFS_TEST_KILLS` says how many kills, beside which a third as many members are frozen; `XDPFS_TEST_SEED` says which.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

use std::{
    env, thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{
    Cli, Cluster, ClusterOptions, Member, Rng,
    load::{BUCKET, CHUNK_SIZE, Kind, Load},
};

const KILLS: u64 = 24;
const SEED: u64 = 1;
/// Kills after which other keys are used, so that no key's history becomes too long to be judged.
const KILLS_PER_GENERATION: u64 = 12;
/// How soon after a leader's death the loop must go on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);
/// How long a member is frozen at least, and how much longer at most: an election takes 1.4 s at most to begin.
const FROZEN_MS: (u64, u64) = (2_000, 2_500);

#[test]
fn whoever_is_killed_or_frozen_nothing_acknowledged_is_lost_and_the_loop_goes_on() {
    let (kills, seed) = (setting("XDPFS_TEST_KILLS", KILLS), setting("XDPFS_TEST_SEED", SEED));
    println!("{kills} kills, seed {seed}");
    let mut cluster = Cluster::start(ClusterOptions::default()).expect("the cluster starts");
    assert_eq!(cluster.cli().run(["mb", BUCKET, "--chunk-size", CHUNK_SIZE]).code, Some(0));

    let mut load = Load::start(tools(&cluster), seed);
    let mut rounds: Vec<Round> = Vec::new();
    let mut rng = Rng::new(seed);
    while count(&rounds, Blow::Kill) < kills {
        load.use_generation(count(&rounds, Blow::Kill) / KILLS_PER_GENERATION);
        let freeze = count(&rounds, Blow::Freeze) * 3 < count(&rounds, Blow::Kill);
        let strike = if freeze { freeze_and_wake } else { kill_and_restart };
        rounds.push(strike(&mut cluster, &load, &mut rng));
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

/// For each metadata server, the tool that asks it first.
fn tools(cluster: &Cluster) -> Vec<Cli> {
    let count = cluster.all_meta_servers().len();
    let tool = |first: usize| {
        let endpoints = (first..first + count).map(|index| cluster.endpoint_of(index % count).to_string());
        Cli { endpoint: endpoints.collect::<Vec<_>>().join(","), ..cluster.cli().clone() }
    };
    (0..count).map(tool).collect()
}

/// What is done to a member.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Blow {
    Freeze,
    Kill,
}

/// Who was struck at once, and how long it took until a put or a delete, and until a get, that began after it had
/// succeeded.
struct Round {
    blow: Blow,
    victims: Vec<Member>,
    was_leader: bool,
    /// A frozen leader that another one had replaced when it woke up.
    was_deposed: bool,
    write: Duration,
    read: Duration,
}

fn count(rounds: &[Round], blow: Blow) -> u64 {
    rounds.iter().filter(|round| round.blow == blow).map(|round| round.victims.len() as u64).sum()
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
    let (write, read) = await_progress(load, killed, &victims, leader);
    thread::sleep(comes_back_after.saturating_sub(killed.elapsed()));
    cluster.restart_all(&victims).unwrap_or_else(|error| panic!("{error}"));
    let was_leader = victims.contains(&leader);
    Round { blow: Blow::Kill, was_leader, was_deposed: false, victims, write, read }
}

/// Freezes one member for longer than an election takes; when it wakes up, whoever leads by then may be killed.
fn freeze_and_wake(cluster: &mut Cluster, load: &Load, rng: &mut Rng) -> Round {
    thread::sleep(Duration::from_millis(100 + rng.below(900)));
    let leader = cluster.leader(GOES_ON_WITHIN).expect("there is a leader between two blows");
    let victim = match rng.below(6) {
        0 => *rng.choose(&cluster.all_data_nodes()),
        1 => *rng.choose(&cluster.all_meta_servers()),
        _ => leader,
    };
    let frozen = Instant::now();
    cluster.pause(victim).unwrap_or_else(|error| panic!("{error}"));
    let wakes_after = Duration::from_millis(FROZEN_MS.0 + rng.below(FROZEN_MS.1));
    let (write, read) = await_progress(load, frozen, &[victim], leader);
    let successor = (victim == leader).then(|| cluster.next_leader(leader, GOES_ON_WITHIN)).flatten();
    thread::sleep(wakes_after.saturating_sub(frozen.elapsed()));
    cluster.resume(victim).unwrap_or_else(|error| panic!("{error}"));
    if let Some(successor) = successor.filter(|_| rng.chance(40.0)) {
        cluster.kill(successor);
        let _progress = await_progress(load, Instant::now(), &[victim, successor], successor);
        cluster.restart(successor).unwrap_or_else(|error| panic!("{error}"));
    }
    let (was_leader, was_deposed) = (victim == leader, successor.is_some());
    Round { blow: Blow::Freeze, victims: vec![victim], was_leader, was_deposed, write, read }
}

/// How long it takes until a put or a delete, and until a get, that began after the blow has succeeded.
fn await_progress(load: &Load, since: Instant, victims: &[Member], leader: Member) -> (Duration, Duration) {
    let went_on = |kind| match load.first_success_after(since, kind, GOES_ON_WITHIN) {
        Some(at) => at - since,
        None => panic!(
            "{victims:?} were struck (leader: {leader}), and no {kind:?} succeeded for {GOES_ON_WITHIN:?}"
        ),
    };
    (went_on(Kind::Write), went_on(Kind::Read))
}

fn report(rounds: &[Round], load: &Load) {
    let pauses = |blow: Blow, was_leader: bool| {
        let fitting = rounds.iter().filter(|round| round.blow == blow && round.was_leader == was_leader);
        let mut pauses: Vec<Duration> = fitting.map(|round| round.write.max(round.read)).collect();
        pauses.sort_unstable();
        pauses
    };
    let (kills, freezes) = (count(rounds, Blow::Kill), count(rounds, Blow::Freeze));
    let deposed = rounds.iter().filter(|round| round.was_deposed).count();
    println!(
        "{} rounds: {kills} kills, {freezes} freezes, {deposed} of leaders that woke up deposed",
        rounds.len()
    );
    for (blow, was_leader) in
        [Blow::Kill, Blow::Freeze].into_iter().flat_map(|blow| [(blow, true), (blow, false)])
    {
        let pauses = pauses(blow, was_leader);
        let Some(longest) = pauses.last() else { continue };
        let (who, median) = (if was_leader { "a leader" } else { "others" }, pauses[pauses.len() / 2]);
        println!(
            "pause after a {blow:?} of {who} ({} times): median {median:?}, longest {longest:?}",
            pauses.len()
        );
    }
    println!("longest single operation: {:?}", load.longest());
    assert!(pauses(Blow::Kill, true).len() * 6 >= rounds.len(), "hardly a leader was killed");
    assert!(deposed as u64 * 3 >= freezes, "hardly a leader was deposed while it was frozen");
}
