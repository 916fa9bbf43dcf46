//! Faculties of the kernel that are used until they are found wanting, and from then on no more.

use std::sync::OnceLock;

use super::mode::{Facility, IoMode};

/// On until something turns it off, for good.
#[derive(Debug, Default)]
pub(super) struct Latch {
    off: OnceLock<String>,
}

impl Latch {
    pub(super) fn is_on(&self) -> bool {
        self.off.get().is_none()
    }

    /// The first reason stands. Returns whether this was it.
    pub(super) fn turn_off(&self, reason: impl Into<String>) -> bool {
        self.off.set(reason.into()).is_ok()
    }

    fn facility(&self) -> Facility {
        self.off.get().map_or(Facility::InUse, |reason| Facility::Off(reason.clone()))
    }
}

/// All that one medium may do without. Shared by what it opens.
#[derive(Debug, Default)]
pub(super) struct Latches {
    pub(super) direct: Latch,
    pub(super) dsync: Latch,
    pub(super) registered: Latch,
    pub(super) ring: Latch,
}

impl Latches {
    pub(super) fn mode(&self) -> IoMode {
        IoMode {
            direct: self.direct.facility(),
            dsync: self.dsync.facility(),
            registered: self.registered.facility(),
            ring: self.ring.facility(),
        }
    }
}
