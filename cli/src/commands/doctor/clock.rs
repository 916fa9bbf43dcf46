//! The clock: what it runs on, who keeps it, and how far it is from the metadata leader's.

use std::{
    fs,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use xdpfs_client::ObjectClient;
use xdpfs_host::ClockDiscipline;

use super::finding::{Check, Finding};

const SOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// Sources that are asked over a bus, or that only count ticks.
const SLOW_SOURCES: [&str; 4] = ["acpi_pm", "hpet", "jiffies", "refined-jiffies"];
/// How far a clock may be off before dates in logs mislead.
const OFFSET_MAX: Duration = Duration::from_millis(500);
const KEEP: &str =
    "timedatectl set-ntp true, or run chrony; a virtual machine may take its host's clock: modprobe ptp_kvm";

/// Looks at the host's own clock.
pub(super) fn look() -> Vec<Finding> {
    let source_name = fs::read_to_string(SOURCE).ok();
    vec![source(source_name.as_deref().map(str::trim)), sync(xdpfs_host::clock_discipline().ok())]
}

/// Asks the metadata leader for its time.
pub(super) async fn ask<C: ObjectClient>(client: &C) -> Finding {
    let asked = Instant::now();
    match client.cluster_status().await {
        Err(error) => Finding::fail(
            Check::ClockOffset,
            format!("no metadata server answers: {error}"),
            "nothing can be put, got or listed from this host",
        )
        .with_fix("check --endpoint and whether the metadata servers run: xdpfs-cli status"),
        Ok(status) => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            offset(Sighting { server_time_ms: status.server_time_ms, round_trip: asked.elapsed(), now })
        }
    }
}

/// What was seen of another clock.
#[derive(Clone, Copy, Debug)]
struct Sighting {
    server_time_ms: u64,
    round_trip: Duration,
    /// This host's clock when the answer came.
    now: Duration,
}

fn offset(sighting: Sighting) -> Finding {
    let Sighting { server_time_ms, round_trip, now } = sighting;
    if server_time_ms == 0 {
        return Finding::skipped(
            Check::ClockOffset,
            "the metadata server doesn't tell its time",
            "update the metadata servers",
        );
    }
    let theirs = Duration::from_millis(server_time_ms) + round_trip / 2;
    let (ahead, word) = match now.checked_sub(theirs) {
        Some(ahead) => (ahead, "ahead of"),
        None => (theirs - now, "behind"),
    };
    let seen = format!(
        "{} ms {word} the metadata server, give or take {} ms",
        ahead.as_millis(),
        (round_trip / 2).as_millis().max(1)
    );
    // The middle of the round trip is a guess.
    if ahead.saturating_sub(round_trip / 2) <= OFFSET_MAX {
        return Finding::ok(Check::ClockOffset, seen);
    }
    Finding::warn(
        Check::ClockOffset,
        seen,
        "data nodes follow the leader's clock and don't mind, but logs of the two hosts can't be compared; between \
         metadata servers, capabilities live longer or shorter by this when leadership moves",
    )
    .with_fix(KEEP)
}

fn source(name: Option<&str>) -> Finding {
    match name {
        None => Finding::skipped(
            Check::ClockSource,
            format!("{SOURCE} can't be read"),
            "mount /sys in this container",
        ),
        Some(name) if SLOW_SOURCES.contains(&name) => Finding::warn(
            Check::ClockSource,
            name,
            "each look at the clock costs about a microsecond, and the data path looks often",
        )
        .with_fix("see why the kernel gave up its better source: dmesg | grep -i clocksource"),
        Some(name) => Finding::ok(Check::ClockSource, name),
    }
}

fn sync(discipline: Option<ClockDiscipline>) -> Finding {
    match discipline {
        None => Finding::skipped(Check::ClockSync, "the kernel doesn't say", "run on Linux"),
        Some(ClockDiscipline { is_synchronized: true, error_max }) => {
            Finding::ok(Check::ClockSync, format!("synchronized, off by {} ms at most", error_max.as_millis()))
        }
        Some(_) => Finding::warn(
            Check::ClockSync,
            "nobody keeps this host's clock",
            "it drifts by seconds a week: on a metadata server, capabilities live longer or shorter by the difference \
             when leadership moves; on other hosts, logs mislead",
        )
        .with_fix(KEEP),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::commands::doctor::finding::State;

    #[test]
    fn sources_that_are_slow_are_warned_of() {
        let check = |name, expect| assert_eq!(source(name).state, expect, "{name:?}");
        check(Some("tsc"), State::Ok);
        check(Some("kvm-clock"), State::Ok);
        check(Some("hpet"), State::Warn);
        check(None, State::Skipped);
    }

    #[test]
    fn an_offset_is_told_with_its_sign_and_doubt() {
        let check = |server_ms, round_trip_ms, now_ms, state, words: &str| {
            let found = offset(Sighting {
                server_time_ms: server_ms,
                round_trip: Duration::from_millis(round_trip_ms),
                now: Duration::from_millis(now_ms),
            });
            assert_eq!(found.state, state, "{found:?}");
            assert!(found.seen.contains(words), "{found:?}");
        };
        check(1_000_000, 10, 1_000_005, State::Ok, "0 ms ahead of");
        check(1_000_000, 10, 1_000_905, State::Warn, "900 ms ahead of");
        check(1_000_000, 10, 999_105, State::Warn, "900 ms behind");
        // It may all be the round trip.
        check(1_000_000, 2000, 1_001_800, State::Ok, "give or take 1000 ms");
        check(0, 10, 1_000_000, State::Skipped, "doesn't tell");
    }

    #[test]
    fn a_clock_that_nobody_keeps_is_warned_of() {
        let discipline = |is_synchronized| {
            Some(ClockDiscipline { is_synchronized, error_max: Duration::from_micros(2500) })
        };
        assert_eq!(sync(discipline(true)).seen, "synchronized, off by 2 ms at most");
        assert_eq!(sync(discipline(false)).state, State::Warn);
        assert_eq!(sync(None).state, State::Skipped);
    }
}
