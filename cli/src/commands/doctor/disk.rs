//! A data directory: what its file system is, how long it takes to make bytes durable, and how many more fit.
//!
//! Invariant: nothing is left there, and a directory that isn't there isn't made.

use std::{io, path::Path, time::Duration};

use xdpfs_data_node::storage_probe::{self, TOO_FAST};
use xdpfs_host::{FileSystem, Room};

use super::finding::{Check, Finding};
use crate::units::human_bytes;

/// Small writes, each made durable.
const SYNCS: usize = 100;
/// They end after this time, however few they were.
const PATIENCE: Duration = Duration::from_secs(5);
/// Slower than any healthy disk of a server.
const SLOW: Duration = Duration::from_millis(10);
/// Less than this, or than this part, is little.
const ROOM_MIN: u64 = 1 << 30;
const ROOM_MIN_PERCENT: u64 = 5;

/// Looks at one directory. Blocks for as long as the disk takes.
pub(super) fn look(directory: &Path) -> Vec<Finding> {
    let subject = directory.display().to_string();
    let findings = match storage_probe::existing(directory) {
        Some(directory) => vec![
            file_system(xdpfs_host::file_system(&directory)),
            sync(storage_probe::measure(&directory, SYNCS, PATIENCE)),
            space(xdpfs_host::room(&directory)),
        ],
        None => vec![missing()],
    };
    findings.into_iter().map(|finding| finding.about(&subject)).collect()
}

fn missing() -> Finding {
    let why = "neither it nor a directory above can be seen";
    Finding::fail(Check::FileSystem, why, "a data node can't start there")
        .with_fix("name a directory that can be made")
}

fn file_system(kind: io::Result<FileSystem>) -> Finding {
    match kind {
        Err(error) => Finding::skipped(
            Check::FileSystem,
            format!("it can't be looked at: {error}"),
            "run xdpfs-cli doctor as the data node's user",
        ),
        Ok(FileSystem::Disk) => Finding::ok(Check::FileSystem, "on a disk"),
        Ok(FileSystem::Memory) => Finding::warn(
            Check::FileSystem,
            "in memory",
            "a receipt promises bytes that survive a power loss; here they don't even survive a restart of the host",
        )
        .with_fix("name a directory on a disk"),
        Ok(FileSystem::Network) => Finding::warn(
            Check::FileSystem,
            "on another machine, or in the hands of a program (FUSE)",
            "two replicas may end on one disk without the cluster knowing, and each receipt waits for the network",
        )
        .with_fix("name a directory on a disk of this host"),
        Ok(FileSystem::Overlay) => Finding::warn(
            Check::FileSystem,
            "the layers of a container",
            "the chunks go with the container",
        )
        .with_fix("give the container a volume, such as -v xdpfs-data:/data"),
    }
}

fn sync(times: io::Result<Vec<Duration>>) -> Finding {
    let mut times = match times {
        Ok(times) if !times.is_empty() => times,
        Ok(_) => Vec::new(),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let how = "run xdpfs-cli doctor as the data node's user";
            return Finding::skipped(Check::DiskSync, format!("no file can be made there: {error}"), how);
        }
        Err(error) => {
            return Finding::fail(
                Check::DiskSync,
                format!("no file can be written there: {error}"),
                "a data node there can't store a chunk",
            )
            .with_fix("see what the kernel says of the disk: dmesg | tail");
        }
    };
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1)));
    let (Some(median), Some(p99)) = (at(50).copied(), at(99).copied()) else {
        return Finding::skipped(Check::DiskSync, "nothing was written", "run it again");
    };
    let seen = format!(
        "{} writes of 4 KiB were durable after {} (median), {} (p99)",
        times.len(),
        micros(median),
        micros(p99)
    );
    let per_second = Duration::from_secs(1).as_nanos() / median.as_nanos().max(1);
    if median < TOO_FAST {
        return Finding::warn(
            Check::DiskSync,
            seen,
            "no medium is that fast: bytes wait in memory that a power loss empties, and receipts promise too much",
        )
        .with_fix("use a disk with power loss protection, or turn its volatile cache off: hdparm -W0 /dev/DISK");
    }
    if median > SLOW {
        return Finding::warn(
            Check::DiskSync,
            format!("{seen}: {per_second} a second one after the other"),
            format!("every put of a small object waits at least {} for this node's receipt", micros(median)),
        )
        .with_fix("use an SSD with power loss protection; move other writers off this disk");
    }
    Finding::ok(Check::DiskSync, format!("{seen}: {per_second} a second one after the other"))
}

fn space(room: io::Result<Room>) -> Finding {
    let Room { total, available } = match room {
        Ok(room) => room,
        Err(error) => {
            let how = "run xdpfs-cli doctor as the data node's user";
            return Finding::skipped(Check::DiskSpace, format!("it can't be looked at: {error}"), how);
        }
    };
    let seen = format!("{} of {} free", human_bytes(available), human_bytes(total));
    if available < ROOM_MIN || available < total / 100 * ROOM_MIN_PERCENT {
        return Finding::warn(
            Check::DiskSpace,
            seen,
            "a full data node refuses puts, and has no room to compact what was deleted",
        )
        .with_fix("make room, or add a data node");
    }
    Finding::ok(Check::DiskSpace, seen)
}

fn micros(time: Duration) -> String {
    if time < Duration::from_millis(1) {
        format!("{} us", time.as_micros())
    } else {
        format!("{:.1} ms", time.as_secs_f64() * 1000.0)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::commands::doctor::finding::State;

    #[test]
    fn disks_that_are_slow_or_lie_are_warned_of() {
        let check = |median_us, state, words: &str| {
            let mut times = vec![Duration::from_micros(median_us); 99];
            times.push(Duration::from_millis(50));
            let found = sync(Ok(times));
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.seen.contains(words), "{found:?}");
        };
        check(120, State::Ok, "120 us (median), 50.0 ms (p99)");
        check(120, State::Ok, "8333 a second");
        check(25_000, State::Warn, "25.0 ms (median)");
        check(3, State::Warn, "3 us (median)");
        assert_eq!(sync(Err(io::ErrorKind::PermissionDenied.into())).state, State::Skipped);
        assert_eq!(sync(Err(io::ErrorKind::ReadOnlyFilesystem.into())).state, State::Fail);
        assert_eq!(sync(Ok(Vec::new())).state, State::Skipped);
    }

    #[test]
    fn file_systems_that_keep_nothing_are_warned_of() {
        let check = |kind, expect| assert_eq!(file_system(kind).state, expect);
        check(Ok(FileSystem::Disk), State::Ok);
        check(Ok(FileSystem::Memory), State::Warn);
        check(Ok(FileSystem::Network), State::Warn);
        check(Ok(FileSystem::Overlay), State::Warn);
        check(Err(io::ErrorKind::PermissionDenied.into()), State::Skipped);
    }

    #[test]
    fn little_room_is_warned_of() {
        let check = |total: u64, available, expect| {
            assert_eq!(space(Ok(Room { total, available })).state, expect, "{available} of {total}");
        };
        check(100 << 30, 50 << 30, State::Ok);
        check(100 << 30, 4 << 30, State::Warn);
        check(2 << 30, 1 << 29, State::Warn);
    }

    #[test]
    fn nothing_is_left_and_nothing_is_made() {
        let home = tempfile::tempdir().unwrap();
        let findings = look(&home.path().join("not/yet"));
        assert_eq!(findings.len(), 3, "{findings:?}");
        assert!(
            findings.iter().all(|finding| finding.subject.as_ref().is_some_and(|it| it.ends_with("not/yet")))
        );
        assert_eq!(fs::read_dir(home.path()).unwrap().count(), 0);
    }
}
