//! Counts what is sent to other servers.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use raft::eraftpb::MessageType;

/// The kinds that are told apart.
const KINDS: [&str; 7] =
    ["append", "append_response", "heartbeat", "heartbeat_response", "vote", "snapshot", "other"];

/// Messages by their kind. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traffic(Arc<[AtomicU64; KINDS.len()]>);

impl Traffic {
    pub(super) fn note(&self, message: MessageType) {
        self.0[kind(message)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many messages were sent, by kind.
    pub(crate) fn counts(&self) -> impl Iterator<Item = ([&'static str; 1], u64)> {
        KINDS.iter().zip(&*self.0).map(|(kind, count)| ([*kind], count.load(Ordering::Relaxed)))
    }
}

const fn kind(message: MessageType) -> usize {
    match message {
        MessageType::MsgAppend => 0,
        MessageType::MsgAppendResponse => 1,
        MessageType::MsgHeartbeat => 2,
        MessageType::MsgHeartbeatResponse => 3,
        MessageType::MsgRequestVote
        | MessageType::MsgRequestVoteResponse
        | MessageType::MsgRequestPreVote
        | MessageType::MsgRequestPreVoteResponse => 4,
        MessageType::MsgSnapshot => 5,
        _ => 6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_by_kind() {
        let traffic = Traffic::default();
        for message in [
            MessageType::MsgAppend,
            MessageType::MsgHeartbeat,
            MessageType::MsgHeartbeat,
            MessageType::MsgRequestPreVote,
            MessageType::MsgTimeoutNow,
        ] {
            traffic.clone().note(message);
        }
        let counts: Vec<_> = traffic.counts().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counts, [(["append"], 1), (["heartbeat"], 2), (["vote"], 1), (["other"], 1)]);
    }
}
