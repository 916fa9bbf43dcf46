//! What happened in many runs.

use super::cluster::Cluster;
use crate::totals::totals;

totals! {
    of_three: "runs that began with three servers",
    of_five: "runs that began with five servers",
    simulated_ms: "simulated milliseconds",
    entries: "committed entries",
    elections: "terms with a leader",
    changes: "changes acknowledged to clients",
    reads: "reads served",
    operations: "operations in histories judged linearizable",
    unknown_outcomes: "attempts without an answer",
    left_open: "operations left open",
    given_up: "requests given up after a refusal",
    crashes: "crashes",
    lost: "power lost during a sync, nothing left of it",
    torn: "power lost during a sync, half of it left",
    corrupt: "power lost during a sync, a bit of it flipped",
    kept: "power lost during a sync, all of it there",
    messages_lost: "messages lost",
    messages_doubled: "messages doubled",
    messages_cut_off: "messages cut off by a partition",
    partitions: "partitions",
    one_way_partitions: "partitions one way",
    pauses: "pauses",
    clock_jumps: "jumps of a wall clock",
    snapshots: "snapshots sent",
    wishes: "wishes about the members fulfilled",
    configured: "changes of the voters and learners",
}

impl Totals {
    pub(super) fn of(cluster: &Cluster, operations: u64) -> Self {
        let (seen, troubles, network) = (&cluster.seen, &cluster.troubles, &cluster.network);
        Self {
            of_three: u64::from(cluster.voters.len() == 3),
            of_five: u64::from(cluster.voters.len() == 5),
            simulated_ms: cluster.now_ms,
            entries: cluster.checks.committed_index(),
            elections: cluster.checks.elections() as u64,
            changes: seen.changes,
            reads: seen.reads,
            operations,
            unknown_outcomes: seen.unknown_outcomes,
            left_open: seen.left_open,
            given_up: seen.given_up,
            crashes: troubles.crashes,
            lost: troubles.lost,
            torn: troubles.torn,
            corrupt: troubles.corrupt,
            kept: troubles.kept,
            messages_lost: network.lost,
            messages_doubled: network.doubled,
            messages_cut_off: network.cut_off,
            partitions: troubles.partitions,
            one_way_partitions: troubles.one_way_partitions,
            pauses: troubles.pauses,
            clock_jumps: troubles.clock_jumps,
            snapshots: network.snapshots,
            wishes: cluster.operator.done,
            configured: cluster.checks.configured,
        }
    }

    /// A simulation in which something never happens shows nothing about it.
    pub(super) fn is_rich(&self) -> bool {
        let rare = [
            self.left_open,
            self.given_up,
            self.lost,
            self.torn,
            self.corrupt,
            self.kept,
            self.one_way_partitions,
            self.pauses,
            self.clock_jumps,
            self.snapshots,
            self.wishes,
            self.configured,
        ];
        let common = [self.operations, self.entries, self.messages_lost, self.messages_doubled];
        rare.iter().all(|count| *count > 20) && common.iter().all(|count| *count > 1000)
    }
}
