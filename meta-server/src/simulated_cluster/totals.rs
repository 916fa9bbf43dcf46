//! What happened in many runs.

use crate::totals::totals;

totals! {
    simulated_ms: "simulated milliseconds",
    steps: "steps, after each of which that has changed anything all was looked at",
    entries: "entries of the log",
    puts: "puts acknowledged",
    late_commits: "commits refused because their upload was over",
    stale_commits: "commits refused because of their receipts",
    deletes: "deletes acknowledged",
    reads: "reads by a manifest",
    bad_reads: "replicas that a reader found wanting",
    fetched: "replicas made by repair",
    cleared: "replicas that were to be made and were there",
    changes: "changes of a manifest by repair",
    vain_changes: "changes of a manifest that came too late",
    fences: "registrations ended by the leader",
    registrations: "registrations",
    removed: "replicas removed after their grace",
    messages_lost: "messages lost",
    crashes: "nodes that started again",
    wipes: "nodes that started again with nothing on their disk",
    newcomers: "of these, as other nodes",
    freezes: "nodes frozen",
    cuts: "nodes cut off, often in one direction only",
    slow: "nodes made slow",
    full: "disks full",
    rotten: "chunks rotten",
    drains: "nodes drained",
    elections: "leaders elected",
    commands_lost: "commands lost with their leader",
    standstills: "standstills of all metadata servers",
    odd_clients: "clients that left a put, or came back to it late",
    stranded: "chunks left behind that nobody refers to",
    heal_ms: "milliseconds until all was whole again, together",
}

impl Totals {
    /// What never happened.
    pub(super) fn missing(&self) -> Vec<&'static str> {
        self.counts().filter(|(count, _)| *count == 0).map(|(_, words)| words).collect()
    }
}
