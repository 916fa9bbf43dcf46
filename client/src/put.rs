//! Putting an object: cut the input into chunks, make each durable on enough nodes, commit.
//!
//! Invariant: memory is bounded by the chunks in flight, whatever the object's size. Nothing is visible before the
//! commit, and a put that fails or is dropped before it is aborted.

mod batch;
mod chunker;
mod commit;
mod in_flight;
mod replicas;
mod upload;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::io::AsyncRead;
use tracing::Instrument as _;

pub(crate) use self::batch::commit_batch;
use self::{
    chunker::Chunker,
    in_flight::InFlight,
    replicas::Written,
    upload::{Purpose, Upload, UploadGuard},
};
use crate::{
    Object, ObjectMetadata, Precondition,
    client::Shared,
    error::{Error, Result},
    name::ObjectName,
    traces,
};

/// Bytes read before a put begins: the smallest chunk size, so that most small objects are known in full.
const PEEK_BYTES: usize = 64 << 10;
/// A put whose bytes take longer begins without them, so that its name, its right and its condition are looked at soon.
const PEEK_TIMEOUT: Duration = Duration::from_secs(1);
/// The cluster's default, for a first guess at the number of chunks.
const CHUNK_BYTES_GUESS: u64 = 4 << 20;
/// The most chunks that one request grants.
const GRANTS_MAX: u32 = 64;
/// The first grant for an input of unknown length.
const GRANTS_FIRST: u32 = 4;

/// How to put an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PutOptions {
    /// What the key must hold for the put to take effect.
    pub precondition: Option<Precondition>,
    /// Media type; may be empty. At most 256 bytes without control characters.
    pub content_type: String,
    /// The caller's own words about the object: at most 2 KiB of keys and values together, without control characters.
    pub user_metadata: BTreeMap<String, String>,
    /// How many bytes the input is thought to have. A wrong hint costs time, nothing else.
    pub size_hint: Option<u64>,
}

/// A put that took effect.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PutResult {
    /// What the key holds since then; `durable_replicas` says on how many nodes at least.
    pub object: Object,
    /// Chunks with fewer replicas than the bucket asks for. The cluster will repair them.
    pub chunks_in_debt: u32,
}

impl PutOptions {
    pub(crate) fn check(&self) -> Result<()> {
        ObjectMetadata::check(&self.content_type, &self.user_metadata)
    }
}

pub(crate) async fn put<R>(
    shared: &Arc<Shared>,
    bucket: &str,
    key: &str,
    input: R,
    options: PutOptions,
) -> Result<PutResult>
where
    R: AsyncRead + Send + Unpin,
{
    let span = traces::put();
    let whole = async {
        let staged = stage(shared, bucket, key, input, &options, Purpose::Itself).await?;
        commit::commit(staged, options).await
    };
    let put = whole.instrument(span.clone()).await;
    if let Ok(put) = &put {
        span.record("size", put.object.size);
    }
    put
}

/// A put whose bytes are durable, and which nobody sees yet. Dropping it gives it up.
#[derive(Debug)]
struct Staged {
    guard: UploadGuard,
    chunks: Vec<Written>,
}

/// Does all of a put but its commit.
async fn stage<R>(
    shared: &Arc<Shared>,
    bucket: &str,
    key: &str,
    input: R,
    options: &PutOptions,
    purpose: Purpose,
) -> Result<Staged>
where
    R: AsyncRead + Send + Unpin,
{
    let name = ObjectName::new(bucket, key)?;
    options.check()?;
    let mut chunker = Chunker::new(input);
    let first = match tokio::time::timeout(PEEK_TIMEOUT, chunker.fill(PEEK_BYTES)).await {
        Ok(peeked) => match peeked.map_err(Error::Input)? {
            0 => 0,
            _ if chunker.has_ended() => 1,
            _ => first_grants(options.size_hint),
        },
        Err(_elapsed) => first_grants(options.size_hint),
    };
    let guard = Upload::begin(shared, name, first, options.precondition.as_ref(), purpose).await?;
    let chunks = write_chunks(&guard, chunker, options.size_hint).await?;
    Ok(Staged { guard, chunks })
}

/// Writes all chunks of the input, several at once.
async fn write_chunks<R>(
    guard: &UploadGuard,
    mut chunker: Chunker<R>,
    size_hint: Option<u64>,
) -> Result<Vec<Written>>
where
    R: AsyncRead + Send + Unpin,
{
    let upload = guard.upload();
    let mut in_flight = InFlight::new(upload);
    while let Some(data) = in_flight.next_data(&mut chunker).await? {
        let memory = in_flight.memory(data.len()).await?;
        let grant = upload.grant(more_grants(in_flight.begun(), size_hint, upload.chunk_size)).await?;
        in_flight.begin(grant, data, memory);
    }
    in_flight.finish().await
}

/// How many chunks to ask for before the bucket's chunk size is known.
fn first_grants(size_hint: Option<u64>) -> u32 {
    size_hint.map_or(GRANTS_FIRST, |size| clamp_grants(size.div_ceil(CHUNK_BYTES_GUESS)))
}

/// How many chunks to ask for when `begun` of them are used up.
fn more_grants(begun: u64, size_hint: Option<u64>, chunk_size: u32) -> u32 {
    let left = size_hint.map(|size| size.div_ceil(chunk_size.into()).saturating_sub(begun));
    match left {
        Some(left @ 1..) => clamp_grants(left),
        // Without a hint, or with one that was too small: as much again as went before.
        _ => clamp_grants(begun),
    }
}

fn clamp_grants(chunks: u64) -> u32 {
    u32::try_from(chunks).unwrap_or(GRANTS_MAX).clamp(1, GRANTS_MAX)
}

#[cfg(test)]
mod tests;
