//! What one walk through all chunks has checked and found.

use xdpfs_proto::meta::v1::ScrubPass;

use crate::store::ScrubStep;

/// A pass that is under way, or one that has ended.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pass {
    pub(super) begin_ms: u64,
    /// Zero: it has not ended.
    pub(super) end_ms: u64,
    pub(super) bytes: u64,
    pub(super) chunks: u64,
    /// Bytes of segments that lie behind it.
    pub(super) passed_bytes: u64,
    /// Bytes of segments that were before it when it was last looked at.
    pub(super) ahead_bytes: u64,
    pub(super) damaged_chunks: u64,
    pub(super) damaged_places: u64,
    pub(super) read_errors: u64,
}

impl Pass {
    pub(super) const fn beginning(begin_ms: u64) -> Self {
        Self {
            begin_ms,
            end_ms: 0,
            bytes: 0,
            chunks: 0,
            passed_bytes: 0,
            ahead_bytes: 0,
            damaged_chunks: 0,
            damaged_places: 0,
            read_errors: 0,
        }
    }

    pub(super) fn add(&mut self, step: &ScrubStep) {
        self.bytes += step.bytes;
        self.chunks += step.chunks;
        self.passed_bytes += step.passed_bytes;
        self.damaged_chunks += step.damaged_chunks;
        self.damaged_places += step.damaged_places;
        self.read_errors += step.read_errors;
    }

    pub(super) const fn to_proto(self) -> ScrubPass {
        ScrubPass {
            begin_time_ms: self.begin_ms,
            end_time_ms: self.end_ms,
            bytes: self.bytes,
            chunks: self.chunks,
            damaged_chunks: self.damaged_chunks,
            damaged_places: self.damaged_places,
            read_errors: self.read_errors,
        }
    }
}
