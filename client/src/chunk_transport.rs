//! The seam between the SDK and the chunk protocol, so that puts and gets can be tried against nodes in memory.

use std::{fmt, ops::Range};

use bytes::Bytes;
use futures::future::BoxFuture;
use xdpfs_transport::{ChunkClient, SessionKey, Target, TransferError};
use xdpfs_wire::{ChunkId, Receipt};

type Transfer<'a, T> = BoxFuture<'a, Result<T, TransferError>>;

/// What a chunk is expected to be.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct ChunkSum {
    pub(crate) length: u32,
    pub(crate) crc32c: u32,
}

/// Moves chunks to and from data nodes. Dropping a future cancels its transfer.
pub(crate) trait ChunkTransport: fmt::Debug + Send + Sync {
    fn read(&self, target: Target, key: SessionKey, chunk: ChunkId, range: Range<u32>)
    -> Transfer<'_, Bytes>;
    fn write(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        data: Bytes,
        crc32c: u32,
    ) -> Transfer<'_, Receipt>;
    /// A new receipt for a chunk that the node holds already.
    fn receipt(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        sum: ChunkSum,
    ) -> Transfer<'_, Receipt>;
}

impl ChunkTransport for ChunkClient {
    fn read(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        range: Range<u32>,
    ) -> Transfer<'_, Bytes> {
        Box::pin(Self::read(self, target, key, chunk, range))
    }

    fn write(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        data: Bytes,
        crc32c: u32,
    ) -> Transfer<'_, Receipt> {
        Box::pin(Self::write(self, target, key, chunk, data, crc32c))
    }

    fn receipt(
        &self,
        target: Target,
        key: SessionKey,
        chunk: ChunkId,
        sum: ChunkSum,
    ) -> Transfer<'_, Receipt> {
        Box::pin(Self::receipt(self, target, key, chunk, sum.length, sum.crc32c))
    }
}
