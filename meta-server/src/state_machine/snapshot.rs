//! The whole state as a sequence of length-delimited records, and back.
//!
//! Invariant: equal states give equal bytes, and decoding never trusts what it reads.

use std::{collections::BTreeMap, sync::Arc};

use bytes::{Buf, Bytes, BytesMut};
use prost::Message as _;
use xdpfs_proto::state::v1::{self as pb, snapshot_record::Kind};
use xdpfs_wire::{BucketId, ChunkId, EpochSecret, NodeId, SipKey};

use super::{
    AccessKey, Bucket, Chunk, Counters, FeatureLevel, KeyEpoch, Members, Node, Object, ObjectName, Owner,
    State, Upload, VersionName,
    answered::{Answer, RequestId},
    fingerprint::Fingerprint,
    history::History,
    parse_chunk_id,
    versions::{Older, OlderSums},
};
use crate::mistake::{Mistake, is_planted};

/// The layout of the records.
const FORMAT: u32 = 1;

const NO_BUCKET: SnapshotError = SnapshotError::Content("an object without a bucket");

/// What a bucket says that it holds.
#[derive(Clone, Copy, Default, Eq, PartialEq)]
struct Sums {
    objects: u64,
    bytes: u64,
    older: OlderSums,
}

/// Why a snapshot cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// A record is not what its length says.
    #[error("a record of the snapshot is malformed")]
    Record(#[from] prost::DecodeError),
    /// It comes from a later release.
    #[error(
        "the snapshot has the format {0}, this server reads format {FORMAT}: start the later release that wrote it"
    )]
    Format(u32),
    /// The cluster uses what only a later release can do.
    #[error(
        "the snapshot is of a cluster at {0}, this server supports {supported}: start the later release that the other \
         servers run",
        supported = FeatureLevel::SUPPORTED
    )]
    FeatureLevel(FeatureLevel),
    /// A record holds something that no server writes.
    #[error("a record of the snapshot makes no sense: {0}")]
    Content(&'static str),
}

impl State {
    /// The state as bytes, in pieces of `piece_len` bytes; only the last one is shorter.
    #[must_use]
    pub fn encode(&self, piece_len: usize) -> Vec<Bytes> {
        encode(self.records(), piece_len)
    }

    pub(super) fn records(&self) -> impl Iterator<Item = Kind> + '_ {
        self.first_records()
            .chain(self.objects.iter().map(|(name, object)| Kind::Object(object.record(name))))
            .chain(self.older.records().map(Kind::OlderVersion))
            .chain(self.uploads.values().map(|upload| Kind::Upload(upload.record())))
            .chain(self.node_records())
            .chain(self.pending_deletes.records().map(Kind::PendingDelete))
            .chain(self.answers().map(Kind::Answered))
            .chain(self.last_records())
    }

    pub(super) fn first_records(&self) -> impl Iterator<Item = Kind> + '_ {
        let buckets = self.buckets.values().map(|bucket| Kind::Bucket(bucket.record()));
        std::iter::once(Kind::Header(self.header())).chain(buckets)
    }

    pub(super) fn node_records(&self) -> impl Iterator<Item = Kind> + '_ {
        self.nodes.values().map(|node| Kind::Node(node.record()))
    }

    pub(super) fn last_records(&self) -> impl Iterator<Item = Kind> + '_ {
        let epochs = self.key_epochs.records().map(Kind::KeyEpoch);
        epochs
            .chain(self.access_keys.records().map(Kind::AccessKey))
            .chain(self.members.records().map(Kind::MetaMember))
    }

    /// All that there is little of.
    pub(super) fn small_records(&self) -> impl Iterator<Item = Kind> + '_ {
        std::iter::once(Kind::Header(self.header())).chain(self.node_records()).chain(self.last_records())
    }

    fn answers(&self) -> impl Iterator<Item = pb::Answered> + '_ {
        self.answered.records().filter(|_| !is_planted(Mistake::AnswersForgottenInSnapshots))
    }

    fn header(&self) -> pb::SnapshotHeader {
        pb::SnapshotHeader {
            format: FORMAT,
            cluster_id: self.cluster_id.clone(),
            time_ms: self.time_ms,
            next_bucket_id: self.counters.bucket,
            next_node_id: self.counters.node,
            next_upload_id: self.counters.upload,
            next_chunk_sequence: self.counters.chunk,
            next_client_id: self.counters.client,
            next_key_epoch: self.key_epochs.last_number() + 1,
            replica_debt: self.replica_debt,
            access_closed: self.access_keys.is_closed(),
            index: self.history.index(),
            feature_level: self.feature_level.0,
            fingerprint: self.fingerprint.record(),
            rebalance_paused: self.rebalance_paused,
            next_member_id: self.members.next_id(),
            reserved_member_ids: self.members.reserved().collect(),
            configuration: self.members.is_known().then(|| self.members.configuration().record()),
        }
    }

    /// The state that was encoded, from its pieces in order.
    ///
    /// # Errors
    ///
    /// The bytes are not what [`State::encode`] writes.
    pub fn decode(mut bytes: impl Buf) -> Result<Self, SnapshotError> {
        let mut state = None;
        while bytes.has_remaining() {
            let record = pb::SnapshotRecord::decode_length_delimited(&mut bytes)?;
            let kind = record.kind.ok_or(SnapshotError::Content("a record of an unknown kind"))?;
            match (&mut state, kind) {
                (None, Kind::Header(header)) => state = Some(Self::from_header(header)?),
                (None, _) => return Err(SnapshotError::Content("the header is not the first record")),
                (Some(state), kind) => state.load(kind)?,
            }
        }
        let state = state.ok_or(SnapshotError::Content("there is no header"))?;
        state.check_sums()?;
        Ok(state)
    }

    /// Sums that later changes take parts from must be what they are sums of.
    pub(super) fn check_sums(&self) -> Result<(), SnapshotError> {
        let mut debt: u64 = 0;
        let mut held: BTreeMap<BucketId, Sums> = BTreeMap::new();
        // What several versions share is lacking once.
        let mut add_debt = |(_, key): &ObjectName, object: &Object, bucket: &Bucket| {
            let first = VersionName { key: Arc::clone(key), version: object.version };
            let is_first =
                |chunk: &&Chunk| self.owners.of(chunk.id).and_then(Owner::first).as_ref() == Some(&first);
            let lacking = object.chunks.iter().filter(is_first).map(|chunk| chunk.debt(bucket));
            debt = lacking.fold(debt, u64::saturating_add);
        };
        for (name, object) in &self.objects {
            let bucket = self.buckets.get(&name.0).ok_or(NO_BUCKET)?;
            let sums = held.entry(bucket.id).or_default();
            sums.objects += 1;
            sums.bytes = sums.bytes.saturating_add(object.size);
            add_debt(name, object, bucket);
        }
        for (name, older) in self.older.all() {
            let bucket = self.buckets.get(&name.0).ok_or(NO_BUCKET)?;
            held.entry(bucket.id).or_default().older.add(older);
            if let Older::Object(object) = older {
                add_debt(&name, object, bucket);
            }
        }
        let sums =
            |bucket: &Bucket| Sums { objects: bucket.objects, bytes: bucket.bytes, older: bucket.older };
        let equal = |bucket: &Bucket| held.get(&bucket.id).copied().unwrap_or_default() == sums(bucket);
        if self.replica_debt != debt || !self.buckets.values().all(equal) {
            return Err(SnapshotError::Content("sums that do not match the objects"));
        }
        let in_order = self.are_versions_in_order();
        in_order.then_some(()).ok_or(SnapshotError::Content("versions that do not lie as they must"))
    }

    fn from_header(header: pb::SnapshotHeader) -> Result<Self, SnapshotError> {
        if header.format != FORMAT {
            return Err(SnapshotError::Format(header.format));
        }
        let feature_level = FeatureLevel(header.feature_level);
        if feature_level > FeatureLevel::SUPPORTED {
            return Err(SnapshotError::FeatureLevel(feature_level));
        }
        let members = Arc::new(Members::from_header(&header));
        let mut state = Self {
            cluster_id: header.cluster_id,
            time_ms: header.time_ms,
            counters: Counters {
                bucket: header.next_bucket_id,
                node: header.next_node_id,
                upload: header.next_upload_id,
                chunk: match is_planted(Mistake::ChunkNumbersForgottenInSnapshots) {
                    true => Counters::default().chunk,
                    false => header.next_chunk_sequence,
                },
                client: header.next_client_id,
            },
            replica_debt: header.replica_debt,
            rebalance_paused: header.rebalance_paused,
            history: History::after_snapshot(header.index),
            members,
            feature_level,
            fingerprint: Fingerprint::from_record(header.fingerprint),
            ..Self::default()
        };
        state.key_epochs.set_last_number(header.next_key_epoch.saturating_sub(1));
        if header.access_closed {
            state.access_keys.close();
        }
        Ok(state)
    }

    fn load(&mut self, kind: Kind) -> Result<(), SnapshotError> {
        match kind {
            Kind::Header(_) => return Err(SnapshotError::Content("there are two headers")),
            Kind::Bucket(record) => {
                self.insert_bucket(Bucket::from_record(record).ok_or(SnapshotError::Content("a bucket"))?);
            }
            Kind::Object(record) => self.load_object(record)?,
            Kind::OlderVersion(record) => self.load_older(record)?,
            Kind::Upload(record) => self.load_upload(record)?,
            Kind::Node(record) => {
                let node = Node::from_record(record).ok_or(SnapshotError::Content("a node"))?;
                self.nodes.insert(node.id, node);
            }
            Kind::PendingDelete(record) => {
                let (node, chunk) =
                    pending_delete(&record).ok_or(SnapshotError::Content("a pending delete"))?;
                self.pending_deletes.add(node, chunk, record.not_before_ms);
            }
            Kind::Answered(record) => {
                let outcome = record.outcome.ok_or(SnapshotError::Content("an answer"))?;
                self.answered.load(&record.request_id, record.time_ms, &outcome);
            }
            Kind::KeyEpoch(record) => {
                self.key_epochs.push(key_epoch(&record).ok_or(SnapshotError::Content("a key epoch"))?);
            }
            Kind::AccessKey(record) => {
                let key = AccessKey::from_record(&record).filter(|_| self.access_keys.is_closed());
                let is_loaded = key.is_some_and(|key| self.access_keys.load(key));
                is_loaded.then_some(()).ok_or(SnapshotError::Content("an access key"))?;
            }
            Kind::MetaMember(record) => {
                let is_loaded = Arc::make_mut(&mut self.members).load(record);
                is_loaded.then_some(()).ok_or(SnapshotError::Content("a metadata server"))?;
            }
        }
        Ok(())
    }

    /// With these objects, too, whose buckets don't count them.
    #[cfg(test)]
    pub(crate) fn with_objects(mut self, records: impl Iterator<Item = pb::Object>) -> Self {
        records.for_each(|record| self.load_object(record).expect("an object"));
        self
    }

    fn load_object(&mut self, record: pb::Object) -> Result<(), SnapshotError> {
        let (name, object) = Object::from_record(record).ok_or(SnapshotError::Content("an object"))?;
        self.own_chunks(&name, &object);
        self.objects.insert(name, object);
        Ok(())
    }

    fn load_older(&mut self, record: pb::OlderVersion) -> Result<(), SnapshotError> {
        let malformed = SnapshotError::Content("an older version");
        let (name, older) = Older::from_record(record).ok_or(malformed)?;
        if let Older::Object(object) = &older {
            self.own_chunks(&name, object);
        }
        self.older.insert(&name, older);
        Ok(())
    }

    fn own_chunks(&mut self, name: &ObjectName, object: &Object) {
        for chunk in &object.chunks {
            self.owners.add_version(chunk.id, &name.1, object.version);
        }
    }

    fn load_upload(&mut self, record: pb::Upload) -> Result<(), SnapshotError> {
        let upload = Upload::from_record(record).ok_or(SnapshotError::Content("an upload"))?;
        for chunk in upload.chunks.keys() {
            self.owners.set_upload(*chunk, upload.id);
        }
        self.uploads.insert(upload.id, upload);
        Ok(())
    }

    /// A number that is equal on two servers exactly if their states are.
    #[must_use]
    pub fn digest(&self) -> u32 {
        self.encode(usize::MAX).iter().fold(0, |_, piece| crate::storage::crc32c(piece))
    }
}

/// Records as bytes, in pieces of `piece_len` bytes; only the last one is shorter.
pub(super) fn encode(records: impl Iterator<Item = Kind>, piece_len: usize) -> Vec<Bytes> {
    let mut encoder = Encoder::new(piece_len);
    records.for_each(|kind| encoder.put(kind));
    encoder.finish()
}

/// Puts records together to pieces.
#[derive(Debug)]
pub(super) struct Encoder {
    piece_len: usize,
    pieces: Vec<Bytes>,
    buffer: BytesMut,
}

impl Encoder {
    pub(super) fn new(piece_len: usize) -> Self {
        Self { piece_len, pieces: Vec::new(), buffer: BytesMut::new() }
    }

    pub(super) fn put(&mut self, kind: Kind) {
        self.put_record(&pb::SnapshotRecord { kind: Some(kind) });
    }

    /// An answer is kept encoded, and goes into the record as it is.
    pub(super) fn put_answer(&mut self, request_id: &RequestId, answer: &Answer) {
        let request_id = Bytes::copy_from_slice(request_id);
        let answered =
            EncodedAnswer { request_id, time_ms: answer.time_ms, outcome: Some(answer.outcome.clone()) };
        self.put_record(&EncodedAnswerRecord { answered: Some(answered) });
    }

    fn put_record(&mut self, record: &impl prost::Message) {
        record.encode_length_delimited(&mut self.buffer).expect("a BytesMut grows");
        while self.buffer.len() >= self.piece_len {
            self.pieces.push(self.buffer.split_to(self.piece_len).freeze());
        }
    }

    pub(super) fn finish(mut self) -> Vec<Bytes> {
        if !self.buffer.is_empty() {
            self.pieces.push(self.buffer.freeze());
        }
        self.pieces
    }
}

/// A [`pb::SnapshotRecord`] with an answer, to the byte.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedAnswerRecord {
    #[prost(message, optional, tag = "7")]
    answered: Option<EncodedAnswer>,
}

/// A [`pb::Answered`] whose outcome has been encoded already.
#[derive(Clone, PartialEq, prost::Message)]
struct EncodedAnswer {
    #[prost(bytes = "bytes", tag = "1")]
    request_id: Bytes,
    #[prost(uint64, tag = "2")]
    time_ms: u64,
    #[prost(bytes = "bytes", optional, tag = "3")]
    outcome: Option<Bytes>,
}

fn pending_delete(record: &pb::PendingDelete) -> Option<(NodeId, ChunkId)> {
    Some((NodeId(u16::try_from(record.node_id).ok()?), parse_chunk_id(&record.chunk_id)?))
}

fn key_epoch(record: &pb::KeyEpoch) -> Option<KeyEpoch> {
    let secret = EpochSecret(SipKey::from_bytes(record.secret[..].try_into().ok()?));
    Some(KeyEpoch { number: record.number, secret, create_time_ms: record.create_time_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(records: &[Kind]) -> SnapshotError {
        let mut bytes = Vec::new();
        for kind in records {
            let record = pb::SnapshotRecord { kind: Some(kind.clone()) };
            record.encode_length_delimited(&mut bytes).unwrap();
        }
        State::decode(&bytes[..]).unwrap_err()
    }

    /// More than are kept if they are not needed, of which some are not needed any more.
    #[test]
    fn answers_that_are_on_their_way_out_are_in_a_snapshot_and_come_back() {
        let mut state = State::of_present_level();
        let done = pb::Outcome { kind: Some(pb::outcome::Kind::Done(pb::Done {})) };
        for number in 0..300_100_u128 {
            let time_ms = if number % 3 == 0 { 60_000 } else { 1 };
            state.answered.load(&number.to_be_bytes(), time_ms, &done);
        }
        let decoded = State::decode(&state.encode(usize::MAX).concat()[..]).unwrap();
        assert!(decoded == state);
    }

    #[test]
    fn snapshot_of_a_later_format_is_refused_as_such() {
        let header = pb::SnapshotHeader { format: FORMAT + 1, ..State::default().header() };
        let error = refusal(&[Kind::Header(header)]);
        assert!(matches!(error, SnapshotError::Format(2)), "{error}");
        assert!(error.to_string().contains("start the later release"), "{error}");
    }

    #[test]
    fn snapshot_of_a_later_feature_level_is_refused_as_such() {
        let later = FeatureLevel::SUPPORTED.0 + 1;
        let header = pb::SnapshotHeader { feature_level: later, ..State::default().header() };
        let error = refusal(&[Kind::Header(header)]);
        assert!(
            matches!(error, SnapshotError::FeatureLevel(FeatureLevel(level)) if level == later),
            "{error}"
        );
        assert!(error.to_string().contains("start the later release"), "{error}");
    }

    #[test]
    fn record_of_an_unknown_kind_is_not_passed_over() {
        let mut bytes = State::default().encode(usize::MAX).concat();
        // One record: an empty message in field 31.
        bytes.extend([3, 0xfa, 0x01, 0]);
        let error = State::decode(&bytes[..]).unwrap_err();
        assert!(matches!(error, SnapshotError::Content("a record of an unknown kind")), "{error}");
    }
}
