//! Keys and values of the store. Every value carries a version and a CRC32C over its key and its payload, so that a
//! flipped bit or a misplaced value is found when it is read.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use raft::eraftpb::{ConfState, Entry, EntryType, HardState};

#[cfg(test)]
use super::PART_LEN_MAX;
use super::{Identity, LogPosition, SnapshotMeta, StoreError};

/// Records are as in version 1; programs that know no journal are to refuse what has one.
const VERSION: u8 = 2;
const HEADER_LEN: usize = 5;

pub(super) const HARD_STATE: &[u8] = b"H";
pub(super) const IDENTITY: &[u8] = b"I";
pub(super) const COMPACTED: &[u8] = b"C";
pub(super) const SNAPSHOT: &[u8] = b"S";
/// There is a journal, so that one that is missing is missed.
pub(super) const HAS_JOURNAL: &[u8] = b"J";
/// The log, as programs kept it that knew no journal.
pub(super) const LOG_PREFIX: &[u8] = b"L";
pub(super) const PART_PREFIX: &[u8] = b"P";

pub(super) fn damaged(what: impl Into<String>) -> StoreError {
    StoreError::Damaged { what: what.into() }
}

#[cfg(test)]
pub(super) fn log_key(index: u64, part: u16) -> Vec<u8> {
    [LOG_PREFIX, &index.to_be_bytes(), &part.to_be_bytes()].concat()
}

pub(super) fn part_key(generation: u64, part: u32) -> Vec<u8> {
    [PART_PREFIX, &generation.to_be_bytes(), &part.to_be_bytes()].concat()
}

/// The index and the part that a key of the log names.
pub(super) fn parse_log_key(key: &[u8]) -> Result<(u64, u16), StoreError> {
    let mut rest = key.strip_prefix(LOG_PREFIX).ok_or_else(|| damaged("a key outside the log"))?;
    if rest.len() != 10 {
        return Err(damaged("a log key of a wrong length"));
    }
    Ok((rest.get_u64(), rest.get_u16()))
}

/// The snapshot that a key of a part names.
pub(super) fn parse_part_key(key: &[u8]) -> Option<u64> {
    let mut rest = key.strip_prefix(PART_PREFIX)?;
    (rest.len() == 12).then(|| rest.get_u64())
}

/// Wraps a payload into a value.
pub(super) fn seal(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut value = Vec::with_capacity(HEADER_LEN + payload.len());
    value.put_u8(VERSION);
    value.put_u32_le(checksum(key, payload));
    value.put_slice(payload);
    value
}

/// The payload of a value, if it is what was written under this key.
pub(super) fn open<'a>(key: &[u8], value: &'a [u8]) -> Result<&'a [u8], StoreError> {
    let name = || String::from_utf8_lossy(&key[..key.len().min(1)]).into_owned();
    let (mut header, payload) =
        value.split_at_checked(HEADER_LEN).ok_or_else(|| damaged(format!("a short record {}", name())))?;
    let version = header.get_u8();
    if version == 0 || version > VERSION {
        return Err(StoreError::Version { version, known: VERSION });
    }
    if header.get_u32_le() != checksum(key, payload) {
        return Err(damaged(format!("record {} with a wrong checksum", name())));
    }
    Ok(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    super::crc32c_of([key, payload])
}

/// The parts of one log entry. Each repeats the fixed fields, so that parts of two entries never join.
#[cfg(test)]
pub(super) fn entry_parts(entry: &Entry) -> Vec<Vec<u8>> {
    let count = entry.data.len().div_ceil(PART_LEN_MAX).max(1);
    (0..count)
        .map(|part| {
            let from = part * PART_LEN_MAX;
            let data = &entry.data[from..entry.data.len().min(from + PART_LEN_MAX)];
            let mut payload = Vec::with_capacity(ENTRY_HEADER_LEN + data.len());
            payload.put_u8(entry.entry_type as u8);
            payload.put_u64_le(entry.term);
            payload.put_u64_le(entry.index);
            payload.put_u16_le(count as u16);
            payload.put_slice(data);
            payload
        })
        .collect()
}

const ENTRY_HEADER_LEN: usize = 19;

/// Joins parts into entries, in the order of their keys.
#[derive(Default)]
pub(super) struct EntryJoiner {
    open: Option<OpenEntry>,
}

struct OpenEntry {
    entry: Entry,
    data: BytesMut,
    seen: u16,
    count: u16,
}

impl EntryJoiner {
    /// Takes the next part; gives the entry that it completes.
    pub(super) fn push(
        &mut self,
        index: u64,
        part: u16,
        mut payload: &[u8],
    ) -> Result<Option<Entry>, StoreError> {
        if payload.len() < ENTRY_HEADER_LEN {
            return Err(damaged(format!("log entry {index} is too short")));
        }
        let entry_type = payload.get_u8();
        let (term, own_index, count) = (payload.get_u64_le(), payload.get_u64_le(), payload.get_u16_le());
        if part == 0 && self.open.is_none() {
            let mut entry = Entry { term, index, ..Default::default() };
            entry.set_entry_type(entry_type_of(entry_type, index)?);
            self.open = Some(OpenEntry { entry, data: BytesMut::new(), seen: 0, count });
        }
        let Some(open) = self.open.as_mut() else {
            return Err(damaged(format!("log entry {index} lacks its first part")));
        };
        let fits = open.entry.index == index
            && own_index == index
            && open.entry.term == term
            && open.count == count
            && open.seen == part;
        if !fits {
            return Err(damaged(format!("log entry {} is incomplete", open.entry.index)));
        }
        open.data.extend_from_slice(payload);
        open.seen += 1;
        if open.seen < open.count {
            return Ok(None);
        }
        Ok(self.open.take().map(|open| Entry { data: open.data.freeze(), ..open.entry }))
    }

    /// No part may be missing at the end.
    pub(super) fn finish(self) -> Result<(), StoreError> {
        match self.open {
            Some(open) => Err(damaged(format!("log entry {} lacks its last part", open.entry.index))),
            None => Ok(()),
        }
    }
}

pub(super) fn entry_type_of(byte: u8, index: u64) -> Result<EntryType, StoreError> {
    [EntryType::EntryNormal, EntryType::EntryConfChange, EntryType::EntryConfChangeV2]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
        .ok_or_else(|| damaged(format!("log entry {index} has the unknown type {byte}")))
}

pub(super) fn encode_hard_state(state: &HardState) -> Vec<u8> {
    [state.term, state.vote, state.commit].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn decode_hard_state(payload: &[u8]) -> Result<HardState, StoreError> {
    let mut rest = Reader(payload, "hard state");
    Ok(HardState { term: rest.u64()?, vote: rest.u64()?, commit: rest.u64()?, ..Default::default() })
}

pub(super) fn encode_position(position: LogPosition) -> Vec<u8> {
    [position.index, position.term].iter().flat_map(|word| word.to_le_bytes()).collect()
}

pub(super) fn decode_position(payload: &[u8]) -> Result<LogPosition, StoreError> {
    let mut rest = Reader(payload, "log position");
    Ok(LogPosition { index: rest.u64()?, term: rest.u64()? })
}

pub(super) fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u64_le(identity.raft_id);
    put_voters(&mut payload, &identity.voters);
    payload.put_slice(identity.cluster_id.as_bytes());
    payload
}

pub(super) fn decode_identity(payload: &[u8]) -> Result<Identity, StoreError> {
    let mut rest = Reader(payload, "identity");
    let (raft_id, voters) = (rest.u64()?, rest.voters()?);
    let cluster_id = String::from_utf8(rest.0.to_vec()).map_err(|_| damaged("identity is no text"))?;
    Ok(Identity { raft_id, cluster_id, voters })
}

pub(super) fn encode_snapshot(meta: &SnapshotMeta) -> Vec<u8> {
    let mut payload = Vec::new();
    payload.put_u64_le(meta.generation);
    payload.put_slice(&encode_position(meta.position));
    payload.put_u32_le(meta.parts);
    payload.put_u64_le(meta.total_bytes);
    payload.put_u32_le(meta.crc32c);
    let servers = &meta.conf_state;
    put_voters(&mut payload, &servers.voters);
    for ids in [&servers.learners, &servers.voters_outgoing, &servers.learners_next] {
        put_voters(&mut payload, ids);
    }
    payload.put_u8(servers.auto_leave.into());
    payload
}

pub(super) fn decode_snapshot(payload: &[u8]) -> Result<SnapshotMeta, StoreError> {
    let mut rest = Reader(payload, "snapshot");
    Ok(SnapshotMeta {
        generation: rest.u64()?,
        position: LogPosition { index: rest.u64()?, term: rest.u64()? },
        parts: rest.u32()?,
        total_bytes: rest.u64()?,
        crc32c: rest.u32()?,
        conf_state: rest.conf_state()?,
    })
}

fn put_voters(payload: &mut Vec<u8>, voters: &[u64]) {
    payload.put_u32_le(voters.len() as u32);
    voters.iter().for_each(|voter| payload.put_u64_le(*voter));
}

struct Reader<'a>(&'a [u8], &'static str);

impl Reader<'_> {
    fn u32(&mut self) -> Result<u32, StoreError> {
        self.0.try_get_u32_le().map_err(|_| damaged(format!("{} is too short", self.1)))
    }

    fn u64(&mut self) -> Result<u64, StoreError> {
        self.0.try_get_u64_le().map_err(|_| damaged(format!("{} is too short", self.1)))
    }

    fn voters(&mut self) -> Result<Vec<u64>, StoreError> {
        let count = self.u32()? as usize;
        if count > self.0.len() / 8 {
            return Err(damaged(format!("{} is too short", self.1)));
        }
        (0..count).map(|_| self.u64()).collect()
    }

    /// Earlier programs, whose servers never changed, wrote the voters alone.
    fn conf_state(&mut self) -> Result<ConfState, StoreError> {
        let mut servers = ConfState { voters: self.voters()?, ..ConfState::default() };
        if self.0.is_empty() {
            return Ok(servers);
        }
        servers.learners = self.voters()?;
        servers.voters_outgoing = self.voters()?;
        servers.learners_next = self.voters()?;
        let auto_leave = self.0.try_get_u8().map_err(|_| damaged(format!("{} is too short", self.1)))?;
        servers.auto_leave = auto_leave != 0;
        Ok(servers)
    }
}

/// A copy of a payload that outlives the value.
pub(super) fn owned(payload: &[u8]) -> Bytes {
    Bytes::copy_from_slice(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(len: usize) -> Entry {
        Entry { term: 3, index: 9, data: Bytes::from(vec![7; len]), ..Default::default() }
    }

    #[test]
    fn entries_of_any_length_survive_their_parts() {
        for len in [0, 1, PART_LEN_MAX - 1, PART_LEN_MAX, PART_LEN_MAX + 1, 3 * PART_LEN_MAX] {
            let mut joiner = EntryJoiner::default();
            let mut joined = None;
            for (part, payload) in entry_parts(&entry(len)).iter().enumerate() {
                joined = joiner.push(9, part as u16, payload).unwrap();
            }
            assert_eq!(joined, Some(entry(len)), "length {len}");
            joiner.finish().unwrap();
        }
    }

    #[test]
    fn snapshot_of_an_earlier_program_has_voters_alone() {
        let conf_state = ConfState::from((vec![1, 2, 3], Vec::new()));
        let meta = SnapshotMeta { generation: 5, conf_state, ..SnapshotMeta::default() };
        let mut payload = encode_snapshot(&meta);
        payload.truncate(payload.len() - 3 * 4 - 1);
        assert_eq!(decode_snapshot(&payload).unwrap(), meta);
        payload.push(1);
        assert!(decode_snapshot(&payload).is_err());
    }

    #[test]
    fn missing_part_is_found() {
        let parts = entry_parts(&entry(3 * PART_LEN_MAX));
        let mut joiner = EntryJoiner::default();
        joiner.push(9, 0, &parts[0]).unwrap();
        assert!(joiner.push(9, 2, &parts[2]).is_err());
        let mut joiner = EntryJoiner::default();
        joiner.push(9, 0, &parts[0]).unwrap();
        assert!(joiner.finish().is_err());
    }

    #[test]
    fn record_of_a_later_version_is_named_so() {
        let mut value = seal(HARD_STATE, &[1, 2, 3]);
        value[0] = VERSION + 1;
        let error = open(HARD_STATE, &value).unwrap_err();
        assert!(matches!(error, StoreError::Version { version: 3, known: 2 }), "{error}");
        assert!(error.to_string().contains("start the later release"), "{error}");
    }

    proptest! {
        #[test]
        fn any_flipped_bit_is_found(payload: Vec<u8>, at: prop::sample::Index, bit in 0u8..8) {
            let mut value = seal(b"Lkey", &payload);
            prop_assert_eq!(open(b"Lkey", &value).unwrap(), &payload[..]);
            prop_assert!(open(b"Lkez", &value).is_err());
            let at = at.index(value.len());
            value[at] ^= 1 << bit;
            prop_assert!(open(b"Lkey", &value).is_err());
        }

        #[test]
        fn records_of_any_bytes_never_panic(payload: Vec<u8>) {
            let _ = decode_hard_state(&payload);
            let _ = decode_identity(&payload);
            let _ = decode_position(&payload);
            let _ = decode_snapshot(&payload);
            let _ = open(b"H", &payload);
            let _ = EntryJoiner::default().push(1, 0, &payload);
            let _ = parse_log_key(&payload);
        }

        #[test]
        fn identity_and_snapshot_round_trip(id: u64, name in "[a-z0-9-]{0,40}", voters: Vec<u64>, others: [Vec<u64>; 3], words: [u64; 4], parts: u32) {
            let identity = Identity { raft_id: id, cluster_id: name, voters: voters.clone() };
            prop_assert_eq!(decode_identity(&encode_identity(&identity)).unwrap(), identity);
            let [learners, voters_outgoing, learners_next] = others;
            let auto_leave = parts % 2 == 0;
            let conf_state =
                ConfState { voters, learners, voters_outgoing, learners_next, auto_leave, ..ConfState::default() };
            let meta = SnapshotMeta {
                generation: words[0],
                position: LogPosition { index: words[1], term: words[2] },
                conf_state,
                parts,
                total_bytes: words[3],
                crc32c: parts ^ 1,
            };
            prop_assert_eq!(decode_snapshot(&encode_snapshot(&meta)).unwrap(), meta);
        }
    }
}
