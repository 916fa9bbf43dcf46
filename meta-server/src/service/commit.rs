//! The end of a put. Whether the object becomes visible is decided where the command is applied; what is checked here
//! is only what no state could make right.

use std::collections::BTreeMap;

use xdpfs_proto::{
    meta::v1 as proto,
    state::v1::{self as pb, command, outcome},
};

use super::{
    Gateway, Refusal,
    access::upload_not_found,
    gateway::{Call, RequestId, reused_request_id},
    objects::{head_to_proto, parse_precondition},
};
use crate::{
    state_machine::{CHUNKS_PER_OBJECT_MAX, REPLICAS_MAX, Reason, Right, parse_chunk_id},
    storage::{crc32c, crc32c_combine},
};

const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Keys and values together.
const USER_METADATA_BYTES_MAX: usize = 2048;

impl Gateway {
    pub(super) async fn commit_put(
        &self,
        call: Call<proto::CommitPutRequest>,
    ) -> Result<proto::CommitPutResponse, Refusal> {
        let request = call.message;
        let request_id = RequestId::parse(&request.request_id)?;
        let precondition = parse_precondition(request.precondition)?;
        check_content_type(&request.content_type)?;
        check_user_metadata(&request.user_metadata)?;
        let chunks = parse_chunks(request.chunks)?;
        let commit = pb::CommitPut {
            upload_id: request.upload_id,
            crc32c: combined_crc32c(&chunks),
            chunks,
            precondition,
            content_type: request.content_type,
            user_metadata: request.user_metadata,
            source_bucket: String::new(),
        };
        let caller = self.check(&self.state(), &call.access)?;
        let committed = self
            .propose_for(&call.access, call.deadline, request_id, command::Kind::CommitPut(commit))
            .await?;
        let outcome::Kind::Committed(committed) = committed else { return Err(reused_request_id()) };
        let pb::Committed { object: Some(object), chunks_in_debt, bucket, durable_replicas } = committed
        else {
            return Err(Refusal::new(Reason::Internal, "the state gave half an answer"));
        };
        // An answer of before, given again: only those may have it who could have asked for it.
        if !caller.may(&self.state(), Right::Write, &bucket) {
            return Err(upload_not_found());
        }
        Ok(proto::CommitPutResponse {
            object: Some(head_to_proto(&bucket, object, durable_replicas)),
            chunks_in_debt,
        })
    }
}

pub(super) fn check_content_type(content_type: &str) -> Result<(), Refusal> {
    if content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(Refusal::invalid("content_type", "a content type has at most 256 bytes"));
    }
    if content_type.chars().any(char::is_control) {
        return Err(Refusal::invalid("content_type", "a content type holds no control characters"));
    }
    Ok(())
}

pub(super) fn check_user_metadata(user_metadata: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let bytes: usize = user_metadata.iter().map(|(key, value)| key.len() + value.len()).sum();
    if bytes > USER_METADATA_BYTES_MAX {
        let rule = "keys and values of user metadata have at most 2048 bytes together";
        return Err(Refusal::invalid("user_metadata", rule));
    }
    if user_metadata.keys().any(String::is_empty) {
        return Err(Refusal::invalid("user_metadata", "a key of user metadata is not empty"));
    }
    if user_metadata.iter().any(|(key, value)| key.chars().chain(value.chars()).any(char::is_control)) {
        return Err(Refusal::invalid("user_metadata", "user metadata holds no control characters"));
    }
    Ok(())
}

pub(super) fn parse_chunks(chunks: Vec<proto::WrittenChunk>) -> Result<Vec<pb::WrittenChunk>, Refusal> {
    if chunks.len() > CHUNKS_PER_OBJECT_MAX {
        let rule = format!("an object has at most {CHUNKS_PER_OBJECT_MAX} chunks");
        return Err(Refusal::new(Reason::ObjectTooLarge, rule));
    }
    chunks.into_iter().map(parse_chunk).collect()
}

fn parse_chunk(chunk: proto::WrittenChunk) -> Result<pb::WrittenChunk, Refusal> {
    if parse_chunk_id(&chunk.chunk_id).is_none() {
        return Err(Refusal::invalid("chunks.chunk_id", "a chunk id has sixteen bytes"));
    }
    if chunk.receipts.len() > REPLICAS_MAX {
        return Err(Refusal::invalid("chunks.receipts", "these are more receipts than a chunk has replicas"));
    }
    let receipt = |receipt: proto::Receipt| pb::Receipt {
        node_id: receipt.node_id,
        node_epoch: receipt.node_epoch,
        mac: receipt.mac,
    };
    Ok(pb::WrittenChunk {
        chunk_id: chunk.chunk_id.into(),
        length: chunk.length,
        crc32c: chunk.crc32c,
        receipts: chunk.receipts.into_iter().map(receipt).collect(),
    })
}

/// The CRC32C of the whole object, from those of its chunks.
pub(super) fn combined_crc32c(chunks: &[pb::WrittenChunk]) -> u32 {
    let Some(first) = chunks.first() else { return crc32c(&[]) };
    let append = Append::new(first.length);
    chunks.iter().fold(crc32c(&[]), |sum, chunk| match chunk.length {
        length if length == append.length => append.apply(sum, chunk.crc32c),
        // The last chunk. Others are refused by the state later.
        length => crc32c_combine(sum, chunk.crc32c, length.into()),
    })
}

/// Appends pieces of one length to a checksum. What the length does to it is a linear map over GF(2): found once, it is
/// a few operations for every piece, where to combine two checksums takes microseconds, and an object has many chunks.
struct Append {
    length: u32,
    /// What becomes of each bit.
    columns: [u32; 32],
}

impl Append {
    fn new(length: u32) -> Self {
        Self { length, columns: std::array::from_fn(|bit| crc32c_combine(1 << bit, 0, length.into())) }
    }

    fn apply(&self, sum: u32, piece: u32) -> u32 {
        let bits = self.columns.iter().enumerate().filter(|(bit, _)| sum >> bit & 1 == 1);
        bits.fold(piece, |result, (_, column)| result ^ column)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(data: &[u8]) -> proto::WrittenChunk {
        proto::WrittenChunk {
            chunk_id: vec![0; 16],
            length: data.len() as u32,
            crc32c: crc32c(data),
            receipts: vec![proto::Receipt::default(); 3],
        }
    }

    #[test]
    fn checksum_of_the_object_follows_from_its_chunks() {
        let check = |chunks: &[&[u8]]| {
            let parsed = parse_chunks(chunks.iter().map(|data| written(data)).collect()).unwrap();
            assert_eq!(combined_crc32c(&parsed), crc32c(&chunks.concat()), "{chunks:?}");
        };
        check(&[]);
        check(&[b"hello"]);
        check(&[b"hel", b"lo ", b"w"]);
        check(&[&[7; 4096], &[8; 4096], &[9; 4096], &[1; 4095]]);
    }

    #[test]
    fn appending_agrees_with_combining() {
        for length in [1, 4096, 65_536, 16 << 20] {
            let append = Append::new(length);
            for (sum, piece) in [(0, 0), (1, 0), (0xdead_beef, 0x0123_4567), (u32::MAX, u32::MAX)] {
                assert_eq!(
                    append.apply(sum, piece),
                    crc32c_combine(sum, piece, length.into()),
                    "{length} {sum}"
                );
            }
        }
    }

    #[test]
    fn what_no_state_could_make_right_is_refused() {
        let refused = |chunks| parse_chunks(chunks).unwrap_err().reason();
        let bad_id = proto::WrittenChunk { chunk_id: vec![0; 15], ..written(b"x") };
        assert_eq!(refused(vec![bad_id]), Reason::InvalidArgument);
        let receipts = vec![proto::Receipt::default(); REPLICAS_MAX + 1];
        assert_eq!(refused(vec![proto::WrittenChunk { receipts, ..written(b"x") }]), Reason::InvalidArgument);
        assert_eq!(refused(vec![written(b"x"); CHUNKS_PER_OBJECT_MAX + 1]), Reason::ObjectTooLarge);
    }

    #[test]
    fn words_about_the_object_are_bounded() {
        assert!(check_content_type(&"x".repeat(256)).is_ok());
        assert!(check_content_type(&"x".repeat(257)).is_err());
        assert!(check_content_type("text/plain\r\nx: y").is_err());
        let metadata = |key: &str, len| BTreeMap::from([(key.to_owned(), "v".repeat(len))]);
        assert!(check_user_metadata(&metadata("key", 2045)).is_ok());
        assert!(check_user_metadata(&metadata("key", 2046)).is_err());
        assert!(check_user_metadata(&metadata("", 1)).is_err());
        assert!(check_user_metadata(&metadata("\u{1b}[31m", 1)).is_err());
    }
}
