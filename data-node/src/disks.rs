//! The disks of a node, each with a chunk store of its own, and used as if they were one store.
//!
//! Invariant: a disk fails alone. What it held counts as missing from then on, though what can still be read is read; the
//! others take what it would have taken. A chunk is on one disk, or on two if the first has failed while it was written.

mod identity;
pub(crate) mod known;
mod muster;
mod placement;
mod store_options;

use std::{
    collections::BTreeMap,
    future::Future,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use thiserror::Error;
use uuid::Uuid;
use xdpfs_observe::{Scrape, catalogue as names};
use xdpfs_proto::meta::v1::{DiskStatus, disk_status::State};
use xdpfs_wire::ChunkId;

pub use self::store_options::{IoChoice, StoreOptions};
pub(crate) use self::{
    identity::Identity,
    muster::{Mustered, Told, muster},
};
use self::{
    known::KnownDisk,
    muster::Standing,
    placement::{Candidate, ranked},
};
use crate::{
    data_directory::{DataDirectory, DirectoryError},
    store::{ChunkInfo, DeleteError, OpenError, PutError, ReadError, Recovery, Store, Usage},
};

/// What the disk of the data directory is called.
const DATA_DIRECTORY: &str = "data-dir";

/// Why the disks of a node can't be used as it was told.
#[derive(Debug, Error)]
pub enum DiskError {
    /// A file of them can't be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The disk is another node's.
    #[error("{directory} is a disk of another data node, {node}")]
    Foreign {
        /// The directory.
        directory: PathBuf,
        /// The node's uuid.
        node: Uuid,
    },
    /// The directory can't be remembered.
    #[error("{directory:?} can't be a disk's directory: a name of UTF-8 without line breaks is needed")]
    Name {
        /// The directory.
        directory: PathBuf,
    },
    /// There is no disk to serve from.
    #[error("no disk of the node can be used: {reasons}")]
    None {
        /// Each with what is wrong with it.
        reasons: String,
    },
    /// The store on a disk can't be opened.
    #[error(transparent)]
    Store(#[from] OpenError),
    /// A disk is to be forgotten, and to be used.
    #[error(
        "disk {uuid} is to be forgotten, but it is there, in {directory}: leave out one of --disk and --forget-disk"
    )]
    StillThere {
        /// The disk.
        uuid: Uuid,
        /// Its directory.
        directory: PathBuf,
    },
    /// The directory holds something else.
    #[error("{directory} is no disk of a data node, and can't become one: it is not empty")]
    Taken {
        /// The directory.
        directory: PathBuf,
    },
    /// A disk is named twice.
    #[error("{first} and {second} are the same disk")]
    Twice {
        /// A directory of it.
        first: PathBuf,
        /// The other one, or the same again.
        second: PathBuf,
    },
}

/// The disks. Clones are the same ones; they close when the last one goes.
#[derive(Clone, Debug)]
pub(crate) struct Disks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The data directory.
    home: PathBuf,
    disks: Vec<Disk>,
    /// Where chunks go that are being written, so that one that comes twice at a time goes to one place.
    writing: Mutex<BTreeMap<ChunkId, Writing>>,
}

#[derive(Clone, Copy, Debug)]
struct Writing {
    place: usize,
    puts: u32,
}

#[derive(Debug)]
struct Disk {
    name: String,
    uuid: Uuid,
    directory: PathBuf,
    /// As many chunks as were remembered at the start.
    chunks: u64,
    /// Or why there has been none since the start.
    store: Result<Store, String>,
}

impl Disks {
    /// Opens what was mustered, and makes new disks. Blocks.
    ///
    /// # Errors
    /// See [`DiskError`]. A disk that fails is none as long as there is another one.
    pub(crate) fn open(
        home: &DataDirectory,
        mustered: Vec<Mustered>,
        options: &StoreOptions,
    ) -> Result<Self, DiskError> {
        let mustered = with_identities(mustered, home.node_uuid())?;
        let seen = mustered.iter().filter(|disk| disk.standing != Standing::DataDirectory);
        let known = |disk: &Mustered| KnownDisk {
            uuid: disk.uuid,
            chunks: disk.chunks,
            directory: disk.directory.clone(),
        };
        remember(home.path(), seen.map(known).collect())?;
        let count = mustered.len();
        let mut disks = Vec::with_capacity(count);
        for disk in mustered {
            let name = match disk.standing {
                Standing::DataDirectory => DATA_DIRECTORY.to_owned(),
                Standing::Failed(_) | Standing::New | Standing::Present => disk.uuid.to_string(),
            };
            let Mustered { uuid, directory, chunks, standing } = disk;
            let store = match standing {
                Standing::Failed(why) => Err(why),
                Standing::DataDirectory | Standing::New | Standing::Present => {
                    let config = options.of_disk(muster::segments(&directory), home.node_uuid(), count);
                    match Store::open(&config) {
                        Ok((store, recovery)) => {
                            note_opened(&name, &directory, &store, &recovery);
                            Ok(store)
                        }
                        Err(OpenError::Io { source, .. }) => Err(format!("it can't be opened: {source}")),
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            disks.push(Disk { name, uuid, directory, chunks, store });
        }
        Self::of(home.path().to_owned(), disks)
    }

    fn of(home: PathBuf, disks: Vec<Disk>) -> Result<Self, DiskError> {
        for disk in &disks {
            if let Err(reason) = &disk.store {
                let (directory, chunks) = (disk.directory.display(), disk.chunks);
                tracing::error!(
                    disk = disk.name,
                    %directory,
                    chunks_missing = chunks,
                    reason,
                    "A DISK OF THIS NODE CAN'T BE USED: WHAT IS ON IT IS MISSING"
                );
            }
        }
        if disks.iter().all(|disk| disk.store.is_err()) {
            let reason = |disk: &Disk| {
                let reason = disk.store.as_ref().err().map_or("", String::as_str);
                format!("{} ({}): {reason}", disk.directory.display(), disk.name)
            };
            let reasons = disks.iter().map(reason).collect::<Vec<_>>().join("; ");
            return Err(DiskError::None { reasons });
        }
        let inner = Inner { home, disks, writing: Mutex::default() };
        let disks = Self(Arc::new(inner));
        disks.warn_of_shared_file_systems();
        disks.remember_chunks();
        Ok(disks)
    }

    /// Stores a chunk on one of the disks, and resolves once it is durable. The put goes on even if the future is dropped,
    /// unless its disk fails. Otherwise as [`Store::put`].
    ///
    /// # Errors
    /// See [`PutError`]; what one disk has no room for, or fails under, was offered to the others.
    pub(crate) fn put(
        &self,
        chunk: ChunkId,
        crc: u32,
        data: Bytes,
    ) -> impl Future<Output = Result<(), PutError>> + Send + use<> {
        let disks = self.clone();
        // The first disk is asked at once, so that what was asked for before a deletion comes before it.
        let begun = self.claim(chunk, crc, &data).and_then(|claim| {
            let first =
                claim.places.first().and_then(|place| self.writable(*place)).ok_or(PutError::Failed)?;
            Ok((first.put(chunk, crc, data.clone()), claim))
        });
        async move {
            let (first, claim) = begun?;
            let mut result = first.await;
            for store in claim.places.iter().skip(1).filter_map(|place| disks.writable(*place)) {
                if !matches!(result, Err(PutError::Failed | PutError::NoSpace)) {
                    break;
                }
                result = store.put(chunk, crc, data.clone()).await;
            }
            result
        }
    }

    fn claim(&self, chunk: ChunkId, crc: u32, data: &Bytes) -> Result<Claim, PutError> {
        // Chunks never change, so what a disk that has failed says of one is true for ever.
        let is_other = |held: ChunkInfo| (held.length as usize, held.crc) != (data.len(), crc);
        if self.stat(chunk).is_some_and(is_other) {
            return Err(PutError::Conflict);
        }
        let places = self.places(chunk, data.len() as u64);
        if places.is_empty() { Err(PutError::Failed) } else { Ok(Claim::of(self, chunk, places)) }
    }

    /// The disks that may take the chunk, the first choice first: the one that has it already, if there is one.
    fn places(&self, chunk: ChunkId, length: u64) -> Vec<usize> {
        let writable: Vec<_> =
            (0..self.0.disks.len()).filter_map(|place| Some((place, self.writable(place)?))).collect();
        let holder = writable.iter().find(|(_, store)| store.stat(chunk).is_some());
        if let ([(place, _)], _) | (_, Some((place, _))) = (writable.as_slice(), holder) {
            return vec![*place];
        }
        let candidate = |(place, store): &(usize, &Store)| Candidate {
            place: *place,
            uuid: self.0.disks[*place].uuid,
            free_bytes: store.usage().free_bytes,
        };
        ranked(writable.iter().map(candidate).collect(), chunk, length)
    }

    /// What is known of a chunk, on whichever disk; `None` if it can't be read here.
    pub(crate) fn stat(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        self.readable().find_map(|store| store.stat(chunk))
    }

    /// The same of a chunk that is on a disk that has not failed.
    pub(crate) fn stat_safe(&self, chunk: ChunkId) -> Option<ChunkInfo> {
        self.healthy().find_map(|store| store.stat(chunk))
    }

    /// As [`Store::read`], from whichever disk can give the bytes.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub(crate) fn read(&self, chunk: ChunkId, offset: u32, out: &mut [u8]) -> Result<(), ReadError> {
        let mut result = Err(ReadError::NotFound);
        for store in self.readable() {
            match store.read(chunk, offset, out) {
                Err(ReadError::NotFound) => {}
                Err(error @ (ReadError::Corrupt | ReadError::Failed)) => result = Err(error),
                done @ (Ok(()) | Err(ReadError::Range)) => return done,
            }
        }
        result
    }

    /// Deletes chunks from all disks that have not failed, and resolves once they can't come back there. Otherwise as
    /// [`Store::delete`]. A disk that has failed may have some when it is mended; nobody refers to them then.
    ///
    /// # Errors
    /// See [`DeleteError`]: that of a disk that goes on, or that none does.
    pub(crate) fn delete(
        &self,
        chunks: Vec<ChunkId>,
    ) -> impl Future<Output = Result<(), DeleteError>> + Send + use<> {
        let disks = self.clone();
        // All are asked for all: what is being written is in no index yet. A store passes over what it does not have.
        let deletions: Vec<_> =
            self.healthy().map(|store| (store.clone(), store.delete(chunks.clone()))).collect();
        async move {
            for (store, deletion) in deletions {
                match deletion.await {
                    Err(error) if !store.is_fenced() => return Err(error),
                    Ok(()) | Err(_) => {}
                }
            }
            if disks.is_fenced() { Err(DeleteError::Failed) } else { Ok(()) }
        }
    }

    /// At most `limit` chunks of disks that have not failed, from `from` on, ascending.
    pub(crate) fn chunk_ids(&self, from: ChunkId, limit: usize) -> Vec<ChunkId> {
        let mut chunks: Vec<_> = self.healthy().flat_map(|store| store.chunk_ids(from, limit)).collect();
        chunks.sort_unstable();
        chunks.dedup();
        chunks.truncate(limit);
        chunks
    }

    /// The same, with what they are. What is on two disks is told once.
    pub(crate) fn chunks(&self, from: ChunkId, limit: usize) -> Vec<(ChunkId, ChunkInfo)> {
        let mut chunks: Vec<_> = self.healthy().flat_map(|store| store.chunks(from, limit)).collect();
        chunks.sort_by_key(|(chunk, _)| *chunk);
        chunks.dedup_by_key(|(chunk, _)| *chunk);
        chunks.truncate(limit);
        chunks
    }

    /// How full the disks are that have not failed.
    pub(crate) fn usage(&self) -> Usage {
        let nothing = Usage { capacity_bytes: 0, used_bytes: 0, free_bytes: 0, chunks: 0 };
        self.healthy().map(Store::usage).fold(nothing, |sum, usage| Usage {
            capacity_bytes: sum.capacity_bytes.saturating_add(usage.capacity_bytes),
            used_bytes: sum.used_bytes.saturating_add(usage.used_bytes),
            free_bytes: sum.free_bytes.saturating_add(usage.free_bytes),
            chunks: sum.chunks.saturating_add(usage.chunks),
        })
    }

    /// Bytes of chunks that were made durable.
    pub(crate) fn written_bytes(&self) -> u64 {
        self.stores().map(|store| store.activity().written_bytes()).sum()
    }

    /// Bytes that were read.
    pub(crate) fn read_bytes(&self) -> u64 {
        self.stores().map(|store| store.activity().read_bytes()).sum()
    }

    /// Whether all disks have failed, so that nothing more is written.
    pub(crate) fn is_fenced(&self) -> bool {
        self.healthy().next().is_none()
    }

    /// The disks that could be opened: what each is called, where it is, and its store.
    pub(crate) fn opened(&self) -> impl Iterator<Item = (&str, &Path, &Store)> {
        self.0.disks.iter().filter_map(|disk| {
            let store = disk.store.as_ref().ok()?;
            Some((disk.name.as_str(), disk.directory.as_path(), store))
        })
    }

    /// Each disk as the leader is told of it.
    pub(crate) fn statuses(&self) -> Vec<DiskStatus> {
        self.0.disks.iter().map(Disk::status).collect()
    }

    pub(crate) fn collect(&self, scrape: &mut Scrape<'_>) {
        scrape.parts(self.0.disks.iter().map(|disk| {
            let collect = |scrape: &mut Scrape<'_>| disk.collect(scrape);
            (disk.name.clone(), collect)
        }));
    }

    /// Finishes what was asked for so far and lets go of the directories. Later puts and deletes fail; reads go on. Blocks.
    pub(crate) fn close(&self) {
        self.remember_chunks();
        self.stores().for_each(Store::close);
    }

    /// The store of each disk, in their order; none where there has been none since the start.
    pub(crate) fn each_store(&self) -> impl Iterator<Item = Option<&Store>> {
        self.0.disks.iter().map(|disk| disk.store.as_ref().ok())
    }

    /// Which of the disks, in their order, gives a chunk: one that is sound if there is one.
    pub(crate) fn place_to_read(&self, chunk: ChunkId) -> Option<usize> {
        let holds = |(_, store): &(usize, Option<&Store>)| {
            store.is_some_and(|store| !store.is_fenced() && store.stat(chunk).is_some())
        };
        let readable =
            |(_, store): &(usize, Option<&Store>)| store.is_some_and(|store| store.stat(chunk).is_some());
        // Of a damaged one somebody says that it is damaged.
        let known = |(_, store): &(usize, Option<&Store>)| store.is_some_and(|store| store.knows(chunk));
        let places = || self.each_store().enumerate();
        let found = places().find(holds).or_else(|| places().find(readable)).or_else(|| places().find(known));
        found.map(|(place, _)| place)
    }

    fn stores(&self) -> impl Iterator<Item = &Store> {
        self.0.disks.iter().filter_map(|disk| disk.store.as_ref().ok())
    }

    fn healthy(&self) -> impl Iterator<Item = &Store> {
        self.stores().filter(|store| !store.is_fenced())
    }

    /// All that there is, what is sound first.
    fn readable(&self) -> impl Iterator<Item = &Store> {
        self.healthy().chain(self.stores().filter(|store| store.is_fenced()))
    }

    fn writable(&self, place: usize) -> Option<&Store> {
        self.0.disks[place].store.as_ref().ok().filter(|store| !store.is_fenced())
    }

    /// So that the next start can say how many are missed. What is lost here is only a number.
    fn remember_chunks(&self) {
        let known = self.0.disks.iter().filter(|disk| disk.name != DATA_DIRECTORY).map(|disk| KnownDisk {
            uuid: disk.uuid,
            chunks: disk.store.as_ref().map_or(disk.chunks, |store| store.usage().chunks),
            directory: disk.directory.clone(),
        });
        if let Err(error) = remember(&self.0.home, known.collect()) {
            tracing::warn!(%error, "how many chunks are on the disks can't be noted");
        }
    }

    /// Disks that share a file system share its failures, and count its room twice.
    fn warn_of_shared_file_systems(&self) {
        let mut seen = BTreeMap::new();
        for (_, directory, _) in self.opened() {
            let Ok(metadata) = directory.metadata() else { continue };
            if let Some(first) = seen.insert(metadata.dev(), directory) {
                let (first, second) = (first.display(), directory.display());
                tracing::warn!(
                    %first,
                    %second,
                    "two disks are on one file system: they fail together, and its room counts twice; is a mount missing?"
                );
            }
        }
    }
}

#[cfg(test)]
impl From<Store> for Disks {
    /// A node with one disk.
    fn from(store: Store) -> Self {
        let disk = Disk {
            name: DATA_DIRECTORY.to_owned(),
            uuid: Uuid::from_u128(1),
            directory: PathBuf::new(),
            chunks: 0,
            store: Ok(store),
        };
        Self(Arc::new(Inner { home: PathBuf::new(), disks: vec![disk], writing: Mutex::default() }))
    }
}

impl Disk {
    fn failure(&self) -> Option<&str> {
        match &self.store {
            Ok(store) if store.is_fenced() => {
                Some("a write to it has failed; see the node's log, and the kernel's")
            }
            Ok(_) => None,
            Err(reason) => Some(reason),
        }
    }

    fn status(&self) -> DiskStatus {
        let failure = self.failure();
        let mut status = DiskStatus {
            disk: self.name.clone(),
            state: if failure.is_some() { State::Failed } else { State::Healthy }.into(),
            reason: failure.unwrap_or_default().to_owned(),
            chunks: self.chunks,
            ..DiskStatus::default()
        };
        if let Ok(store) = &self.store {
            let Usage { capacity_bytes, used_bytes, free_bytes, chunks } = store.usage();
            let free_bytes = if failure.is_some() { 0 } else { free_bytes };
            status = DiskStatus { capacity_bytes, used_bytes, free_bytes, chunks, ..status };
        }
        status
    }

    fn collect(&self, scrape: &mut Scrape<'_>) {
        scrape.gauge(&names::STORE_FENCED, f64::from(u8::from(self.failure().is_some())));
        let Ok(store) = &self.store else { return };
        let Usage { capacity_bytes, used_bytes, free_bytes, chunks } = store.usage();
        scrape.gauge(&names::STORE_CAPACITY, capacity_bytes as f64);
        scrape.gauge(&names::STORE_USED, used_bytes as f64);
        scrape.gauge(&names::STORE_FREE, free_bytes as f64);
        scrape.gauge(&names::STORE_CHUNKS, chunks as f64);
        store.collect(scrape);
    }
}

/// A put that is under way. While there is one, others of the same chunk go to the same disk.
struct Claim {
    disks: Disks,
    chunk: ChunkId,
    /// In the order in which they are asked.
    places: Vec<usize>,
}

impl Claim {
    fn of(disks: &Disks, chunk: ChunkId, mut places: Vec<usize>) -> Self {
        let mut writing = disks.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let claimed = writing.entry(chunk).or_insert(Writing { place: places[0], puts: 0 });
        claimed.puts += 1;
        if let Some(first) = places.iter().position(|place| *place == claimed.place) {
            places[..=first].rotate_right(1);
        }
        drop(writing);
        Self { disks: disks.clone(), chunk, places }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut writing = self.disks.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(claimed) = writing.get_mut(&self.chunk) {
            claimed.puts -= 1;
            if claimed.puts == 0 {
                writing.remove(&self.chunk);
            }
        }
    }
}

/// From here on all of them have UUIDs.
fn with_identities(mustered: Vec<Mustered>, node: Uuid) -> Result<Vec<Mustered>, DirectoryError> {
    let identified = |disk: Mustered| {
        if disk.standing != Standing::New {
            return Ok(disk);
        }
        let uuid = Identity::make(&disk.directory, node)?.disk;
        tracing::info!(disk = %uuid, directory = %disk.directory.display(), "a new disk");
        Ok(Mustered { uuid, ..disk })
    };
    mustered.into_iter().map(identified).collect()
}

/// Those of the data directory itself need nobody to remember them.
fn remember(home: &Path, known: Vec<KnownDisk>) -> Result<(), DirectoryError> {
    if known == known::read(home)? { Ok(()) } else { known::write(home, &known) }
}

fn note_opened(disk: &str, directory: &Path, store: &Store, recovery: &Recovery) {
    let Recovery { chunks, segments, torn_bytes, quarantined, unreadable_segments } = *recovery;
    let (directory, io) = (directory.display(), store.io_mode());
    tracing::info!(
        disk,
        %directory,
        %io,
        chunks,
        segments,
        torn_bytes,
        quarantined,
        unreadable_segments,
        "store open"
    );
}

#[cfg(test)]
mod tests;
