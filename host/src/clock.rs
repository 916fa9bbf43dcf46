//! Whether somebody keeps this host's clock.

use std::time::Duration;

/// What the kernel says of how its clock is kept.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ClockDiscipline {
    /// Whether somebody says that it is right.
    pub is_synchronized: bool,
    /// How wrong it may be at the most, as whoever keeps it says.
    pub error_max: Duration,
}
