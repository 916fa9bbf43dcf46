//! One version of an object that is being read.
//!
//! Invariant: whatever is taken from the leader belongs to this very version. The cluster keeps a version's chunks for
//! longer than any capability lasts, so a reader that is overtaken goes on with the capability that it has.

use std::{
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tracing::debug;

use super::manifest::{self, Part, Wanted, bad_reply};
use crate::{
    ChunkPlacement, Object,
    client::Shared,
    error::{Error, Result},
    name::ObjectName,
    session::{Introduction, Session},
};

/// Shared by the reads of one get.
#[derive(Debug)]
pub(super) struct Version {
    pub(super) shared: Arc<Shared>,
    pub(super) object: Object,
    pub(super) session: Session,
    name: ObjectName,
    /// It is known to be gone. Its number is never given again, so it stays so.
    superseded: AtomicBool,
    /// The caller knows which version it gets: no other one will do.
    is_chosen: AtomicBool,
}

/// Why a version cannot be read on.
#[derive(Debug)]
pub(super) enum Lost {
    /// Whatever the version, it failed.
    Failed(Error),
    /// It is gone.
    Superseded,
}

impl Version {
    pub(super) async fn start(
        shared: &Arc<Shared>,
        name: ObjectName,
        object: Object,
        introduction: Introduction,
    ) -> Result<Self> {
        let session =
            Session::start(introduction).await.map_err(|_| bad_reply("the capability is malformed"))?;
        Ok(Self {
            shared: Arc::clone(shared),
            object,
            session,
            name,
            superseded: AtomicBool::new(false),
            is_chosen: AtomicBool::new(false),
        })
    }

    /// The bucket that it is in.
    pub(super) fn bucket(&self) -> &str {
        &self.name.bucket
    }

    /// Asks the leader for chunks from the byte `range.start` on, and takes in its capability and addresses.
    pub(super) async fn ask(&self, range: Range<u64>) -> Result<Part, Lost> {
        if self.is_superseded() {
            return Err(Lost::Superseded);
        }
        let start = range.start;
        // Where versioning is on, it can be read on when the key holds another one.
        let wanted = Wanted::version(self.object.version);
        let mut part = match manifest::ask(&self.shared, &self.name, range, wanted).await {
            Ok(part) if self.object.is_same_version(&part.object) => part,
            Ok(_) | Err(Error::ObjectNotFound { .. } | Error::BucketNotFound { .. }) => {
                debug!(version = self.object.version, "the key was overwritten or deleted during a read");
                self.superseded.store(true, Ordering::Release);
                return Err(Lost::Superseded);
            }
            Err(error) => return Err(Lost::Failed(error)),
        };
        if !part.covers(start) {
            return Err(Lost::Failed(bad_reply("the chunks asked for are missing")));
        }
        let introduction = std::mem::take(&mut part.introduction);
        let renewed = self.session.renew(introduction).await;
        renewed.map_err(|_| Lost::Failed(bad_reply("the capability is malformed")))?;
        Ok(part)
    }

    /// The chunk as the leader places it at present.
    pub(super) async fn ask_again(&self, chunk: &ChunkPlacement) -> Result<ChunkPlacement, Lost> {
        let part = self.ask(chunk.offset..chunk.end()).await?;
        let same = |other: &ChunkPlacement| {
            (other.offset, other.chunk, other.length, other.crc32c)
                == (chunk.offset, chunk.chunk, chunk.length, chunk.crc32c)
        };
        let changed = Lost::Failed(bad_reply("one version has two manifests"));
        part.chunks.into_iter().find(same).ok_or(changed)
    }

    pub(super) fn is_superseded(&self) -> bool {
        self.superseded.load(Ordering::Acquire)
    }

    /// From now on the caller gets this version or an error.
    pub(super) fn choose(&self) {
        self.is_chosen.store(true, Ordering::Release);
    }

    pub(super) fn is_chosen(&self) -> bool {
        self.is_chosen.load(Ordering::Acquire)
    }
}

impl Object {
    /// Whether both are the same version of the same object; what has become of its replicas does not matter.
    pub(super) fn is_same_version(&self, other: &Self) -> bool {
        (self.version, self.size, self.crc32c) == (other.version, other.size, other.crc32c)
            && self.etag == other.etag
    }
}

impl Lost {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Superseded => Error::ChangedWhileReading,
        }
    }
}
