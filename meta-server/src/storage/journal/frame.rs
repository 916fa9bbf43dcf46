//! The bytes of a journal: the head of a file, and frames of changes behind it. Knows no files.
//!
//! Invariant: a frame is taken for what was written only where it was written: its checksum covers its number and the file's
//! salt, which nobody outside knows, so that no bytes of an object look like a frame.

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::Entry;

use crate::storage::{
    Change, LogPosition, Recovered, StoreError, crc32c_of,
    record::{self, damaged},
};

const MAGIC: &[u8; 8] = b"xdpfslog";
/// Of the head and of all frames behind it.
const VERSION: u8 = 1;
pub(super) const HEAD_LEN: usize = 32;
/// Checksum, length of what follows the header, number.
const HEADER_LEN: usize = 16;
/// What stands before an entry's data: kind of change, type, term, index, length of the data.
const ENTRY_HEADER_LEN: usize = 1 + 1 + 8 + 8 + 4;

const COMPACT: u8 = b'C';
const ENTRY: u8 = b'E';
const HARD_STATE: u8 = b'H';
const IDENTITY: u8 = b'I';
const INSTALL: u8 = b'N';
const SNAPSHOT: u8 = b'S';

/// What a file begins with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Head {
    /// The number of its first frame. Numbers rise by one from frame to frame, and from file to file.
    pub(super) first: u64,
    /// Random.
    pub(super) salt: u64,
}

impl Head {
    pub(super) fn encode(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEAD_LEN);
        bytes.put_slice(MAGIC);
        bytes.put_u32_le(VERSION.into());
        bytes.put_u32_le(self.checksum());
        bytes.put_u64_le(self.first);
        bytes.put_u64_le(self.salt);
        bytes
    }

    pub(super) fn parse(bytes: &[u8]) -> Result<Self, StoreError> {
        let is_known = bytes.len() >= HEAD_LEN && bytes.starts_with(MAGIC);
        let mut rest = bytes.get(MAGIC.len()..).filter(|_| is_known).ok_or_else(no_journal)?;
        let version = rest.get_u32_le();
        if version > VERSION.into() {
            return Err(StoreError::Version { version: version as u8, known: VERSION });
        }
        let crc = rest.get_u32_le();
        let head = Self { first: rest.get_u64_le(), salt: rest.get_u64_le() };
        if crc == head.checksum() { Ok(head) } else { Err(no_journal()) }
    }

    fn checksum(self) -> u32 {
        crc32c_of([&MAGIC[..], &self.first.to_le_bytes(), &self.salt.to_le_bytes()])
    }
}

fn no_journal() -> StoreError {
    damaged("a file of the journal has no head")
}

/// A frame that is being filled.
#[derive(Debug, Default)]
pub(super) struct Frame(Vec<u8>);

impl Frame {
    pub(super) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds what of the change is for the journal: parts of snapshots are not.
    pub(super) fn push(&mut self, change: &Change) {
        match change {
            Change::Append(entries) => entries.iter().for_each(|entry| self.push_entry(entry)),
            Change::Compact(position) => self.push_words(COMPACT, &record::encode_position(*position)),
            Change::DropSnapshot { .. } | Change::SnapshotPart { .. } => {}
            Change::HardState(state) => self.push_words(HARD_STATE, &record::encode_hard_state(state)),
            Change::Identity(identity) => self.push_words(IDENTITY, &record::encode_identity(identity)),
            Change::Install(meta) => self.push_words(INSTALL, &record::encode_snapshot(meta)),
            Change::Snapshot(meta) => self.push_words(SNAPSHOT, &record::encode_snapshot(meta)),
        }
    }

    pub(super) fn push_entry(&mut self, entry: &Entry) {
        let bytes = self.bytes(ENTRY_HEADER_LEN + entry.data.len());
        bytes.put_u8(ENTRY);
        bytes.put_u8(entry.entry_type as u8);
        bytes.put_u64_le(entry.term);
        bytes.put_u64_le(entry.index);
        bytes.put_u32_le(entry.data.len() as u32);
        bytes.put_slice(&entry.data);
    }

    fn push_words(&mut self, kind: u8, payload: &[u8]) {
        let bytes = self.bytes(5 + payload.len());
        bytes.put_u8(kind);
        bytes.put_u32_le(payload.len() as u32);
        bytes.put_slice(payload);
    }

    /// With room for the header, which is filled in at the end.
    fn bytes(&mut self, more: usize) -> &mut Vec<u8> {
        if self.0.is_empty() {
            self.0.resize(HEADER_LEN, 0);
        }
        self.0.reserve(more);
        &mut self.0
    }

    pub(super) const fn len(&self) -> usize {
        self.0.len()
    }

    /// As it is written into a file with this salt.
    pub(super) fn seal(&mut self, number: u64, salt: u64) -> &[u8] {
        let len = (self.0.len() - HEADER_LEN) as u32;
        self.0[4..8].copy_from_slice(&len.to_le_bytes());
        self.0[8..HEADER_LEN].copy_from_slice(&number.to_le_bytes());
        let crc = checksum(salt, &self.0[4..]);
        self.0[..4].copy_from_slice(&crc.to_le_bytes());
        &self.0
    }

    /// Begins the next one, in the same memory unless that has become large.
    pub(super) fn clear(&mut self, kept_max: usize) {
        self.0.clear();
        self.0.shrink_to(kept_max);
    }
}

fn checksum(salt: u64, rest: &[u8]) -> u32 {
    crc32c_of([&salt.to_le_bytes()[..], rest])
}

/// The changes of the frame at the beginning of `bytes`, if it is whole and has this number.
pub(super) fn parse(bytes: &[u8], number: u64, salt: u64) -> Option<&[u8]> {
    let (header, rest) = bytes.split_at_checked(HEADER_LEN)?;
    let mut fields = header;
    let (crc, len, own) = (fields.get_u32_le(), fields.get_u32_le() as usize, fields.get_u64_le());
    let is_whole = own == number && len > 0 && len <= rest.len();
    let is_right = is_whole && checksum(salt, &bytes[4..HEADER_LEN + len]) == crc;
    is_right.then(|| &rest[..len])
}

/// How far it is from a frame's beginning to the next one's.
pub(super) const fn frame_len(changes: &[u8]) -> usize {
    HEADER_LEN + changes.len()
}

/// Whether there is a whole frame anywhere in `bytes` with one of these numbers.
pub(super) fn holds_any(bytes: &[u8], numbers: std::ops::Range<u64>, salt: u64) -> bool {
    let mut starts = 0..bytes.len().saturating_sub(HEADER_LEN);
    starts.any(|start| {
        let own = (&bytes[start + 8..]).get_u64_le();
        numbers.contains(&own) && parse(&bytes[start..], own, salt).is_some()
    })
}

/// The changes of a frame, in their order; each entry is one by itself.
pub(super) fn changes(bytes: &Bytes) -> Result<Vec<Change>, StoreError> {
    let (mut rest, mut changes) = (bytes.clone(), Vec::new());
    while rest.has_remaining() {
        changes.push(next(&mut rest)?);
    }
    Ok(changes)
}

fn next(rest: &mut Bytes) -> Result<Change, StoreError> {
    let short = |_| damaged("a change in the journal is too short");
    let kind = rest.try_get_u8().map_err(short)?;
    if kind == ENTRY {
        let entry_type = rest.try_get_u8().map_err(short)?;
        let (term, index) = (rest.try_get_u64_le().map_err(short)?, rest.try_get_u64_le().map_err(short)?);
        let data = take(rest)?;
        let mut entry = Entry { term, index, data, ..Entry::default() };
        entry.set_entry_type(record::entry_type_of(entry_type, index)?);
        return Ok(Change::Append(vec![entry]));
    }
    let payload = take(rest)?;
    Ok(match kind {
        COMPACT => Change::Compact(record::decode_position(&payload)?),
        HARD_STATE => Change::HardState(record::decode_hard_state(&payload)?),
        IDENTITY => Change::Identity(record::decode_identity(&payload)?),
        INSTALL => Change::Install(record::decode_snapshot(&payload)?),
        SNAPSHOT => Change::Snapshot(record::decode_snapshot(&payload)?),
        _ => return Err(damaged(format!("the journal has a change of the unknown kind {kind}"))),
    })
}

/// Bytes with their length before them.
fn take(rest: &mut Bytes) -> Result<Bytes, StoreError> {
    let len = rest.try_get_u32_le().map_err(|_| damaged("a change in the journal is too short"))? as usize;
    if len > rest.len() {
        return Err(damaged("a change in the journal is too short"));
    }
    Ok(rest.split_to(len))
}

/// Keeps what the journal says. What was compacted since may stand in it still.
pub(super) fn replay(kept: &mut Recovered, change: Change) -> Result<(), StoreError> {
    match change {
        Change::Append(entries) => {
            for entry in entries {
                let first = kept.compacted.index + 1;
                let at = entry.index.saturating_sub(first) as usize;
                if at > kept.entries.len() {
                    let last = first + kept.entries.len() as u64 - 1;
                    return Err(damaged(format!("log entry {} follows {last}", entry.index)));
                }
                kept.entries.truncate(at);
                if entry.index >= first {
                    kept.entries.push(entry);
                }
            }
        }
        Change::Compact(position) => compact(kept, position),
        Change::DropSnapshot { .. } | Change::SnapshotPart { .. } => {}
        Change::HardState(state) => kept.hard_state = state,
        Change::Identity(identity) => kept.identity = Some(identity),
        Change::Install(meta) => {
            kept.entries.clear();
            compact(kept, meta.position);
            kept.snapshot = Some(meta);
        }
        Change::Snapshot(meta) => kept.snapshot = Some(meta),
    }
    Ok(())
}

fn compact(kept: &mut Recovered, position: LogPosition) {
    if let Some(count) = position.index.checked_sub(kept.compacted.index).filter(|count| *count > 0) {
        kept.entries.drain(..kept.entries.len().min(count as usize));
        kept.compacted = position;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::HardState;

    use super::*;
    use crate::storage::{Identity, SnapshotMeta};

    fn entry(index: u64, len: usize) -> Entry {
        Entry { index, term: 2, data: vec![index as u8; len].into(), ..Entry::default() }
    }

    fn some_changes() -> Vec<Change> {
        let position = LogPosition { index: 3, term: 1 };
        vec![
            Change::Identity(Identity { raft_id: 1, cluster_id: "c".into(), voters: vec![1, 2] }),
            Change::Append(vec![entry(1, 0), entry(2, 100)]),
            Change::HardState(HardState { term: 2, vote: 1, commit: 1, ..HardState::default() }),
            Change::Snapshot(SnapshotMeta { generation: 1, ..SnapshotMeta::default() }),
            Change::Install(SnapshotMeta { generation: 2, position, ..SnapshotMeta::default() }),
            Change::Append(vec![entry(4, 5)]),
            Change::Compact(LogPosition { index: 4, term: 2 }),
        ]
    }

    fn written(number: u64, salt: u64) -> Vec<u8> {
        let mut frame = Frame::default();
        some_changes().iter().for_each(|change| frame.push(change));
        frame.seal(number, salt).to_vec()
    }

    fn state_after(changes: Vec<Change>) -> Recovered {
        let mut kept = Recovered::default();
        changes.into_iter().for_each(|change| replay(&mut kept, change).unwrap());
        kept
    }

    #[test]
    fn changes_come_back_as_they_went_in() {
        let bytes = Bytes::from(written(7, 9));
        let found = parse(&bytes, 7, 9).unwrap();
        assert_eq!(frame_len(found), bytes.len());
        let (found, expect) =
            (state_after(changes(&bytes.slice_ref(found)).unwrap()), state_after(some_changes()));
        assert_eq!(format!("{found:?}"), format!("{expect:?}"));
        assert_eq!(found.compacted.index, 4);
    }

    #[test]
    fn frame_counts_only_under_its_number_and_in_its_file() {
        let bytes = written(7, 9);
        assert!(parse(&bytes, 8, 9).is_none() && parse(&bytes, 7, 8).is_none());
        let hidden = [&[0; 13][..], &bytes, &[0; 5]].concat();
        assert!(holds_any(&hidden, 6..8, 9));
        assert!(!holds_any(&hidden, 8..100, 9) && !holds_any(&hidden, 6..8, 1));
    }

    #[test]
    fn head_comes_back_unless_it_is_another_release_s() {
        let head = Head { first: 5, salt: 6 };
        let mut bytes = head.encode();
        assert_eq!(Head::parse(&bytes).unwrap(), head);
        bytes[20] ^= 1;
        assert!(matches!(Head::parse(&bytes), Err(StoreError::Damaged { .. })));
        bytes[8] += 1;
        assert!(matches!(Head::parse(&bytes), Err(StoreError::Version { version: 2, known: 1 })));
        assert!(matches!(Head::parse(b"xdpfs"), Err(StoreError::Damaged { .. })));
    }

    #[test]
    fn entries_before_what_is_compacted_are_passed_over() {
        let mut kept = Recovered { compacted: LogPosition { index: 10, term: 2 }, ..Recovered::default() };
        replay(&mut kept, Change::Append((1..=12).map(|index| entry(index, 1)).collect())).unwrap();
        replay(&mut kept, Change::Compact(LogPosition { index: 5, term: 2 })).unwrap();
        assert_eq!(kept.entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [11, 12]);
        assert_eq!(kept.compacted.index, 10);
        assert!(replay(&mut kept, Change::Append(vec![entry(14, 1)])).is_err(), "a gap");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(at: prop::sample::Index, bit in 0u8..8) {
            let mut bytes = written(7, 9);
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
            prop_assert!(parse(&bytes, 7, 9).is_none());
        }

        #[test]
        fn any_bytes_never_panic(bytes: Vec<u8>, number: u64) {
            let _ = parse(&bytes, number, 1);
            let _ = holds_any(&bytes, 0..number, 1);
            let _ = Head::parse(&bytes);
            let _ = changes(&bytes.into());
        }
    }
}
