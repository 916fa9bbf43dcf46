//! Which calls fail, and how.

use std::collections::BTreeMap;

use crate::error::Error;

/// A method of [`ObjectClient`](crate::ObjectClient) that can fail.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Method {
    /// `bucket`
    Bucket,
    /// `buckets`
    Buckets,
    /// `cluster_status`
    ClusterStatus,
    /// `commit`
    Commit,
    /// `copy`
    Copy,
    /// `copy_across`
    CopyAcross,
    /// `create_bucket`
    CreateBucket,
    /// `delete`, `delete_with`
    Delete,
    /// `delete_bucket`
    DeleteBucket,
    /// `drain_node`
    DrainNode,
    /// `drain_plan`
    DrainPlan,
    /// `explain_placement`
    ExplainPlacement,
    /// `get`
    Get,
    /// `label_node`
    LabelNode,
    /// `list`
    List,
    /// `list_versions`
    ListVersions,
    /// `pause_rebalance`
    PauseRebalance,
    /// `placement`
    Placement,
    /// `put`, also by `put_bytes` and `writer`
    Put,
    /// `rebalance_plan`
    RebalancePlan,
    /// `rebalance_status`
    RebalanceStatus,
    /// `remove_node`
    RemoveNode,
    /// `repair_status`
    RepairStatus,
    /// `scrub_node`
    ScrubNode,
    /// `stat`, `stat_with`
    Stat,
    /// `take_inventory`
    TakeInventory,
    /// `update_bucket`
    UpdateBucket,
}

/// What goes wrong with a call.
#[derive(Debug)]
pub enum Fault {
    /// A get gives this many bytes and then the error, unless it has no more bytes than that.
    Cut {
        /// Bytes given before the error.
        after: u64,
        /// The error.
        error: Error,
    },
    /// The call takes effect, but its caller gets the error.
    LoseAnswer(Error),
    /// The call fails and has no effect.
    Refuse(Error),
}

/// Faults by method and by the number of the call, which starts at 1. Each is used once.
#[derive(Debug, Default)]
pub struct Plan {
    faults: BTreeMap<(Method, u64), Fault>,
    calls: BTreeMap<Method, u64>,
}

impl Plan {
    /// Lets the `call`-th call of `method` fail. A later fault for the same call replaces an earlier one.
    #[must_use]
    pub fn on(mut self, method: Method, call: u64, fault: Fault) -> Self {
        self.faults.insert((method, call), fault);
        self
    }

    /// Counts a call and gives its fault.
    pub(super) fn next(&mut self, method: Method) -> Option<Fault> {
        let calls = self.calls.entry(method).or_default();
        *calls += 1;
        self.faults.remove(&(method, *calls))
    }
}
