//! Processes that write chunks and are killed, two hundred times.

use std::{
    collections::BTreeMap,
    env,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
};

use super::*;

const DIRECTORY_VARIABLE: &str = "XDPFS_TEST_KILLED_STORE";
const ROUND_VARIABLE: &str = "XDPFS_TEST_KILLED_ROUND";
/// Stores that are worked on at once. Processes are mostly waiting for the disk.
const STORES: usize = 4;
/// How often the process of each store is killed.
const KILLS: u64 = 50;
/// Things that a process says before it is killed, at most.
const PATIENCE_MAX: usize = 60;
/// How much later it is killed, at most: a process that has just been answered is in no moment that matters.
const DELAY_US_MAX: u64 = 2000;
/// Chunks of one round; more than a process lives to write.
const ROUND_CHUNKS: u64 = 1 << 20;
/// Puts under way at a time.
const PUTS: usize = 4;

/// What the processes have said of each chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Said {
    Stored,
    /// A deletion was asked for; whether it happened isn't known.
    Deleting,
    Deleted,
}

fn data(number: u64) -> Bytes {
    let length = 1 + (number * 7919 % 30_000) as usize;
    bytes_of(chunk(number), length)
}

/// The process that will be killed: stores and deletes, and says so on stdout.
fn be_killed(directory: PathBuf, round: u64) {
    let (store, _) = Store::open(&config_in(directory)).unwrap();
    let mut out = io::stdout();
    let mut say = |word: &str, number: u64| writeln!(out, "store {word} {number}").unwrap();
    let first = round * ROUND_CHUNKS;
    for start in (first..).step_by(PUTS) {
        let numbers = start..start + PUTS as u64;
        let puts: Vec<_> = numbers
            .clone()
            .map(|number| store.put(chunk(number), crc32c(&data(number)), data(number)))
            .collect();
        for (number, put) in numbers.zip(puts) {
            wait(put).unwrap();
            say("stored", number);
        }
        // Two out of three go again, so that compaction always runs.
        if start % 3 != 0 && start >= first + 16 {
            let numbers = start - 16..start - 16 + PUTS as u64;
            numbers.clone().for_each(|number| say("deleting", number));
            delete(&store, &numbers.clone().map(chunk).collect::<Vec<_>>()).unwrap();
            numbers.for_each(|number| say("deleted", number));
        }
    }
}

/// Starts the process, kills it once it has said `patience` things, and takes in all that it said.
fn run_and_kill(directory: &Path, round: u64, patience: usize, said: &mut BTreeMap<u64, Said>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "tests::kill::acknowledged_chunks_survive_kill_9", "--nocapture"])
        .env(DIRECTORY_VARIABLE, directory)
        .env(ROUND_VARIABLE, round.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut take = |line: String| {
        // The test harness says things of its own.
        let words: Vec<_> = line.split(' ').collect();
        let (word, number) = match words[..] {
            ["store", word, number] => (word, number.parse().unwrap()),
            _ => return,
        };
        let state = match word {
            "stored" => Said::Stored,
            "deleting" => Said::Deleting,
            "deleted" => Said::Deleted,
            other => panic!("{other}"),
        };
        said.insert(number, state);
    };
    lines.by_ref().take(patience).for_each(|line| take(line.unwrap()));
    thread::sleep(Duration::from_micros(fastrand::u64(0..DELAY_US_MAX)));
    child.kill().unwrap();
    lines.for_each(|line| take(line.unwrap()));
    assert!(!child.wait().unwrap().success());
}

fn check(directory: &Path, said: &BTreeMap<u64, Said>) {
    let (store, recovery) = Store::open(&config_in(directory.to_owned())).unwrap();
    assert_eq!((recovery.quarantined, recovery.unreadable_segments), (0, 0));
    for (number, state) in said {
        let found = read(&store, chunk(*number));
        match state {
            Said::Stored => assert!(found.is_ok_and(|found| found == data(*number)), "{number} is lost"),
            Said::Deleted => assert_eq!(found, Err(ReadError::NotFound), "{number} has come back"),
            Said::Deleting => {
                let gone = found == Err(ReadError::NotFound);
                assert!(gone || found.is_ok_and(|found| found == data(*number)), "{number} is half there");
            }
        }
    }
    // What was under way is whole if it is there at all.
    for id in store.chunk_ids(ChunkId(0), usize::MAX) {
        assert!(read(&store, id).unwrap() == data(id.0 as u64), "{id}");
    }
}

#[test]
fn acknowledged_chunks_survive_kill_9() {
    if let (Some(directory), Ok(round)) = (env::var_os(DIRECTORY_VARIABLE), env::var(ROUND_VARIABLE)) {
        be_killed(directory.into(), round.parse().unwrap());
        return;
    }
    let home = TempDir::new().unwrap();
    let stored: usize = thread::scope(|scope| {
        let directories = (0..STORES).map(|number| home.path().join(number.to_string()));
        let stores: Vec<_> =
            directories.map(|directory| scope.spawn(move || kill_often(&directory))).collect();
        stores.into_iter().map(|store| store.join().unwrap()).sum()
    });
    assert!(stored > 500, "{stored} chunks are too few to tell");
}

/// Gives how many chunks are there at the end.
fn kill_often(directory: &Path) -> usize {
    let mut said = BTreeMap::new();
    for round in 0..KILLS {
        run_and_kill(directory, round, fastrand::usize(0..PATIENCE_MAX), &mut said);
        check(directory, &said);
    }
    said.values().filter(|state| **state == Said::Stored).count()
}
