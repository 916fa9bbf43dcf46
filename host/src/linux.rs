//! The questions, as Linux takes them.

mod ethtool;
mod namespace;
mod netlink;
mod rtnetlink;

use std::{io, mem, path::Path, time::Duration};

use rustix::{
    system::uname,
    thread::{CapabilitySet, capabilities as capability_sets},
};

pub use self::{
    ethtool::{channels, driver, features, set_feature},
    namespace::NetworkNamespace,
    netlink::Netlink,
    rtnetlink::{addresses, addresses_by, interface, interface_at, interfaces, interfaces_by},
};
use crate::{Capabilities, ClockDiscipline, FileSystem, Release, Room};

/// `STA_UNSYNC` of `adjtimex`.
const STA_UNSYNC: i32 = 0x40;
/// `TIME_ERROR` of `adjtimex`.
const TIME_ERROR: i32 = 5;

/// The running kernel's release, as text and, if it can be read, as numbers.
#[must_use]
pub fn release() -> (String, Option<Release>) {
    let text = uname().release().to_string_lossy().into_owned();
    let release = text.parse().ok();
    (text, release)
}

/// What this thread may do.
///
/// # Errors
/// The kernel doesn't say.
pub fn capabilities() -> io::Result<Capabilities> {
    let held = capability_sets(None)?.effective;
    let sys_admin = held.contains(CapabilitySet::SYS_ADMIN);
    Ok(Capabilities {
        bpf: sys_admin || held.contains(CapabilitySet::BPF),
        net_admin: held.contains(CapabilitySet::NET_ADMIN),
        perfmon: sys_admin || held.contains(CapabilitySet::PERFMON),
        sys_admin,
    })
}

/// How the host's clock is kept.
///
/// # Errors
/// The kernel doesn't say.
pub fn clock_discipline() -> io::Result<ClockDiscipline> {
    // SAFETY: zeros are a valid `timex`, and one that changes nothing.
    let mut timex: libc::timex = unsafe { mem::zeroed() };
    // SAFETY: the pointer is to a whole `timex`.
    let state = unsafe { libc::adjtimex(&raw mut timex) };
    if state < 0 {
        return Err(io::Error::last_os_error());
    }
    let is_synchronized = state != TIME_ERROR && timex.status & STA_UNSYNC == 0;
    Ok(ClockDiscipline {
        is_synchronized,
        error_max: Duration::from_micros(u64::try_from(timex.maxerror).unwrap_or_default()),
    })
}

/// The kind of file system that `path` is on.
///
/// # Errors
/// It isn't there, or may not be looked at.
pub fn file_system(path: &Path) -> io::Result<FileSystem> {
    let stat = rustix::fs::statfs(path)?;
    // The kernel's numbers are of 32 bits, and signed on some architectures.
    Ok(FileSystem::from_magic(u64::from(stat.f_type as u32)))
}

/// The room on the file system that `path` is on.
///
/// # Errors
/// It isn't there, or may not be looked at.
pub fn room(path: &Path) -> io::Result<Room> {
    let stat = rustix::fs::statvfs(path)?;
    let bytes = |blocks: u64| blocks.saturating_mul(stat.f_frsize);
    Ok(Room { total: bytes(stat.f_blocks), available: bytes(stat.f_bavail) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_can_be_asked() {
        let (text, release) = release();
        assert!(release.is_some_and(|release| release >= Release::new(3, 0)), "{text}");
        let room = room(Path::new("/")).unwrap();
        assert!(room.available <= room.total);
        assert_eq!(file_system(Path::new("/proc/self/none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
