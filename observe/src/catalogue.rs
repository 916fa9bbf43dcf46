//! All metrics: what they are called, what they measure and in which unit.
//!
//! Names follow OpenMetrics 1.0: base, then unit, then `_total` for what only rises. `docs/metrics.md` is made from this.

use std::fmt;

/// Before every name.
const PREFIX: &str = "xdpfs";

/// How a metric moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Only rises, and begins at zero with the process.
    Counter,
    /// Goes up and down.
    Gauge,
    /// How often values fell below each of several bounds.
    Histogram,
}

/// What a metric counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    /// Bytes.
    Bytes,
    /// Seconds.
    Seconds,
}

/// Whose metric it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Process {
    /// `xdpfs-meta-server`
    Meta,
    /// `xdpfs-data-node`
    Node,
    /// `xdpfs-data-node edge`
    Edge,
    /// `xdpfs-gateway`
    Gateway,
}

/// One metric.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metric {
    /// Its name without prefix, unit and `_total`.
    pub base: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// What it counts; pure numbers have none.
    pub unit: Option<Unit>,
    /// What its values are told apart by.
    pub labels: &'static [&'static str],
    /// Who has it.
    pub of: &'static [Process],
    help: &'static str,
}

impl Metric {
    /// The name that a query uses; a histogram has it before `_bucket`, `_sum` and `_count`.
    #[must_use]
    pub fn name(&self) -> String {
        let unit = self.unit.map(|unit| format!("_{unit}")).unwrap_or_default();
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("{}{unit}{total}", self.prefixed())
    }

    /// What it means, in a sentence.
    #[must_use]
    pub fn help(&self) -> &'static str {
        self.help.trim_start()
    }

    pub(crate) fn prefixed(&self) -> String {
        format!("{PREFIX}_{}", self.base)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        })
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Bytes => "bytes",
            Self::Seconds => "seconds",
        })
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Meta => "meta server",
            Self::Node => "data node",
            Self::Edge => "edge",
            Self::Gateway => "gateway",
        })
    }
}

/// All metrics of `process`, in the order of the page.
pub fn of(process: Process) -> impl Iterator<Item = &'static Metric> {
    ALL.iter().copied().filter(move |metric| metric.of.contains(&process))
}

macro_rules! unit {
    () => {
        None
    };
    ($unit:ident) => {
        Some(Unit::$unit)
    };
}

macro_rules! catalogue {
    ($($(#[doc = $help:literal])+ $name:ident = $kind:ident $base:literal $([$unit:ident])? $({$($label:literal),+})? of $($of:ident),+;)*) => {
        $(
            $(#[doc = $help])+
            pub const $name: Metric = Metric {
                base: $base,
                kind: Kind::$kind,
                unit: unit!($($unit)?),
                labels: &[$($($label),+)?],
                of: &[$(Process::$of),+],
                help: concat!($($help),+),
            };
        )*

        /// Every metric there is.
        pub const ALL: &[&Metric] = &[$(&$name),*];
    };
}

catalogue! {
    /// Always one; the labels say which program this is.
    BUILD = Gauge "build_info" {"version", "role"} of Meta, Node, Edge, Gateway;
    /// Since the process started.
    UPTIME = Gauge "process_uptime" [Seconds] of Meta, Node, Edge, Gateway;
    /// Memory that the process holds (`VmRSS`).
    RESIDENT = Gauge "process_resident_memory" [Bytes] of Meta, Node, Edge, Gateway;
    /// Descriptors that the process has open.
    DESCRIPTORS = Gauge "process_open_descriptors" of Meta, Node, Edge, Gateway;
    /// One if the process can serve: a meta server that knows a leader, a node or an edge that has heard from one within
    /// ten seconds, a node of whose disks one at least has not failed, a gateway that knows a metadata server which serves.
    READY = Gauge "ready" of Meta, Node, Edge, Gateway;
    /// Spans of traces (`--otlp-endpoint`), by what became of them: the collector has taken them (`sent`), or they are gone
    /// because it is slow or down (`lost`).
    TRACE_SPANS = Counter "trace_spans" {"outcome"} of Meta;

    /// One on the server that leads, zero elsewhere. The sum over a healthy cluster is one.
    META_LEADS = Gauge "meta_leads" of Meta;
    /// The Raft id of the leader that this server knows; zero if it knows none.
    META_LEADER = Gauge "meta_leader_id" of Meta;
    /// The Raft term. It rises with each election.
    META_TERM = Gauge "meta_term" of Meta;
    /// Entries of the log that are agreed on.
    META_COMMITTED = Gauge "meta_commit_index" of Meta;
    /// Entries of the log that are in this server's state.
    META_APPLIED = Gauge "meta_applied_index" of Meta;
    /// On the leader: entries that a server does not hold yet.
    META_VOTER_LAG = Gauge "meta_voter_lag_entries" {"server"} of Meta;
    /// On the leader: one if a server was heard of of late, zero if not.
    META_VOTER_HEARD = Gauge "meta_voter_heard" {"server"} of Meta;
    /// On the leader: what a change waits for, by stage. `replicate`: from its proposal until a majority holds it,
    /// this server's own disk included. `apply`: from there until it is in the state.
    META_COMMIT = Histogram "meta_commit_stage" [Seconds] {"stage"} of Meta;
    /// How long making the log durable takes (`fdatasync`), for all changes that wait at once.
    META_LOG_SYNC = Histogram "meta_log_sync" [Seconds] of Meta;
    /// Messages of Raft sent to other servers, by kind: `append`, `heartbeat` and what is answered to these, `vote`, `snapshot`
    /// (its announcement, once for all its parts), `other`.
    META_MESSAGES = Counter "meta_raft_messages" {"kind"} of Meta;
    /// Requests that ended, by gRPC method and by code. `OK` includes what ended with an error after its headers.
    META_REQUESTS = Counter "meta_requests" {"method", "code"} of Meta;
    /// How long requests took, by gRPC method, refused ones included.
    META_REQUEST = Histogram "meta_request" [Seconds] {"method"} of Meta;
    /// Buckets.
    META_BUCKETS = Gauge "meta_buckets" of Meta;
    /// Visible objects.
    META_OBJECTS = Gauge "meta_objects" of Meta;
    /// Bytes of visible objects, each counted once.
    META_OBJECT_BYTES = Gauge "meta_objects_size" [Bytes] of Meta;
    /// Puts that have begun and not ended.
    META_UPLOADS = Gauge "meta_open_uploads" of Meta;
    /// Replicas that puts were asked for and could not place.
    META_REPLICA_DEBT = Gauge "meta_replica_debt" of Meta;
    /// Chunks that nodes are yet to remove.
    META_PENDING_DELETES = Gauge "meta_pending_deletes" of Meta;
    /// On the leader: chunks that are to get a replica, by how many good ones they have.
    META_REPAIR_CHUNKS = Gauge "meta_repair_chunks" {"live_replicas"} of Meta;
    /// On the leader: bytes that repair has yet to copy.
    META_REPAIR_LEFT = Gauge "meta_repair_left" [Bytes] of Meta;
    /// On the leader: chunks that nodes are making for repair.
    META_REPAIR_IN_PROGRESS = Gauge "meta_repair_in_progress" of Meta;
    /// On the leader: chunks that nothing can be done for at present, for want of a node (`place`) or of a replica that can be
    /// read (`source`).
    META_REPAIR_STUCK = Gauge "meta_repair_stuck" {"lack"} of Meta;
    /// On the leader, since it began to lead: bytes that repair has made anew.
    META_REPAIRED = Gauge "meta_repaired" [Bytes] of Meta;
    /// On the leader: bytes that are yet to be moved so that data nodes are evenly full.
    META_REBALANCE_LEFT = Gauge "meta_rebalance_left" [Bytes] of Meta;
    /// On the leader: chunks that are being moved so that data nodes are evenly full.
    META_REBALANCE_IN_PROGRESS = Gauge "meta_rebalance_in_progress" of Meta;
    /// On the leader, since it began to lead: bytes that were moved so that data nodes are evenly full.
    META_REBALANCED = Gauge "meta_rebalanced" [Bytes] of Meta;
    /// Whether operators want nothing to be moved so that data nodes are evenly full.
    META_REBALANCE_PAUSED = Gauge "meta_rebalance_paused" of Meta;
    /// The newest epoch of the secrets that capabilities are made with.
    META_KEY_EPOCH = Gauge "meta_key_epoch" of Meta;
    /// What the cluster uses (`cluster`), and the highest that this server's program supports (`server`).
    META_FEATURE_LEVEL = Gauge "meta_feature_level" {"of"} of Meta;
    /// On the leader: registered data nodes, by whether they are heard of (`alive`, `silent`).
    META_NODES = Gauge "meta_data_nodes" {"state"} of Meta;
    /// On the leader: bytes that chunks take on a node, garbage included.
    META_NODE_USED = Gauge "meta_data_node_used" [Bytes] {"node"} of Meta;
    /// On the leader: bytes that chunks may take on a node.
    META_NODE_CAPACITY = Gauge "meta_data_node_capacity" [Bytes] {"node"} of Meta;

    /// Requests that passed the validator.
    NODE_ACCEPTED = Counter "node_requests_accepted" of Node;
    /// Datagrams that user space refused, by reason (docs/protocol.md). What the kernel program refuses is in
    /// `xdpfs_xdp_rejects_total`.
    NODE_REJECTS = Counter "node_rejects" {"reason"} of Node;
    /// Pieces of chunks that arrived more than once: clients have sent them again.
    NODE_DUPLICATES = Counter "node_duplicate_pieces" of Node;
    /// Uploads that were forgotten because nothing came any more.
    NODE_UPLOADS_EXPIRED = Counter "node_uploads_expired" of Node;
    /// Bursts that readers wanted one datagram at a time, since super-packets are damaged or lost on their way.
    NODE_BURSTS_ONE_BY_ONE = Counter "node_bursts_one_by_one" of Node;
    /// Bytes that chunks may take on the disk. Disks are told apart by their UUIDs; `data-dir` is the one of the data directory.
    STORE_CAPACITY = Gauge "store_capacity" [Bytes] {"disk"} of Node;
    /// Bytes that chunks take, garbage included.
    STORE_USED = Gauge "store_used" [Bytes] {"disk"} of Node;
    /// Bytes that can be written before room has to be made.
    STORE_FREE = Gauge "store_free" [Bytes] {"disk"} of Node;
    /// Chunks that can be read.
    STORE_CHUNKS = Gauge "store_chunks" {"disk"} of Node;
    /// One once the disk has failed: nothing is written to it any more. A disk that could not be used from the start has no other
    /// metric.
    STORE_FENCED = Gauge "store_fenced" {"disk"} of Node;
    /// How long making a batch of chunks durable takes, from its submission on.
    STORE_SYNC = Histogram "store_sync" [Seconds] {"disk"} of Node;
    /// Chunks that were made durable.
    STORE_PUTS = Counter "store_chunks_written" {"disk"} of Node;
    /// Bytes of chunks that were made durable.
    STORE_PUT_BYTES = Counter "store_written" [Bytes] {"disk"} of Node;
    /// Ranges of chunks that were read.
    STORE_READS = Counter "store_reads" {"disk"} of Node;
    /// Bytes that were read.
    STORE_READ_BYTES = Counter "store_read" [Bytes] {"disk"} of Node;
    /// Chunks that failed their checksum on the disk since the start; they are out of service.
    STORE_DAMAGED = Counter "store_chunks_damaged" {"disk"} of Node;
    /// Bytes of live chunks that compaction has moved.
    STORE_MOVED_BYTES = Counter "store_compaction_moved" [Bytes] {"disk"} of Node;
    /// Bytes that durable writes have brought to the disk: chunks, what compaction copies, and what is written about them.
    STORE_BATCH_BYTES = Counter "store_batch_written" [Bytes] {"disk"} of Node;
    /// Bytes of memory that the cache may take.
    STORE_CACHE_CAPACITY = Gauge "store_cache_capacity" [Bytes] {"disk"} of Node;
    /// Bytes of memory that it takes.
    STORE_CACHE_BYTES = Gauge "store_cache_used" [Bytes] {"disk"} of Node;
    /// Pages that were asked for and found in the cache.
    STORE_CACHE_HITS = Counter "store_cache_hits" {"disk"} of Node;
    /// Pages that were asked for and not found in it.
    STORE_CACHE_MISSES = Counter "store_cache_misses" {"disk"} of Node;
    /// Bytes that read-ahead found worth reading for clients that read straight on.
    STORE_AHEAD_BYTES = Counter "store_read_ahead" [Bytes] {"disk"} of Node;
    /// Those of them that were asked for later.
    STORE_AHEAD_USED_BYTES = Counter "store_read_ahead_used" [Bytes] {"disk"} of Node;
    /// Those of them that were given up, as their client went elsewhere.
    STORE_AHEAD_CANCELLED_BYTES = Counter "store_read_ahead_cancelled" [Bytes] {"disk"} of Node;
    /// Bytes of memory that it takes to know where chunks lie.
    STORE_INDEX_BYTES = Gauge "store_index" [Bytes] {"disk"} of Node;
    /// One if the disk is reached past the kernel's cache (`O_DIRECT`); the log says why not.
    STORE_DIRECT = Gauge "store_io_direct" {"disk"} of Node;
    /// One if it is reached by io_uring.
    STORE_IO_URING = Gauge "store_io_uring" {"disk"} of Node;
    /// Bytes of chunks that the scrub has read and checked since the start.
    SCRUB_BYTES = Counter "scrub_checked" [Bytes] {"disk"} of Node;
    /// Chunks that the scrub has checked since the start.
    SCRUB_CHUNKS = Counter "scrub_chunks_checked" {"disk"} of Node;
    /// Chunks that the scrub has found damaged since the start; they are out of service, and in the count of the store, too.
    SCRUB_DAMAGED = Counter "scrub_chunks_damaged" {"disk"} of Node;
    /// Damaged places where no chunk in service was, as often as a pass has met them since the start.
    SCRUB_PLACES = Counter "scrub_places_damaged" {"disk"} of Node;
    /// Reads of the scrub that the disk refused since the start.
    SCRUB_READ_ERRORS = Counter "scrub_read_errors" {"disk"} of Node;
    /// How far the pass that is under way is, from zero to one; zero without one.
    SCRUB_PROGRESS = Gauge "scrub_pass_progress" {"disk"} of Node;
    /// When the last pass ended, since the Unix epoch; missing until one has.
    SCRUB_LAST_END = Gauge "scrub_last_pass_end" [Seconds] {"disk"} of Node;

    /// The last second, since the Unix epoch, in which the process's own certificate holds; missing without one.
    CERTIFICATE_EXPIRES = Gauge "certificate_expires" [Seconds] of Meta, Node, Edge, Gateway;

    /// Always one; the label says where the kernel program runs: `native`, `generic` or `off`.
    XDP_MODE = Gauge "xdp_mode_info" {"mode"} of Node, Edge;
    /// Packets by how they ended in the kernel program (docs/xdp.md), since it was loaded.
    XDP_PACKETS = Counter "xdp_packets" {"fate"} of Node, Edge;
    /// Datagrams that the kernel program refused, by reason.
    XDP_REJECTS = Counter "xdp_rejects" {"reason"} of Node, Edge;

    /// Clients that are relayed in user space at present.
    EDGE_FLOWS = Gauge "edge_flows" of Edge;
    /// Data nodes behind the edge.
    EDGE_NODES = Gauge "edge_data_nodes" of Edge;
    /// Datagrams in the relay of user space, by what became of them.
    EDGE_RELAY = Counter "edge_relay_datagrams" {"event"} of Edge;
    /// Datagrams that the relay refused, by reason.
    EDGE_REJECTS = Counter "edge_rejects" {"reason"} of Edge;

    /// Calls that ended, by method of `xdpfs.object.v1` and by gRPC code; `CANCELLED` are those whose callers went away.
    GATEWAY_CALLS = Counter "gateway_calls" {"method", "code"} of Gateway;
    /// How long calls took, by method, from their first message to their last.
    GATEWAY_CALL = Histogram "gateway_call" [Seconds] {"method"} of Gateway;
    /// Calls that are under way.
    GATEWAY_UNDER_WAY = Gauge "gateway_calls_under_way" of Gateway;
    /// Calls that may be under way at once.
    GATEWAY_CALLS_MAX = Gauge "gateway_calls_max" of Gateway;
    /// Bytes of objects that came from callers.
    GATEWAY_RECEIVED = Counter "gateway_received" [Bytes] of Gateway;
    /// Bytes of objects that went to callers.
    GATEWAY_SENT = Counter "gateway_sent" [Bytes] of Gateway;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_and_follow_the_rules_of_open_metrics() {
        let names: BTreeSet<String> = ALL.iter().map(|metric| metric.name()).collect();
        assert_eq!(names.len(), ALL.len());
        for metric in ALL {
            let good = |text: &str| text.chars().all(|c| c.is_ascii_lowercase() || c == '_');
            assert!(good(metric.base) && metric.labels.iter().all(|label| good(label)), "{}", metric.base);
            assert!(!metric.base.ends_with("_total"), "{}: it is added", metric.base);
            assert!(metric.help().ends_with('.') && !metric.of.is_empty(), "{}", metric.base);
        }
    }

    #[test]
    fn name_has_its_unit_and_its_kind() {
        assert_eq!(STORE_PUT_BYTES.name(), "xdpfs_store_written_bytes_total");
        assert_eq!(META_LOG_SYNC.name(), "xdpfs_meta_log_sync_seconds");
        assert_eq!(READY.name(), "xdpfs_ready");
    }
}
