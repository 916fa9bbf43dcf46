//! The store of a server on a file system that loses, at a power cut, what was not synced.
//!
//! Needs root and /dev/fuse, which the feature `fuse` says are there. `XDPFS_TEST_CUTS` says how many cuts, `XDPFS_TEST_SEED`
//! which ones.
#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod script;
mod writer;

use std::{env, fmt::Debug, path::Path, str::FromStr, thread, time::Duration};

use tempfile::TempDir;
use xdpfs_meta_server::storage::{LogStore as _, SledStore, StoreError};
use xdpfs_testbed::{
    Rng,
    faulty_fs::{FaultyFs, Losses, NameModel},
};

use self::{
    script::{Script, Sight},
    writer::Writer,
};

const CUTS: u64 = 40;
const SEED: u64 = 1;
/// Cuts within which a store that does not sync must have lost something.
const CUTS_WITHOUT_SYNC_MAX: u64 = 60;

#[test]
fn power_cuts_take_nothing_that_was_synced_and_leave_no_step_half_done() {
    if writer::is_wanted() {
        return writer::write();
    }
    for names in [NameModel::Journal, NameModel::Directory] {
        let (cuts, seed) = (setting("XDPFS_TEST_CUTS", CUTS), setting("XDPFS_TEST_SEED", SEED));
        let mut bench = Bench::new(seed, names);
        for cut in 0..cuts {
            if let Err(loss) = bench.write_and_cut() {
                panic!("{names:?}, seed {seed}, cut {cut}: {loss:?}");
            }
        }
        let Bench { losses, step, .. } = bench;
        println!("{names:?}, seed {seed}: {cuts} cuts, {step} steps of which each was synced, {losses:?}");
        assert!(step > cuts, "hardly anything was written");
        assert!(losses.lost > 0 && losses.torn > 0, "the cuts took nothing: {losses:?}");
    }
}

#[test]
fn store_that_left_out_its_fdatasync_would_lose_what_it_acknowledged() {
    let seed = setting("XDPFS_TEST_SEED", SEED);
    let mut bench = Bench::new(seed, NameModel::Journal);
    bench.file_system.ignore_fdatasync();
    let lost = (1..=CUTS_WITHOUT_SYNC_MAX).find_map(|cut| Some((cut, bench.write_and_cut().err()?)));
    let (cut, loss) =
        lost.unwrap_or_else(|| panic!("seed {seed}: nothing was lost, so the cuts show nothing"));
    println!("seed {seed}: after cut {cut}: {loss:?}");
}

fn setting<T: FromStr<Err: Debug>>(name: &str, otherwise: T) -> T {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// What must not be found after a cut.
#[derive(Debug)]
enum Loss {
    /// The store is refused.
    Refused { _acknowledged: u64, _why: StoreError },
    /// What is there is not what any step from the last acknowledged one on has left.
    Differs { _acknowledged: u64, _found: Box<Sight> },
}

/// A store under attack, and the steps that were written to it.
struct Bench {
    file_system: FaultyFs,
    seed: u64,
    /// The last step that is there.
    step: u64,
    rng: Rng,
    losses: Losses,
    _directory: TempDir,
}

impl Bench {
    fn new(seed: u64, names: NameModel) -> Self {
        let directory = TempDir::new().unwrap();
        let file_system = FaultyFs::mount(directory.path(), seed, names).unwrap();
        Self {
            file_system,
            seed,
            step: 0,
            rng: Rng::new(seed),
            losses: Losses::default(),
            _directory: directory,
        }
    }

    /// Lets a process write, cuts its power, and looks at what is left.
    fn write_and_cut(&mut self) -> Result<(), Loss> {
        let path = self.file_system.path().join("meta/store");
        let mut writer = Writer::start(&path, self.seed, self.step);
        // Some cuts come while the store is opened.
        if self.rng.chance(85.0) {
            writer.await_step(self.step + self.rng.below(20));
        }
        thread::sleep(Duration::from_micros(self.rng.below(40_000)));
        self.losses += self.file_system.cut();
        let acknowledged = writer.end().max(self.step);
        self.file_system.power_on().unwrap();
        self.step = self.judge(&path, acknowledged)?;
        Ok(())
    }

    /// The step that is found, which no acknowledged one may be behind.
    fn judge(&self, path: &Path, acknowledged: u64) -> Result<u64, Loss> {
        let refused = |why| Loss::Refused { _acknowledged: acknowledged, _why: why };
        let (store, recovered) = SledStore::open(path).map_err(refused)?;
        assert_eq!(store.separate_files().unwrap(), 0);
        let found = Sight::of(&recovered, &store.snapshots()).map_err(refused)?;
        let mut script = Script::new(self.seed);
        script.skip(acknowledged);
        // The step under way may be there as well, as a whole.
        for step in [acknowledged, acknowledged + 1] {
            if script.sight() == &found {
                return Ok(step);
            }
            script.skip(1);
        }
        Err(Loss::Differs { _acknowledged: acknowledged, _found: Box::new(found) })
    }
}
