//! The store of a server: what is written all the time in a journal, snapshots and what the journal began with in sled.
//!
//! Invariant: what the journal refers to is in sled before it, and what it has forgotten is in sled as well. Nothing in sled
//! counts as durable before `flush` *and* `sync_data` on the file itself, because sled's flush does not reach the medium.
//! `flush_async` is never called: it can deadlock.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use raft::eraftpb::Entry;

use super::{
    Change, LogPosition, LogStore, Recovered, SnapshotSource, StoreError,
    journal::{self, Journal},
    record::{self, EntryJoiner, damaged},
};

/// With this, a leaf of [`super::PART_LEN_MAX`] values stays inside the segments.
const SEGMENT_LEN: usize = 4 << 20;
const CACHE_LEN: u64 = 32 << 20;
/// How long sled may need to close a store.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// Sled's own background flush: only for its garbage collection; acknowledgements never rest on it.
const BACKGROUND_FLUSH_MS: u64 = 500;

/// The durable store of one server.
#[derive(Debug)]
pub struct SledStore {
    snapshots: SledSnapshots,
    file: File,
    directory: PathBuf,
    journal: Journal,
    /// What the journal says, but for the log.
    kept: Recovered,
    /// Parts of snapshots, which become durable before the journal's next frame.
    parts: Staged,
    /// Parts that are of no use once that frame is durable.
    dropped: Staged,
    /// Sled is to learn what the journal says.
    is_news: bool,
}

/// Changes of sled that wait.
#[derive(Debug, Default)]
struct Staged {
    batch: sled::Batch,
    is_used: bool,
}

impl Staged {
    fn insert(&mut self, key: &[u8], payload: &[u8]) {
        self.batch.insert(key, record::seal(key, payload));
        self.is_used = true;
    }

    fn remove(&mut self, key: impl Into<sled::IVec>) {
        self.batch.remove(key);
        self.is_used = true;
    }
}

/// Reads the snapshots of a [`SledStore`].
#[derive(Clone, Debug)]
pub struct SledSnapshots {
    db: sled::Db,
}

impl SledStore {
    /// Opens the store in `directory`, which is made if it is not there, and reads all of it but the snapshot's parts.
    ///
    /// # Errors
    ///
    /// The store cannot be read, or what is there is not what was written.
    pub fn open(directory: &Path) -> Result<(Self, Recovered), StoreError> {
        // Those that are made here are known to their parents only once these are synced.
        let is_missing = |parent: &&Path| !parent.as_os_str().is_empty() && !parent.exists();
        let made: Vec<&Path> = directory.ancestors().skip(1).take_while(is_missing).collect();
        fs::create_dir_all(directory)?;
        wait_until_closed(&directory.join("db"))?;
        remove_half_written_checkpoints(directory)?;
        forget_what_is_not_durable(directory)?;
        let files = journal::directory(directory);
        if files.exists() {
            forget_what_is_not_durable(&files)?;
        }
        let db = sled::Config::default()
            .path(directory)
            .segment_size(SEGMENT_LEN)
            .cache_capacity(CACHE_LEN)
            .flush_every_ms(Some(BACKGROUND_FLUSH_MS))
            .open()?;
        let file = File::open(directory.join("db"))?;
        file.sync_all()?;
        // Sled writes it once and does not sync it.
        File::open(directory.join("conf"))?.sync_all()?;
        sync_directory(directory)?;
        if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_directory(parent)?;
        }
        for parent in made.iter().filter_map(|made| made.parent()) {
            sync_directory(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?;
        }
        let (journal, recovered) = open_journal(&db, &file, directory)?;
        check(&recovered)?;
        let kept = Recovered { entries: Vec::new(), ..recovered.clone() };
        let store = Self {
            snapshots: SledSnapshots { db },
            file,
            directory: directory.to_owned(),
            journal,
            kept,
            parts: Staged::default(),
            dropped: Staged::default(),
            is_news: false,
        };
        store.drop_unfinished_snapshots()?;
        Ok((store, recovered))
    }

    /// Values that sled keeps in files of their own, which it does not sync. Always zero by the limits above.
    ///
    /// # Errors
    ///
    /// The directory cannot be read.
    pub fn separate_files(&self) -> Result<usize, StoreError> {
        let blobs = self.directory.join("blobs");
        if !blobs.exists() {
            return Ok(0);
        }
        Ok(fs::read_dir(blobs)?.count())
    }

    /// Parts whose snapshot never became the newest one are left over from a crash.
    fn drop_unfinished_snapshots(&self) -> Result<(), StoreError> {
        let kept = self.kept.snapshot.as_ref().map(|meta| meta.generation);
        let mut dropped = Staged::default();
        for item in self.snapshots.db.scan_prefix(record::PART_PREFIX) {
            let (key, _) = item?;
            if record::parse_part_key(&key) != kept {
                dropped.remove(key);
            }
        }
        write(&self.snapshots.db, &self.file, dropped)
    }

    /// Has sled know what the journal says, so that the journal may forget what is older.
    fn note(&mut self) -> Result<(), StoreError> {
        let mut noted = std::mem::take(&mut self.dropped);
        let Recovered { identity, hard_state, compacted, snapshot, entries: _ } = &self.kept;
        noted.insert(record::HARD_STATE, &record::encode_hard_state(hard_state));
        noted.insert(record::COMPACTED, &record::encode_position(*compacted));
        if let Some(identity) = identity {
            noted.insert(record::IDENTITY, &record::encode_identity(identity));
        }
        if let Some(meta) = snapshot {
            noted.insert(record::SNAPSHOT, &record::encode_snapshot(meta));
        }
        write(&self.snapshots.db, &self.file, noted)?;
        self.journal.forget(self.kept.compacted.index)
    }

    /// The log itself is the journal's alone.
    fn keep(&mut self, change: &Change) {
        match change {
            Change::Append(_) | Change::SnapshotPart { .. } => return,
            Change::Compact(position) => self.kept.compacted = *position,
            Change::DropSnapshot { .. } => {}
            // The journal has it, and sled learns of it with what else is new.
            Change::HardState(state) => return self.kept.hard_state.clone_from(state),
            Change::Identity(identity) => self.kept.identity = Some(identity.clone()),
            Change::Install(meta) => {
                (self.kept.compacted, self.kept.snapshot) = (meta.position, Some(meta.clone()));
            }
            Change::Snapshot(meta) => self.kept.snapshot = Some(meta.clone()),
        }
        self.is_news = true;
    }
}

impl LogStore for SledStore {
    type Snapshots = SledSnapshots;

    fn stage(&mut self, change: Change) {
        self.keep(&change);
        self.journal.stage(&change);
        match change {
            Change::DropSnapshot { generation, parts } => {
                (0..parts).for_each(|part| self.dropped.remove(record::part_key(generation, part)));
            }
            Change::SnapshotPart { generation, part, data } => {
                self.parts.insert(&record::part_key(generation, part), &data);
            }
            Change::Append(_)
            | Change::Compact(_)
            | Change::HardState(_)
            | Change::Identity(_)
            | Change::Install(_)
            | Change::Snapshot(_) => {}
        }
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        write(&self.snapshots.db, &self.file, std::mem::take(&mut self.parts))?;
        self.journal.sync()?;
        if std::mem::take(&mut self.is_news) { self.note() } else { Ok(()) }
    }

    fn snapshots(&self) -> SledSnapshots {
        self.snapshots.clone()
    }
}

impl SnapshotSource for SledSnapshots {
    fn part(&self, generation: u64, part: u32) -> Result<Option<Bytes>, StoreError> {
        let key = record::part_key(generation, part);
        let Some(value) = self.db.get(&key)? else { return Ok(None) };
        Ok(Some(record::owned(record::open(&key, &value)?)))
    }
}

/// A store of this process that was closed a moment ago is still being closed by sled's own threads; sled itself would
/// not wait for them.
fn wait_until_closed(file: &Path) -> Result<(), StoreError> {
    if !file.exists() {
        return Ok(());
    }
    let (file, give_up) = (File::open(file)?, Instant::now() + CLOSING_MAX);
    while let Err(error) = file.try_lock() {
        match error {
            TryLockError::WouldBlock if Instant::now() < give_up => thread::sleep(Duration::from_millis(5)),
            // Sled says who holds it.
            TryLockError::WouldBlock => return Ok(()),
            TryLockError::Error(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Sled takes a checkpoint of its index whose writing was interrupted for one that is damaged. The one before it is
/// still there.
fn remove_half_written_checkpoints(directory: &Path) -> Result<(), StoreError> {
    for item in fs::read_dir(directory)? {
        let item = item?;
        let name = item.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("snap.") && name.ends_with(".generating") {
            fs::remove_file(item.path())?;
        }
    }
    Ok(())
}

/// What is read must be what the medium has. Writes of a server that was killed may be in the kernel's cache only, and sled
/// would sync a checkpoint of its index that refers to them. And what a failed sync should have written stays in the cache
/// as if it had been: after the restart that such a failure causes, it would be built upon.
fn forget_what_is_not_durable(directory: &Path) -> Result<(), StoreError> {
    for item in fs::read_dir(directory)? {
        let path = item?.path();
        if path.is_file() {
            let file = File::open(path)?;
            file.sync_all()?;
            rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).map_err(io::Error::from)?;
        }
    }
    Ok(())
}

pub(super) fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    Ok(File::open(directory)?.sync_all()?)
}

/// Makes changes of sled durable, if there are any.
fn write(db: &sled::Db, file: &File, staged: Staged) -> Result<(), StoreError> {
    if staged.is_used {
        db.apply_batch(staged.batch)?;
        db.flush()?;
        file.sync_data()?;
    }
    Ok(())
}

/// The journal, and what it and sled say together. What an earlier program has left becomes a journal's beginning.
fn open_journal(db: &sled::Db, file: &File, directory: &Path) -> Result<(Journal, Recovered), StoreError> {
    let mut recovered = Recovered {
        identity: read(db, record::IDENTITY, record::decode_identity)?,
        hard_state: read(db, record::HARD_STATE, record::decode_hard_state)?.unwrap_or_default(),
        compacted: read(db, record::COMPACTED, record::decode_position)?.unwrap_or_default(),
        entries: Vec::new(),
        snapshot: read(db, record::SNAPSHOT, record::decode_snapshot)?,
    };
    if !journal::is_in(directory)? {
        if db.contains_key(record::HAS_JOURNAL)? {
            return Err(damaged("the journal is gone"));
        }
        let begins = Recovered { entries: read_log(db)?, ..recovered.clone() };
        check(&begins)?;
        // From here on, an earlier program would go on from what is old.
        let mut marked = Staged::default();
        marked.insert(record::HARD_STATE, &record::encode_hard_state(&recovered.hard_state));
        write(db, file, marked)?;
        journal::create(directory, &begins)?;
    }
    let journal = Journal::open(directory, &mut recovered)?;
    let mut moved = Staged::default();
    for key in db.scan_prefix(record::LOG_PREFIX).keys() {
        moved.remove(key?);
    }
    if moved.is_used || !db.contains_key(record::HAS_JOURNAL)? {
        moved.insert(record::HAS_JOURNAL, &[]);
        write(db, file, moved)?;
    }
    Ok((journal, recovered))
}

fn read<T>(
    db: &sled::Db,
    key: &[u8],
    decode: impl FnOnce(&[u8]) -> Result<T, StoreError>,
) -> Result<Option<T>, StoreError> {
    db.get(key)?.map(|value| decode(record::open(key, &value)?)).transpose()
}

fn read_log(db: &sled::Db) -> Result<Vec<Entry>, StoreError> {
    let mut joiner = EntryJoiner::default();
    let mut entries = Vec::new();
    for item in db.scan_prefix(record::LOG_PREFIX) {
        let (key, value) = item?;
        let (index, part) = record::parse_log_key(&key)?;
        entries.extend(joiner.push(index, part, record::open(&key, &value)?)?);
    }
    joiner.finish()?;
    Ok(entries)
}

/// A log with a gap, or one that has lost what was committed, must not vote.
pub(super) fn check(recovered: &Recovered) -> Result<(), StoreError> {
    let mut last = recovered.compacted;
    for entry in &recovered.entries {
        if entry.index != last.index + 1 {
            return Err(damaged(format!("log entry {} follows {}", entry.index, last.index)));
        }
        if entry.term < last.term {
            return Err(damaged(format!("the term falls at log entry {}", entry.index)));
        }
        last = LogPosition { index: entry.index, term: entry.term };
    }
    if recovered.hard_state.commit > last.index {
        let commit = recovered.hard_state.commit;
        return Err(damaged(format!(
            "entries up to {commit} were committed, the log ends at {}",
            last.index
        )));
    }
    if recovered.hard_state.term < last.term {
        return Err(damaged("the log is ahead of the server's own term"));
    }
    check_snapshot(recovered, last)
}

fn check_snapshot(recovered: &Recovered, last: LogPosition) -> Result<(), StoreError> {
    let snapshot = recovered.snapshot.as_ref().map(|meta| meta.position).unwrap_or_default();
    if snapshot.index < recovered.compacted.index {
        return Err(damaged("the log begins behind the newest snapshot"));
    }
    if snapshot.index > last.index {
        return Err(damaged("the log ends before the newest snapshot"));
    }
    let in_log = snapshot.index.checked_sub(recovered.compacted.index + 1);
    let term = in_log.and_then(|at| recovered.entries.get(at as usize)).map(|entry| entry.term);
    if term.is_some_and(|term| term != snapshot.term) {
        return Err(damaged("the newest snapshot and the log disagree about a term"));
    }
    if recovered.identity.is_none() && (last.index > 0 || recovered.hard_state.term > 0) {
        return Err(damaged("the directory holds a log but does not say whose"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use raft::eraftpb::{ConfState, HardState};
    use tempfile::TempDir;

    use super::*;
    use crate::storage::{Identity, PART_LEN_MAX, SnapshotMeta};

    fn entry(index: u64, term: u64, len: usize) -> Entry {
        Entry { index, term, data: Bytes::from(vec![index as u8; len]), ..Default::default() }
    }

    fn entries() -> Vec<Entry> {
        vec![entry(1, 1, 10), entry(2, 1, 3 * PART_LEN_MAX), entry(3, 2, 0)]
    }

    fn identity() -> Identity {
        Identity { raft_id: 1, cluster_id: "c".into(), voters: vec![1, 2, 3] }
    }

    fn hard_state(term: u64, commit: u64) -> HardState {
        HardState { term, vote: 2, commit, ..Default::default() }
    }

    fn open(directory: &TempDir) -> (SledStore, Recovered) {
        SledStore::open(directory.path()).unwrap()
    }

    fn write(store: &mut SledStore, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| store.stage(change));
        store.sync().unwrap();
    }

    fn filled(directory: &TempDir) -> SledStore {
        let (mut store, recovered) = open(directory);
        assert!(recovered.identity.is_none());
        write(
            &mut store,
            vec![
                Change::Identity(identity()),
                Change::Append(entries()),
                Change::HardState(hard_state(2, 2)),
            ],
        );
        store
    }

    #[test]
    fn everything_synced_is_there_after_reopening() {
        let directory = TempDir::new().unwrap();
        drop(filled(&directory));
        let (store, recovered) = open(&directory);
        assert_eq!(recovered.identity, Some(identity()));
        assert_eq!(recovered.hard_state, hard_state(2, 2));
        assert_eq!(recovered.entries, entries());
        assert_eq!(store.separate_files().unwrap(), 0);
    }

    #[test]
    fn store_can_be_opened_as_soon_as_it_is_closed() {
        let directory = TempDir::new().unwrap();
        drop(filled(&directory));
        for _ in 0..20 {
            let (mut store, recovered) = open(&directory);
            assert_eq!(recovered.entries.len(), 3);
            write(&mut store, vec![Change::HardState(hard_state(2, 2))]);
        }
    }

    #[test]
    fn checkpoint_that_was_interrupted_is_no_obstacle() {
        let directory = TempDir::new().unwrap();
        drop(filled(&directory));
        fs::write(directory.path().join("snap.FFFFFFFFFFFFFF00.generating"), b"half").unwrap();
        assert_eq!(open(&directory).1.entries.len(), 3);
    }

    #[test]
    fn append_replaces_a_conflicting_tail() {
        let directory = TempDir::new().unwrap();
        let mut store = filled(&directory);
        write(&mut store, vec![Change::HardState(hard_state(3, 1)), Change::Append(vec![entry(2, 3, 5)])]);
        drop(store);
        let (mut store, recovered) = open(&directory);
        assert_eq!(recovered.entries, vec![entry(1, 1, 10), entry(2, 3, 5)]);
        write(&mut store, vec![Change::Append(vec![entry(3, 3, 7)])]);
        drop(store);
        assert_eq!(open(&directory).1.entries.len(), 3);
    }

    #[test]
    fn append_can_replace_the_whole_log() {
        let directory = TempDir::new().unwrap();
        let mut store = filled(&directory);
        let hard_state = |term| Change::HardState(hard_state(term, 0));
        write(
            &mut store,
            vec![hard_state(3), Change::Append(vec![entry(1, 3, PART_LEN_MAX + 1), entry(2, 3, 0)])],
        );
        write(&mut store, vec![hard_state(4), Change::Append(vec![entry(1, 4, 5)])]);
        drop(store);
        assert_eq!(open(&directory).1.entries, vec![entry(1, 4, 5)]);
    }

    #[test]
    fn compaction_and_snapshot_survive_reopening() {
        let directory = TempDir::new().unwrap();
        let mut store = filled(&directory);
        let meta = SnapshotMeta {
            generation: 5,
            position: LogPosition { index: 2, term: 1 },
            conf_state: ConfState::from((vec![1, 2, 3], vec![4])),
            parts: 1,
            total_bytes: 4,
            crc32c: 0,
        };
        let data = Bytes::from_static(b"part");
        write(
            &mut store,
            vec![
                Change::SnapshotPart { generation: 4, part: 0, data: data.clone() },
                Change::SnapshotPart { generation: 5, part: 0, data: data.clone() },
                Change::Snapshot(meta.clone()),
                Change::Compact(meta.position),
            ],
        );
        drop(store);
        let (mut store, recovered) = open(&directory);
        assert_eq!(recovered.snapshot, Some(meta.clone()));
        assert_eq!(recovered.compacted, meta.position);
        assert_eq!(recovered.entries, vec![entry(3, 2, 0)]);
        assert_eq!(store.snapshots().part(5, 0).unwrap(), Some(data));
        assert_eq!(store.snapshots().part(4, 0).unwrap(), None, "never became the newest one");

        let installed = SnapshotMeta { generation: 6, position: LogPosition { index: 90, term: 2 }, ..meta };
        write(&mut store, vec![Change::Install(installed.clone()), Change::Append(vec![entry(91, 2, 1)])]);
        drop(store);
        let (_, recovered) = open(&directory);
        assert_eq!(recovered.compacted, installed.position);
        assert_eq!(recovered.entries, vec![entry(91, 2, 1)]);
    }

    /// What a program that knew no journal has left.
    fn filled_by_an_earlier_program(directory: &TempDir, damage: impl FnOnce(&sled::Db)) {
        let db = sled::Config::default().path(directory.path()).segment_size(SEGMENT_LEN).open().unwrap();
        let put = |key: &[u8], payload: &[u8]| {
            let mut value = record::seal(key, payload);
            value[0] = 1;
            db.insert(key, value).unwrap();
        };
        put(record::IDENTITY, &record::encode_identity(&identity()));
        put(record::HARD_STATE, &record::encode_hard_state(&hard_state(2, 2)));
        for entry in entries() {
            for (part, payload) in record::entry_parts(&entry).iter().enumerate() {
                put(&record::log_key(entry.index, part as u16), payload);
            }
        }
        damage(&db);
        db.flush().unwrap();
    }

    #[test]
    fn log_of_an_earlier_program_becomes_a_journal() {
        let directory = TempDir::new().unwrap();
        filled_by_an_earlier_program(&directory, |_| {});
        for _ in 0..2 {
            let (store, recovered) = open(&directory);
            assert_eq!(recovered.identity, Some(identity()));
            assert_eq!(recovered.hard_state, hard_state(2, 2));
            assert_eq!(recovered.entries, entries());
            let db = &store.snapshots.db;
            assert_eq!(db.scan_prefix(record::LOG_PREFIX).count(), 0);
            let value = db.get(record::HARD_STATE).unwrap().unwrap();
            assert_eq!(value[0], 2, "the earlier program would refuse it");
        }
    }

    #[test]
    fn log_that_was_taken_over_counts_once_all_of_it_was() {
        let directory = TempDir::new().unwrap();
        filled_by_an_earlier_program(&directory, |_| {});
        let log = journal::directory(directory.path());
        fs::create_dir(&log).unwrap();
        fs::write(log.join("new"), b"xdpfslog").unwrap();
        assert_eq!(open(&directory).1.entries, entries());
    }

    #[test]
    fn damaged_log_of_an_earlier_program_is_refused() {
        type Damage = fn(&sled::Db);
        let cases: [(&str, Damage); 6] = [
            ("a flipped bit", |db| {
                let key = record::log_key(2, 1);
                let mut value = db.get(&key).unwrap().unwrap().to_vec();
                value[100] ^= 1;
                db.insert(key, value).unwrap();
            }),
            ("a lost part", |db| drop(db.remove(record::log_key(2, 2)).unwrap())),
            ("a lost entry", |db| drop(db.remove(record::log_key(1, 0)).unwrap())),
            ("a lost committed tail", |db| {
                (0..3).for_each(|part| drop(db.remove(record::log_key(2, part)).unwrap()));
                db.remove(record::log_key(3, 0)).unwrap();
            }),
            ("a lost vote", |db| drop(db.remove(record::HARD_STATE).unwrap())),
            ("a lost identity", |db| drop(db.remove(record::IDENTITY).unwrap())),
        ];
        for (name, damage) in cases {
            let directory = TempDir::new().unwrap();
            filled_by_an_earlier_program(&directory, damage);
            let error = SledStore::open(directory.path()).expect_err(name);
            assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error}");
        }
    }

    /// Files of the journal, the oldest first.
    fn files(directory: &TempDir) -> Vec<PathBuf> {
        let listed = fs::read_dir(journal::directory(directory.path())).unwrap();
        let mut files: Vec<PathBuf> = listed.map(|item| item.unwrap().path()).collect();
        files.sort();
        files
    }

    /// Changes a file of the journal as `damage` says.
    fn spoil(file: &Path, damage: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = fs::read(file).unwrap();
        damage(&mut bytes);
        fs::write(file, bytes).unwrap();
    }

    /// Has opened its store three times, and written each time.
    fn written_thrice() -> TempDir {
        let directory = TempDir::new().unwrap();
        let mut store = filled(&directory);
        for index in 4..6 {
            write(&mut store, vec![Change::Append(vec![entry(index, 2, 10)])]);
            drop(store);
            store = open(&directory).0;
        }
        write(&mut store, vec![Change::Append(vec![entry(6, 2, 10)])]);
        write(&mut store, vec![Change::HardState(hard_state(2, 6))]);
        directory
    }

    #[test]
    fn damaged_journal_is_refused() {
        type Damage = fn(&TempDir);
        let cases: [(&str, Damage); 6] = [
            ("a flipped bit", |directory| spoil(&files(directory)[0], |bytes| bytes[100] ^= 1)),
            ("one before the last frame", |directory| spoil(&files(directory)[2], |bytes| bytes[60] ^= 1)),
            ("a lost head", |directory| spoil(&files(directory)[1], Vec::clear)),
            ("a lost file", |directory| fs::remove_file(&files(directory)[1]).unwrap()),
            ("a lost beginning", |directory| fs::remove_file(&files(directory)[0]).unwrap()),
            ("a lost journal", |directory| {
                fs::remove_dir_all(journal::directory(directory.path())).unwrap();
            }),
        ];
        for (name, damage) in cases {
            let directory = written_thrice();
            assert_eq!(files(&directory).len(), 3, "{name}");
            damage(&directory);
            let error = SledStore::open(directory.path()).expect_err(name);
            assert!(matches!(error, StoreError::Damaged { .. }), "{name}: {error}");
        }
    }

    #[test]
    fn frame_that_was_being_written_is_as_if_it_had_never_been() {
        let directory = written_thrice();
        let last = files(&directory)[2].clone();
        let whole = fs::read(&last).unwrap();
        let end = whole.iter().rposition(|byte| *byte != 0).unwrap();
        for cut in [end, end - 10, end - 20] {
            spoil(&last, |bytes| {
                bytes.clone_from(&whole);
                bytes[cut] ^= 0x55;
            });
            let (store, recovered) = open(&directory);
            assert_eq!((recovered.entries.len(), recovered.hard_state.commit), (6, 2), "{cut}");
            drop(store);
            // And what is written then comes behind it.
            let (mut store, _) = open(&directory);
            write(&mut store, vec![Change::HardState(hard_state(3, 6))]);
            drop(store);
            assert_eq!(open(&directory).1.hard_state, hard_state(3, 6));
            files(&directory)[3..].iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }

    #[test]
    fn journal_goes_on_in_another_file_and_forgets_what_is_compacted() {
        let directory = TempDir::new().unwrap();
        let mut store = filled(&directory);
        let large = |index| Change::Append(vec![entry(index, 2, 8 << 20)]);
        (4..12).for_each(|index| write(&mut store, vec![large(index)]));
        let before = files(&directory).len();
        assert!(before >= 4, "{before}");
        let position = LogPosition { index: 10, term: 2 };
        let meta = SnapshotMeta { generation: 1, position, ..SnapshotMeta::default() };
        write(&mut store, vec![Change::Snapshot(meta), Change::Compact(position)]);
        assert_eq!(files(&directory).len(), 2, "the one with entry 11, and the one that is written to");
        write(&mut store, vec![Change::HardState(hard_state(2, 11))]);
        drop(store);
        let (_, recovered) = open(&directory);
        assert_eq!(recovered.identity, Some(identity()), "sled has it");
        assert_eq!((recovered.compacted, recovered.hard_state), (position, hard_state(2, 11)));
        assert_eq!(recovered.entries, [entry(11, 2, 8 << 20)]);
    }

    #[test]
    fn store_of_a_later_release_is_refused_as_such() {
        for key in [record::HARD_STATE, record::IDENTITY] {
            let directory = TempDir::new().unwrap();
            let store = filled(&directory);
            let mut value = store.snapshots.db.get(key).unwrap().unwrap().to_vec();
            value[0] += 1;
            store.snapshots.db.insert(key, value).unwrap();
            store.snapshots.db.flush().unwrap();
            drop(store);
            let error = SledStore::open(directory.path()).expect_err("it knows its own versions only");
            assert!(matches!(error, StoreError::Version { .. }), "{key:?}: {error}");
        }
        let directory = TempDir::new().unwrap();
        drop(filled(&directory));
        spoil(&files(&directory)[0], |bytes| bytes[8] += 1);
        let error = SledStore::open(directory.path()).expect_err("it knows its own version only");
        assert!(matches!(error, StoreError::Version { .. }), "{error}");
    }

    #[test]
    fn steady_appending_and_compaction_never_spill_into_separate_files() {
        let directory = TempDir::new().unwrap();
        let (mut store, _) = open(&directory);
        write(&mut store, vec![Change::Identity(identity()), Change::HardState(hard_state(1, 0))]);
        for index in 1..=200 {
            store.stage(Change::Append(vec![entry(index, 1, 2 * PART_LEN_MAX)]));
            if index > 20 {
                store.stage(Change::Compact(LogPosition { index: index - 20, term: 1 }));
            }
            store.sync().unwrap();
        }
        assert_eq!(store.separate_files().unwrap(), 0);
    }
}
