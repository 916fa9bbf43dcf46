//! Clients that put, get, overwrite, move and delete without a pause, whatever happens to the cluster meanwhile, and record what
//! they were answered.
//!
//! Invariant: an answer that no store could give ends the program of the one who asked with a panic; what is written
//! proves by itself which put wrote it.
#![expect(clippy::print_stdout, reason = "figures are shown with --nocapture, and when a test fails")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    Cli, Content, Rng,
    history::{Operation, Outcome, Recorder, Summary, Value, Violation},
};

/// The bucket that is worked on; it must be there.
pub const BUCKET: &str = "data";
/// Small enough that most objects have several chunks: parts of two versions could be mixed.
pub const CHUNK_SIZE: &str = "64KiB";

const CLIENTS: u64 = 4;
/// Keys that all clients use at the same time.
const KEYS: u64 = 10;
const SIZES: &[u64] = &[16, 17, 1000, 5000, 65_535, 65_536, 65_537, 150_000, 300_000];
/// Longer than a client tries before it gives up.
const PATIENCE: Duration = Duration::from_secs(90);

/// What an operation does to a store.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// It looks.
    Read,
    /// It changes something.
    Write,
}

/// Clients at work, until this is dropped or [`Load::stop`] is called.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Load {
    /// Sets clients to work, which use these tools in turn; these know all commands that objects can be changed by.
    ///
    /// # Panics
    /// If there is no tool.
    #[must_use]
    pub fn start(tools: Vec<Cli>, seed: u64) -> Self {
        Self::start_with(tools, seed, true)
    }

    /// The same with tools of which not all can move objects.
    ///
    /// # Panics
    /// If there is no tool.
    #[must_use]
    pub fn start_without_moves(tools: Vec<Cli>, seed: u64) -> Self {
        Self::start_with(tools, seed, false)
    }

    fn start_with(tools: Vec<Cli>, seed: u64, moves: bool) -> Self {
        assert!(!tools.is_empty(), "clients need a tool");
        let shared = Arc::new(Shared::new(tools, moves));
        let start = |number| {
            let shared = Arc::clone(&shared);
            thread::spawn(move || work(&shared, number, Rng::new(seed ^ (number + 1) << 32)))
        };
        let threads = (0..CLIENTS).map(start).collect();
        Self { shared, threads }
    }

    /// From now on the keys of this generation are used, so that no key's history becomes too long to be judged.
    pub fn use_generation(&self, generation: u64) {
        self.shared.generation.store(generation, Ordering::Relaxed);
    }

    /// When the first operation of this kind that was called after `since` returned, if one does in time.
    #[must_use]
    pub fn first_success_after(&self, since: Instant, kind: Kind, within: Duration) -> Option<Instant> {
        self.shared.successes.first_after(since, kind, within)
    }

    /// How long the longest operation took.
    #[must_use]
    pub fn longest(&self) -> Duration {
        self.shared.successes.longest()
    }

    /// Operations that had an answer so far.
    #[must_use]
    pub fn answered(&self) -> u64 {
        self.shared.successes.count()
    }

    /// Waits until so many more operations have had an answer. Whether that came in time.
    #[must_use]
    pub fn goes_on_for(&self, operations: u64, within: Duration) -> bool {
        self.shared.successes.reach(self.answered() + operations, within)
    }

    /// Ends the work.
    ///
    /// # Panics
    /// If a client saw something that can't be.
    pub fn stop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a client saw something that cannot be");
        }
    }

    /// Reads every key once more: what the clients wrote only once is whole, and what is listed is what can be read.
    ///
    /// # Panics
    /// If it is not so.
    pub fn judge(&self) {
        self.shared.judge();
    }

    /// Whether one single store could have answered so.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self) -> Result<Summary, Violation> {
        self.shared.recorder.check()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // The test fails already, and the panic was printed.
            let _printed = thread.join();
        }
    }
}

/// Operations that are remembered for those who ask when something succeeded.
const RECENT_MAX: usize = 20_000;

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
    count: u64,
}

impl Successes {
    fn add(&self, kind: Kind, called: Instant) {
        let returned = Instant::now();
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        recent.longest = recent.longest.max(returned - called);
        recent.count += 1;
        recent.all.push((kind, called, returned));
        // Unless somebody asks, nobody tidies up.
        if recent.all.len() > RECENT_MAX {
            recent.all.drain(..RECENT_MAX / 2);
        }
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

    fn count(&self) -> u64 {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner).count
    }

    /// Waits until there have been so many.
    fn reach(&self, count: u64, within: Duration) -> bool {
        let recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.news.wait_timeout_while(recent, within, |recent| recent.count < count);
        !waited.unwrap_or_else(PoisonError::into_inner).1.timed_out()
    }
}

/// What all clients have in common.
#[derive(Debug)]
struct Shared {
    tools: Vec<Cli>,
    /// Whether the tools can move objects.
    moves: bool,
    recorder: Recorder,
    successes: Successes,
    /// Keys that were written once and acknowledged.
    archive: Mutex<Vec<(String, Value)>>,
    generation: AtomicU64,
    is_over: AtomicBool,
}

impl Shared {
    fn new(tools: Vec<Cli>, moves: bool) -> Self {
        Self {
            tools,
            moves,
            recorder: Recorder::default(),
            successes: Successes::default(),
            archive: Mutex::default(),
            generation: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        }
    }

    /// Reads every key once more: what the clients wrote only once is whole, and what is listed is what can be read.
    fn judge(&self) {
        let cli = &self.tools[0];
        let archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert!(!archive.is_empty(), "nothing was archived");
        let mut expected: BTreeMap<String, u64> = BTreeMap::new();
        for (key, value) in &archive {
            assert_eq!(self.get(cli, key), Outcome::Found(Some(*value)), "{key} was acknowledged");
            expected.insert(key.clone(), body_len(*value));
        }
        let mut places: BTreeMap<Value, String> = BTreeMap::new();
        for key in self.recorder.keys() {
            match self.get(cli, &key) {
                Outcome::Found(Some(value)) => {
                    let other = places.insert(value, key.clone());
                    assert!(other.is_none(), "{value:x} was moved, and is at {key} and at {other:?}");
                    expected.insert(key, body_len(value));
                }
                Outcome::Found(None) => {}
                other => panic!("{key} cannot be read with all members there: {other:?}"),
            }
        }
        let output = cli.run(["--json", "ls", "-r", BUCKET]);
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

    /// Gets, and records what was found.
    fn get(&self, cli: &Cli, key: &str) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let output = cli.invoke(["get", &format!("{BUCKET}/{key}"), "-"]).within(PATIENCE).run();
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

    fn put(&self, cli: &Cli, key: &str, operation: Operation, value: Value) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let address = format!("{BUCKET}/{key}");
        let args: &[&str] = match operation {
            Operation::Create(_) => &["put", "--if-none-match", "*", "-", &address],
            _ => &["put", "-", &address],
        };
        let output = cli.invoke(args).stdin(std::io::Cursor::new(body(value))).within(PATIENCE).run();
        let outcome = match output.code {
            Some(0) => Outcome::Done,
            Some(4) if operation == Operation::Create(value) => Outcome::Refused,
            Some(5) => Outcome::Unknown,
            code => panic!("put {key}: {code:?} {}", output.stderr),
        };
        self.settle(key, called, called_ns, operation, outcome)
    }

    /// Puts under a name of its own, and moves it to the key: for the one a delete, for the other a put.
    fn put_and_move(&self, cli: &Cli, key: &str, value: Value) {
        let staged = format!("staged/{value:x}");
        if self.put(cli, &staged, Operation::Put(value), value) != Outcome::Done {
            return;
        }
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let (from, to) = (format!("{BUCKET}/{staged}"), format!("{BUCKET}/{key}"));
        let output = cli.invoke(["mv", &from, &to]).within(PATIENCE).run();
        let outcome = match output.code {
            Some(0) => Outcome::Done,
            Some(5) => Outcome::Unknown,
            code => panic!("mv {staged} {key}: {code:?} {}", output.stderr),
        };
        self.settle(&staged, called, called_ns, Operation::Delete, outcome);
        self.settle(key, called, called_ns, Operation::Put(value), outcome);
    }

    fn delete(&self, cli: &Cli, key: &str) -> Outcome {
        let (called, called_ns) = (Instant::now(), self.recorder.now_ns());
        let output = cli.invoke(["rm", &format!("{BUCKET}/{key}")]).within(PATIENCE).run();
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

fn work(shared: &Shared, number: u64, mut rng: Rng) {
    let mut values = (number << 32) + 1..;
    let cli = &shared.tools[number as usize % shared.tools.len()];
    let mut fresh = || values.next().expect("there are more than anyone writes");
    while !shared.is_over.load(Ordering::Relaxed) {
        let generation = shared.generation.load(Ordering::Relaxed);
        let key = format!("shared/{generation}/{}", rng.below(KEYS));
        match rng.below(20) {
            4..6 if shared.moves => shared.put_and_move(cli, &key, fresh()),
            0..6 => {
                let value = fresh();
                shared.put(cli, &key, Operation::Put(value), value);
            }
            6..9 => {
                let value = fresh();
                shared.put(cli, &key, Operation::Create(value), value);
            }
            9..12 => {
                shared.delete(cli, &key);
            }
            12 => {
                let value = fresh();
                let key = format!("archive/{value:x}");
                if shared.put(cli, &key, Operation::Put(value), value) == Outcome::Done {
                    shared.archive.lock().unwrap_or_else(PoisonError::into_inner).push((key, value));
                }
            }
            _ => {
                shared.get(cli, &key);
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
