//! What the cluster did in the last quarter of an hour, for charts. Pure: it is told what time it is.
//!
//! Invariant: a rate is between two looks at the same process; what cannot be known is left out and never made up.

use std::{collections::VecDeque, time::Duration};

use serde::Serialize;
use xdpfs_client::{ClusterStatus, DataNode, DataNodeState, Edge, RequestCounts, TOOK_PLACES};

/// How far it goes back.
pub const KEPT: Duration = Duration::from_secs(900);
/// How often somebody looks.
pub(crate) const LOOK_EVERY: Duration = Duration::from_secs(2);
const SAMPLES_MAX: usize = (KEPT.as_millis() / LOOK_EVERY.as_millis()) as usize;
/// What lies between two looks further apart is not known: nobody looked.
const GAP_MAX: Duration = Duration::from_secs(30);
/// The upper bound of the first place of [`RequestCounts::took`], in microseconds.
const FIRST_PLACE_US: f64 = 64.0;

/// What happened between two looks. Names are those of `xdpfs-cli top --json` where that has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// When it ends: milliseconds since the Unix epoch on this server's clock.
    pub(crate) time_ms: u64,
    pub(crate) interval_ms: u64,
    pub(crate) changes_per_second: f64,
    pub(crate) written_bytes_per_second: f64,
    pub(crate) read_bytes_per_second: f64,
    /// Packets that kernel programs and edges have seen.
    pub(crate) packets_per_second: f64,
    pub(crate) refused_per_second: f64,
    /// Requests of clients to the leader. None: another server leads, or has been started again.
    pub(crate) requests_per_second: Option<f64>,
    pub(crate) failed_per_second: Option<f64>,
    /// None also: there were no requests.
    pub(crate) latency_p50_us: Option<f64>,
    pub(crate) latency_p99_us: Option<f64>,
}

/// The last looks.
#[derive(Debug, Default)]
pub(crate) struct History {
    /// The last look: when, since whatever epoch, and what was there.
    last: Option<(Duration, ClusterStatus)>,
    samples: VecDeque<Sample>,
}

impl History {
    /// Somebody has looked at `now`, measured on a clock that never runs back; `time_ms` is what people call it.
    pub(crate) fn note(&mut self, now: Duration, time_ms: u64, status: ClusterStatus) {
        if let Some((then, before)) = self.last.take() {
            let elapsed = now.saturating_sub(then);
            if !elapsed.is_zero() && elapsed <= GAP_MAX {
                if self.samples.len() == SAMPLES_MAX {
                    self.samples.pop_front();
                }
                self.samples.push_back(sample(&before, &status, elapsed, time_ms));
            }
        }
        self.last = Some((now, status));
    }

    /// Samples that end after `time_ms`, the oldest first.
    pub(crate) fn after(&self, time_ms: u64) -> Vec<Sample> {
        self.samples.iter().filter(|sample| sample.time_ms > time_ms).cloned().collect()
    }
}

fn sample(before: &ClusterStatus, after: &ClusterStatus, elapsed: Duration, time_ms: u64) -> Sample {
    let rate = |count: u64| count as f64 / elapsed.as_secs_f64();
    let nodes: Vec<_> = after.data_nodes.iter().filter_map(|node| pair(before, node)).collect();
    let of_nodes = |count: fn(&DataNode) -> u64| -> u64 {
        let counts = nodes.iter().map(|(before, after)| count(after).saturating_sub(count(before)));
        counts.fold(0, u64::saturating_add)
    };
    let of_edges = |count: fn(&Edge) -> u64| -> u64 {
        let edges = after.edges.iter().filter_map(|edge| {
            let before = before.edges.iter().find(|other| other.address == edge.address)?;
            Some(count(edge).saturating_sub(count(before)))
        });
        edges.fold(0, u64::saturating_add)
    };
    let packets = of_nodes(|node| total(node.xdp_packets.values()));
    let packets = packets.saturating_add(of_edges(|edge| total(edge.packets.values())));
    let refused = of_nodes(|node| total(node.rejects.values()));
    let refused = refused.saturating_add(of_edges(|edge| total(edge.rejects.values())));
    let requests = requests_between(before, after);
    let took = requests.map(|requests| requests.took);
    Sample {
        time_ms,
        interval_ms: elapsed.as_millis() as u64,
        changes_per_second: rate(after.commit_index.saturating_sub(before.commit_index)),
        written_bytes_per_second: rate(of_nodes(|node| node.written_bytes)),
        read_bytes_per_second: rate(of_nodes(|node| node.read_bytes)),
        packets_per_second: rate(packets),
        refused_per_second: rate(refused),
        requests_per_second: took.map(|took| rate(total(took.iter()))),
        failed_per_second: requests.map(|requests| rate(requests.failed)),
        latency_p50_us: took.and_then(|took| quantile(&took, 0.5)),
        latency_p99_us: took.and_then(|took| quantile(&took, 0.99)),
    }
}

/// Numbers of others, which may be anything.
fn total<'a>(counts: impl Iterator<Item = &'a u64>) -> u64 {
    counts.fold(0, |sum, count| sum.saturating_add(*count))
}

/// A node before and after, if it is the same start of it and was heard of both times.
fn pair<'a>(before: &'a ClusterStatus, after: &'a DataNode) -> Option<(&'a DataNode, &'a DataNode)> {
    let before = before.data_nodes.iter().find(|node| (node.id, node.epoch) == (after.id, after.epoch))?;
    let is_heard = |node: &DataNode| node.state == DataNodeState::Alive;
    (is_heard(before) && is_heard(after)).then_some((before, after))
}

/// `None` unless the same start of the same server has counted both.
fn requests_between(before: &ClusterStatus, after: &ClusterStatus) -> Option<RequestCounts> {
    let (one, other) = (before.requests?, after.requests?);
    let mut took = [0; TOOK_PLACES];
    for (place, (after, before)) in took.iter_mut().zip(other.took.iter().zip(&one.took)) {
        *place = after.checked_sub(*before)?;
    }
    let failed = other.failed.checked_sub(one.failed)?;
    (before.server_id == after.server_id).then_some(RequestCounts { failed, took })
}

/// In microseconds, on a straight line between the bounds of its place.
fn quantile(took: &[u64; TOOK_PLACES], share: f64) -> Option<f64> {
    let all = total(took.iter());
    if all == 0 {
        return None;
    }
    let wanted = all as f64 * share;
    let (mut below, mut lower, mut upper) = (0.0, 0.0, FIRST_PLACE_US);
    for (place, count) in took.iter().enumerate() {
        let count = *count as f64;
        if below + count >= wanted && count > 0.0 {
            // How much longer those of the last place took is not known.
            let is_last = place == TOOK_PLACES - 1;
            let within = if is_last { 0.0 } else { (wanted - below) / count };
            return Some(lower + (upper - lower) * within);
        }
        below += count;
        (lower, upper) = (upper, upper * 2.0);
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{node, status};

    const SECOND: Duration = Duration::from_secs(1);

    fn took(place: usize, count: u64) -> RequestCounts {
        let mut counts = RequestCounts::default();
        counts.took[place] = count;
        counts
    }

    /// The sample between two looks, two seconds apart.
    fn between(before: ClusterStatus, after: ClusterStatus) -> Sample {
        let mut history = History::default();
        history.note(SECOND, 1000, before);
        assert!(history.after(0).is_empty(), "one look is no rate");
        history.note(SECOND * 3, 3000, after);
        history.after(0).pop().unwrap()
    }

    #[test]
    fn rates_are_of_the_time_between() {
        let mut after = status();
        after.commit_index += 10;
        after.data_nodes[0].written_bytes += 4096;
        after.data_nodes[0].read_bytes += 100;
        after.data_nodes[0].rejects.insert("expired".into(), 6);
        *after.edges[0].packets.entry("routed".into()).or_default() += 20;
        after.requests = Some(took(2, 8));
        let before = ClusterStatus { requests: Some(RequestCounts::default()), ..status() };
        let sample = between(before, after);
        assert_eq!((sample.time_ms, sample.interval_ms), (3000, 2000));
        assert_eq!(sample.changes_per_second, 5.0);
        assert_eq!((sample.written_bytes_per_second, sample.read_bytes_per_second), (2048.0, 50.0));
        assert_eq!((sample.packets_per_second, sample.refused_per_second), (10.0, 3.0));
        assert_eq!((sample.requests_per_second, sample.failed_per_second), (Some(4.0), Some(0.0)));
        assert_eq!(sample.latency_p50_us, Some(192.0), "half way from 128 to 256");
    }

    #[test]
    fn what_another_process_has_counted_is_no_rate() {
        let check = |change: &dyn Fn(&mut ClusterStatus, &mut ClusterStatus)| {
            let (mut before, mut after) = (status(), status());
            after.data_nodes[0].written_bytes += 1 << 40;
            (before.requests, after.requests) = (Some(took(0, 1)), Some(took(0, 5)));
            change(&mut before, &mut after);
            between(before, after)
        };
        let written = |sample: Sample| sample.written_bytes_per_second;
        assert!(written(check(&|_, _| {})) > 0.0);
        assert_eq!(written(check(&|_, after| after.data_nodes[0].epoch += 1)), 0.0, "started again");
        assert_eq!(
            written(check(&|before, _| before.data_nodes[0].state = DataNodeState::Silent)),
            0.0,
            "nothing was known"
        );
        assert_eq!(written(check(&|before, _| before.data_nodes.clear())), 0.0, "it is new");
        assert!(check(&|_, _| {}).requests_per_second.is_some());
        assert_eq!(check(&|_, after| after.server_id += 1).requests_per_second, None, "another leader");
        assert_eq!(check(&|_, after| after.requests = None).requests_per_second, None, "an older server");
        let restarted = check(&|_, after| after.requests = Some(took(0, 0)));
        assert_eq!(restarted.requests_per_second, None, "a leader that was started again");
    }

    #[test]
    fn history_is_bounded_and_has_no_line_over_a_gap() {
        let mut history = History::default();
        for look in 0..2 * SAMPLES_MAX as u64 {
            history.note(LOOK_EVERY * look as u32, look * 2000, status());
        }
        let samples = history.after(0);
        assert_eq!(samples.len(), SAMPLES_MAX);
        assert_eq!(history.after(samples[SAMPLES_MAX - 3].time_ms).len(), 2);
        let last = samples.last().map(|sample| sample.time_ms);
        history.note(LOOK_EVERY * 5000, 10_000_000, status());
        assert_eq!(history.after(0).last().map(|sample| sample.time_ms), last);
    }

    #[test]
    fn quantiles_lie_within_their_place() {
        assert_eq!(quantile(&[0; TOOK_PLACES], 0.5), None);
        assert_eq!(quantile(&took(0, 100).took, 0.5), Some(32.0));
        let last = quantile(&took(TOOK_PLACES - 1, 1).took, 0.99).unwrap();
        assert_eq!(last, 64.0 * f64::from(1 << 16));
        let mut mixed = took(0, 98);
        mixed.took[10] = 2;
        assert!(quantile(&mixed.took, 0.5).unwrap() <= 64.0);
        assert!(quantile(&mixed.took, 0.99).unwrap() > 32_000.0);
    }

    #[test]
    fn numbers_that_are_too_large_do_no_harm() {
        let nodes = vec![node(7), node(8), node(9)];
        let before = ClusterStatus { data_nodes: nodes, ..status() };
        let mut after = before.clone();
        for node in &mut after.data_nodes {
            node.written_bytes = u64::MAX;
            node.rejects = [("a".to_owned(), u64::MAX), ("b".to_owned(), u64::MAX)].into();
        }
        assert!(between(before, after).written_bytes_per_second.is_finite());
    }
}
