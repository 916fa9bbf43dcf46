//! What `xdpfs-cli --json status` says, as far as tests look at it.

use serde_json::Value;

use super::Member;

/// One answer.
#[derive(Clone, Debug)]
pub struct ClusterStatus {
    /// The leader's Raft id.
    pub leader_id: Option<u64>,
    /// Data nodes that are alive.
    pub data_nodes_alive: usize,
    /// Replicas that wait to be removed.
    pub pending_deletes: u64,
    /// Uploads begun and not ended.
    pub open_uploads: u64,
    /// Bytes that all data nodes use together.
    pub used_bytes: u64,
    /// Everything else.
    pub raw: Value,
}

impl ClusterStatus {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let raw: Value = serde_json::from_str(text.lines().next()?).ok()?;
        let number = |name: &str| raw.get(name).and_then(Value::as_u64);
        let nodes = raw.get("data_nodes").and_then(Value::as_array).cloned().unwrap_or_default();
        let alive = |node: &&Value| node.get("state").and_then(Value::as_str) == Some("alive");
        let used = |node: &Value| node.get("used_bytes").and_then(Value::as_u64).unwrap_or(0);
        Some(Self {
            leader_id: number("leader_id").filter(|id| *id != 0),
            data_nodes_alive: nodes.iter().filter(alive).count(),
            pending_deletes: number("pending_deletes")?,
            open_uploads: number("open_uploads")?,
            used_bytes: nodes.iter().map(used).sum(),
            raw,
        })
    }

    /// The leader, as the server that answered knows it.
    #[must_use]
    pub fn leader(&self) -> Option<Member> {
        self.leader_id.map(|id| Member::MetaServer(id as usize - 1))
    }

    /// Datagrams that all data nodes refused for a reason, by its name.
    #[must_use]
    pub fn rejects(&self, reason: &str) -> u64 {
        let nodes = self.raw.get("data_nodes").and_then(Value::as_array).into_iter().flatten();
        let count = |node: &Value| node.get("rejects")?.get(reason)?.as_u64();
        nodes.filter_map(count).sum()
    }
}
