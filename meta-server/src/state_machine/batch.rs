//! Several keys of one bucket at once: puts, copies, deletes and checks in one entry of the log.
//!
//! Invariant: all take effect or none does. Every operation is judged by the state before the entry, so their order means
//! nothing, and no key changes twice. A chunk that a copy takes over never loses its last reference in between.

use std::{collections::BTreeSet, sync::Arc};

use xdpfs_proto::state::v1::{self as pb, batch_operation::Kind, outcome};
use xdpfs_wire::BucketId;

use super::{
    Bucket, Context, Object, ObjectName, State, Upload, Versioning, check_precondition,
    quota::Growth,
    reject::{
        BUCKET_NOT_FOUND, OBJECT_NOT_FOUND, PRECONDITION_FAILED, Reason, Reject, UPLOAD_NOT_FOUND,
        VERSION_NOT_FOUND,
    },
};

/// Operations of one batch.
pub const BATCH_OPERATIONS_MAX: usize = 64;

/// What an operation will do.
enum Change {
    Commit { upload_id: u64, name: ObjectName, object: Object },
    Copy { name: ObjectName, object: Object },
    Delete { name: ObjectName, version: u64 },
    Nothing,
}

impl Change {
    /// The key that it changes.
    fn name(&self) -> Option<&ObjectName> {
        match self {
            Self::Commit { name, .. } | Self::Copy { name, .. } | Self::Delete { name, .. } => Some(name),
            Self::Nothing => None,
        }
    }
}

impl State {
    pub(super) fn batch(&mut self, context: Context, batch: &pb::Batch) -> Result<outcome::Kind, Reject> {
        let bucket = self.bucket(&batch.bucket).ok_or(BUCKET_NOT_FOUND)?.clone();
        if !(1..=BATCH_OPERATIONS_MAX).contains(&batch.operations.len()) {
            return Err(Reject::new(Reason::InvalidArgument, "a batch has 1 to 64 operations"));
        }
        let changes = self.judge_batch(context, bucket.id, &batch.operations)?;
        bucket.check_growth(self.growth(&changes))?;
        // All copies take hold of their chunks before any key lets go of one.
        for change in &changes {
            if let Change::Copy { name, object } = change {
                self.refer(name, object);
            }
        }
        let results = changes.into_iter().map(|change| self.change(context, &bucket, change)).collect();
        Ok(outcome::Kind::Batched(pb::Batched { results }))
    }

    fn judge_batch(
        &self,
        context: Context,
        bucket: BucketId,
        operations: &[pb::BatchOperation],
    ) -> Result<Vec<Change>, Reject> {
        let mut changed = BTreeSet::new();
        let mut changes = Vec::with_capacity(operations.len());
        for (place, operation) in operations.iter().enumerate() {
            let change =
                self.judge_operation(context, bucket, operation).map_err(|reject| reject.at(place))?;
            if change.name().is_some_and(|name| !changed.insert(Arc::clone(&name.1))) {
                let twice = Reject::new(Reason::InvalidArgument, "another operation changes the same key");
                return Err(twice.at(place));
            }
            changes.push(change);
        }
        Ok(changes)
    }

    fn growth(&self, changes: &[Change]) -> Growth {
        let mut growth = Growth::default();
        for change in changes {
            if let Change::Commit { object, .. } | Change::Copy { object, .. } = change {
                growth.add(object.size);
            }
            let gone = match change {
                Change::Delete { name, version } if *version != 0 => self.version(name.0, &name.1, *version),
                _ => change.name().and_then(|name| self.displaced(name)),
            };
            if let Some(gone) = gone {
                growth.remove(gone.size);
            }
        }
        growth
    }

    fn judge_operation(
        &self,
        context: Context,
        bucket: BucketId,
        operation: &pb::BatchOperation,
    ) -> Result<Change, Reject> {
        match operation.kind.as_ref() {
            Some(Kind::Commit(commit)) => {
                // Rights were looked at for this bucket only.
                let is_here = |upload: &&Upload| upload.bucket == bucket;
                self.upload(commit.upload_id).filter(is_here).ok_or(UPLOAD_NOT_FOUND)?;
                let (name, object) = self.judge_commit(context, commit)?;
                Ok(Change::Commit { upload_id: commit.upload_id, name, object })
            }
            Some(Kind::Copy(copy)) => self.judge_copy(context, bucket, copy),
            Some(Kind::Delete(delete)) => {
                let name = self.judge_key(bucket, &delete.key, delete.precondition.as_ref())?;
                let version = delete.version;
                if version == 0 && !self.objects.contains_key(&name) {
                    return Err(OBJECT_NOT_FOUND);
                }
                if version != 0 && !self.has_version(&name, version) {
                    return Err(VERSION_NOT_FOUND);
                }
                Ok(Change::Delete { name, version })
            }
            Some(Kind::Check(check)) => {
                self.judge_key(bucket, &check.key, check.precondition.as_ref())?;
                Ok(Change::Nothing)
            }
            None => Err(Reject::new(Reason::InvalidArgument, "the operation is of an unknown kind")),
        }
    }

    fn judge_key(
        &self,
        bucket: BucketId,
        key: &str,
        precondition: Option<&pb::Precondition>,
    ) -> Result<ObjectName, Reject> {
        let name = (bucket, Arc::from(key));
        let held = self.objects.get(&name).map(Object::etag);
        if !check_precondition(precondition, held) {
            return Err(PRECONDITION_FAILED);
        }
        Ok(name)
    }

    fn judge_copy(&self, context: Context, bucket: BucketId, copy: &pb::BatchCopy) -> Result<Change, Reject> {
        let source = match copy.source_version {
            0 => self.object(bucket, &copy.source).ok_or(OBJECT_NOT_FOUND)?,
            version => {
                self.version(bucket, &Arc::from(copy.source.as_str()), version).ok_or(VERSION_NOT_FOUND)?
            }
        };
        if !check_precondition(copy.source_precondition.as_ref(), Some(source.etag())) {
            let words = "the source does not hold what the precondition asks for";
            return Err(Reject::new(Reason::PreconditionFailed, words));
        }
        let name = self.judge_key(bucket, &copy.key, copy.precondition.as_ref())?;
        let mut object = source.clone();
        object.version = context.index;
        object.create_time_ms = self.time_ms;
        object.kept = self.bucket_by_id(bucket).is_some_and(|bucket| bucket.versioning == Versioning::On);
        if let Some(metadata) = &copy.metadata {
            object.content_type.clone_from(&metadata.content_type);
            object.user_metadata.clone_from(&metadata.user_metadata);
        }
        Ok(Change::Copy { name, object })
    }

    fn change(&mut self, context: Context, bucket: &Bucket, change: Change) -> pb::BatchResult {
        match change {
            Change::Commit { upload_id, name, object } => {
                let result = made(bucket, &name, &object);
                self.flip(context, upload_id, name, object);
                result
            }
            Change::Copy { name, object } => {
                let result = made(bucket, &name, &object);
                self.put_version(context, &name, object);
                result
            }
            Change::Delete { name, version } => {
                let deleted = match version {
                    0 => self.delete_latest(context, &name),
                    version => self.delete_version(context, &name, version),
                };
                let Ok(deleted) = deleted else { return pb::BatchResult::default() };
                pb::BatchResult {
                    object: Some(deleted.head),
                    delete_marker: deleted.delete_marker,
                    was_delete_marker: deleted.was_delete_marker,
                    ..Default::default()
                }
            }
            Change::Nothing => pb::BatchResult::default(),
        }
    }
}

fn made(bucket: &Bucket, name: &ObjectName, object: &Object) -> pb::BatchResult {
    pb::BatchResult {
        object: Some(object.head().record(name)),
        chunks_in_debt: object.chunks_in_debt(bucket),
        durable_replicas: object.durable_replicas(bucket.replicas),
        ..Default::default()
    }
}
