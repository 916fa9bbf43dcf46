//! Clients put, get, overwrite and delete without a pause while members of the cluster are killed at random moments
//! and come back. What the clients saw must be what one single store could have answered; what was acknowledged must
//! be there at the end; and the loop must go on soon after every kill.
//!
//! `XDPFS_TEST_KILLS` says how many kills, `XDPFS_TEST_SEED` which ones.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

use std::{
    collections::BTreeMap,
    env,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use xdpfs_testbed::{
    Cli, Cluster, ClusterOptions, Content, Member, Rng,
    history::{Operation, Outcome, Recorder, Value},
};

const KILLS: u64 = 36;
const SEED: u64 = 1;
const CLIENTS: u64 = 4;
/// Keys that all clients use at the same time.
const KEYS: u64 = 10;
/// Kills after which other keys are used, so that no key's history becomes too long to be judged.
const KILLS_PER_GENERATION: u64 = 12;
/// How soon after a leader's death the loop must go on.
const GOES_ON_WITHIN: Duration = Duration::from_secs(5);
/// Small enough that most objects have several chunks: parts of two versions could be mixed.
const CHUNK_SIZE: &str = "64KiB";
const SIZES: &[u64] = &[16, 17, 1000, 5000, 65_535, 65_536, 65_537, 150_000, 300_000];

#[test]
fn whoever_is_killed_nothing_acknowledged_is_lost_and_the_loop_goes_on() {
    let (kills, seed) = (setting("XDPFS_TEST_KILLS", KILLS), setting("XDPFS_TEST_SEED", SEED));
    println!("{kills} kills, seed {seed}");
    let mut cluster = Cluster::start(ClusterOptions::default()).expect("the cluster starts");
    assert_eq!(cluster.cli().run(["mb", "data", "--chunk-size", CHUNK_SIZE]).code, Some(0));

    let shared = Arc::new(Shared::new(cluster.cli().clone()));
    let mut clients = Clients::start(&shared, seed);
    let mut rounds: Vec<Round> = Vec::new();
    let mut rng = Rng::new(seed);
    while count(&rounds) < kills {
        shared.generation.store(count(&rounds) / KILLS_PER_GENERATION, Ordering::Relaxed);
        rounds.push(kill_and_restart(&mut cluster, &shared, &mut rng));
    }
    clients.stop();
    report(&rounds, &shared);

    judge(&shared);
    for member in cluster.all_meta_servers() {
        cluster.kill(member);
    }
    cluster.restart_all(&cluster.all_meta_servers()).expect("the metadata servers come back");
    judge(&shared);
    let summary = shared.recorder.check().unwrap_or_else(|violation| panic!("seed {seed}: {violation}"));
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
fn kill_and_restart(cluster: &mut Cluster, shared: &Shared, rng: &mut Rng) -> Round {
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
    let went_on = |kind| match shared.successes.first_after(killed, kind, GOES_ON_WITHIN) {
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

fn report(rounds: &[Round], shared: &Shared) {
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
    println!("longest single operation: {:?}", shared.successes.longest());
    assert!(pauses(true).len() * 5 >= rounds.len(), "hardly a leader was killed");
}

/// Reads every key once more: what the clients wrote only once is whole, and what is listed is what can be read.
fn judge(shared: &Shared) {
    let archive = shared.archive.lock().unwrap_or_else(PoisonError::into_inner).clone();
    assert!(!archive.is_empty(), "nothing was archived");
    let mut expected: BTreeMap<String, u64> = BTreeMap::new();
    for (key, value) in &archive {
        assert_eq!(shared.get(key), Outcome::Found(Some(*value)), "{key} was acknowledged");
        expected.insert(key.clone(), body_len(*value));
    }
    for key in shared.recorder.keys() {
        match shared.get(&key) {
            Outcome::Found(Some(value)) => drop(expected.insert(key, body_len(value))),
            Outcome::Found(None) => {}
            other => panic!("{key} cannot be read with all members there: {other:?}"),
        }
    }
    let output = shared.cli.run(["--json", "ls", "-r", "data"]);
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let parse = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("each line is JSON");
    let text = output.text();
    let listed: BTreeMap<String, u64> = text
        .lines()
        .map(parse)
        .map(|object| {
            (object["key"].as_str().expect("a key").to_owned(), object["size"].as_u64().expect("a size"))
        })
        .collect();
    assert_eq!(listed, expected, "what is listed is not what can be read");
    println!("{} objects are there, {} of them written once", expected.len(), archive.len());
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Read,
    Write,
}

/// Operations that succeeded: of each kind the one that ended last, by when it was called.
#[derive(Debug, Default)]
struct Successes {
    recent: Mutex<Recent>,
    news: Condvar,
}

#[derive(Debug, Default)]
struct Recent {
    /// Called, returned.
    all: Vec<(Kind, Instant, Instant)>,
    longest: Duration,
}

impl Successes {
    fn add(&self, kind: Kind, called: Instant) {
        let returned = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.longest = recent.longest.max(returned - called);
        recent.all.push((kind, called, returned));
        self.news.notify_all();
    }

    /// When the first operation of this kind that was called after `since` returned, if one does in time.
    fn first_after(&self, since: Instant, kind: Kind, within: Duration) -> Option<Instant> {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let first = |recent: &Recent| {
            let fitting = recent.all.iter().filter(|(other, called, _)| *other == kind && *called >= since);
            fitting.map(|(.., returned)| *returned).min()
        };
        let left = (since + within).saturating_duration_since(Instant::now());
        let (mut recent, _) = self
            .news
            .wait_timeout_while(recent, left, |recent| first(recent).is_none())
            .unwrap_or_else(PoisonError::into_inner);
        let found = first(&recent).filter(|returned| *returned <= since + within);
        // Nobody asks about earlier kills any more.
        recent.all.retain(|(_, called, _)| *called >= since);
        found
    }

    fn longest(&self) -> Duration {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).longest
    }
}

/// What all clients have in common.
#[derive(Debug)]
struct Shared {
    cli: Cli,
    recorder: Recorder,
    successes: Successes,
    /// Keys that were written once and acknowledged.
    archive: Mutex<Vec<(String, Value)>>,
    generation: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn new(cli: Cli) -> Self {
        Self {
            cli,
            recorder: Recorder::default(),
            successes: Successes::default(),
            archive: Mutex::default(),
            generation: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Gets, and records what was found.
    fn get(&self, key: &str) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let output = self.cli.invoke(["get", &format!("data/{key}"), "-"]).within(PATIENCE).run();
        let outcome = match output.code {
            Some(0) => Outcome::Found(Some(
                value_of(&output.stdout).unwrap_or_else(|error| panic!("{key}: {error}")),
            )),
            Some(3) => Outcome::Found(None),
            Some(5) => Outcome::Unknown,
            code => panic!("get {key}: {code:?} {}", output.stderr),
        };
        self.settle(key, called, called_ns, Operation::Get, outcome)
    }

    fn put(&self, key: &str, operation: Operation, value: Value) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let address = format!("data/{key}");
        let args: &[&str] = match operation {
            Operation::Create(_) => &["put", "--if-none-match", "*", "-", &address],
            _ => &["put", "-", &address],
        };
        let output = self.cli.invoke(args).stdin(std::io::Cursor::new(body(value))).within(PATIENCE).run();
        let outcome = match output.code {
            Some(0) => Outcome::Done,
            Some(4) if operation == Operation::Create(value) => Outcome::Refused,
            Some(5) => Outcome::Unknown,
            code => panic!("put {key}: {code:?} {}", output.stderr),
        };
        self.settle(key, called, called_ns, operation, outcome)
    }

    fn delete(&self, key: &str) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let output = self.cli.invoke(["rm", &format!("data/{key}")]).within(PATIENCE).run();
        let outcome = match output.code {
            Some(0) => Outcome::Done,
            Some(3) => Outcome::Refused,
            Some(5) => Outcome::Unknown,
            code => panic!("rm {key}: {code:?} {}", output.stderr),
        };
        self.settle(key, called, called_ns, Operation::Delete, outcome)
    }

    fn settle(
        &self,
        key: &str,
        called: Instant,
        called_ns: u64,
        operation: Operation,
        outcome: Outcome,
    ) -> Outcome {
        self.recorder.record(key, called_ns, operation, outcome);
        if outcome != Outcome::Unknown {
            self.successes.add(if operation == Operation::Get { Kind::Read } else { Kind::Write }, called);
        }
        outcome
    }
}

/// Longer than a client tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// Threads that work until they are told to stop; a panic in one fails the test.
struct Clients {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Clients {
    fn start(shared: &Arc<Shared>, seed: u64) -> Self {
        let start = |number| {
            let shared = Arc::clone(shared);
            thread::spawn(move || work(&shared, number, Rng::new(seed ^ (number + 1) << 32)))
        };
        Self { shared: Arc::clone(shared), threads: (0..CLIENTS).map(start).collect() }
    }

    fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client saw something that cannot be");
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The test fails already, and the panic was printed.
            let _printed = thread.join();
        }
    }
}

fn work(shared: &Shared, number: u64, mut rng: Rng) {
    let mut values = (number << 32) + 1..;
    let mut fresh = || values.next().expect("there are more than anyone writes");
    while !shared.is_over.load(Ordering::Relaxed) {
        let generation = shared.generation.load(Ordering::Relaxed);
        let key = format!("shared/{generation}/{}", rng.below(KEYS));
        match rng.below(20) {
            0..6 => {
                let value = fresh();
                shared.put(&key, Operation::Put(value), value);
            }
            6..9 => {
                let value = fresh();
                shared.put(&key, Operation::Create(value), value);
            }
            9..12 => {
                shared.delete(&key);
            }
            12 => {
                let value = fresh();
                let key = format!("archive/{value:x}");
                if shared.put(&key, Operation::Put(value), value) == Outcome::Done {
                    shared.archive.lock().unwrap_or_else(PoisonError::into_inner).push((key, value));
                }
            }
            _ => {
                shared.get(&key);
            }
        }
    }
}

/// What a put of `value` writes: the value and the length, then bytes that belong to both.
fn body(value: Value) -> Vec<u8> {
    let len = body_len(value);
    let mut bytes = [value.to_le_bytes(), len.to_le_bytes()].concat();
    bytes.extend(Content::new(value, len - bytes.len() as u64).to_vec());
    bytes
}

fn body_len(value: Value) -> u64 {
    *Rng::new(value).choose(SIZES)
}

/// Which put wrote these bytes, all of them.
fn value_of(bytes: &[u8]) -> Result<Value, String> {
    let value = bytes.first_chunk::<8>().map(|bytes| u64::from_le_bytes(*bytes));
    let value = value.ok_or_else(|| format!("{} bytes, which nobody put", bytes.len()))?;
    let whole = body(value);
    if bytes == whole {
        return Ok(value);
    }
    let place = bytes.iter().zip(&whole).position(|(found, written)| found != written);
    Err(format!(
        "begins as {value:x} of {} bytes, has {}, and differs at {place:?}",
        whole.len(),
        bytes.len()
    ))
}
