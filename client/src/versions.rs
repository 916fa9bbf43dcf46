//! What keys held before: versions, delete markers, and whether a bucket keeps any.

use xdpfs_proto::meta::v1 as proto;

use crate::{
    Object, ObjectClient, Precondition,
    error::{Error, Result},
};

/// What becomes of an object that another one takes the place of, or that is deleted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Versioning {
    /// It goes. A bucket that was ever anything else is never so again.
    #[default]
    Off,
    /// It stays as an older version. A delete puts a delete marker over it.
    On,
    /// It stays if it was put while versioning was on; older versions stay.
    Suspended,
}

/// How to look at an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct StatOptions {
    /// What must be there.
    pub precondition: Option<Precondition>,
    /// A version; none: what the key holds. The precondition is about the version.
    pub version: Option<u64>,
}

/// How to remove an object.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DeleteOptions {
    /// What the key must hold, also if a version is named.
    pub precondition: Option<Precondition>,
    /// This version goes for good; none: what the key holds, which versioning may keep.
    pub version: Option<u64>,
}

/// What a delete has done.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Deleted {
    /// What was removed or hidden. Of a delete marker: its name, version and time.
    pub object: Object,
    /// The version of the delete marker that hides it; none: it is gone.
    pub delete_marker: Option<u64>,
    /// What was removed is itself a delete marker.
    pub was_delete_marker: bool,
}

/// A version of a key.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ObjectVersion {
    /// Of a delete marker: its name, version and time.
    pub object: Object,
    /// It is the key's latest: what the key holds, or the mark that it holds nothing.
    pub latest: bool,
    /// It is a delete marker.
    pub delete_marker: bool,
}

/// Which versions to list.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct VersionListOptions {
    /// Only keys that start with this.
    pub prefix: String,
    /// Keys that agree up to this text behind the prefix become one group; empty: no groups.
    pub delimiter: String,
    /// The most versions and groups of a page; `None`: 1000, which is also the most.
    pub page_size: Option<u32>,
    /// The page to give: `next` of the page before.
    pub page: Option<String>,
    /// As in [`ListOptions`](crate::ListOptions).
    pub consistent: bool,
}

/// Some versions: keys in byte order, the versions of each from the newest on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct VersionPage {
    /// The versions.
    pub versions: Vec<ObjectVersion>,
    /// Groups: each is a prefix up to and with the delimiter.
    pub prefixes: Vec<String>,
    /// The page that follows; `None` after the last one.
    pub next: Option<String>,
    /// The moment that the page shows; all pages of one picture have the same.
    pub as_of: u64,
}

/// All versions of all keys that start with `prefix`, page by page as the stream is read. Of which moment they are, is as
/// for [`objects`](crate::objects).
pub fn object_versions<C: ObjectClient>(
    client: &C,
    bucket: &str,
    prefix: &str,
) -> impl futures::Stream<Item = Result<ObjectVersion>> + Send + use<C> {
    use futures::{StreamExt as _, TryStreamExt as _, stream};
    let first = VersionListOptions { prefix: prefix.to_owned(), ..VersionListOptions::default() };
    let start = (client.clone(), bucket.to_owned(), Some(first));
    stream::try_unfold(start, |(client, bucket, options)| async move {
        let Some(options) = options else { return Ok(None) };
        let page = client.list_versions(&bucket, options.clone()).await?;
        let rest = page.next.map(|next| VersionListOptions { page: Some(next), ..options });
        Ok::<_, Error>(Some((stream::iter(page.versions).map(Ok), (client, bucket, rest))))
    })
    .try_flatten()
}

impl Versioning {
    /// The word for it.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::On => "on",
            Self::Suspended => "suspended",
        }
    }

    pub(crate) fn to_proto(self) -> i32 {
        let versioning = match self {
            Self::Off => proto::Versioning::Off,
            Self::On => proto::Versioning::On,
            Self::Suspended => proto::Versioning::Suspended,
        };
        versioning.into()
    }

    pub(crate) fn parse(number: i32) -> Option<Self> {
        Some(match proto::Versioning::try_from(number).ok()? {
            proto::Versioning::Off => Self::Off,
            proto::Versioning::On => Self::On,
            proto::Versioning::Suspended => Self::Suspended,
        })
    }
}

/// To the cluster, zero is no version in particular.
pub(crate) fn version_number(version: Option<u64>) -> Result<u64> {
    match version {
        Some(0) => Err(Error::invalid("a version is a number from 1 on")),
        version => Ok(version.unwrap_or_default()),
    }
}

impl Deleted {
    pub(crate) fn parse(reply: proto::DeleteObjectResponse, operation: &'static str) -> Result<Self> {
        Ok(Self {
            object: Object::parse(reply.object, operation)?,
            delete_marker: Some(reply.delete_marker).filter(|version| *version > 0),
            was_delete_marker: reply.was_delete_marker,
        })
    }
}

impl VersionPage {
    pub(crate) fn parse(reply: proto::ListObjectVersionsResponse, operation: &'static str) -> Result<Self> {
        let version = |version: proto::ObjectVersion| {
            Ok(ObjectVersion {
                object: Object::parse(version.object, operation)?,
                latest: version.latest,
                delete_marker: version.delete_marker,
            })
        };
        Ok(Self {
            versions: reply.versions.into_iter().map(version).collect::<Result<_>>()?,
            prefixes: reply.prefixes,
            next: crate::client::next_page(reply.next_page_token),
            as_of: reply.as_of,
        })
    }
}
