//! The state machine against a model that says the same in fewer words and without any index.
//!
//! The model is told of every command and of its outcome, judges the outcome, and then compares the whole state. Ids are
//! taken from outcomes: it does not matter which they are, only that none is given out twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use proptest::prelude::*;
use xdpfs_proto::state::v1::{
    self as pb, batch_operation::Kind as Operation, caller, command::Kind, outcome, precondition,
};
use xdpfs_wire::{BucketId, ChunkId, NodeEpoch, NodeId, Receipt, ReceiptKey, SipKey};

use super::{
    Etag, FeatureLevel, Owner, Reason, State, VersionEntry, VersionName, VersionNumber, chunk_id_bytes,
    parse_chunk_id,
};

const BUCKETS: [&str; 3] = ["one", "two", "three"];
const KEYS: [&str; 3] = ["a", "b/c", "d"];
const PATTERNS: [&str; 4] = ["*", "one", "t*", "*"];
const LABELS: [&str; 4] = ["zone", "rack", "host", "tier"];
const UUIDS: [&str; 5] = ["v", "w", "x", "y", "z"];
const KEPT_MS: u64 = 15 * 60 * 1000;

#[derive(Clone, Debug, Default)]
struct Model {
    time_ms: u64,
    buckets: BTreeMap<String, pb::Bucket>,
    bucket_ids: BTreeSet<u32>,
    stacks: Stacks,
    uploads: BTreeMap<u64, ModelUpload>,
    upload_ids: BTreeSet<u64>,
    nodes: BTreeMap<u32, ModelNode>,
    granted: BTreeSet<ChunkId>,
    /// What a node has yet to remove, and from when on it may.
    pending: BTreeMap<(u32, ChunkId), u64>,
    answers: BTreeMap<Bytes, pb::Outcome>,
    key_epochs: Vec<(u32, Bytes)>,
    /// The number of the newest key epoch.
    last_key_epoch: u32,
    access_keys: BTreeMap<String, ModelKey>,
    is_closed: bool,
    is_rebalance_paused: bool,
}

#[derive(Clone, Debug)]
struct ModelKey {
    grants: Vec<(String, u32)>,
    revoked: bool,
}

impl ModelKey {
    fn makes_keys(&self) -> bool {
        !self.revoked && self.grants.iter().any(|(buckets, rights)| buckets == "*" && rights & 8 != 0)
    }

    fn allows(&self, right: u32, bucket: &str) -> bool {
        let matches = |pattern: &str| match pattern.strip_suffix('*') {
            Some(prefix) => bucket.starts_with(prefix),
            None => bucket == pattern,
        };
        self.grants.iter().any(|(pattern, rights)| rights & right != 0 && matches(pattern))
    }
}

#[derive(Clone, Debug)]
struct ModelObject {
    version: u64,
    kept: bool,
    crc32c: u32,
    chunks: Vec<(ChunkId, u32, BTreeSet<u32>)>,
}

/// What lies under a key.
#[derive(Clone, Debug)]
enum ModelVersion {
    Object(ModelObject),
    Marker { version: u64, kept: bool },
}

/// The versions of each key, the oldest first. If the last one is an object, the key holds it.
#[derive(Clone, Debug, Default)]
struct Stacks(BTreeMap<(String, String), Vec<ModelVersion>>);

/// What a command would do to a key.
enum ModelChange {
    Put { key: String, size: u64 },
    Delete { key: String },
    DeleteVersion { key: String, version: u64 },
}

impl ModelChange {
    fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } | Self::DeleteVersion { key, .. } => key,
        }
    }
}

impl ModelVersion {
    fn object(&self) -> Option<&ModelObject> {
        match self {
            Self::Object(object) => Some(object),
            Self::Marker { .. } => None,
        }
    }

    fn version(&self) -> u64 {
        match self {
            Self::Object(object) => object.version,
            Self::Marker { version, .. } => *version,
        }
    }

    fn kept(&self) -> bool {
        match self {
            Self::Object(object) => object.kept,
            Self::Marker { kept, .. } => *kept,
        }
    }
}

impl Stacks {
    fn held(&self, bucket: &str, key: &str) -> Option<&ModelObject> {
        self.of(bucket, key).last()?.object()
    }

    fn of(&self, bucket: &str, key: &str) -> &[ModelVersion] {
        self.0.get(&(bucket.to_owned(), key.to_owned())).map_or(&[], Vec::as_slice)
    }

    fn version(&self, bucket: &str, key: &str, version: u64) -> Option<&ModelVersion> {
        self.of(bucket, key).iter().find(|own| own.version() == version)
    }

    /// All objects of the bucket, also older ones.
    fn objects<'a>(&'a self, bucket: &'a str) -> impl Iterator<Item = (&'a str, &'a ModelObject)> {
        let own = self.0.iter().filter(move |((own, _), _)| own == bucket);
        own.flat_map(|((_, key), stack)| stack.iter().map(move |version| (key.as_str(), version)))
            .filter_map(|(key, version)| Some((key, version.object()?)))
    }

    fn all_objects(&self) -> impl Iterator<Item = &ModelObject> {
        self.0.values().flatten().filter_map(ModelVersion::object)
    }

    /// Objects, and their bytes.
    fn usage(&self, bucket: &str) -> (u64, u64) {
        self.objects(bucket).fold((0, 0), |(count, bytes), (_, object)| (count + 1, bytes + object.size()))
    }

    /// The topmost version goes, unless it was kept once or is kept by a bucket whose versioning is on.
    fn lift(stack: &mut Vec<ModelVersion>, is_on: bool) {
        if !is_on {
            stack.pop_if(|top| !top.kept());
        }
    }

    fn put(&mut self, bucket: &str, key: &str, is_on: bool, object: ModelObject) {
        let stack = self.0.entry((bucket.to_owned(), key.to_owned())).or_default();
        Self::lift(stack, is_on);
        stack.push(ModelVersion::Object(ModelObject { kept: is_on, ..object }));
    }

    /// Gives the version of the delete marker that hides what is beneath.
    fn delete(&mut self, bucket: &str, key: &str, is_on: bool, index: u64) -> Option<u64> {
        let stack = self.0.get_mut(&(bucket.to_owned(), key.to_owned())).unwrap();
        Self::lift(stack, is_on);
        let hides = stack.last().is_some_and(|top| top.object().is_some());
        if hides {
            stack.push(ModelVersion::Marker { version: index, kept: is_on });
        }
        self.0.retain(|_, stack| !stack.is_empty());
        hides.then_some(index)
    }

    fn delete_version(&mut self, bucket: &str, key: &str, version: u64) -> ModelVersion {
        let stack = self.0.get_mut(&(bucket.to_owned(), key.to_owned())).unwrap();
        let at = stack.iter().position(|own| own.version() == version).unwrap();
        let gone = stack.remove(at);
        let is_marker = |at: usize| stack.get(at).is_some_and(|version| version.object().is_none());
        // No delete marker lies on another one, or on nothing.
        if is_marker(at) && (at == 0 || is_marker(at - 1)) {
            stack.remove(at);
        }
        self.0.retain(|_, stack| !stack.is_empty());
        gone
    }
}

#[derive(Clone, Debug)]
struct ModelUpload {
    bucket: String,
    key: String,
    expires_ms: u64,
    chunks: BTreeMap<ChunkId, BTreeSet<u32>>,
}

#[derive(Clone, Debug)]
struct ModelNode {
    uuid: String,
    epoch: u32,
    domain: String,
    direct_address: String,
    key: Bytes,
    request_id: Bytes,
    labels: BTreeMap<String, String>,
    operator_labels: BTreeMap<String, String>,
    register_time_ms: u64,
    /// Its registration is over.
    fenced: bool,
    draining: bool,
    removed: bool,
}

impl ModelNode {
    fn end_registration(&mut self) {
        self.epoch += 1;
        self.fenced = true;
        self.key = Bytes::from(vec![0; 16]);
        self.request_id = Bytes::new();
    }

    fn label(&self, key: &str) -> Option<&String> {
        self.operator_labels.get(key).or(self.labels.get(key))
    }

    /// What `min_replicas` counts: the domain that the node named, or its host where its zone and rack are, or itself.
    fn what_fails_with_it(&self, id: u32) -> String {
        match (self.domain.as_str(), self.label("host")) {
            ("", None) => format!("itself {id}"),
            ("", Some(host)) => format!("host {:?} {:?} {host}", self.label("zone"), self.label("rack")),
            (named, _) => format!("named {named}"),
        }
    }
}

impl ModelObject {
    fn size(&self) -> u64 {
        self.chunks.iter().map(|(_, length, _)| u64::from(*length)).sum()
    }

    fn etag(&self) -> String {
        Etag { version: self.version, crc32c: self.crc32c }.to_string()
    }
}

impl Model {
    /// Judges what the state machine said to a command, and does the same.
    fn apply(&mut self, index: u64, command: &pb::Command, outcome: &pb::Outcome) {
        self.time_ms = self.time_ms.max(command.time_ms);
        // So few are never forgotten.
        if let Some(first) = self.answers.get(&command.request_id) {
            assert_eq!(first, outcome, "a repeated request has another answer");
            return;
        }
        let kind = outcome.kind.as_ref().expect("every command has an outcome");
        match self.judge(command) {
            Err(reason) => {
                let outcome::Kind::Rejected(rejected) = kind else {
                    panic!("expected {reason:?}, found {kind:?}")
                };
                assert_eq!(rejected.reason, reason.as_str(), "{command:?}");
                let passing = [
                    Reason::AccessDenied,
                    Reason::AccessKeyInvalid,
                    Reason::AccessKeyMissing,
                    Reason::Overloaded,
                    Reason::StaleReceipts,
                ];
                if passing.contains(&reason) {
                    return;
                }
            }
            Ok(()) => self.change(index, command, kind),
        }
        if !command.request_id.is_empty() {
            self.answers.insert(command.request_id.clone(), outcome.clone());
        }
    }

    fn judge_caller(&self, command: &pb::Command) -> Result<(), Reason> {
        let key = match command.caller.as_ref().and_then(|caller| caller.kind.as_ref()) {
            None | Some(caller::Kind::Root(_)) => return Ok(()),
            Some(caller::Kind::Anonymous(_)) => {
                return if self.is_closed { Err(Reason::AccessKeyMissing) } else { Ok(()) };
            }
            Some(caller::Kind::KeyId(id)) => self.access_keys.get(id).filter(|key| !key.revoked),
        };
        let key = key.ok_or(Reason::AccessKeyInvalid)?;
        let may = |is_allowed, otherwise| if is_allowed { Ok(()) } else { Err(otherwise) };
        let may_in_upload = |id| match self.uploads.get(&id) {
            Some(upload) => may(key.allows(2, &upload.bucket), Reason::UploadNotFound),
            None => Ok(()),
        };
        match command.kind.as_ref().unwrap() {
            Kind::CreateBucket(create) => may(key.allows(8, &create.name), Reason::AccessDenied),
            Kind::DeleteBucket(delete) => may(key.allows(8, &delete.name), Reason::AccessDenied),
            Kind::UpdateBucket(update) => may(key.allows(8, &update.name), Reason::AccessDenied),
            Kind::BeginPut(begin) => may(key.allows(2, &begin.bucket), Reason::AccessDenied),
            Kind::DeleteObject(delete) => may(key.allows(2, &delete.bucket), Reason::AccessDenied),
            Kind::ExtendPut(extend) => may_in_upload(extend.upload_id),
            Kind::CommitPut(commit) => may_in_upload(commit.upload_id),
            Kind::AbortPut(abort) => may_in_upload(abort.upload_id),
            Kind::Batch(batch) => {
                let is_copy =
                    |operation: &pb::BatchOperation| matches!(operation.kind, Some(Operation::Copy(_)));
                let reads = !batch.operations.iter().any(is_copy) || key.allows(1, &batch.bucket);
                may(key.allows(2, &batch.bucket) && reads, Reason::AccessDenied)
            }
            Kind::CreateAccessKey(_)
            | Kind::RevokeAccessKey(_)
            | Kind::RotateKeyEpoch(_)
            | Kind::LabelNode(_)
            | Kind::DrainNode(_)
            | Kind::RemoveNode(_)
            | Kind::PauseRebalance(_) => may(key.makes_keys(), Reason::AccessDenied),
            _ => Ok(()),
        }
    }

    fn judge(&self, command: &pb::Command) -> Result<(), Reason> {
        self.judge_caller(command)?;
        match command.kind.as_ref().unwrap() {
            Kind::CreateAccessKey(create) => {
                let makes_keys =
                    create.grants.iter().any(|grant| grant.buckets == "*" && grant.rights & 8 != 0);
                let is_new = !self.access_keys.contains_key(&create.key_id);
                if is_new && (self.is_closed || makes_keys) { Ok(()) } else { Err(Reason::InvalidArgument) }
            }
            Kind::RevokeAccessKey(revoke) => {
                let key = self.access_keys.get(&revoke.key_id).ok_or(Reason::AccessKeyNotFound)?;
                let makers = self.access_keys.values().filter(|key| key.makes_keys()).count();
                let is_last = key.makes_keys() && makers == 1;
                if is_last && !revoke.force { Err(Reason::LastAdminKey) } else { Ok(()) }
            }
            Kind::CreateBucket(create) if self.buckets.contains_key(&create.name) => {
                Err(Reason::BucketExists)
            }
            Kind::CreateBucket(create) if create.versioning > 2 => Err(Reason::InvalidArgument),
            Kind::DeleteBucket(delete) => {
                self.buckets.get(&delete.name).ok_or(Reason::BucketNotFound)?;
                let holds = self.stacks.0.keys().any(|(bucket, _)| *bucket == delete.name);
                if holds { Err(Reason::BucketNotEmpty) } else { Ok(()) }
            }
            Kind::BeginPut(begin) => {
                self.buckets.get(&begin.bucket).ok_or(Reason::BucketNotFound)?;
                self.check(&begin.bucket, &begin.key, begin.precondition.as_ref())?;
                let size = u64::from(!begin.placements.is_empty());
                let change = [ModelChange::Put { key: begin.key.clone(), size }];
                let displaces = self.after(&begin.bucket, &change).usage(&begin.bucket).0
                    == self.stacks.usage(&begin.bucket).0;
                if displaces || begin.for_batch { Ok(()) } else { self.judge_quota(&begin.bucket, &change) }
            }
            Kind::UpdateBucket(update) => {
                let bucket = self.buckets.get(&update.name).ok_or(Reason::BucketNotFound)?;
                match update.versioning {
                    Some(3..) => Err(Reason::InvalidArgument),
                    Some(0) if bucket.versioning != 0 => Err(Reason::InvalidArgument),
                    _ => Ok(()),
                }
            }
            Kind::ExtendPut(extend) => self.upload(extend.upload_id).map(|_| ()),
            Kind::AbortPut(abort) => self.upload(abort.upload_id).map(|_| ()),
            Kind::CommitPut(commit) => {
                let upload = self.upload(commit.upload_id)?;
                self.check(&upload.bucket, &upload.key, commit.precondition.as_ref())?;
                self.judge_chunks(upload, &commit.chunks)?;
                let change = ModelChange::Put { key: upload.key.clone(), size: size_of(&commit.chunks) };
                self.judge_quota(&upload.bucket, &[change])
            }
            Kind::DeleteObject(delete) => {
                self.buckets.get(&delete.bucket).ok_or(Reason::BucketNotFound)?;
                if delete.version == 0 {
                    self.stacks.held(&delete.bucket, &delete.key).ok_or(Reason::ObjectNotFound)?;
                }
                self.check(&delete.bucket, &delete.key, delete.precondition.as_ref())?;
                self.judge_version(&delete.bucket, &delete.key, delete.version)
            }
            Kind::RegisterNode(register) => {
                let is_removed = |node: &ModelNode| node.uuid == register.node_uuid && node.removed;
                if self.nodes.values().any(is_removed) { Err(Reason::NodeRemoved) } else { Ok(()) }
            }
            Kind::DrainNode(drain) => {
                let node = self.nodes.get(&drain.node_id).ok_or(Reason::NodeUnknown)?;
                if node.removed { Err(Reason::NodeRemoved) } else { Ok(()) }
            }
            Kind::RemoveNode(remove) => {
                let node = self.nodes.get(&remove.node_id).ok_or(Reason::NodeUnknown)?;
                let is_over = node.fenced && node.epoch == remove.epoch;
                if node.removed || is_over { Ok(()) } else { Err(Reason::NodeInUse) }
            }
            Kind::LabelNode(label) => {
                let node = self.nodes.get(&label.node_id).ok_or(Reason::NodeUnknown)?;
                let is_set_twice = label.remove.iter().any(|key| label.set.contains_key(key));
                let is_bad = label.set.values().any(String::is_empty);
                if is_set_twice || is_bad {
                    return Err(Reason::InvalidArgument);
                }
                let changes =
                    label.set.iter().any(|(key, value)| node.label(key).is_some_and(|held| held != value));
                let is_own =
                    |key: &String| !node.operator_labels.contains_key(key) && node.labels.contains_key(key);
                let is_refused = changes && !label.overwrite || label.remove.iter().any(is_own);
                if is_refused { Err(Reason::PreconditionFailed) } else { Ok(()) }
            }
            Kind::Batch(batch) => {
                self.buckets.get(&batch.bucket).ok_or(Reason::BucketNotFound)?;
                if batch.operations.is_empty() {
                    return Err(Reason::InvalidArgument);
                }
                let mut changes: Vec<ModelChange> = Vec::new();
                for operation in &batch.operations {
                    let change = self.judge_operation(&batch.bucket, operation.kind.as_ref().unwrap())?;
                    let Some(change) = change else { continue };
                    if changes.iter().any(|other| other.key() == change.key()) {
                        return Err(Reason::InvalidArgument);
                    }
                    changes.push(change);
                }
                self.judge_quota(&batch.bucket, &changes)
            }
            _ => Ok(()),
        }
    }

    /// Whether the bucket would be within its quota, or no further from it, after these changes.
    fn judge_quota(&self, bucket: &str, changes: &[ModelChange]) -> Result<(), Reason> {
        let (before, after) = (self.stacks.usage(bucket), self.after(bucket, changes).usage(bucket));
        let is_worse = |before: u64, after: u64, quota: u64| quota > 0 && after > quota && after > before;
        let quota = &self.buckets[bucket];
        let exceeds = is_worse(before.0, after.0, quota.quota_objects)
            || is_worse(before.1, after.1, quota.quota_bytes);
        if exceeds { Err(Reason::QuotaExceeded) } else { Ok(()) }
    }

    /// What there would be after these changes, as far as quotas go.
    fn after(&self, bucket: &str, changes: &[ModelChange]) -> Stacks {
        let (mut stacks, is_on) = (self.stacks.clone(), self.is_on(bucket));
        for change in changes {
            match change {
                ModelChange::Put { key, size } => {
                    let chunks = vec![(ChunkId(0), *size as u32, BTreeSet::new())];
                    let object = ModelObject { version: u64::MAX, kept: false, crc32c: 0, chunks };
                    stacks.put(bucket, key, is_on, object);
                }
                ModelChange::Delete { key } => {
                    stacks.delete(bucket, key, is_on, u64::MAX);
                }
                ModelChange::DeleteVersion { key, version } => {
                    stacks.delete_version(bucket, key, *version);
                }
            }
        }
        stacks
    }

    fn is_on(&self, bucket: &str) -> bool {
        self.buckets[bucket].versioning == pb::Versioning::On as i32
    }

    /// Zero is whatever the key holds.
    fn judge_version(&self, bucket: &str, key: &str, version: u64) -> Result<(), Reason> {
        let is_there = version == 0 || self.stacks.version(bucket, key, version).is_some();
        if is_there { Ok(()) } else { Err(Reason::ObjectNotFound) }
    }

    fn source(&self, bucket: &str, copy: &pb::BatchCopy) -> Option<&ModelObject> {
        match copy.source_version {
            0 => self.stacks.held(bucket, &copy.source),
            version => self.stacks.version(bucket, &copy.source, version)?.object(),
        }
    }

    /// Gives what the operation would do to a key.
    fn judge_operation(&self, bucket: &str, operation: &Operation) -> Result<Option<ModelChange>, Reason> {
        match operation {
            Operation::Commit(commit) => {
                let upload = self.upload(commit.upload_id)?;
                if upload.bucket != bucket {
                    return Err(Reason::UploadNotFound);
                }
                self.check(bucket, &upload.key, commit.precondition.as_ref())?;
                self.judge_chunks(upload, &commit.chunks)?;
                Ok(Some(ModelChange::Put { key: upload.key.clone(), size: size_of(&commit.chunks) }))
            }
            Operation::Copy(copy) => {
                let source = self.source(bucket, copy).ok_or(Reason::ObjectNotFound)?;
                check_held(Some(source.etag()), copy.source_precondition.as_ref())?;
                self.check(bucket, &copy.key, copy.precondition.as_ref())?;
                Ok(Some(ModelChange::Put { key: copy.key.clone(), size: source.size() }))
            }
            Operation::Delete(delete) => {
                let key = delete.key.clone();
                self.check(bucket, &key, delete.precondition.as_ref())?;
                self.judge_version(bucket, &key, delete.version)?;
                if delete.version != 0 {
                    return Ok(Some(ModelChange::DeleteVersion { key, version: delete.version }));
                }
                self.stacks.held(bucket, &key).ok_or(Reason::ObjectNotFound)?;
                Ok(Some(ModelChange::Delete { key }))
            }
            Operation::Check(check) => {
                self.check(bucket, &check.key, check.precondition.as_ref())?;
                Ok(None)
            }
        }
    }

    fn upload(&self, id: u64) -> Result<&ModelUpload, Reason> {
        self.uploads.get(&id).ok_or(Reason::UploadNotFound)
    }

    fn check(&self, bucket: &str, key: &str, precondition: Option<&pb::Precondition>) -> Result<(), Reason> {
        check_held(self.stacks.held(bucket, key).map(ModelObject::etag), precondition)
    }

    fn judge_chunks(&self, upload: &ModelUpload, chunks: &[pb::WrittenChunk]) -> Result<(), Reason> {
        let bucket = &self.buckets[&upload.bucket];
        let mut seen = BTreeSet::new();
        for (at, chunk) in chunks.iter().enumerate() {
            let id = parse_chunk_id(&chunk.chunk_id).ok_or(Reason::InvalidArgument)?;
            let is_last = at + 1 == chunks.len();
            let fits = chunk.length == bucket.chunk_size
                || is_last && (1..bucket.chunk_size).contains(&chunk.length);
            if !seen.insert(id) || !upload.chunks.contains_key(&id) || !fits {
                return Err(Reason::InvalidArgument);
            }
            let vouching = self.vouching(&upload.chunks[&id], chunk);
            let domains: BTreeSet<String> =
                vouching.iter().map(|node| self.nodes[node].what_fails_with_it(*node)).collect();
            if (domains.len() as u32) < bucket.min_replicas {
                return Err(Reason::StaleReceipts);
            }
        }
        Ok(())
    }

    /// The granted nodes whose receipt was signed by the very registration that they have now, for these very bytes.
    fn vouching(&self, granted: &BTreeSet<u32>, chunk: &pb::WrittenChunk) -> BTreeSet<u32> {
        let id = parse_chunk_id(&chunk.chunk_id).unwrap();
        let valid = chunk.receipts.iter().filter(|receipt| {
            let Some(node) = self.nodes.get(&receipt.node_id) else { return false };
            let word = Word { chunk: id, length: chunk.length, crc32c: chunk.crc32c, node: receipt.node_id };
            let mac_is_right = receipt.mac == sign(&node.key, node.epoch, word);
            granted.contains(&receipt.node_id)
                && receipt.node_epoch == node.epoch
                && mac_is_right
                && !node.fenced
        });
        valid.map(|receipt| receipt.node_id).collect()
    }

    fn change(&mut self, index: u64, command: &pb::Command, kind: &outcome::Kind) {
        let removable_ms = self.time_ms + command.deletion_grace_ms;
        match (command.kind.as_ref().unwrap(), kind) {
            (Kind::CreateBucket(create), outcome::Kind::Bucket(bucket)) => {
                assert!(self.bucket_ids.insert(bucket.id), "bucket ids are never reused");
                let expected = pb::Bucket {
                    id: bucket.id,
                    name: create.name.clone(),
                    chunk_size: create.chunk_size,
                    replicas: create.replicas,
                    min_replicas: create.min_replicas,
                    create_time_ms: self.time_ms,
                    quota_bytes: create.quota_bytes,
                    quota_objects: create.quota_objects,
                    versioning: create.versioning,
                    ..Default::default()
                };
                assert_eq!(*bucket, expected);
                self.buckets.insert(create.name.clone(), expected);
            }
            (Kind::UpdateBucket(update), outcome::Kind::Bucket(found)) => {
                let bucket = self.buckets.get_mut(&update.name).unwrap();
                bucket.quota_bytes = update.quota_bytes.unwrap_or(bucket.quota_bytes);
                bucket.quota_objects = update.quota_objects.unwrap_or(bucket.quota_objects);
                bucket.versioning = update.versioning.unwrap_or(bucket.versioning);
                let found = (found.quota_bytes, found.quota_objects, found.versioning);
                assert_eq!(found, (bucket.quota_bytes, bucket.quota_objects, bucket.versioning));
            }
            (Kind::DeleteBucket(delete), outcome::Kind::Done(_)) => {
                self.end_uploads(removable_ms, |upload| upload.bucket == delete.name);
                self.buckets.remove(&delete.name);
            }
            (Kind::BeginPut(begin), outcome::Kind::Begun(begun)) => {
                assert!(self.upload_ids.insert(begun.upload_id), "upload ids are never reused");
                let upload = ModelUpload {
                    bucket: begin.bucket.clone(),
                    key: begin.key.clone(),
                    expires_ms: self.time_ms + begin.lease_ms,
                    chunks: BTreeMap::new(),
                };
                self.uploads.insert(begun.upload_id, upload);
                self.grant(begun, &begin.placements);
            }
            (Kind::ExtendPut(extend), outcome::Kind::Begun(begun)) => {
                let upload = self.uploads.get_mut(&extend.upload_id).unwrap();
                upload.expires_ms = upload.expires_ms.max(self.time_ms + extend.lease_ms);
                self.grant(begun, &extend.placements);
            }
            (Kind::CommitPut(commit), outcome::Kind::Committed(committed)) => {
                self.commit(index, removable_ms, commit, committed);
            }
            (Kind::AbortPut(abort), outcome::Kind::Done(_)) => {
                let upload = self.uploads.remove(&abort.upload_id).unwrap();
                self.release(removable_ms, upload.chunks);
            }
            (Kind::Batch(batch), outcome::Kind::Batched(batched)) => {
                self.batch(index, removable_ms, batch, batched);
            }
            (Kind::DeleteObject(delete), outcome::Kind::Deleted(deleted)) => {
                assert!(delete.version == 0 && self.buckets[&delete.bucket].versioning == 0);
                let removed = self.delete(index, removable_ms, &delete.bucket, (&delete.key, 0));
                assert_eq!(removed, (deleted.version, deleted.size, false, None));
            }
            (Kind::DeleteObject(delete), outcome::Kind::VersionDeleted(deleted)) => {
                let key = (delete.key.as_str(), delete.version);
                let removed = self.delete(index, removable_ms, &delete.bucket, key);
                assert_eq!(
                    removed,
                    removed_by(&deleted.object, deleted.was_delete_marker, deleted.delete_marker)
                );
            }
            (Kind::RegisterNode(register), outcome::Kind::Registered(registered)) => {
                self.register(register, &command.request_id, registered);
            }
            (Kind::ExpireUploads(_), outcome::Kind::Done(_)) => {
                let now_ms = self.time_ms;
                self.end_uploads(removable_ms, |upload| upload.expires_ms < now_ms);
            }
            (Kind::ForgetChunks(forget), outcome::Kind::Done(_)) => {
                for chunk in &forget.chunk_ids {
                    self.pending.remove(&(forget.node_id, parse_chunk_id(chunk).unwrap()));
                }
            }
            (Kind::AddKeyEpoch(add), outcome::Kind::Done(_)) => {
                if self.last_key_epoch == add.after {
                    self.last_key_epoch += 1;
                    self.key_epochs.push((self.last_key_epoch, add.secret.clone()));
                }
            }
            (Kind::RotateKeyEpoch(rotate), outcome::Kind::Rotated(rotated)) => {
                self.rotate(&rotate.secret);
                assert_eq!(rotated.key_epoch, self.last_key_epoch);
            }
            (Kind::CloseAccess(_), outcome::Kind::Done(_)) => self.is_closed = true,
            (Kind::ReplaceReplicas(replace), outcome::Kind::ReplicasReplaced(replaced)) => {
                assert_eq!(replace.changes.len(), replaced.applied.len());
                for (change, applied) in replace.changes.iter().zip(&replaced.applied) {
                    assert_eq!(self.replace(removable_ms, change), *applied, "{change:?}");
                }
            }
            (Kind::CollectReplicas(collect), outcome::Kind::Done(_)) => {
                for chunk in &collect.chunk_ids {
                    self.collect(removable_ms, collect.node_id, parse_chunk_id(chunk).unwrap());
                }
            }
            (Kind::FenceNode(fence), outcome::Kind::Done(_)) => {
                let node = self.nodes.get_mut(&fence.node_id);
                if let Some(node) = node.filter(|node| node.epoch == fence.epoch) {
                    node.end_registration();
                }
            }
            (Kind::DrainNode(drain), outcome::Kind::Done(_)) => {
                self.nodes.get_mut(&drain.node_id).unwrap().draining = drain.draining;
            }
            (Kind::PauseRebalance(pause), outcome::Kind::Done(_)) => {
                self.is_rebalance_paused = pause.paused;
            }
            (Kind::RemoveNode(remove), outcome::Kind::Done(_)) => {
                let node = self.nodes.get_mut(&remove.node_id).unwrap();
                if !node.removed {
                    (node.removed, node.draining) = (true, false);
                    self.pending.retain(|(own, _), _| *own != remove.node_id);
                }
            }
            (Kind::LabelNode(label), outcome::Kind::Labelled(labelled)) => {
                let node = self.nodes.get_mut(&label.node_id).unwrap();
                node.operator_labels.retain(|key, _| !label.remove.contains(key));
                node.operator_labels.extend(label.set.clone());
                assert_eq!(
                    (&labelled.labels, &labelled.operator_labels),
                    (&node.labels, &node.operator_labels)
                );
            }
            (Kind::CreateAccessKey(create), outcome::Kind::AccessKey(made)) => {
                self.is_closed = true;
                assert_eq!((&made.id, made.create_time_ms), (&create.key_id, self.time_ms));
                let grants =
                    create.grants.iter().map(|grant| (grant.buckets.clone(), grant.rights)).collect();
                self.access_keys.insert(create.key_id.clone(), ModelKey { grants, revoked: false });
            }
            (Kind::RevokeAccessKey(revoke), outcome::Kind::Revoked(revoked)) => {
                self.access_keys.get_mut(&revoke.key_id).unwrap().revoked = true;
                if revoke.epoch_secret.is_empty() {
                    assert_eq!(revoked.key_epoch, 0);
                } else {
                    self.rotate(&revoke.epoch_secret);
                    assert_eq!(revoked.key_epoch, self.last_key_epoch);
                }
            }
            (kind, outcome) => panic!("{kind:?} is answered with {outcome:?}"),
        }
    }

    /// The length and the replicas of a committed chunk.
    fn chunk(&self, id: ChunkId) -> Option<(u32, BTreeSet<u32>)> {
        let mut chunks = self.stacks.all_objects().flat_map(|object| &object.chunks);
        chunks.find(|(own, ..)| *own == id).map(|(_, length, replicas)| (*length, replicas.clone()))
    }

    /// Whether a replica changes its node. It needs a manifest like the one it was made for, and the new node's word.
    fn replace(&mut self, removable_ms: u64, change: &pb::ReplicaChange) -> bool {
        let id = parse_chunk_id(&change.chunk_id).unwrap();
        let receipt = change.to.as_ref().unwrap();
        let Some(to) = self.nodes.get(&receipt.node_id).filter(|node| !node.removed) else { return false };
        let Some((length, mut replicas)) = self.chunk(id) else {
            self.collect(removable_ms, receipt.node_id, id);
            return false;
        };
        let word = Word { chunk: id, length, crc32c: id.0 as u32, node: receipt.node_id };
        let is_good = !to.fenced
            && receipt.node_epoch == to.epoch
            && receipt.mac == sign(&to.key, to.epoch, word)
            && !self.pending.contains_key(&(receipt.node_id, id));
        if !is_good {
            return false;
        }
        let bucket = self.buckets.values().find(|bucket| BucketId(bucket.id) == id.bucket()).unwrap();
        let is_named = replicas.contains(&receipt.node_id);
        let has_place = match change.from {
            0 => replicas.len() < bucket.replicas as usize,
            from => replicas.remove(&from),
        };
        replicas.insert(receipt.node_id);
        if is_named || !has_place {
            self.collect(removable_ms, receipt.node_id, id);
            return false;
        }
        for chunk in self.stacks.0.values_mut().flatten() {
            let ModelVersion::Object(object) = chunk else { continue };
            let of_chunk = object.chunks.iter_mut().filter(|(own, ..)| *own == id);
            of_chunk.for_each(|(.., own)| own.clone_from(&replicas));
        }
        if change.from != 0 {
            self.release(removable_ms, [(id, [change.from].into())]);
        }
        true
    }

    /// The node removes the chunk if nobody names it for it, and it is not about to do so.
    fn collect(&mut self, removable_ms: u64, node: u32, id: ChunkId) {
        let is_written = self.uploads.values().any(|upload| upload.chunks.contains_key(&id));
        let is_named = self.chunk(id).is_some_and(|(_, replicas)| replicas.contains(&node));
        let is_nobodys = self.granted.contains(&id) && !is_written && !is_named;
        if is_nobodys && self.nodes.contains_key(&node) && !self.pending.contains_key(&(node, id)) {
            self.release(removable_ms, [(id, [node].into())]);
        }
    }

    /// All epochs before end.
    fn rotate(&mut self, secret: &Bytes) {
        self.last_key_epoch += 1;
        self.key_epochs = vec![(self.last_key_epoch, secret.clone())];
    }

    fn grant(&mut self, begun: &pb::Begun, placements: &[pb::Placement]) {
        let upload = self.uploads.get_mut(&begun.upload_id).unwrap();
        assert_eq!((begun.expires_ms, begun.grant_time_ms), (upload.expires_ms, self.time_ms));
        assert_eq!(begun.chunks.len(), placements.len());
        for (chunk, placement) in begun.chunks.iter().zip(placements) {
            let id = parse_chunk_id(&chunk.chunk_id).unwrap();
            assert!(self.granted.insert(id), "chunk {id} is granted twice");
            assert_eq!(id.bucket(), BucketId(self.buckets[&upload.bucket].id), "a chunk id names its bucket");
            let nodes: BTreeSet<u32> = placement.node_ids.iter().copied().collect();
            assert_eq!(chunk.node_ids, nodes.iter().copied().collect::<Vec<_>>());
            upload.chunks.insert(id, nodes);
        }
    }

    fn commit(&mut self, index: u64, removable_ms: u64, commit: &pb::CommitPut, committed: &pb::Committed) {
        let bucket = self.uploads[&commit.upload_id].bucket.clone();
        let (key, object) = self.take_written(index, removable_ms, commit);
        let head = committed.object.as_ref().unwrap();
        assert_eq!(head.create_time_ms, self.time_ms);
        self.assert_made(&bucket, &object, head);
        let (in_debt, fewest) = self.debt_of(&bucket, &object);
        assert_eq!((committed.chunks_in_debt, committed.durable_replicas), (in_debt, fewest));
        assert_eq!(committed.bucket, bucket);
        let old = self.stacks.of(&bucket, &key).last();
        assert!(old.is_none_or(|old| old.version() < index), "versions rise");
        let (before, is_on) = (self.stacks.clone(), self.is_on(&bucket));
        self.stacks.put(&bucket, &key, is_on, object);
        self.release_unreferred(removable_ms, before);
    }

    /// Gives the version and the size of what was removed or hidden, whether it was a delete marker, and the one that is put.
    fn delete(
        &mut self,
        index: u64,
        removable_ms: u64,
        bucket: &str,
        (key, version): (&str, u64),
    ) -> (u64, u64, bool, Option<u64>) {
        let before = self.stacks.clone();
        let removed = if version == 0 {
            let held = self.stacks.held(bucket, key).unwrap().clone();
            let marker = self.stacks.delete(bucket, key, self.is_on(bucket), index);
            (held.version, held.size(), false, marker)
        } else {
            let gone = self.stacks.delete_version(bucket, key, version);
            let size = gone.object().map(ModelObject::size);
            (version, size.unwrap_or_default(), size.is_none(), None)
        };
        self.release_unreferred(removable_ms, before);
        removed
    }

    /// What an upload's key will hold. What was granted and is not in it goes.
    fn take_written(
        &mut self,
        index: u64,
        removable_ms: u64,
        commit: &pb::CommitPut,
    ) -> (String, ModelObject) {
        let mut upload = self.uploads.remove(&commit.upload_id).unwrap();
        let mut chunks = Vec::new();
        for chunk in &commit.chunks {
            let id = parse_chunk_id(&chunk.chunk_id).unwrap();
            let granted = upload.chunks.remove(&id).unwrap();
            let replicas = self.vouching(&granted, chunk);
            let surplus: BTreeSet<u32> = granted.difference(&replicas).copied().collect();
            self.release(removable_ms, [(id, surplus)]);
            chunks.push((id, chunk.length, replicas));
        }
        self.release(removable_ms, upload.chunks);
        (upload.key, ModelObject { version: index, kept: false, crc32c: commit.crc32c, chunks })
    }

    fn assert_made(&self, bucket: &str, object: &ModelObject, head: &pb::Object) {
        let id = self.buckets[bucket].id;
        assert_eq!((head.bucket_id, head.version), (id, object.version));
        assert_eq!((head.size, head.crc32c), (object.size(), object.crc32c));
        assert!(head.chunks.is_empty(), "an answer does not hold the chunks");
    }

    /// How many chunks lack replicas, and the fewest replicas that one has.
    fn debt_of(&self, bucket: &str, object: &ModelObject) -> (u32, u32) {
        let wanted = self.buckets[bucket].replicas;
        let counts = || object.chunks.iter().map(|(_, _, replicas)| replicas.len() as u32);
        (counts().filter(|count| *count < wanted).count() as u32, counts().min().unwrap_or(wanted))
    }

    /// By the state before, all at once: what every key holds is found first, and then laid down.
    fn batch(&mut self, index: u64, removable_ms: u64, batch: &pb::Batch, batched: &pb::Batched) {
        assert_eq!(batch.operations.len(), batched.results.len());
        let (before, is_on) = (self.stacks.clone(), self.is_on(&batch.bucket));
        let bucket = &batch.bucket;
        for (operation, result) in batch.operations.iter().zip(&batched.results) {
            let (key, object) = match operation.kind.as_ref().unwrap() {
                Operation::Commit(commit) => self.take_written(index, removable_ms, commit),
                Operation::Copy(copy) => {
                    let then = Self { stacks: before.clone(), ..Self::default() };
                    let source = then.source(bucket, copy).unwrap().clone();
                    (copy.key.clone(), ModelObject { version: index, ..source })
                }
                Operation::Delete(delete) => {
                    // What it lets go of is found when the whole batch is done.
                    let mut alone = Self {
                        stacks: self.stacks.clone(),
                        buckets: self.buckets.clone(),
                        ..Self::default()
                    };
                    let key = (delete.key.as_str(), delete.version);
                    let removed = alone.delete(index, removable_ms, bucket, key);
                    self.stacks = alone.stacks;
                    assert_eq!(
                        removed,
                        removed_by(&result.object, result.was_delete_marker, result.delete_marker)
                    );
                    continue;
                }
                Operation::Check(_) => {
                    assert_eq!(*result, pb::BatchResult::default());
                    continue;
                }
            };
            let head = result.object.as_ref().unwrap();
            assert_eq!(head.key, key);
            self.assert_made(bucket, &object, head);
            let debt = self.debt_of(bucket, &object);
            assert_eq!((result.chunks_in_debt, result.durable_replicas), debt);
            self.stacks.put(bucket, &key, is_on, object);
        }
        self.release_unreferred(removable_ms, before);
    }

    /// Whatever the versions of before had, and no version has now.
    fn release_unreferred(&mut self, removable_ms: u64, before: Stacks) {
        let referred: BTreeSet<ChunkId> =
            self.stacks.all_objects().flat_map(|object| &object.chunks).map(|(id, ..)| *id).collect();
        let chunks = before.all_objects().flat_map(|object| object.chunks.clone());
        let gone = chunks.filter(|(id, ..)| !referred.contains(id)).map(|(id, _, replicas)| (id, replicas));
        self.release(removable_ms, gone.collect::<Vec<_>>());
    }

    fn end_uploads(&mut self, removable_ms: u64, ends: impl Fn(&ModelUpload) -> bool) {
        let ended: Vec<_> = self.uploads.extract_if(.., |_, upload| ends(upload)).collect();
        ended.into_iter().for_each(|(_, upload)| self.release(removable_ms, upload.chunks));
    }

    fn release(&mut self, removable_ms: u64, chunks: impl IntoIterator<Item = (ChunkId, BTreeSet<u32>)>) {
        for (chunk, nodes) in chunks {
            let told = nodes.into_iter().filter(|node| self.nodes.get(node).is_none_or(|node| !node.removed));
            let told: Vec<u32> = told.collect();
            self.pending.extend(told.into_iter().map(|node| ((node, chunk), removable_ms)));
        }
    }

    fn register(&mut self, register: &pb::RegisterNode, request_id: &Bytes, registered: &pb::Registered) {
        let known = self.nodes.iter().find(|(_, node)| node.uuid == register.node_uuid);
        let repeated = known.is_some_and(|(_, node)| node.request_id == *request_id);
        if let Some((id, _)) = known {
            assert_eq!(registered.node_id, *id, "a node keeps its id");
        } else {
            assert!(!self.nodes.contains_key(&registered.node_id), "node ids are never reused");
        }
        let epoch = known.map_or(0, |(_, node)| node.epoch) + u32::from(!repeated);
        let key = known.filter(|_| repeated).map_or(&register.receipt_key, |(_, node)| &node.key).clone();
        assert_eq!((registered.node_epoch, &registered.receipt_key), (epoch, &key));
        let node = ModelNode {
            uuid: register.node_uuid.clone(),
            epoch,
            domain: register.failure_domain.clone(),
            direct_address: register.direct_address.clone(),
            key,
            request_id: request_id.clone(),
            labels: register.labels.clone(),
            operator_labels: known.map(|(_, node)| node.operator_labels.clone()).unwrap_or_default(),
            register_time_ms: self.time_ms,
            fenced: false,
            draining: known.is_some_and(|(_, node)| node.draining),
            removed: false,
        };
        if !repeated {
            self.nodes.insert(registered.node_id, node);
        }
    }

    /// The state holds what the model holds, and nothing else.
    fn assert_equals(&self, state: &State) {
        assert_eq!(state.time_ms(), self.time_ms);
        assert_eq!(state.buckets.len(), self.buckets.len());
        let mut debt = 0;
        for (name, bucket) in &self.buckets {
            let own = self.stacks.0.iter().filter(|((bucket, _), _)| bucket == name);
            let current = own.clone().filter_map(|(_, stack)| stack.last()?.object()).map(ModelObject::size);
            let found = state.bucket(name).unwrap();
            assert_eq!(found.id, BucketId(bucket.id));
            let quota = super::Quota { bytes: bucket.quota_bytes, objects: bucket.quota_objects };
            assert_eq!(found.quota, quota);
            assert_eq!(found.versioning.record() as i32, bucket.versioning);
            let held = (current.clone().count() as u64, current.sum::<u64>());
            assert_eq!((found.objects, found.bytes), held);
            let (all, bytes) = self.stacks.usage(name);
            let versions = own.map(|(_, stack)| stack.len() as u64).sum::<u64>();
            let older = super::OlderSums {
                versions: all - held.0,
                bytes: bytes - held.1,
                delete_markers: versions - all,
            };
            assert_eq!(found.older, older);
            // Chunks that copies share are lacking once.
            let chunks: BTreeMap<ChunkId, usize> = self
                .stacks
                .objects(name)
                .flat_map(|(_, object)| &object.chunks)
                .map(|(id, _, replicas)| (*id, replicas.len()))
                .collect();
            debt += chunks
                .values()
                .map(|replicas| u64::from(bucket.replicas).saturating_sub(*replicas as u64))
                .sum::<u64>();
        }
        assert_eq!(state.replica_debt(), debt);
        self.assert_objects_equal(state);
        self.assert_uploads_equal(state);
        let owned =
            self.sharers().len() + self.uploads.values().map(|upload| upload.chunks.len()).sum::<usize>();
        let all = ChunkId(0)..=ChunkId(u128::MAX);
        assert_eq!(
            state.owners.range(all).count(),
            owned,
            "every chunk has one owner, and only such chunks have one"
        );
        self.assert_nodes_equal(state);
        let epochs = self.key_epochs.iter().rev().take(2).rev().map(|(number, _)| *number);
        assert!(state.key_epochs().live().iter().map(|epoch| epoch.number).eq(epochs));
        assert_eq!(state.key_epochs().last_number(), self.last_key_epoch);
        assert_eq!(state.access_keys().is_closed(), self.is_closed);
        assert_eq!(state.is_rebalance_paused(), self.is_rebalance_paused);
        let keys = state.access_keys().after("").map(|key| (key.id.as_str(), key.revoke_time_ms.is_some()));
        assert!(keys.eq(self.access_keys.iter().map(|(id, key)| (id.as_str(), key.revoked))));
    }

    fn assert_objects_equal(&self, state: &State) {
        let holding = self.stacks.0.values().filter(|stack| stack.last().unwrap().object().is_some());
        assert_eq!(state.object_count(), holding.count());
        let chunk = |chunk: &super::Chunk| {
            (chunk.id, chunk.length, chunk.replicas.numbers().into_iter().collect::<BTreeSet<_>>())
        };
        for ((bucket, key), stack) in &self.stacks.0 {
            let (id, shared) = (state.bucket(bucket).unwrap().id, Arc::from(key.as_str()));
            let held = self.stacks.held(bucket, key).map(|object| object.version);
            assert_eq!(state.object(id, key).map(|object| object.version), held);
            for version in stack {
                let found = state.version(id, &shared, version.version());
                let Some(object) = version.object() else {
                    assert_eq!(found, None);
                    continue;
                };
                let found = found.unwrap();
                assert_eq!(
                    (found.version, found.kept, found.crc32c, found.size),
                    (object.version, object.kept, object.crc32c, object.size())
                );
                assert_eq!(found.chunks.iter().map(chunk).collect::<Vec<_>>(), object.chunks);
            }
        }
        for (id, names) in self.sharers() {
            let first = names.first().unwrap();
            let owner = match names.len() {
                1 => Owner::Version(VersionNumber::new(first.version), Arc::clone(&first.key)),
                _ => Owner::Versions(Box::new(names)),
            };
            assert_eq!(state.chunk_owner(id), Some(&owner), "{id}");
            for (node, _) in self.pending.keys().filter(|(_, chunk)| *chunk == id) {
                let holders = self.stacks.all_objects().flat_map(|object| &object.chunks);
                let holds = holders.filter(|(own, ..)| *own == id).any(|(_, _, held)| held.contains(node));
                assert!(!holds, "a replica that is referred to waits for its removal");
            }
        }
    }

    /// The versions that have each chunk.
    fn sharers(&self) -> BTreeMap<ChunkId, BTreeSet<VersionName>> {
        let mut sharers: BTreeMap<ChunkId, BTreeSet<VersionName>> = BTreeMap::new();
        for ((_, key), stack) in &self.stacks.0 {
            for object in stack.iter().filter_map(ModelVersion::object) {
                let name = VersionName { key: Arc::from(key.as_str()), version: object.version };
                for (id, ..) in &object.chunks {
                    sharers.entry(*id).or_default().insert(name.clone());
                }
            }
        }
        sharers
    }

    fn assert_uploads_equal(&self, state: &State) {
        assert_eq!(state.upload_count(), self.uploads.len());
        for (id, upload) in &self.uploads {
            let found = state.upload(*id).unwrap();
            assert_eq!((&*found.key, found.expires_ms), (upload.key.as_str(), upload.expires_ms));
            assert!(found.chunks.keys().eq(upload.chunks.keys()));
            for chunk in upload.chunks.keys() {
                assert_eq!(state.chunk_owner(*chunk), Some(&Owner::Upload(*id)));
            }
        }
    }

    fn assert_nodes_equal(&self, state: &State) {
        let found = state.nodes().map(|node| (node.id.0.into(), node.direct_address.as_str()));
        let expect = self.nodes.iter().map(|(id, node)| (*id, node.direct_address.as_str()));
        assert_eq!(found.collect::<BTreeMap<u32, _>>(), expect.collect());
        for (id, node) in &self.nodes {
            let found = state.node(NodeId(*id as u16)).unwrap();
            assert_eq!((&found.labels, &found.operator_labels), (&node.labels, &node.operator_labels));
            assert_eq!(found.register_time_ms, node.register_time_ms);
            let flags = (found.is_fenced(), found.draining, found.removed, found.epoch);
            assert_eq!(flags, (node.fenced, node.draining, node.removed, node.epoch));
            for (other_id, other) in &self.nodes {
                let fail_together = node.what_fails_with_it(*id) == other.what_fails_with_it(*other_id);
                let other = state.node(NodeId(*other_id as u16)).unwrap();
                assert_eq!(found.domain() == other.domain(), fail_together, "{found:?} {other:?}");
            }
        }
        assert_eq!(state.pending_deletes().count(), self.pending.len() as u64);
        for ((node, chunk), not_before_ms) in &self.pending {
            let node = NodeId(*node as u16);
            assert!(state.pending_deletes().contains(node, *chunk));
            let due = |now_ms| state.pending_deletes().due(node, now_ms, usize::MAX).any(|due| due == *chunk);
            assert!(due(*not_before_ms) && !due(*not_before_ms - 1));
        }
    }
}

/// What an answer says of a delete.
fn removed_by(object: &Option<pb::Object>, was_marker: bool, marker: u64) -> (u64, u64, bool, Option<u64>) {
    let object = object.as_ref().unwrap();
    assert!(object.chunks.is_empty(), "an answer does not hold the chunks");
    (object.version, object.size, was_marker, Some(marker).filter(|marker| *marker > 0))
}

fn check_held(held: Option<String>, precondition: Option<&pb::Precondition>) -> Result<(), Reason> {
    let holds = match precondition.and_then(|precondition| precondition.kind.clone()) {
        None => true,
        Some(precondition::Kind::IfMatch(etag)) => held == Some(etag),
        Some(precondition::Kind::IfNoneMatchAny(_)) => held.is_none(),
        Some(precondition::Kind::IfNoneMatch(etag)) => held != Some(etag),
    };
    if holds { Ok(()) } else { Err(Reason::PreconditionFailed) }
}

fn size_of(chunks: &[pb::WrittenChunk]) -> u64 {
    chunks.iter().map(|chunk| u64::from(chunk.length)).sum()
}

/// What a receipt is about.
#[derive(Clone, Copy)]
struct Word {
    chunk: ChunkId,
    length: u32,
    crc32c: u32,
    node: u32,
}

fn sign(key: &[u8], epoch: u32, word: Word) -> u64 {
    let receipt = Receipt {
        chunk: word.chunk,
        length: word.length,
        crc: word.crc32c,
        node: NodeId(word.node as u16),
        node_epoch: NodeEpoch(epoch as u16),
        mac: 0,
    };
    ReceiptKey(SipKey::from_bytes(key.try_into().unwrap())).sign(&receipt)
}

/// What happens next. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    CreateBucket {
        bucket: usize,
        replicas: u32,
        min_replicas: u32,
        versioning: i32,
    },
    DeleteBucket {
        bucket: usize,
    },
    UpdateBucket {
        bucket: usize,
        bytes: Option<u64>,
        objects: Option<u64>,
        versioning: Option<i32>,
    },
    Begin {
        bucket: usize,
        key: usize,
        condition: Condition,
        placements: Vec<u32>,
        lease_ms: u64,
    },
    Extend {
        upload: usize,
        placements: Vec<u32>,
        lease_ms: u64,
    },
    Commit {
        upload: usize,
        condition: Condition,
        chunks: Vec<(usize, Fault)>,
        short: bool,
    },
    Abort {
        upload: usize,
    },
    Delete {
        bucket: usize,
        key: usize,
        condition: Condition,
        version: Option<usize>,
    },
    Batch {
        bucket: usize,
        parts: Vec<Part>,
    },
    Register {
        uuid: usize,
        domain: u32,
    },
    RegisterLabelled {
        uuid: usize,
        host: u32,
    },
    Label {
        node: u32,
        set: Vec<(usize, u32)>,
        remove: Vec<usize>,
        overwrite: bool,
    },
    Expire,
    Forget {
        node: u32,
        count: usize,
    },
    /// From and to are places among the nodes; from behind the last: none leaves.
    Replace {
        changes: Vec<(usize, usize, usize, bool)>,
    },
    Collect {
        node: u32,
        chunks: Vec<usize>,
    },
    Fence {
        node: u32,
        stale: bool,
    },
    Drain {
        node: u32,
        draining: bool,
    },
    RemoveNode {
        node: u32,
    },
    PauseRebalance {
        paused: bool,
    },
    AddKeyEpoch {
        stale: bool,
    },
    RotateKeyEpoch,
    CloseAccess,
    CreateAccessKey {
        buckets: usize,
        rights: u32,
        is_new: bool,
    },
    RevokeAccessKey {
        key: usize,
        force: bool,
        rotate: bool,
    },
    Repeat {
        command: usize,
    },
}

/// One operation of a batch.
#[derive(Clone, Debug)]
enum Part {
    Commit {
        upload: usize,
        condition: Condition,
        chunks: Vec<(usize, Fault)>,
        short: bool,
    },
    Copy {
        from: usize,
        version: Option<usize>,
        from_condition: Condition,
        to: usize,
        condition: Condition,
        rewords: bool,
    },
    Delete {
        key: usize,
        condition: Condition,
        version: Option<usize>,
    },
    Check {
        key: usize,
        condition: Condition,
    },
}

#[derive(Clone, Copy, Debug)]
enum Condition {
    None,
    Match,
    MatchOther,
    NoneMatch,
    NoneMatchAny,
}

/// What is wrong with the receipts of a chunk.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Fault {
    None,
    OneMissing,
    OneReceiptOnly,
    OtherCrc,
    OtherEpoch,
    OtherKey,
    OtherLength,
    OtherNode,
    Repeated,
    TooLong,
    TooShort,
    TwiceInObject,
}

fn any_condition() -> impl Strategy<Value = Condition> {
    use Condition::{Match, MatchOther, None, NoneMatch, NoneMatchAny};
    prop_oneof![6 => Just(None), 1 => Just(Match), 1 => Just(MatchOther), 1 => Just(NoneMatch), 1 => Just(NoneMatchAny)]
}

fn any_fault() -> impl Strategy<Value = Fault> {
    use Fault::{
        OneMissing, OneReceiptOnly, OtherCrc, OtherEpoch, OtherKey, OtherLength, OtherNode, Repeated,
        TooLong, TooShort, TwiceInObject,
    };
    let faults = vec![
        OneMissing,
        OneReceiptOnly,
        OtherCrc,
        OtherEpoch,
        OtherKey,
        OtherLength,
        OtherNode,
        Repeated,
        TwiceInObject,
        TooLong,
        TooShort,
    ];
    prop_oneof![8 => Just(Fault::None), 2 => prop::sample::select(faults)]
}

/// One of those that the key has.
fn any_version() -> impl Strategy<Value = Option<usize>> {
    prop::option::weighted(0.4, any::<usize>())
}

/// Off, on, suspended, or nothing that there is.
fn any_versioning() -> impl Strategy<Value = i32> {
    prop_oneof![6 => 0..3i32, 1 => Just(3)]
}

fn any_part() -> impl Strategy<Value = Part> {
    let key = || 0..KEYS.len();
    let chunks = prop::collection::vec((0..6usize, Just(Fault::None)), 0..4);
    prop_oneof![
        2 => (0..usize::MAX, any_condition(), chunks, any::<bool>())
            .prop_map(|(upload, condition, chunks, short)| Part::Commit { upload, condition, chunks, short }),
        4 => (key(), any_version(), any_condition(), key(), any_condition(), any::<bool>()).prop_map(
            |(from, version, from_condition, to, condition, rewords)| {
                Part::Copy { from, version, from_condition, to, condition, rewords }
            }
        ),
        2 => (key(), any_condition(), any_version())
            .prop_map(|(key, condition, version)| Part::Delete { key, condition, version }),
        1 => (key(), any_condition()).prop_map(|(key, condition)| Part::Check { key, condition }),
    ]
}

fn any_step() -> impl Strategy<Value = Step> {
    let (bucket, key, pick) = (0..BUCKETS.len(), 0..KEYS.len(), 0..usize::MAX);
    let placements = || prop::collection::vec(any::<u32>(), 0..4);
    prop_oneof![
        3 => (bucket.clone(), 1..4u32, 1..3u32, any_versioning()).prop_map(
            |(bucket, replicas, min_replicas, versioning)| {
                let replicas = replicas.max(min_replicas);
                Step::CreateBucket { bucket, replicas, min_replicas, versioning }
            }
        ),
        1 => bucket.clone().prop_map(|bucket| Step::DeleteBucket { bucket }),
        1 => (bucket.clone(), prop::option::of(0..40u64), prop::option::of(0..3u64))
            .prop_map(|(bucket, bytes, objects)| {
                Step::UpdateBucket { bucket, bytes, objects, versioning: None }
            }),
        1 => (bucket.clone(), any_versioning()).prop_map(|(bucket, versioning)| {
            Step::UpdateBucket { bucket, bytes: None, objects: None, versioning: Some(versioning) }
        }),
        6 => (bucket.clone(), key.clone(), any_condition(), placements(), 0..20_000u64).prop_map(
            |(bucket, key, condition, placements, lease_ms)| Step::Begin { bucket, key, condition, placements, lease_ms }
        ),
        2 => (pick.clone(), placements(), 0..20_000u64)
            .prop_map(|(upload, placements, lease_ms)| Step::Extend { upload, placements, lease_ms }),
        8 => (pick.clone(), any_condition(), prop::collection::vec((0..6usize, any_fault()), 0..4), any::<bool>())
            .prop_map(|(upload, condition, chunks, short)| Step::Commit { upload, condition, chunks, short }),
        1 => pick.clone().prop_map(|upload| Step::Abort { upload }),
        4 => (bucket.clone(), key, any_condition(), any_version())
            .prop_map(|(bucket, key, condition, version)| Step::Delete { bucket, key, condition, version }),
        6 => (bucket, prop::collection::vec(any_part(), 0..4))
            .prop_map(|(bucket, parts)| Step::Batch { bucket, parts }),
        2 => (0..UUIDS.len(), 0..4u32).prop_map(|(uuid, domain)| Step::Register { uuid, domain }),
        2 => (0..UUIDS.len(), 0..3u32).prop_map(|(uuid, host)| Step::RegisterLabelled { uuid, host }),
        3 => (
            0..7u32,
            prop::collection::vec((0..LABELS.len(), 0..4u32), 0..3),
            prop::collection::vec(0..LABELS.len(), 0..2),
            any::<bool>(),
        )
            .prop_map(|(node, set, remove, overwrite)| Step::Label { node, set, remove, overwrite }),
        4 => prop::collection::vec((pick.clone(), 0..6usize, 0..6usize, prop::bool::weighted(0.1)), 1..4)
            .prop_map(|changes| Step::Replace { changes }),
        2 => (0..6u32, prop::collection::vec(pick.clone(), 1..4))
            .prop_map(|(node, chunks)| Step::Collect { node, chunks }),
        1 => (0..6u32, any::<bool>()).prop_map(|(node, stale)| Step::Fence { node, stale }),
        1 => (0..6u32, any::<bool>()).prop_map(|(node, draining)| Step::Drain { node, draining }),
        1 => any::<bool>().prop_map(|paused| Step::PauseRebalance { paused }),
        1 => prop_oneof![3 => Just(9), 1 => 4..6u32].prop_map(|node| Step::RemoveNode { node }),
        1 => Just(Step::Expire),
        1 => (0..6u32, 0..5usize).prop_map(|(node, count)| Step::Forget { node, count }),
        1 => any::<bool>().prop_map(|stale| Step::AddKeyEpoch { stale }),
        1 => Just(Step::RotateKeyEpoch),
        2 => (0..PATTERNS.len(), 1..16u32, prop::bool::weighted(0.9))
            .prop_map(|(buckets, rights, is_new)| Step::CreateAccessKey { buckets, rights, is_new }),
        1 => (pick.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(key, force, rotate)| Step::RevokeAccessKey { key, force, rotate }),
        1 => Just(Step::CloseAccess),
        3 => pick.prop_map(|command| Step::Repeat { command }),
    ]
}

/// Both sides, and what has been said to them.
struct Pair {
    state: State,
    model: Model,
    commands: Vec<pb::Command>,
    index: u64,
    /// The leader's clock, which may be set back.
    clock_ms: u64,
    /// Who asks for what comes next; none is the cluster itself.
    caller: Option<caller::Kind>,
    pictures: Vec<Picture>,
    /// When each bucket was made.
    made_at: BTreeMap<u32, u64>,
    /// The entry after which the state came from a snapshot.
    loaded_at: u64,
    /// A snapshot that is being taken, and what it is to be.
    walk: Option<(super::SnapshotWalk, Vec<Bytes>)>,
}

/// What all buckets held after an entry.
struct Picture {
    index: u64,
    time_ms: u64,
    stacks: Stacks,
}

impl Picture {
    /// Keys, and what versions they hold.
    fn objects(&self, bucket: &str) -> Vec<(String, u64)> {
        let own = self.stacks.0.iter().filter(|((own, _), _)| own == bucket);
        own.filter_map(|((_, key), stack)| Some((key.clone(), stack.last()?.object()?.version))).collect()
    }

    /// Keys, and all versions, whether they are objects, and whether they are the latest.
    fn versions(&self, bucket: &str) -> Vec<(String, u64, bool, bool)> {
        let mut versions = Vec::new();
        for ((_, key), stack) in self.stacks.0.iter().filter(|((own, _), _)| own == bucket) {
            let newest_first = stack.iter().rev().enumerate();
            versions.extend(
                newest_first.map(|(at, version)| {
                    (key.clone(), version.version(), version.object().is_some(), at == 0)
                }),
            );
        }
        versions
    }
}

impl Pair {
    fn new() -> Self {
        let mut state = State::default();
        let raise = pb::RaiseFeatureLevel { feature_level: FeatureLevel::SUPPORTED.0 };
        let kind = Some(Kind::RaiseFeatureLevel(raise));
        state.apply(0, &pb::Command { kind, ..Default::default() });
        let mut pair = Self {
            state,
            model: Model::default(),
            commands: Vec::new(),
            index: 0,
            clock_ms: 1000,
            caller: None,
            pictures: Vec::new(),
            made_at: BTreeMap::new(),
            loaded_at: 0,
            walk: None,
        };
        for (uuid, domain) in [(0, 0), (1, 1), (2, 2)] {
            pair.step(&Step::Register { uuid, domain });
        }
        pair
    }

    fn step(&mut self, step: &Step) {
        if let Step::Repeat { command } = step {
            let Some(mut command) = pick(&self.commands, *command).cloned() else { return };
            command.time_ms = self.clock_ms;
            return self.apply(command);
        }
        let Some(kind) = self.kind(step) else { return };
        let number = self.commands.len() as u128 + 1;
        let own = matches!(
            kind,
            Kind::RegisterNode(_)
                | Kind::ExpireUploads(_)
                | Kind::ForgetChunks(_)
                | Kind::AddKeyEpoch(_)
                | Kind::CloseAccess(_)
                | Kind::ReplaceReplicas(_)
                | Kind::CollectReplicas(_)
                | Kind::FenceNode(_)
        );
        let named = !own || matches!(kind, Kind::RegisterNode(_));
        let caller = self.caller.clone().filter(|_| !own).map(|kind| pb::Caller { kind: Some(kind) });
        let request_id = if named { Bytes::from(number.to_be_bytes().to_vec()) } else { Bytes::new() };
        let command = pb::Command {
            time_ms: self.clock_ms,
            request_id,
            kind: Some(kind),
            deletion_grace_ms: 700,
            caller,
        };
        self.commands.push(command.clone());
        self.apply(command);
    }

    fn apply(&mut self, command: pb::Command) {
        self.index += 1;
        let time_ms = self.state.time_ms();
        let outcome = self.state.apply(self.index, &command);
        assert!(self.state.time_ms() >= time_ms, "time never runs back");
        self.model.apply(self.index, &command, &outcome);
        self.model.assert_equals(&self.state);
        for bucket in self.model.buckets.values() {
            self.made_at.entry(bucket.id).or_insert(self.index);
        }
        let stacks = self.model.stacks.clone();
        self.pictures.push(Picture { index: self.index, time_ms: self.model.time_ms, stacks });
    }

    /// Whatever is remembered is what was; and what is neither old nor from before a snapshot is remembered.
    fn assert_pictures(&self) {
        let listing = super::Listing { prefix: "", delimiter: "", start: None };
        for picture in &self.pictures {
            let is_young = picture.time_ms + 10 * 60 * 1000 >= self.model.time_ms;
            for (name, bucket) in &self.model.buckets {
                let is_remembered = self.state.remembers(BucketId(bucket.id), picture.index);
                let was_there = self.made_at[&bucket.id] <= picture.index;
                if is_young && picture.index >= self.loaded_at {
                    assert!(is_remembered, "{} of {name}", picture.index);
                }
                if !is_remembered || !was_there {
                    continue;
                }
                let page = self.state.page(self.state.bucket(name).unwrap(), listing, picture.index, 10);
                let found = page.entries.iter().map(|entry| match entry {
                    super::ListingEntry::Object(key, object, _) => ((*key).to_owned(), object.version),
                    super::ListingEntry::Group(_) => panic!("there is no delimiter"),
                });
                assert_eq!(
                    found.collect::<Vec<_>>(),
                    picture.objects(name),
                    "{name} after {}",
                    picture.index
                );
                assert_eq!(page.next, None);
                for page_len in [2, 100] {
                    let found = self.versions_listed(name, picture.index, page_len);
                    let expect = picture.versions(name);
                    assert_eq!(found, expect, "{name} after {} by {page_len}", picture.index);
                }
            }
        }
    }

    /// What pages of a listing of versions join to.
    fn versions_listed(&self, bucket: &str, at: u64, page_len: usize) -> Vec<(String, u64, bool, bool)> {
        let (mut listed, mut start) = (Vec::new(), None);
        loop {
            let listing = super::Listing { prefix: "", delimiter: "", start: start.as_ref() };
            let page = self.state.version_page(self.state.bucket(bucket).unwrap(), listing, at, page_len);
            assert!(page.entries.len() <= page_len);
            listed.extend(page.entries.iter().map(|entry| match entry {
                VersionEntry::Object { key, object, latest, .. } => {
                    ((*key).to_owned(), object.version, true, *latest)
                }
                VersionEntry::DeleteMarker { key, marker, latest } => {
                    ((*key).to_owned(), marker.version, false, *latest)
                }
                VersionEntry::Group(_) => panic!("there is no delimiter"),
            }));
            start = page.next;
            if start.is_none() {
                return listed;
            }
        }
    }

    fn kind(&self, step: &Step) -> Option<Kind> {
        let text = |choices: &[&str], at: usize| choices[at].to_owned();
        Some(match step {
            Step::CreateBucket { bucket, replicas, min_replicas, versioning } => {
                Kind::CreateBucket(pb::CreateBucket {
                    name: text(&BUCKETS, *bucket),
                    chunk_size: 8,
                    replicas: *replicas,
                    min_replicas: *min_replicas,
                    versioning: *versioning,
                    ..Default::default()
                })
            }
            Step::UpdateBucket { bucket, bytes, objects, versioning } => {
                Kind::UpdateBucket(pb::UpdateBucket {
                    name: text(&BUCKETS, *bucket),
                    quota_bytes: *bytes,
                    quota_objects: *objects,
                    versioning: *versioning,
                })
            }
            Step::DeleteBucket { bucket } => {
                Kind::DeleteBucket(pb::DeleteBucket { name: text(&BUCKETS, *bucket) })
            }
            Step::Begin { bucket, key, condition, placements, lease_ms } => Kind::BeginPut(pb::BeginPut {
                bucket: text(&BUCKETS, *bucket),
                key: text(&KEYS, *key),
                placements: self.placements(placements),
                precondition: self.precondition(BUCKETS[*bucket], KEYS[*key], *condition),
                lease_ms: *lease_ms,
                for_batch: lease_ms.is_multiple_of(2),
                source_bucket: String::new(),
            }),
            Step::Extend { upload, placements, lease_ms } => Kind::ExtendPut(pb::ExtendPut {
                upload_id: self.upload_id(*upload)?,
                placements: self.placements(placements),
                lease_ms: *lease_ms,
            }),
            Step::Commit { upload, condition, chunks, short } => {
                self.commit(self.upload_id(*upload)?, *condition, chunks, *short)
            }
            Step::Abort { upload } => Kind::AbortPut(pb::AbortPut { upload_id: self.upload_id(*upload)? }),
            Step::Delete { bucket, key, condition, version } => Kind::DeleteObject(pb::DeleteObject {
                bucket: text(&BUCKETS, *bucket),
                key: text(&KEYS, *key),
                precondition: self.precondition(BUCKETS[*bucket], KEYS[*key], *condition),
                version: self.version(BUCKETS[*bucket], KEYS[*key], *version),
            }),
            Step::Batch { bucket, parts } => Kind::Batch(pb::Batch {
                bucket: text(&BUCKETS, *bucket),
                operations: parts
                    .iter()
                    .filter_map(|part| self.operation(BUCKETS[*bucket], part))
                    .map(|kind| pb::BatchOperation { kind: Some(kind) })
                    .collect(),
            }),
            Step::Register { uuid, domain } => Kind::RegisterNode(pb::RegisterNode {
                node_uuid: text(&UUIDS, *uuid),
                address: "n:1".into(),
                direct_address: format!("d{domain}:1"),
                failure_domain: format!("d{domain}"),
                capacity_bytes: 1,
                receipt_key: self.secret(),
                labels: BTreeMap::new(),
            }),
            Step::RegisterLabelled { uuid, host } => Kind::RegisterNode(pb::RegisterNode {
                node_uuid: text(&UUIDS, *uuid),
                address: "n:1".into(),
                direct_address: format!("d{host}:1"),
                failure_domain: String::new(),
                capacity_bytes: 1,
                receipt_key: self.secret(),
                labels: [("host".to_owned(), format!("h{host}")), ("zone".to_owned(), "z1".to_owned())]
                    .into(),
            }),
            Step::Label { node, set, remove, overwrite } => Kind::LabelNode(pb::LabelNode {
                node_id: *node,
                // Zero is no value.
                set: set
                    .iter()
                    .map(|(key, value)| {
                        let value = if *value == 0 {
                            String::new()
                        } else {
                            format!("{}{value}", &LABELS[*key][..1])
                        };
                        (text(&LABELS, *key), value)
                    })
                    .collect(),
                remove: remove.iter().map(|key| text(&LABELS, *key)).collect(),
                overwrite: *overwrite,
            }),
            Step::Expire => Kind::ExpireUploads(pb::ExpireUploads {}),
            Step::Forget { node, count } => {
                let chunks = self.model.pending.keys().filter(|(own, _)| own == node).take(*count);
                let chunk_ids = chunks.map(|(_, chunk)| chunk_id_bytes(*chunk)).collect();
                Kind::ForgetChunks(pb::ForgetChunks { node_id: *node, chunk_ids })
            }
            Step::Replace { changes } => {
                let change = |(chunk, from, to, stale): &(usize, usize, usize, bool)| {
                    let chunk = self.chunk_id(*chunk)?;
                    let nodes: Vec<u32> = self.model.nodes.keys().copied().collect();
                    let to = *pick(&nodes, *to)?;
                    let from = nodes.get(*from).copied().unwrap_or_default();
                    let node = &self.model.nodes[&to];
                    let length = self.model.chunk(chunk).map_or(8, |(length, _)| length);
                    let word = Word { chunk, length, crc32c: chunk.0 as u32, node: to };
                    let epoch = node.epoch - u32::from(*stale);
                    let mac = sign(&node.key, epoch, word);
                    let to = Some(pb::Receipt { node_id: to, node_epoch: epoch, mac });
                    Some(pb::ReplicaChange { chunk_id: chunk_id_bytes(chunk), from, to })
                };
                let changes = changes.iter().filter_map(change).collect();
                Kind::ReplaceReplicas(pb::ReplaceReplicas { changes })
            }
            Step::Collect { node, chunks } => {
                let chunks = chunks.iter().filter_map(|number| self.chunk_id(*number));
                let chunk_ids = chunks.map(chunk_id_bytes).collect();
                Kind::CollectReplicas(pb::CollectReplicas { node_id: *node, chunk_ids })
            }
            Step::Fence { node, stale } => {
                let epoch = self.model.nodes.get(node).map_or(1, |node| node.epoch);
                Kind::FenceNode(pb::FenceNode { node_id: *node, epoch: epoch - u32::from(*stale) })
            }
            Step::Drain { node, draining } => {
                Kind::DrainNode(pb::DrainNode { node_id: *node, draining: *draining })
            }
            Step::RemoveNode { node } => {
                let epoch = self.model.nodes.get(node).map_or(1, |node| node.epoch);
                Kind::RemoveNode(pb::RemoveNode { node_id: *node, epoch })
            }
            Step::PauseRebalance { paused } => Kind::PauseRebalance(pb::PauseRebalance { paused: *paused }),
            Step::AddKeyEpoch { stale } => {
                let newest = self.model.last_key_epoch;
                let after = if *stale { newest.saturating_sub(1) } else { newest };
                Kind::AddKeyEpoch(pb::AddKeyEpoch { secret: Bytes::from(vec![newest as u8; 16]), after })
            }
            Step::RotateKeyEpoch => Kind::RotateKeyEpoch(pb::RotateKeyEpoch { secret: self.secret() }),
            Step::CloseAccess => Kind::CloseAccess(pb::CloseAccess {}),
            Step::CreateAccessKey { buckets, rights, is_new } => {
                let number =
                    self.model.access_keys.len() - usize::from(!is_new && !self.model.access_keys.is_empty());
                Kind::CreateAccessKey(pb::CreateAccessKey {
                    key_id: key_id(number),
                    secret_sha256: Bytes::from(vec![number as u8; 32]),
                    grants: vec![pb::Grant { buckets: text(&PATTERNS, *buckets), rights: *rights }],
                    label: "label".into(),
                })
            }
            Step::RevokeAccessKey { key, force, rotate } => {
                // Now and then one that is not there.
                let number = key % (self.model.access_keys.len() + 1);
                let epoch_secret = if *rotate { self.secret() } else { Bytes::new() };
                Kind::RevokeAccessKey(pb::RevokeAccessKey {
                    key_id: key_id(number),
                    force: *force,
                    epoch_secret,
                })
            }
            Step::Repeat { .. } => return None,
        })
    }

    fn operation(&self, bucket: &str, part: &Part) -> Option<Operation> {
        Some(match part {
            Part::Commit { upload, condition, chunks, short } => {
                let kind = self.commit(self.upload_id(*upload)?, *condition, chunks, *short);
                let Kind::CommitPut(commit) = kind else { return None };
                Operation::Commit(commit)
            }
            Part::Copy { from, version, from_condition, to, condition, rewords } => {
                let version = self.version(bucket, KEYS[*from], *version);
                let source = match version {
                    0 => self.model.stacks.held(bucket, KEYS[*from]),
                    version => {
                        let source = self.model.stacks.version(bucket, KEYS[*from], version);
                        source.and_then(ModelVersion::object)
                    }
                };
                let metadata = pb::ObjectMetadata { content_type: "new/words".into(), ..Default::default() };
                Operation::Copy(pb::BatchCopy {
                    source: KEYS[*from].to_owned(),
                    source_precondition: precondition_on(source, *from_condition),
                    source_version: version,
                    key: KEYS[*to].to_owned(),
                    precondition: self.precondition(bucket, KEYS[*to], *condition),
                    metadata: rewords.then_some(metadata),
                })
            }
            Part::Delete { key, condition, version } => Operation::Delete(pb::BatchDelete {
                key: KEYS[*key].to_owned(),
                precondition: self.precondition(bucket, KEYS[*key], *condition),
                version: self.version(bucket, KEYS[*key], *version),
            }),
            Part::Check { key, condition } => Operation::Check(pb::BatchCheck {
                key: KEYS[*key].to_owned(),
                precondition: self.precondition(bucket, KEYS[*key], *condition),
            }),
        })
    }

    fn secret(&self) -> Bytes {
        Bytes::from((self.commands.len() as u128 + 1).to_le_bytes().to_vec())
    }

    /// Mostly the cluster itself, which may always; else somebody, or a key that is there, or was.
    fn take_turn(&mut self, who: u32) {
        let count = self.model.access_keys.len() as u32 + 1;
        self.caller = match who {
            0..50 => None,
            50..60 => Some(caller::Kind::Anonymous(true)),
            60..70 => Some(caller::Kind::Root(true)),
            _ => Some(caller::Kind::KeyId(key_id((who % count) as usize))),
        };
    }

    /// An open upload, or now and then one that has ended.
    fn upload_id(&self, number: usize) -> Option<u64> {
        let open: Vec<u64> = self.model.uploads.keys().copied().collect();
        let ever: Vec<u64> = self.model.upload_ids.iter().copied().collect();
        pick(if number.is_multiple_of(8) { &ever } else { &open }, number / 8).copied()
    }

    /// Mostly one that a manifest names, else any that was ever granted.
    fn chunk_id(&self, number: usize) -> Option<ChunkId> {
        let committed: BTreeSet<ChunkId> =
            self.model.stacks.all_objects().flat_map(|object| &object.chunks).map(|(id, ..)| *id).collect();
        let chunks = if number.is_multiple_of(8) { &self.model.granted } else { &committed };
        let chunks: Vec<ChunkId> = chunks.iter().copied().collect();
        pick(&chunks, number / 8).copied()
    }

    fn placements(&self, seeds: &[u32]) -> Vec<pb::Placement> {
        let nodes: Vec<u32> = self.model.nodes.keys().copied().collect();
        let place = |seed: &u32| {
            let from = *seed as usize % nodes.len();
            let count = 2 + (*seed as usize / 7) % 2;
            pb::Placement { node_ids: nodes.iter().cycle().skip(from).take(count).copied().collect() }
        };
        seeds.iter().map(place).collect()
    }

    fn precondition(&self, bucket: &str, key: &str, condition: Condition) -> Option<pb::Precondition> {
        precondition_on(self.model.stacks.held(bucket, key), condition)
    }

    /// Zero is none in particular; now and then one that is not there.
    fn version(&self, bucket: &str, key: &str, number: Option<usize>) -> u64 {
        let Some(number) = number else { return 0 };
        let stack = self.model.stacks.of(bucket, key);
        stack.get(number % (stack.len() + 1)).map_or(u64::MAX, ModelVersion::version)
    }

    fn commit(&self, upload_id: u64, condition: Condition, picks: &[(usize, Fault)], short: bool) -> Kind {
        let upload = self.model.uploads.get(&upload_id);
        let granted: Vec<(ChunkId, Vec<u32>)> = upload
            .map(|upload| {
                upload.chunks.iter().map(|(id, nodes)| (*id, nodes.iter().copied().collect())).collect()
            })
            .unwrap_or_default();
        let mut left = granted.clone();
        let mut chunks: Vec<pb::WrittenChunk> = Vec::new();
        for (number, fault) in picks {
            if *fault == Fault::TwiceInObject && !chunks.is_empty() {
                chunks.push(chunks[0].clone());
            } else if !left.is_empty() {
                let (id, nodes) = left.remove(number % left.len());
                chunks.push(self.written(id, &nodes, *fault, 8));
            }
        }
        if let Some((last, id)) =
            chunks.pop().and_then(|last| Some((last.clone(), parse_chunk_id(&last.chunk_id)?)))
        {
            let nodes = granted
                .iter()
                .find(|(own, _)| *own == id)
                .map(|(_, nodes)| nodes.clone())
                .unwrap_or_default();
            chunks.push(if short { self.written(id, &nodes, Fault::None, 5) } else { last });
        }
        let precondition =
            upload.and_then(|upload| self.precondition(&upload.bucket, &upload.key, condition));
        Kind::CommitPut(pb::CommitPut {
            upload_id,
            chunks,
            precondition,
            crc32c: upload_id as u32,
            ..Default::default()
        })
    }

    fn written(&self, id: ChunkId, nodes: &[u32], fault: Fault, length: u32) -> pb::WrittenChunk {
        let length = match fault {
            Fault::TooLong => length + 1,
            Fault::TooShort => length - 1,
            _ => length,
        };
        let crc32c = id.0 as u32;
        let other = self.model.nodes.keys().copied().find(|node| !nodes.contains(node));
        let nodes: Vec<u32> = match fault {
            Fault::OneMissing => nodes.iter().copied().skip(1).collect(),
            Fault::OneReceiptOnly => nodes.iter().copied().take(1).collect(),
            Fault::OtherNode => other.into_iter().chain(nodes.first().copied()).collect(),
            Fault::Repeated => nodes.iter().take(1).cycle().take(3).copied().collect(),
            _ => nodes.to_vec(),
        };
        let receipts = nodes.iter().map(|id_of_node| {
            let node = &self.model.nodes[id_of_node];
            let mut word = Word { chunk: id, length, crc32c, node: *id_of_node };
            let (mut key, mut epoch) = (node.key.clone(), node.epoch);
            match fault {
                Fault::OtherCrc => word.crc32c ^= 1,
                Fault::OtherEpoch => epoch -= 1,
                Fault::OtherKey => key = Bytes::from(vec![0xee; 16]),
                Fault::OtherLength => word.length ^= 1,
                _ => {}
            }
            pb::Receipt { node_id: *id_of_node, node_epoch: epoch, mac: sign(&key, epoch, word) }
        });
        pb::WrittenChunk { chunk_id: chunk_id_bytes(id), length, crc32c, receipts: receipts.collect() }
    }

    /// Through a snapshot: what comes out must be the same state, and go on as if nothing had been.
    fn through_snapshot(&mut self, piece_len: usize) {
        let pieces = self.state.encode(piece_len);
        assert!(pieces.iter().rev().skip(1).all(|piece| piece.len() == piece_len));
        let decoded = State::decode(&pieces.concat()[..]).unwrap();
        assert_eq!(decoded, self.state);
        assert_eq!(decoded.digest(), self.state.digest());
        self.state = decoded;
        self.loaded_at = self.index;
        self.walk = None;
    }

    /// A snapshot or a backup that goes on between steps is of the moment at which it began.
    fn walk(&mut self, begins: bool, piece_len: usize, records_max: usize) {
        if begins && self.walk.is_none() {
            self.walk = Some(if self.index.is_multiple_of(2) {
                let expected = self.state.encode(piece_len);
                (self.state.begin_snapshot(piece_len), expected)
            } else {
                let expected = self.state.encode_backup(piece_len);
                (self.state.begin_backup(piece_len), expected)
            });
        }
        let Some((mut walk, expected)) = self.walk.take() else { return };
        self.state.go_on_with_snapshot(&mut walk, records_max);
        if walk.is_whole() {
            assert_eq!(self.state.end_snapshot(walk).0, Some(expected));
        } else {
            self.walk = Some((walk, expected));
        }
    }
}

fn precondition_on(held: Option<&ModelObject>, condition: Condition) -> Option<pb::Precondition> {
    let etag = held.map_or_else(|| "1-00000000".into(), ModelObject::etag);
    let kind = match condition {
        Condition::None => return None,
        Condition::Match => precondition::Kind::IfMatch(etag),
        Condition::MatchOther => precondition::Kind::IfMatch(format!("f{etag}")),
        Condition::NoneMatch => precondition::Kind::IfNoneMatch(etag),
        Condition::NoneMatchAny => precondition::Kind::IfNoneMatchAny(true),
    };
    Some(pb::Precondition { kind: Some(kind) })
}

/// In the order of their numbers, as long as these are small.
fn key_id(number: usize) -> String {
    let digit = |at: u32| char::from(b'A' + (number / 26_usize.pow(at) % 26) as u8);
    format!("XKAAAAAAAAAAAAAA{}{}", digit(1), digit(0))
}

fn pick<T>(choices: &[T], number: usize) -> Option<&T> {
    choices.get(number.checked_rem(choices.len())?)
}

fn reason(outcome: &pb::Outcome) -> Option<Reason> {
    match outcome.kind.as_ref()? {
        outcome::Kind::Rejected(rejected) => Reason::parse(&rejected.reason),
        _ => None,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_sequence_of_commands_ends_as_the_model_says(
        steps in prop::collection::vec((any_step(), 0..4000i64, 0..200u32, 0..100u32), 1..120),
        piece_len in 1..3000usize,
    ) {
        let mut pair = Pair::new();
        for (step, time_ms, chance, who) in &steps {
            pair.take_turn(*who);
            // Mostly a little later; now and then the next leader's clock is behind, or hours have passed.
            pair.clock_ms = match chance {
                0..10 => pair.clock_ms.saturating_sub(2000),
                10 => pair.clock_ms + KEPT_MS,
                _ => pair.clock_ms.saturating_add_signed(*time_ms),
            };
            pair.step(step);
            pair.walk(*chance % 4 == 1, piece_len, *who as usize % 4);
            // Some states are long-lived, others come from snapshots again and again.
            if *chance % 8 == 0 && piece_len % 2 == 0 {
                pair.through_snapshot(piece_len);
            }
        }
        pair.assert_pictures();
        while pair.walk.is_some() {
            pair.walk(false, piece_len, usize::MAX);
        }
        pair.through_snapshot(piece_len);
    }

    #[test]
    fn any_bytes_are_a_state_or_an_error(bytes: Vec<u8>, at: prop::sample::Index, flip in 1..=255u8) {
        let _ = State::decode(&bytes[..]);
        let mut pair = Pair::new();
        pair.step(&Step::CreateBucket { bucket: 0, replicas: 2, min_replicas: 1, versioning: 0 });
        let mut encoded = pair.state.encode(usize::MAX).concat();
        let at = at.index(encoded.len());
        encoded[at] ^= flip;
        let _ = State::decode(&encoded[..]);
        let _ = State::decode(&encoded[..at]);
    }
}

#[test]
fn snapshot_with_wrong_sums_is_refused() {
    let (mut pair, upload) = begun();
    assert_eq!(commit_with(&mut pair, upload, Fault::OneMissing), None);
    assert_eq!(pair.state.replica_debt(), 1);
    let damages: [fn(&mut State); 4] = [
        |state| state.replica_debt = 0,
        |state| state.buckets.values_mut().for_each(|bucket| bucket.objects = 0),
        |state| state.buckets.values_mut().for_each(|bucket| bucket.bytes -= 1),
        |state| state.buckets.clear(),
    ];
    for (at, damage) in damages.into_iter().enumerate() {
        let mut state = pair.state.clone();
        damage(&mut state);
        assert!(State::decode(&state.encode(1000).concat()[..]).is_err(), "damage {at}");
    }
}

/// A bucket of three replicas, two at least, with one open upload of one chunk on all nodes.
fn begun() -> (Pair, u64) {
    let mut pair = Pair::new();
    pair.step(&Step::CreateBucket { bucket: 0, replicas: 3, min_replicas: 2, versioning: 0 });
    // Seed 7 takes all three nodes.
    let (condition, placements) = (Condition::None, vec![7]);
    pair.step(&Step::Begin { bucket: 0, key: 0, condition, placements, lease_ms: 1000 });
    let upload = *pair.model.uploads.keys().next().unwrap();
    assert_eq!(pair.model.uploads[&upload].chunks.values().next().unwrap().len(), 3);
    (pair, upload)
}

fn commit_with(pair: &mut Pair, upload: u64, fault: Fault) -> Option<Reason> {
    let kind = Some(pair.commit(upload, Condition::None, &[(0, fault)], false));
    pair.index += 1;
    let command = pb::Command { time_ms: pair.clock_ms, kind, ..Default::default() };
    let outcome = pair.state.apply(pair.index, &command);
    pair.model.apply(pair.index, &command, &outcome);
    pair.model.assert_equals(&pair.state);
    reason(&outcome)
}

#[test]
fn stale_receipts_are_refused() {
    let faults = [Fault::OtherCrc, Fault::OtherEpoch, Fault::OtherKey, Fault::OtherLength];
    for fault in faults.into_iter().chain([Fault::OneReceiptOnly, Fault::Repeated]) {
        let (mut pair, upload) = begun();
        assert_eq!(commit_with(&mut pair, upload, fault), Some(Reason::StaleReceipts), "{fault:?}");
        assert_eq!(commit_with(&mut pair, upload, Fault::None), None, "a refused commit can be repeated");
    }
}

#[test]
fn receipts_of_a_node_that_has_registered_anew_are_refused() {
    let (mut pair, upload) = begun();
    let kind = Some(pair.commit(upload, Condition::None, &[(0, Fault::None)], false));
    pair.step(&Step::Register { uuid: 0, domain: 0 });
    pair.step(&Step::Register { uuid: 1, domain: 1 });
    let command = pb::Command { time_ms: pair.clock_ms, kind, ..Default::default() };
    let outcome = pair.state.apply(100, &command);
    assert_eq!(reason(&outcome), Some(Reason::StaleReceipts));
}

#[test]
fn replicas_in_one_failure_domain_count_once() {
    let (mut pair, upload) = begun();
    for uuid in 0..3 {
        pair.step(&Step::Register { uuid, domain: 7 });
    }
    assert_eq!(commit_with(&mut pair, upload, Fault::None), Some(Reason::StaleReceipts));
    pair.step(&Step::Register { uuid: 0, domain: 8 });
    assert_eq!(commit_with(&mut pair, upload, Fault::None), None);
}

/// The state but for its fingerprint, which takes in every answer, refusals too.
fn kept(state: &State) -> State {
    State { fingerprint: super::fingerprint::Fingerprint::default(), ..state.clone() }
}

#[test]
fn commit_after_the_end_of_an_upload_fails() {
    let ends: [fn(&mut Pair); 4] = [
        |pair| pair.step(&Step::Abort { upload: 1 }),
        |pair| {
            pair.clock_ms += 1001;
            pair.step(&Step::Expire);
        },
        |pair| pair.step(&Step::DeleteBucket { bucket: 0 }),
        |pair| {
            let upload = *pair.model.uploads.keys().next().unwrap();
            assert_eq!(commit_with(pair, upload, Fault::None), None);
        },
    ];
    for (at, end) in ends.into_iter().enumerate() {
        let (mut pair, upload) = begun();
        let late = Some(pair.commit(upload, Condition::None, &[(0, Fault::None)], false));
        end(&mut pair);
        let before = pair.state.clone();
        let command = pb::Command { time_ms: pair.clock_ms, kind: late, ..Default::default() };
        let outcome = pair.state.apply(100, &command);
        assert_eq!(reason(&outcome), Some(Reason::UploadNotFound), "end {at}");
        assert_eq!(kept(&pair.state), kept(&before), "end {at}");
    }
}

#[test]
fn upload_beyond_its_lease_can_be_committed_until_it_is_aborted() {
    let (mut pair, upload) = begun();
    pair.clock_ms += 5000;
    assert!(pair.state.has_expired_uploads(pair.clock_ms));
    assert_eq!(commit_with(&mut pair, upload, Fault::None), None);
}

#[test]
fn refused_commands_change_nothing_but_the_clock() {
    let too_many = vec![pb::Placement::default(); super::CHUNKS_PER_OBJECT_MAX + 1];
    let (pair, upload_id) = begun();
    let begin = pb::BeginPut {
        bucket: "one".into(),
        key: "k".into(),
        placements: too_many.clone(),
        ..Default::default()
    };
    let extend = pb::ExtendPut { upload_id, placements: too_many, lease_ms: 1 << 40 };
    for kind in [Kind::BeginPut(begin), Kind::ExtendPut(extend)] {
        let mut state = pair.state.clone();
        let command = pb::Command { time_ms: state.time_ms(), kind: Some(kind), ..Default::default() };
        assert_eq!(reason(&state.apply(100, &command)), Some(Reason::ObjectTooLarge));
        assert_eq!(kept(&state), kept(&pair.state));
    }
}

#[test]
fn replicas_on_one_host_count_once_unless_its_nodes_named_domains() {
    let (mut pair, upload) = begun();
    for uuid in 0..3 {
        pair.step(&Step::RegisterLabelled { uuid, host: 1 });
    }
    assert_eq!(commit_with(&mut pair, upload, Fault::None), Some(Reason::StaleReceipts));
    // Another rack of the same zone: another host, whatever its name.
    pair.step(&Step::Label { node: 1, set: vec![(1, 1)], remove: vec![], overwrite: false });
    assert_eq!(commit_with(&mut pair, upload, Fault::None), None);
}

#[test]
fn word_of_an_operator_survives_registrations_and_can_be_taken_back() {
    let mut pair = Pair::new();
    pair.step(&Step::RegisterLabelled { uuid: 0, host: 1 });
    let host = |pair: &Pair| pair.state.node(NodeId(1)).unwrap().label("host").map(str::to_owned);
    assert_eq!(host(&pair).as_deref(), Some("h1"));
    pair.step(&Step::Label { node: 1, set: vec![(2, 2)], remove: vec![], overwrite: false });
    assert_eq!(host(&pair).as_deref(), Some("h1"), "nobody said that it is to be overwritten");
    pair.step(&Step::Label { node: 1, set: vec![(2, 2)], remove: vec![], overwrite: true });
    assert_eq!(host(&pair).as_deref(), Some("h2"));
    pair.step(&Step::RegisterLabelled { uuid: 0, host: 3 });
    assert_eq!(host(&pair).as_deref(), Some("h2"));
    pair.step(&Step::Label { node: 1, set: vec![], remove: vec![2], overwrite: false });
    assert_eq!(host(&pair).as_deref(), Some("h3"), "the node's own word holds again");
}

#[test]
fn labels_are_bounded_in_number() {
    let mut pair = Pair::new();
    let label = |from: usize, count: usize| pb::LabelNode {
        node_id: 1,
        set: (from..from + count).map(|number| (format!("k{number}"), "v".to_owned())).collect(),
        ..Default::default()
    };
    let mut apply = |label| {
        let command = pb::Command { time_ms: 1, kind: Some(Kind::LabelNode(label)), ..Default::default() };
        reason(&pair.state.apply(9, &command))
    };
    assert_eq!(apply(label(0, super::LABELS_MAX + 1)), Some(Reason::InvalidArgument));
    assert_eq!(apply(label(0, super::LABELS_MAX)), None);
    assert_eq!(apply(label(0, super::LABELS_MAX)), None, "they are there");
    assert_eq!(apply(label(100, 1)), Some(Reason::InvalidArgument));
    let swap = pb::LabelNode { remove: vec!["k0".into()], ..label(100, 1) };
    assert_eq!(apply(swap), None);
}

/// One object of one chunk under the first key.
fn committed() -> (Pair, ChunkId) {
    let (mut pair, upload) = begun();
    let chunk = *pair.model.uploads[&upload].chunks.keys().next().unwrap();
    assert_eq!(commit_with(&mut pair, upload, Fault::None), None);
    (pair, chunk)
}

fn copy(from: usize, to: usize) -> Part {
    let (from_condition, condition) = (Condition::None, Condition::None);
    Part::Copy { from, version: None, from_condition, to, condition, rewords: false }
}

#[test]
fn chunk_stays_until_the_last_copy_drops_it() {
    let (mut pair, chunk) = committed();
    let delete = |key| Step::Delete { bucket: 0, key, condition: Condition::None, version: None };
    pair.step(&Step::Batch { bucket: 0, parts: vec![copy(0, 1), copy(0, 2)] });
    assert_eq!(pair.state.object_count(), 3);
    for key in [1, 0] {
        pair.step(&delete(key));
        assert_eq!(pair.state.pending_deletes().count(), 0);
        pair.through_snapshot(100);
    }
    let version = pair.state.object(BucketId(1), KEYS[2]).unwrap().version;
    let owner = Owner::Version(VersionNumber::new(version), KEYS[2].into());
    assert_eq!(pair.state.chunk_owner(chunk), Some(&owner));
    pair.step(&delete(2));
    assert_eq!(pair.state.chunk_owner(chunk), None);
    assert_eq!(pair.state.pending_deletes().count(), 3);
}

#[test]
fn move_keeps_the_chunks_in_whichever_order_it_is_written() {
    let delete = || Part::Delete { key: 0, condition: Condition::Match, version: None };
    for parts in [vec![copy(0, 1), delete()], vec![delete(), copy(0, 1)]] {
        let (mut pair, chunk) = committed();
        pair.step(&Step::Batch { bucket: 0, parts });
        let owner = pair.state.chunk_owner(chunk).and_then(Owner::first);
        let version = pair.state.object(BucketId(1), KEYS[1]).unwrap().version;
        assert_eq!(owner, Some(VersionName { key: KEYS[1].into(), version }));
        assert_eq!((pair.state.object_count(), pair.state.pending_deletes().count()), (1, 0));
    }
}

#[test]
fn two_keys_can_be_exchanged() {
    let (mut pair, first) = committed();
    let (condition, placements) = (Condition::None, vec![7]);
    pair.step(&Step::Begin { bucket: 0, key: 1, condition, placements, lease_ms: 1000 });
    let upload = *pair.model.uploads.keys().next().unwrap();
    assert_eq!(commit_with(&mut pair, upload, Fault::None), None);
    pair.step(&Step::Batch { bucket: 0, parts: vec![copy(0, 1), copy(1, 0)] });
    let id = pair.state.bucket("one").unwrap().id;
    assert_eq!(pair.state.object(id, KEYS[1]).unwrap().chunks[0].id, first);
    assert_eq!(pair.state.pending_deletes().count(), 0);
}

#[test]
fn refused_batch_says_which_operation_and_changes_nothing() {
    let check = |parts: Vec<Part>, expect: (Reason, u32)| {
        let (mut pair, _) = committed();
        let kind = pair.kind(&Step::Batch { bucket: 0, parts: parts.clone() });
        let before = pair.state.clone();
        let command = pb::Command { time_ms: before.time_ms(), kind, ..Default::default() };
        let Some(outcome::Kind::Rejected(rejected)) = pair.state.apply(100, &command).kind else {
            panic!("{parts:?} is taken")
        };
        assert_eq!((Reason::parse(&rejected.reason), rejected.operation), (Some(expect.0), expect.1));
        assert_eq!(kept(&pair.state), kept(&before), "{parts:?}");
    };
    let delete = |key, condition| Part::Delete { key, condition, version: None };
    let none = Condition::None;
    let look = |key, condition| Part::Check { key, condition };
    check(vec![], (Reason::InvalidArgument, 0));
    check(vec![copy(0, 1), delete(1, none)], (Reason::ObjectNotFound, 2));
    check(vec![copy(0, 1), copy(0, 1)], (Reason::InvalidArgument, 2));
    check(
        vec![copy(0, 2), look(0, Condition::NoneMatchAny), delete(0, none)],
        (Reason::PreconditionFailed, 2),
    );
    check(vec![look(0, Condition::Match), copy(1, 2)], (Reason::ObjectNotFound, 2));
    check(vec![delete(0, Condition::MatchOther)], (Reason::PreconditionFailed, 1));
    check(vec![copy(0, 1); super::BATCH_OPERATIONS_MAX + 1], (Reason::InvalidArgument, 0));
}

#[test]
fn batch_commits_no_upload_of_another_bucket() {
    let (mut pair, upload) = begun();
    pair.step(&Step::CreateBucket { bucket: 1, replicas: 3, min_replicas: 1, versioning: 0 });
    let Kind::CommitPut(commit) = pair.commit(upload, Condition::None, &[(0, Fault::None)], false) else {
        panic!("a commit is one")
    };
    let operations = vec![pb::BatchOperation { kind: Some(Operation::Commit(commit)) }];
    let mut apply = |bucket: &str| {
        let batch = pb::Batch { bucket: bucket.into(), operations: operations.clone() };
        let command = pb::Command { time_ms: 1000, kind: Some(Kind::Batch(batch)), ..Default::default() };
        reason(&pair.state.apply(100, &command))
    };
    assert_eq!(apply("two"), Some(Reason::UploadNotFound));
    assert_eq!(apply("one"), None);
}

#[test]
fn full_bucket_takes_what_makes_it_no_fuller() {
    let (mut pair, _) = committed();
    let quota = |objects, bytes| Step::UpdateBucket { bucket: 0, bytes, objects, versioning: None };
    pair.step(&quota(Some(1), None));
    let bucket = |pair: &Pair| pair.state.bucket("one").unwrap().clone();
    pair.step(&Step::Batch { bucket: 0, parts: vec![copy(0, 1)] });
    assert_eq!(bucket(&pair).objects, 1, "a copy counts");
    pair.step(&Step::Batch {
        bucket: 0,
        parts: vec![copy(0, 1), Part::Delete { key: 0, condition: Condition::None, version: None }],
    });
    assert!(pair.state.object(bucket(&pair).id, KEYS[1]).is_some(), "a rename adds nothing");
    pair.step(&quota(Some(0), Some(1)));
    pair.step(&Step::Batch { bucket: 0, parts: vec![copy(1, 1)] });
    assert_eq!(pair.state.object(bucket(&pair).id, KEYS[1]).unwrap().version, pair.index, "it is no larger");
    let begin = |key, lease_ms| Step::Begin {
        bucket: 0,
        key,
        condition: Condition::None,
        placements: vec![7],
        lease_ms,
    };
    pair.step(&begin(2, 1001));
    assert_eq!(pair.state.upload_count(), 0, "no byte need be sent");
    pair.step(&begin(1, 1001));
    pair.step(&begin(2, 1002));
    assert_eq!(pair.state.upload_count(), 2, "one may be smaller, the other is for a batch");
}

/// A change of the chunk's replicas, by the present word of the node that it goes to.
fn change_of(pair: &Pair, chunk: ChunkId, from: u32, to: u32) -> pb::ReplicaChange {
    let node = &pair.model.nodes[&to];
    let length = pair.model.chunk(chunk).map_or(8, |(length, _)| length);
    let word = Word { chunk, length, crc32c: chunk.0 as u32, node: to };
    let mac = sign(&node.key, node.epoch, word);
    let to = Some(pb::Receipt { node_id: to, node_epoch: node.epoch, mac });
    pb::ReplicaChange { chunk_id: chunk_id_bytes(chunk), from, to }
}

/// Whether each change took effect.
fn replace(pair: &mut Pair, changes: Vec<pb::ReplicaChange>) -> Vec<bool> {
    pair.index += 1;
    let kind = Some(Kind::ReplaceReplicas(pb::ReplaceReplicas { changes }));
    let command = pb::Command { time_ms: pair.clock_ms, kind, deletion_grace_ms: 700, ..Default::default() };
    let outcome = pair.state.apply(pair.index, &command);
    pair.model.apply(pair.index, &command, &outcome);
    pair.model.assert_equals(&pair.state);
    match outcome.kind {
        Some(outcome::Kind::ReplicasReplaced(replaced)) => replaced.applied,
        other => panic!("{other:?}"),
    }
}

#[test]
fn replica_moves_in_every_version_that_shares_its_chunk() {
    let (mut pair, chunk) = committed();
    pair.step(&Step::Register { uuid: 3, domain: 3 });
    pair.step(&Step::Batch { bucket: 0, parts: vec![copy(0, 1)] });
    let change = change_of(&pair, chunk, 1, 4);
    assert_eq!(replace(&mut pair, vec![change.clone()]), [true]);
    for key in [0, 1] {
        let object = pair.state.object(BucketId(1), KEYS[key]).unwrap();
        assert_eq!(object.chunks[0].replicas.numbers(), [2, 3, 4]);
    }
    assert!(pair.state.pending_deletes().contains(NodeId(1), chunk));
    pair.through_snapshot(100);
    assert_eq!(replace(&mut pair, vec![change]), [false], "a second time it finds another manifest");
    assert!(!pair.state.pending_deletes().contains(NodeId(4), chunk), "and takes nothing away");
}

#[test]
fn of_two_changes_of_one_replica_the_first_wins_and_the_other_is_collected() {
    let (mut pair, chunk) = committed();
    pair.step(&Step::Register { uuid: 3, domain: 3 });
    pair.step(&Step::Register { uuid: 4, domain: 4 });
    let changes = vec![change_of(&pair, chunk, 1, 4), change_of(&pair, chunk, 1, 5)];
    assert_eq!(replace(&mut pair, changes), [true, false]);
    assert!(pair.state.pending_deletes().contains(NodeId(5), chunk));
}

#[test]
fn node_that_is_to_remove_a_chunk_cannot_be_named_for_it() {
    let (mut pair, chunk) = committed();
    pair.step(&Step::Register { uuid: 3, domain: 3 });
    let away = change_of(&pair, chunk, 1, 4);
    let back = change_of(&pair, chunk, 4, 1);
    assert_eq!(replace(&mut pair, vec![away, back.clone()]), [true, false]);
    pair.step(&Step::Forget { node: 1, count: 1 });
    assert_eq!(replace(&mut pair, vec![back]), [true], "once it has, it can have it again");
}

#[test]
fn debt_is_paid_by_one_more_replica_and_no_second_one() {
    let (mut pair, upload) = begun();
    pair.step(&Step::Register { uuid: 3, domain: 3 });
    let chunk = *pair.model.uploads[&upload].chunks.keys().next().unwrap();
    assert_eq!(commit_with(&mut pair, upload, Fault::OneMissing), None);
    assert_eq!(pair.state.replica_debt(), 1);
    let changes = vec![change_of(&pair, chunk, 0, 4), change_of(&pair, chunk, 0, 1)];
    assert_eq!(replace(&mut pair, changes), [true, false]);
    assert_eq!(pair.state.replica_debt(), 0);
}

#[test]
fn registration_that_is_over_vouches_for_nothing() {
    let (mut pair, upload) = begun();
    let kind = Some(pair.commit(upload, Condition::None, &[(0, Fault::None)], false));
    pair.step(&Step::Fence { node: 1, stale: true });
    assert!(!pair.state.node(NodeId(1)).unwrap().is_fenced(), "another registration was meant");
    for node in [1, 2] {
        pair.step(&Step::Fence { node, stale: false });
        assert!(pair.state.node(NodeId(node as u16)).unwrap().is_fenced());
    }
    let command = pb::Command { time_ms: pair.clock_ms, kind, ..Default::default() };
    assert_eq!(reason(&pair.state.apply(100, &command)), Some(Reason::StaleReceipts));
}

#[test]
fn removed_node_never_registers_again_and_is_told_nothing() {
    let (mut pair, chunk) = committed();
    pair.step(&Step::Fence { node: 1, stale: false });
    pair.step(&Step::RemoveNode { node: 1 });
    pair.step(&Step::Register { uuid: 0, domain: 0 });
    assert!(pair.state.node(NodeId(1)).unwrap().removed);
    pair.step(&Step::Delete { bucket: 0, key: 0, condition: Condition::None, version: None });
    let pending = pair.state.pending_deletes();
    assert!(!pending.contains(NodeId(1), chunk) && pending.contains(NodeId(2), chunk));
}

/// While the leader looked at what lies on it, a manifest could have come to name it.
#[test]
fn node_that_can_vouch_for_chunks_is_not_removed() {
    let (mut pair, _) = committed();
    pair.step(&Step::RemoveNode { node: 1 });
    assert!(!pair.state.node(NodeId(1)).unwrap().removed, "its registration stands");
    pair.step(&Step::Fence { node: 1, stale: false });
    let epoch = pair.model.nodes[&1].epoch;
    pair.step(&Step::Register { uuid: 0, domain: 0 });
    pair.step(&Step::Fence { node: 1, stale: false });
    pair.index += 1;
    let kind = Some(Kind::RemoveNode(pb::RemoveNode { node_id: 1, epoch }));
    let outcome = pair.state.apply(pair.index, &pb::Command { kind, ..Default::default() });
    assert_eq!(reason(&outcome), Some(Reason::NodeInUse), "it has registered since");
}
