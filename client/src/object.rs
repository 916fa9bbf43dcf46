//! Objects as a client sees them.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use xdpfs_proto::meta::v1 as proto;
use xdpfs_wire::{ChunkId, NodeId};

use crate::{
    error::{Error, Result},
    name,
    versions::version_number,
};

/// What a key holds, without its bytes.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Object {
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// Rises with every put of the key.
    pub version: u64,
    /// Changes whenever the version does.
    pub etag: String,
    /// Bytes.
    pub size: u64,
    /// CRC32C of the whole object.
    pub crc32c: u32,
    /// When this version was put.
    pub created: SystemTime,
    /// Media type as given by the putter; may be empty.
    pub content_type: String,
    /// The putter's own words about the object.
    pub user_metadata: BTreeMap<String, String>,
    /// The fewest durable replicas that any of its chunks has.
    pub durable_replicas: u32,
}

/// A client's own words about an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ObjectMetadata {
    /// Media type; may be empty. At most 256 bytes without control characters.
    pub content_type: String,
    /// At most 2 KiB of keys and values together, without control characters.
    pub user_metadata: BTreeMap<String, String>,
}

/// How to copy an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CopyOptions {
    /// What the source must hold.
    pub source_precondition: Option<Precondition>,
    /// What the copy's key must hold.
    pub precondition: Option<Precondition>,
    /// What is said about the copy; none: what is said about the source.
    pub metadata: Option<ObjectMetadata>,
    /// The version of the source to copy, which its precondition then is about; none: what it holds. A copy onto the source
    /// itself brings the version back.
    pub source_version: Option<u64>,
}

/// Where one chunk of an object lies.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ChunkPlacement {
    /// First byte of the chunk in the object.
    pub offset: u64,
    /// The chunk.
    pub chunk: ChunkId,
    /// Its bytes.
    pub length: u32,
    /// CRC32C of the chunk.
    pub crc32c: u32,
    /// The nodes that hold a replica.
    pub nodes: Vec<NodeId>,
}

/// A condition on what the key holds when the request takes effect (RFC 9110 §13.1).
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Precondition {
    /// The key holds exactly this etag.
    IfMatch(String),
    /// The key does not hold this etag.
    IfNoneMatch(String),
    /// The key holds nothing.
    IfNoneMatchAny,
}

/// Text that is not an etag.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not an etag as `stat` shows it")]
pub struct ParsePreconditionError(String);

/// The most bytes of a content type.
const CONTENT_TYPE_BYTES_MAX: usize = 256;
/// Bytes of the user metadata, keys and values together.
const USER_METADATA_BYTES_MAX: usize = 2048;

impl ObjectMetadata {
    /// The metadata servers decide, but for a put only when all bytes have been sent; a bad word should not cost them.
    pub(crate) fn check(content_type: &str, user_metadata: &BTreeMap<String, String>) -> Result<()> {
        if content_type.len() > CONTENT_TYPE_BYTES_MAX {
            return Err(Error::invalid(format!("a content type has at most {CONTENT_TYPE_BYTES_MAX} bytes")));
        }
        let words = || user_metadata.iter().flat_map(|(key, value)| [key.as_str(), value]);
        if words().map(str::len).sum::<usize>() > USER_METADATA_BYTES_MAX {
            return Err(Error::invalid(format!(
                "keys and values of user metadata have at most {USER_METADATA_BYTES_MAX} bytes together"
            )));
        }
        if user_metadata.contains_key("") {
            return Err(Error::invalid("a key of user metadata is not empty"));
        }
        if words().chain([content_type]).any(|word| word.chars().any(char::is_control)) {
            return Err(Error::invalid("content type and user metadata hold no control characters"));
        }
        Ok(())
    }

    pub(crate) fn to_proto(&self) -> proto::ObjectMetadata {
        proto::ObjectMetadata {
            content_type: self.content_type.clone(),
            user_metadata: self.user_metadata.clone(),
        }
    }
}

impl CopyOptions {
    pub(crate) fn check(&self) -> Result<()> {
        version_number(self.source_version)?;
        let metadata = self.metadata.as_ref();
        metadata.map_or(Ok(()), |words| ObjectMetadata::check(&words.content_type, &words.user_metadata))
    }
}

impl Precondition {
    /// From the value of an `If-Match` header, with or without quotes.
    ///
    /// # Errors
    /// The text is not one strong etag.
    pub fn if_match(etag: &str) -> Result<Self, ParsePreconditionError> {
        Ok(Self::IfMatch(parse_etag(etag)?))
    }

    /// From the value of an `If-None-Match` header: `*`, or an etag with or without quotes.
    ///
    /// # Errors
    /// The text is neither.
    pub fn if_none_match(etag: &str) -> Result<Self, ParsePreconditionError> {
        match etag {
            "*" => Ok(Self::IfNoneMatchAny),
            etag => Ok(Self::IfNoneMatch(parse_etag(etag)?)),
        }
    }

    pub(crate) fn to_proto(this: Option<&Self>) -> Option<proto::Precondition> {
        use proto::precondition::Kind;
        let kind = match this? {
            Self::IfMatch(etag) => Kind::IfMatch(etag.clone()),
            Self::IfNoneMatch(etag) => Kind::IfNoneMatch(etag.clone()),
            Self::IfNoneMatchAny => Kind::IfNoneMatchAny(true),
        };
        Some(proto::Precondition { kind: Some(kind) })
    }
}

fn parse_etag(text: &str) -> Result<String, ParsePreconditionError> {
    let bare = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(text);
    let good =
        !bare.is_empty() && bare.len() <= 64 && bare.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    good.then(|| bare.to_owned()).ok_or_else(|| ParsePreconditionError(text.to_owned()))
}

impl Object {
    pub(crate) fn parse(object: Option<proto::Object>, operation: &'static str) -> Result<Self> {
        let bad = |what| Error::BadReply { operation, what };
        let object = object.ok_or(bad("the object is missing"))?;
        let (bucket, key) = name::parse_object(&object.name).ok_or(bad("the object has no good name"))?;
        Ok(Self {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            version: object.version,
            etag: object.etag,
            size: object.size,
            crc32c: object.crc32c,
            created: SystemTime::UNIX_EPOCH + Duration::from_millis(object.create_time_ms),
            content_type: object.content_type,
            user_metadata: object.user_metadata,
            durable_replicas: object.durable_replicas,
        })
    }

    /// # Errors
    /// It has another name than what was asked for: a repeated request gets its first answer, whatever it asks for.
    pub(crate) fn check_name(&self, bucket: &str, key: &str) -> Result<()> {
        if (self.bucket.as_str(), self.key.as_str()) == (bucket, key) {
            return Ok(());
        }
        Err(Error::invalid("the request id was used for something else"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn etags_are_taken_with_and_without_quotes() {
        let etag = "1f-00c0ffee";
        assert_eq!(Precondition::if_match(etag), Ok(Precondition::IfMatch(etag.into())));
        assert_eq!(Precondition::if_match("\"1f-00c0ffee\""), Ok(Precondition::IfMatch(etag.into())));
        assert_eq!(Precondition::if_none_match(etag), Ok(Precondition::IfNoneMatch(etag.into())));
        assert_eq!(Precondition::if_none_match("*"), Ok(Precondition::IfNoneMatchAny));
    }

    #[test]
    fn what_is_no_etag_is_refused() {
        for bad in ["", "*", "\"", "W/\"1f-0\"", "a, b", "\"1f"] {
            assert!(Precondition::if_match(bad).is_err(), "{bad}");
        }
    }
}
