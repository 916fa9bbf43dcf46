//! What the leader says of an object's chunks, one part at a time.
//!
//! Invariant: a part's chunks are contiguous, lie inside the object, and belong to the version that the part names.

use std::{collections::VecDeque, ops::Range};

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::CHUNK_LEN_MAX;

use crate::{
    ChunkPlacement, Object, Precondition,
    client::Shared,
    control::{Meta, Operation},
    error::{Error, Result},
    name::ObjectName,
    session::{Introduction, parse_chunk_id, parse_node_ids},
};

/// Some of an object's chunks, and how to reach them.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) object: Object,
    pub(super) chunks: VecDeque<ChunkPlacement>,
    pub(super) introduction: Introduction,
}

/// What is asked about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Zero: what the key holds.
    pub(super) version: u64,
    pub(super) precondition: Option<&'a Precondition>,
}

impl Wanted<'_> {
    /// This version, if it is there.
    pub(super) const fn version(version: u64) -> Self {
        Self { version, precondition: None }
    }
}

/// Asks for the chunks that overlap `range`, whose end zero means the object's end. The answer may cover only the first
/// part of it.
pub(super) async fn ask(
    shared: &Shared,
    name: &ObjectName,
    range: Range<u64>,
    wanted: Wanted<'_>,
) -> Result<Part> {
    let request = proto::GetObjectRequest {
        name: name.resource.clone(),
        precondition: Precondition::to_proto(wanted.precondition),
        version: wanted.version,
        range_start: range.start,
        range_end: range.end,
    };
    let send = |mut meta: Meta, request| async move { meta.get_object(request).await };
    let reply = shared.control.call(Operation::GetObject, request, send).await;
    Part::parse(reply.map_err(|refusal| refusal.about(Operation::GetObject, &name.bucket, &name.key))?)
}

impl Part {
    /// Whether the byte at `offset` lies in one of the chunks.
    pub(super) fn covers(&self, offset: u64) -> bool {
        self.chunks.front().is_some_and(|first| first.offset <= offset)
            && self.chunks.back().is_some_and(|last| offset < last.end())
    }

    fn parse(reply: proto::GetObjectResponse) -> Result<Self> {
        let object = Object::parse(reply.object, Operation::GetObject.label())?;
        let mut offset = reply.chunks_offset;
        let mut chunks = VecDeque::with_capacity(reply.chunks.len());
        for chunk in reply.chunks {
            let chunk = ChunkPlacement::parse(chunk, offset).ok_or(bad_reply("a chunk is malformed"))?;
            offset = chunk.end();
            chunks.push_back(chunk);
        }
        if !chunks.is_empty() && offset > object.size {
            return Err(bad_reply("the chunks are longer than the object"));
        }
        Ok(Self {
            object,
            chunks,
            introduction: Introduction { capability: reply.capability, nodes: reply.nodes },
        })
    }
}

impl ChunkPlacement {
    fn parse(chunk: proto::Chunk, offset: u64) -> Option<Self> {
        (1..=CHUNK_LEN_MAX).contains(&chunk.length).then_some(())?;
        offset.checked_add(chunk.length.into())?;
        Some(Self {
            offset,
            chunk: parse_chunk_id(&chunk.chunk_id)?,
            length: chunk.length,
            crc32c: chunk.crc32c,
            nodes: parse_node_ids(&chunk.node_ids),
        })
    }

    /// First byte of the object behind the chunk.
    pub(super) fn end(&self) -> u64 {
        self.offset + u64::from(self.length)
    }
}

pub(super) const fn bad_reply(what: &'static str) -> Error {
    Error::BadReply { operation: Operation::GetObject.label(), what }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(size: u64, offset: u64, lengths: &[u32]) -> proto::GetObjectResponse {
        let object = proto::Object { name: "buckets/b/objects/k".into(), size, ..Default::default() };
        let chunk =
            |length: &u32| proto::Chunk { chunk_id: vec![7; 16], length: *length, ..Default::default() };
        proto::GetObjectResponse {
            object: Some(object),
            chunks: lengths.iter().map(chunk).collect(),
            chunks_offset: offset,
            ..Default::default()
        }
    }

    #[test]
    fn a_part_covers_the_bytes_of_its_chunks() {
        let part = Part::parse(reply(100, 40, &[20, 20])).unwrap();
        assert_eq!(part.chunks.iter().map(|chunk| chunk.offset).collect::<Vec<_>>(), [40, 60]);
        assert_eq!([39, 40, 79, 80].map(|at| part.covers(at)), [false, true, true, false]);
        assert!(!Part::parse(reply(0, 0, &[])).unwrap().covers(0));
    }

    #[test]
    fn a_part_that_makes_no_sense_is_a_bad_reply() {
        let bad = [
            reply(100, 0, &[0]),
            reply(100, 0, &[100, 1]),
            reply(u64::MAX, 0, &[CHUNK_LEN_MAX + 1]),
            reply(u64::MAX, u64::MAX - 1, &[2]),
            proto::GetObjectResponse { object: None, ..reply(100, 0, &[100]) },
        ];
        for reply in bad {
            assert!(matches!(Part::parse(reply.clone()), Err(Error::BadReply { .. })), "{reply:?}");
        }
    }
}
