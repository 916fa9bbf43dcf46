//! A data node's disks, as it speaks of them.

use xdpfs_proto::meta::v1 as proto;

/// One of a data node's disks.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct NodeDisk {
    /// The UUID that it was given when it was first used, or `data-dir`: the one of the node's data directory.
    pub disk: String,
    /// Why nothing is written to it any more. None: it is healthy.
    pub failure: Option<String>,
    /// Bytes that chunks may take; zero if it can't be asked.
    pub capacity_bytes: u64,
    /// Bytes that they take.
    pub used_bytes: u64,
    /// Bytes that can still be written.
    pub free_bytes: u64,
    /// Chunks; of a disk that can't be asked, as many as it had when it last could be.
    pub chunks: u64,
}

impl From<proto::DiskStatus> for NodeDisk {
    fn from(disk: proto::DiskStatus) -> Self {
        let is_failed = disk.state() == proto::disk_status::State::Failed;
        Self {
            disk: disk.disk,
            failure: is_failed.then_some(disk.reason),
            capacity_bytes: disk.capacity_bytes,
            used_bytes: disk.used_bytes,
            free_bytes: disk.free_bytes,
            chunks: disk.chunks,
        }
    }
}
