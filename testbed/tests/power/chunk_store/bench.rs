//! A store under attack, and the clients that know what it must hold.

use std::{env, ops::AddAssign, sync::atomic::Ordering, thread, time::Duration};

use tempfile::TempDir;
use uuid::Uuid;
use xdpfs_chunk_store::{IoWanted, OpenError, Recovery, Store, StoreConfig};
use xdpfs_testbed::{
    Rng,
    faulty_fs::{FaultyFs, Losses, NameModel},
};
use xdpfs_wire::ChunkId;

use super::client::{Client, State, Wrong, work};

const SEED: u64 = 1;
pub(crate) const CLIENTS: u64 = 3;

/// How large things are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub(crate) capacity_bytes: u64,
    pub(crate) chunks_per_client: u64,
    pub(crate) puts_percent: f64,
    /// Room that puts leave on the disk.
    pub(crate) reserve_bytes: u64,
    pub(crate) segment_bytes: u64,
}

impl Scale {
    /// A store that is soon full of what was deleted, of many short segments.
    pub(crate) const SMALL: Self = Self {
        capacity_bytes: 4 << 20,
        chunks_per_client: 40,
        puts_percent: 55.0,
        reserve_bytes: 0,
        segment_bytes: 128 << 10,
    };
}

/// What must not be found.
#[derive(Debug)]
pub(crate) enum Loss {
    Chunk {
        _wrong: Wrong,
    },
    /// Batches or segments count as rotten.
    Damaged {
        _recovery: Recovery,
    },
    Refused {
        _why: OpenError,
    },
    /// There are chunks that nobody has put.
    Strangers {
        _found: usize,
        _known: usize,
    },
}

/// What stores have written.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Written {
    pub(crate) chunk_bytes: u64,
    pub(crate) moved_bytes: u64,
    pub(crate) torn_bytes: u64,
    pub(crate) answers: u64,
}

impl AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.chunk_bytes += other.chunk_bytes;
        self.moved_bytes += other.moved_bytes;
        self.torn_bytes += other.torn_bytes;
        self.answers += other.answers;
    }
}

pub(crate) struct Bench {
    pub(crate) file_system: FaultyFs,
    pub(crate) rng: Rng,
    pub(crate) clients: Vec<Client>,
    pub(crate) losses: Losses,
    pub(crate) written: Written,
    scale: Scale,
    /// The store that was looked at last, if it is gone on with.
    open: Option<Store>,
    _directory: TempDir,
}

impl Bench {
    pub(crate) fn new(seed: u64, names: NameModel, scale: Scale) -> Self {
        let directory = TempDir::new().unwrap();
        let file_system = FaultyFs::mount(directory.path(), seed, names).unwrap();
        let client = |number| Client::new(number, seed, scale.chunks_per_client, scale.puts_percent);
        Self {
            file_system,
            rng: Rng::new(seed),
            clients: (0..CLIENTS).map(client).collect(),
            losses: Losses::default(),
            written: Written::default(),
            scale,
            open: None,
            _directory: directory,
        }
    }

    /// Lets clients work, cuts the power, and looks at what is left.
    pub(crate) fn write_and_cut(&mut self) -> Result<(), Loss> {
        let (open, config) = (self.open.take(), self.config(None));
        // Most cuts come between a change and the next, or its sync; some by the clock, and some while the store is opened.
        let is_timed = self.rng.chance(30.0);
        let far = self.rng.chance(75.0);
        let patience = Duration::from_micros(self.rng.below(if far { 100_000 } else { 3_000 }));
        if !is_timed {
            self.file_system.cut_after(self.rng.below(if far { 400 } else { 20 }));
        }
        let clients = &mut self.clients;
        thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let Some(store) = open.or_else(|| Some(Store::open(&config).ok()?.0)) else {
                    return Written::default();
                };
                let answers = work(&store, clients, |_| false);
                store.close();
                Written {
                    chunk_bytes: store.activity().written_bytes(),
                    moved_bytes: store.activity().moved_bytes(),
                    answers: answers.good.load(Ordering::Relaxed),
                    torn_bytes: 0,
                }
            });
            if is_timed {
                thread::sleep(patience);
                self.losses += self.file_system.cut();
            }
            self.written += worker.join().unwrap();
            self.losses += self.file_system.cut();
        });
        let store = self.power_on_and_judge()?;
        if self.rng.chance(50.0) {
            self.open = Some(store);
        } else {
            store.close();
        }
        Ok(())
    }

    /// Cuts the power of a store that nobody uses, and looks at what is left.
    pub(crate) fn cut_and_judge(&mut self) -> Result<Store, Loss> {
        self.losses += self.file_system.cut();
        self.power_on_and_judge()
    }

    /// Looks at what a cut has left.
    pub(crate) fn power_on_and_judge(&mut self) -> Result<Store, Loss> {
        self.file_system.power_on().unwrap();
        self.open_and_judge(None)
    }

    /// Opens the store, in a way of its choice, and compares it with what was answered.
    pub(crate) fn open_and_judge(&mut self, direct: Option<bool>) -> Result<Store, Loss> {
        let (store, recovery) =
            Store::open(&self.config(direct)).map_err(|why| Loss::Refused { _why: why })?;
        self.written.torn_bytes += recovery.torn_bytes;
        if recovery.quarantined > 0 || recovery.unreadable_segments > 0 {
            return Err(Loss::Damaged { _recovery: recovery });
        }
        self.judge(&store)?;
        Ok(store)
    }

    /// Compares a store with what was answered.
    pub(crate) fn judge(&mut self, store: &Store) -> Result<(), Loss> {
        for client in &mut self.clients {
            client.judge(store).map_err(|wrong| Loss::Chunk { _wrong: wrong })?;
        }
        let chunks = self.clients.iter().flat_map(|client| client.chunks.values());
        let known = chunks.filter(|chunk| chunk.state == State::Present).count();
        let found = store.chunk_ids(ChunkId(0), usize::MAX).len();
        if found == known { Ok(()) } else { Err(Loss::Strangers { _found: found, _known: known }) }
    }

    fn config(&mut self, direct: Option<bool>) -> StoreConfig {
        let io =
            IoWanted { direct: direct.unwrap_or_else(|| self.rng.chance(50.0)), ring: self.rng.chance(50.0) };
        StoreConfig {
            capacity_bytes: Some(self.scale.capacity_bytes),
            reserve_bytes: self.scale.reserve_bytes,
            segment_bytes: self.scale.segment_bytes,
            compaction_rate: None,
            // What is read comes from the disk.
            cache_bytes: 0,
            io,
            ..StoreConfig::new(self.file_system.path().join("segments"), Uuid::from_bytes([9; 16]))
        }
    }
}

/// The seed of this run.
pub(crate) fn seed() -> u64 {
    setting("XDPFS_TEST_SEED", SEED)
}

/// What a variable of the environment says.
pub(crate) fn setting(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}
