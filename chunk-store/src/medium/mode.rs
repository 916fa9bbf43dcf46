//! How a disk is reached, for people.

use std::fmt;

/// Whether a faculty of the kernel is used.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Facility {
    /// It is.
    InUse,
    /// It isn't, for this reason.
    Off(String),
}

impl Facility {
    /// Whether the faculty is used.
    #[must_use]
    pub const fn is_in_use(&self) -> bool {
        matches!(self, Self::InUse)
    }
}

/// How a medium reaches its disk at the moment. What is off stays off until the medium is opened again.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct IoMode {
    /// Transfers go past the kernel's cache (`O_DIRECT`).
    pub direct: Facility,
    /// A write is made durable by the call that writes (`RWF_DSYNC`), not by a second one.
    pub dsync: Facility,
    /// The kernel knows the memory of transfers beforehand. Of no meaning without `ring`.
    pub registered: Facility,
    /// Transfers are asked for by io_uring, not by a call each.
    pub ring: Facility,
}

/// One line: what is used, and then why the rest isn't.
impl fmt::Display for IoMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.direct.is_in_use() { "direct" } else { "buffered" })?;
        f.write_str(if self.ring.is_in_use() { ", io_uring" } else { ", plain calls" })?;
        for (name, facility) in [
            ("direct", &self.direct),
            ("io_uring", &self.ring),
            ("registered buffers", &self.registered),
            ("RWF_DSYNC", &self.dsync),
        ] {
            if let Facility::Off(reason) = facility {
                write!(f, "; no {name}: {reason}")?;
            }
        }
        Ok(())
    }
}
