//! Who may send, and how fast: what the kernel program's source filter says, said in user space.

use std::{net::IpAddr, time::Instant};

use xdpfs_plane::{Rate, maps::SOURCE_BUCKETS_MAX};

use super::Event;
use crate::{edge::lru::Lru, source_prefix::SourcePrefix, xdp::SourceConfig};

/// How far a source may run ahead of its rate.
const BURST_NS: u64 = 100_000_000;

/// The filter with what it has seen.
#[derive(Debug)]
pub(super) struct Sources {
    config: SourceConfig,
    rate: Rate,
    started: Instant,
    /// When the bucket of each source will be full again. Those seen longest ago are forgotten.
    full_at_ns: Lru<IpAddr, u64>,
}

impl Sources {
    pub(super) fn new(config: SourceConfig) -> Self {
        let interval_ns = config.rate.map_or(0, |rate| 1_000_000_000 / u64::from(rate.max(1)));
        Self {
            config,
            rate: Rate { interval_ns, burst_ns: BURST_NS },
            started: Instant::now(),
            full_at_ns: Lru::new(SOURCE_BUCKETS_MAX as usize),
        }
    }

    /// Whether a datagram from `source` may pass, which takes from its bucket.
    ///
    /// # Errors
    /// What it fails for.
    pub(super) fn admit(&mut self, source: IpAddr, now: Instant) -> Result<(), Event> {
        if !self.is_allowed(source) {
            return Err(Event::SourceDenied);
        }
        if self.rate.is_unlimited() {
            return Ok(());
        }
        let now_ns =
            u64::try_from(now.saturating_duration_since(self.started).as_nanos()).unwrap_or(u64::MAX);
        match self.full_at_ns.touch(source, now) {
            Some(full_at_ns) => {
                *full_at_ns = self.rate.take(*full_at_ns, now_ns).ok_or(Event::SourceTooFast)?;
            }
            None => {
                let full_at_ns = self.rate.take(0, now_ns).unwrap_or(now_ns);
                self.full_at_ns.insert(source, full_at_ns, now);
            }
        }
        Ok(())
    }

    fn is_allowed(&self, source: IpAddr) -> bool {
        let SourceConfig { allow, deny, .. } = &self.config;
        let longest = |prefixes: &[SourcePrefix]| {
            let fitting = prefixes.iter().filter(|prefix| prefix.contains(source));
            fitting.map(SourcePrefix::prefix_len).max()
        };
        match (longest(allow), longest(deny)) {
            (Some(allowed), Some(denied)) => allowed > denied,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (None, None) => allow.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn sources(allow: &[&str], deny: &[&str], rate: Option<u32>) -> Sources {
        let parse = |prefixes: &[&str]| prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect();
        Sources::new(SourceConfig { rate, allow: parse(allow), deny: parse(deny) })
    }

    #[test]
    fn longer_prefix_counts_and_the_unlisted_may_if_nobody_is_allowed() {
        let check = |allow: &[&str], deny: &[&str], source: &str, expect| {
            let admitted = sources(allow, deny, None).admit(source.parse().unwrap(), Instant::now());
            assert_eq!(admitted.is_ok(), expect, "{source}: {allow:?} {deny:?}");
        };
        check(&[], &[], "10.0.0.1", true);
        check(&[], &["10.0.0.0/8"], "10.0.0.1", false);
        check(&[], &["10.0.0.0/8"], "11.0.0.1", true);
        check(&["10.0.0.0/8"], &[], "11.0.0.1", false);
        check(&["10.0.0.0/8"], &["10.9.0.0/16"], "10.9.0.1", false);
        check(&["10.9.1.0/24"], &["10.9.0.0/16"], "10.9.1.1", true);
        check(&["10.0.0.0/8"], &[], "::ffff:10.0.0.1", true);
        check(&["fd00::/8"], &[], "10.0.0.1", false);
    }

    #[test]
    fn each_source_has_its_own_rate() {
        let mut sources = sources(&[], &[], Some(1000));
        let start = Instant::now();
        let (fast, other): (IpAddr, IpAddr) = ("10.0.0.1".parse().unwrap(), "10.0.0.2".parse().unwrap());
        let passed = (0..200).filter(|_| sources.admit(fast, start).is_ok()).count();
        assert!((100..=101).contains(&passed), "a tenth of a second's worth: {passed}");
        assert_eq!(sources.admit(fast, start), Err(Event::SourceTooFast));
        assert_eq!(sources.admit(other, start), Ok(()));
        assert_eq!(sources.admit(fast, start + Duration::from_millis(2)), Ok(()));
    }
}
