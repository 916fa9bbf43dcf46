//! Getting an object: read its manifest, fetch its chunks from their replicas, several ahead, and give them in order.
//!
//! Invariant: a get gives one version, checked against its manifest, or an error: never a mix of two versions, and
//! never fewer bytes than it said. Memory is bounded by the chunks in flight, whatever the object's size.

mod manifest;
mod piece;
mod range;
mod reader;
mod stream;
mod version;

use std::{ops::Range, sync::Arc};

use tracing::{Instrument as _, debug};

use self::{
    manifest::{Part, Wanted, bad_reply},
    reader::Reader,
    version::{Lost, Version},
};
pub use self::{
    range::{ByteRange, ParseByteRangeError},
    stream::GetStream,
};
use crate::{
    ChunkPlacement, Object, Precondition,
    client::Shared,
    error::{Error, Result},
    name::ObjectName,
    traces,
    versions::version_number,
};

/// How often a get begins anew because the object changes under it.
const STARTS_MAX: u32 = 8;

/// How to get an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct GetOptions {
    /// Which bytes; `None`: all.
    ///
    /// Whole chunks are checked against the checksums of the object's manifest. Where a range takes a part of a chunk,
    /// the data node checks what it reads from its disk, and each datagram has its own checksum on the way.
    pub range: Option<ByteRange>,
    /// What the key must hold for the get to begin.
    pub precondition: Option<Precondition>,
    /// A version, which the precondition then is about; none: what the key holds.
    pub version: Option<u64>,
}

pub(crate) async fn get(
    shared: &Arc<Shared>,
    bucket: &str,
    key: &str,
    options: GetOptions,
) -> Result<GetStream> {
    let name = ObjectName::new(bucket, key)?;
    let span = traces::get();
    let get = begin(shared, name, options).instrument(span.clone()).await;
    if let Ok(stream) = &get {
        span.record("size", stream.object().size);
    }
    get
}

async fn begin(shared: &Arc<Shared>, name: ObjectName, options: GetOptions) -> Result<GetStream> {
    for _ in 0..STARTS_MAX {
        let (part, range) = open(shared, &name, &options).await?;
        let Part { object, chunks, introduction } = part;
        if range.is_empty() {
            return Ok(GetStream::new(object, range, futures::stream::empty()));
        }
        let version = Version::start(shared, name.clone(), object, introduction).await?;
        let mut reader = Reader::new(Arc::new(version), range.clone(), chunks);
        match reader.next().await {
            Ok(first) => {
                reader.version().choose();
                return Ok(GetStream::read_ahead(range, first, reader));
            }
            // Nobody has seen a byte of the old version, so the new one will do.
            Err(Lost::Superseded) => debug!("the object changed before its first byte was read"),
            Err(Lost::Failed(error)) => return Err(error),
        }
    }
    Err(Error::ChangedWhileReading)
}

/// The first part of the manifest, and the range as absolute bytes.
async fn open(shared: &Arc<Shared>, name: &ObjectName, options: &GetOptions) -> Result<(Part, Range<u64>)> {
    let mut asked = first_question(options.range)?;
    let wanted =
        Wanted { version: version_number(options.version)?, precondition: options.precondition.as_ref() };
    for _ in 0..STARTS_MAX {
        let part = manifest::ask(shared, name, asked.clone(), wanted).await?;
        let size = part.object.size;
        let range = options.range.map_or(Ok(0..size), |range| range.resolve(size))?;
        if range.is_empty() || part.covers(range.start) {
            return Ok((part, range));
        }
        if asked.start == range.start {
            return Err(bad_reply("the chunks asked for are missing"));
        }
        asked = range;
    }
    Err(Error::ChangedWhileReading)
}

/// What to ask for before the object's size is known. An end of zero is the object's end.
fn first_question(range: Option<ByteRange>) -> Result<Range<u64>> {
    let Some(range) = range else { return Ok(0..0) };
    range.check()?;
    Ok(match range {
        ByteRange::From(start) => start..0,
        ByteRange::Inclusive { first, last } => first..last.checked_add(1).unwrap_or(0),
        // The first chunk is all of a small object; of a large one it costs little to learn the size.
        ByteRange::Suffix(_) => 0..1,
    })
}

pub(crate) async fn placement(shared: &Arc<Shared>, object: &Object) -> Result<Vec<ChunkPlacement>> {
    let name = ObjectName::new(&object.bucket, &object.key)?;
    let mut chunks: Vec<ChunkPlacement> = vec![];
    let mut next = 0;
    while next < object.size {
        let part = match manifest::ask(shared, &name, next..0, Wanted::version(object.version)).await {
            // Only buckets with versioning keep what was replaced.
            Err(Error::ObjectNotFound { .. }) => return Err(Error::ChangedWhileReading),
            part => part?,
        };
        if !part.object.is_same_version(object) {
            return Err(Error::ChangedWhileReading);
        }
        if part.chunks.front().is_none_or(|first| first.offset != next) {
            return Err(bad_reply("the chunks asked for are missing"));
        }
        next = part.chunks.back().map_or(next, ChunkPlacement::end);
        chunks.extend(part.chunks);
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests;
