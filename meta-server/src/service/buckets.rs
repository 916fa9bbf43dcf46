//! Buckets: their settings and their pages.

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};

use super::{
    Gateway, Refusal,
    gateway::{Call, RequestId, reused_request_id},
    listing::page_len,
    name, page_token,
};
use crate::state_machine::{Bucket, REPLICAS_MAX, Reason, Right, Start, Versioning};

const CHUNK_SIZE_DEFAULT: u32 = 4 << 20;
const CHUNK_SIZE_MIN: u32 = 64 << 10;
const CHUNK_SIZE_MAX: u32 = 16 << 20;
/// Data nodes keep checksums by pages of this size.
const CHUNK_SIZE_UNIT: u32 = 4096;
const REPLICAS_DEFAULT: u32 = 3;
const MIN_REPLICAS_DEFAULT: u32 = 2;

/// What page tokens of the list of buckets are made for.
const LISTING: &[&str] = &["buckets"];

impl Gateway {
    pub(super) async fn create_bucket(
        &self,
        call: Call<proto::CreateBucketRequest>,
    ) -> Result<proto::CreateBucketResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let create = command::Kind::CreateBucket(parse_settings(&call.message)?);
        match self.propose_for(&call.access, call.deadline, request_id, create).await? {
            outcome::Kind::Bucket(bucket) => {
                Ok(proto::CreateBucketResponse { bucket: Some(from_record(bucket)) })
            }
            _ => Err(reused_request_id()),
        }
    }

    pub(super) async fn get_bucket(
        &self,
        call: Call<proto::GetBucketRequest>,
    ) -> Result<proto::GetBucketResponse, Refusal> {
        let name = name::parse_bucket("name", &call.message.name)?;
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let bucket = state.bucket(&name).ok_or_else(bucket_not_found)?;
        Ok(proto::GetBucketResponse { bucket: Some(to_proto(bucket)) })
    }

    pub(super) async fn list_buckets(
        &self,
        call: Call<proto::ListBucketsRequest>,
    ) -> Result<proto::ListBucketsResponse, Refusal> {
        let page_len = page_len(call.message.page_size);
        let place = page_token::decode(LISTING, &call.message.page_token)?;
        let after = match place.map(|place| place.start) {
            Some(Start::AfterKey(name) | Start::AfterPrefix(name) | Start::BelowVersion(name, _)) => name,
            None => String::new(),
        };
        self.admit(call.deadline, &call.access).await?;
        let state = self.state();
        let caller = self.check(&state, &call.access)?;
        let is_shown = |bucket: &&Bucket| caller.may(&state, Right::List, &bucket.name);
        let mut rest = state.buckets_after(&after).filter(is_shown);
        let buckets: Vec<_> = rest.by_ref().take(page_len).collect();
        let next = buckets.last().filter(|_| rest.next().is_some());
        let next_page_token =
            next.map(|last| page_token::encode(LISTING, &Start::AfterKey(last.name.clone()).into()));
        Ok(proto::ListBucketsResponse {
            buckets: buckets.into_iter().map(to_proto).collect(),
            next_page_token: next_page_token.unwrap_or_default(),
        })
    }

    pub(super) async fn update_bucket(
        &self,
        call: Call<proto::UpdateBucketRequest>,
    ) -> Result<proto::UpdateBucketResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let name = name::parse_bucket("name", &request.name)?;
        let (quota_bytes, quota_objects, versioning) =
            (request.quota_bytes, request.quota_objects, request.versioning);
        if versioning.is_some_and(|versioning| Versioning::parse(versioning).is_none()) {
            return Err(unknown_versioning());
        }
        let update =
            command::Kind::UpdateBucket(pb::UpdateBucket { name, quota_bytes, quota_objects, versioning });
        match self.propose_for(&call.access, call.deadline, request_id, update).await? {
            outcome::Kind::Bucket(bucket) => {
                Ok(proto::UpdateBucketResponse { bucket: Some(from_record(bucket)) })
            }
            _ => Err(reused_request_id()),
        }
    }

    pub(super) async fn delete_bucket(
        &self,
        call: Call<proto::DeleteBucketRequest>,
    ) -> Result<proto::DeleteBucketResponse, Refusal> {
        let request_id = RequestId::parse(&call.message.request_id)?;
        let name = name::parse_bucket("name", &call.message.name)?;
        let delete = command::Kind::DeleteBucket(pb::DeleteBucket { name });
        match self.propose_for(&call.access, call.deadline, request_id, delete).await? {
            outcome::Kind::Done(_) => Ok(proto::DeleteBucketResponse {}),
            _ => Err(reused_request_id()),
        }
    }
}

pub(super) fn bucket_not_found() -> Refusal {
    Refusal::new(Reason::BucketNotFound, "no bucket of this name")
}

/// Puts the defaults in, and checks what the client has chosen.
fn parse_settings(request: &proto::CreateBucketRequest) -> Result<pb::CreateBucket, Refusal> {
    let name = name::parse_bucket("name", &request.name)?;
    let or = |value, default| if value == 0 { default } else { value };
    let chunk_size = or(request.chunk_size, CHUNK_SIZE_DEFAULT);
    let replicas = or(request.replicas, REPLICAS_DEFAULT);
    let min_replicas = or(request.min_replicas, MIN_REPLICAS_DEFAULT.min(replicas));
    if !(CHUNK_SIZE_MIN..=CHUNK_SIZE_MAX).contains(&chunk_size) || !chunk_size.is_multiple_of(CHUNK_SIZE_UNIT)
    {
        let rule = "a chunk size is a multiple of 4096 bytes from 64 KiB to 16 MiB";
        return Err(Refusal::invalid("chunk_size", rule));
    }
    if replicas > REPLICAS_MAX as u32 {
        return Err(Refusal::invalid("replicas", format!("a bucket has 1 to {REPLICAS_MAX} replicas")));
    }
    if min_replicas > replicas {
        return Err(Refusal::invalid("min_replicas", "a put cannot need more replicas than it asks for"));
    }
    let (quota_bytes, quota_objects) = (request.quota_bytes, request.quota_objects);
    let versioning = request.versioning;
    if Versioning::parse(versioning).is_none() {
        return Err(unknown_versioning());
    }
    Ok(pb::CreateBucket { name, chunk_size, replicas, min_replicas, quota_bytes, quota_objects, versioning })
}

fn to_proto(bucket: &Bucket) -> proto::Bucket {
    proto::Bucket {
        name: name::bucket_resource(&bucket.name),
        id: bucket.id.0,
        chunk_size: bucket.chunk_size,
        replicas: bucket.replicas,
        min_replicas: bucket.min_replicas,
        create_time_ms: bucket.create_time_ms,
        objects: bucket.objects,
        bytes: bucket.bytes,
        quota_bytes: bucket.quota.bytes,
        quota_objects: bucket.quota.objects,
        versioning: versioning_to_proto(bucket.versioning).into(),
        older_versions: bucket.older.versions,
        older_bytes: bucket.older.bytes,
        delete_markers: bucket.older.delete_markers,
    }
}

fn from_record(bucket: pb::Bucket) -> proto::Bucket {
    proto::Bucket {
        name: name::bucket_resource(&bucket.name),
        id: bucket.id,
        chunk_size: bucket.chunk_size,
        replicas: bucket.replicas,
        min_replicas: bucket.min_replicas,
        create_time_ms: bucket.create_time_ms,
        objects: bucket.objects,
        bytes: bucket.bytes,
        quota_bytes: bucket.quota_bytes,
        quota_objects: bucket.quota_objects,
        versioning: bucket.versioning,
        older_versions: bucket.older_versions,
        older_bytes: bucket.older_bytes,
        delete_markers: bucket.delete_markers,
    }
}

const fn versioning_to_proto(versioning: Versioning) -> proto::Versioning {
    match versioning {
        Versioning::Off => proto::Versioning::Off,
        Versioning::On => proto::Versioning::On,
        Versioning::Suspended => proto::Versioning::Suspended,
    }
}

fn unknown_versioning() -> Refusal {
    Refusal::invalid("versioning", "versioning is off, on or suspended")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(chunk_size: u32, replicas: u32, min_replicas: u32) -> Option<(u32, u32, u32)> {
        let name = "buckets/abc".into();
        let request =
            proto::CreateBucketRequest { name, chunk_size, replicas, min_replicas, ..Default::default() };
        parse_settings(&request).ok().map(|create| (create.chunk_size, create.replicas, create.min_replicas))
    }

    #[test]
    fn settings_have_defaults_and_bounds() {
        let check = |asked: (u32, u32, u32), expect| {
            assert_eq!(parse(asked.0, asked.1, asked.2), expect, "{asked:?}");
        };
        check((0, 0, 0), Some((4 << 20, 3, 2)));
        check((64 << 10, 1, 0), Some((64 << 10, 1, 1)));
        check((16 << 20, 7, 7), Some((16 << 20, 7, 7)));
        check((100_000, 0, 0), None);
        check((60 << 10, 0, 0), None);
        check((32 << 20, 0, 0), None);
        check((0, 8, 0), None);
        check((0, 2, 3), None);
    }
}
