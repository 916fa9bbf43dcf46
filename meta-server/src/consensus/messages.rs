//! raft-rs' messages as they travel between servers.
//!
//! Invariant: no byte from the network reaches the protobuf parser that raft-rs brings; what comes in is made field by
//! field from our own messages, and entry data moves without a copy. The data of a snapshot is never in a message.

use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType, Snapshot, SnapshotMetadata};
use xdpfs_proto::raft::v1 as pb;

use super::{COMMAND_BYTES_MAX, core::MESSAGE_BYTES_MAX, membership};

/// Entries in one message: as many as fit into it if all are small.
const ENTRIES_MAX: usize = 1 << 16;
/// Bytes of the entries in one message. A message is full at a bound that its last entry may exceed.
const ENTRY_BYTES_MAX: usize = MESSAGE_BYTES_MAX as usize + COMMAND_BYTES_MAX;
/// Bytes of the context that requests to vote and heartbeats carry.
const CONTEXT_LEN_MAX: usize = 1024;
/// Servers in each list of a configuration.
const SERVERS_MAX: usize = 64;

/// What one server may send to another.
const MESSAGE_TYPES: [MessageType; 14] = [
    MessageType::MsgAppend,
    MessageType::MsgAppendResponse,
    MessageType::MsgHeartbeat,
    MessageType::MsgHeartbeatResponse,
    MessageType::MsgPropose,
    MessageType::MsgReadIndex,
    MessageType::MsgReadIndexResp,
    MessageType::MsgRequestPreVote,
    MessageType::MsgRequestPreVoteResponse,
    MessageType::MsgRequestVote,
    MessageType::MsgRequestVoteResponse,
    MessageType::MsgSnapshot,
    MessageType::MsgTimeoutNow,
    MessageType::MsgTransferLeader,
];

/// Changes of the configuration have one form only.
const ENTRY_TYPES: [EntryType; 2] = [EntryType::EntryNormal, EntryType::EntryConfChangeV2];

/// Why another server's message is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ConversionError {
    /// A change of the servers that no server writes.
    #[error("entry {index} is no change of the servers")]
    ConfChange {
        /// Which entry.
        index: u64,
    },
    /// The entries do not follow each other, or not the place that the message names.
    #[error("entry {index} is out of order")]
    EntryOrder {
        /// The index of the first one that does not fit.
        index: u64,
    },
    /// No server sends entries of this type.
    #[error("an entry of the unknown type {0}")]
    EntryType(u32),
    /// No server sends messages of this type.
    #[error("a message of the unknown type {0}")]
    MessageType(u32),
    /// A message that carries a snapshot says nothing about it, or nothing that can be.
    #[error("a snapshot without metadata that makes sense")]
    SnapshotMetadata,
    /// Something is larger than any server makes it.
    #[error("too large: {what}")]
    TooLarge {
        /// What it is.
        what: &'static str,
    },
    /// A snapshot in a message of another type.
    #[error("a snapshot in a message of type {0}")]
    UnexpectedSnapshot(u32),
}

/// A message as it is sent. The data of a snapshot stays here.
#[must_use]
pub fn message_to_wire(message: &Message) -> pb::Message {
    pb::Message {
        msg_type: message.get_msg_type() as u32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message.entries.iter().map(entry_to_wire).collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: message.snapshot.as_ref().map(|snapshot| metadata_to_wire(snapshot.get_metadata())),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context.clone(),
        priority: message.priority,
    }
}

/// The inverse of [`message_to_wire`].
///
/// # Errors
///
/// See [`ConversionError`]: no working server sends such a message.
pub fn message_from_wire(wire: pb::Message) -> Result<Message, ConversionError> {
    let msg_type = message_type(wire.msg_type)?;
    check_sizes(&wire)?;
    if msg_type == MessageType::MsgAppend {
        check_order(&wire)?;
    }
    let entries = wire.entries.into_iter().map(entry_from_wire).collect::<Result<Vec<_>, _>>()?;
    let mut message = Message {
        to: wire.to,
        from: wire.from,
        term: wire.term,
        log_term: wire.log_term,
        index: wire.index,
        entries: entries.into(),
        commit: wire.commit,
        commit_term: wire.commit_term,
        request_snapshot: wire.request_snapshot,
        reject: wire.reject,
        reject_hint: wire.reject_hint,
        context: wire.context,
        priority: wire.priority,
        ..Message::default()
    };
    message.set_msg_type(msg_type);
    match (wire.snapshot, msg_type == MessageType::MsgSnapshot) {
        (Some(metadata), true) => message.set_snapshot(snapshot_from_wire(metadata)?),
        (Some(_), false) => return Err(ConversionError::UnexpectedSnapshot(wire.msg_type)),
        (None, true) => return Err(ConversionError::SnapshotMetadata),
        (None, false) => {}
    }
    Ok(message)
}

fn message_type(number: u32) -> Result<MessageType, ConversionError> {
    let known = MESSAGE_TYPES.into_iter().find(|kind| *kind as u32 == number);
    known.ok_or(ConversionError::MessageType(number))
}

fn check_sizes(wire: &pb::Message) -> Result<(), ConversionError> {
    let too_large = |what| Err(ConversionError::TooLarge { what });
    if wire.entries.len() > ENTRIES_MAX {
        return too_large("the number of entries");
    }
    let bytes = wire.entries.iter().fold(0, |sum: usize, entry| sum.saturating_add(entry.data.len()));
    if bytes > ENTRY_BYTES_MAX {
        return too_large("the entries");
    }
    let contexts = wire.entries.iter().map(|entry| &entry.context).chain([&wire.context]);
    if contexts.into_iter().any(|context| context.len() > CONTEXT_LEN_MAX) {
        return too_large("a context");
    }
    Ok(())
}

/// raft-rs takes it for granted that entries follow each other.
fn check_order(wire: &pb::Message) -> Result<(), ConversionError> {
    let (mut index, mut term) = (wire.index, wire.log_term);
    for entry in &wire.entries {
        let follows = index.checked_add(1) == Some(entry.index);
        if !follows || entry.term < term || entry.term > wire.term {
            return Err(ConversionError::EntryOrder { index: entry.index });
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn entry_to_wire(entry: &Entry) -> pb::Entry {
    pb::Entry {
        entry_type: entry.get_entry_type() as u32,
        term: entry.term,
        index: entry.index,
        data: entry.data.clone(),
        context: entry.context.clone(),
    }
}

fn entry_from_wire(wire: pb::Entry) -> Result<Entry, ConversionError> {
    let known = ENTRY_TYPES.into_iter().find(|kind| *kind as u32 == wire.entry_type);
    let entry_type = known.ok_or(ConversionError::EntryType(wire.entry_type))?;
    let pb::Entry { term, index, data, context, .. } = wire;
    if entry_type == EntryType::EntryConfChangeV2 && membership::decode_change(&data).is_none() {
        return Err(ConversionError::ConfChange { index });
    }
    Ok(Entry { entry_type, term, index, data, context, ..Entry::default() })
}

fn metadata_to_wire(metadata: &SnapshotMetadata) -> pb::SnapshotMetadata {
    let servers = metadata.get_conf_state();
    pb::SnapshotMetadata {
        index: metadata.index,
        term: metadata.term,
        conf_state: Some(pb::ConfState {
            voters: servers.voters.clone(),
            learners: servers.learners.clone(),
            voters_outgoing: servers.voters_outgoing.clone(),
            learners_next: servers.learners_next.clone(),
            auto_leave: servers.auto_leave,
        }),
    }
}

fn snapshot_from_wire(metadata: pb::SnapshotMetadata) -> Result<Snapshot, ConversionError> {
    let servers = metadata.conf_state.ok_or(ConversionError::SnapshotMetadata)?;
    let lists = [&servers.voters, &servers.learners, &servers.voters_outgoing, &servers.learners_next];
    if lists.into_iter().any(|list| list.len() > SERVERS_MAX) {
        return Err(ConversionError::TooLarge { what: "the list of servers" });
    }
    if servers.voters.is_empty() || metadata.index == 0 {
        return Err(ConversionError::SnapshotMetadata);
    }
    let conf_state = ConfState {
        voters: servers.voters,
        learners: servers.learners,
        voters_outgoing: servers.voters_outgoing,
        learners_next: servers.learners_next,
        auto_leave: servers.auto_leave,
        ..ConfState::default()
    };
    let said = lists_of(&conf_state).into_iter().map(<[u64]>::len).sum::<usize>();
    let configuration = membership::configuration(&conf_state);
    let kept = configuration.voters.len()
        + configuration.voters_outgoing.len()
        + configuration.learners.len()
        + configuration.learners_next.len();
    if said != kept || !configuration.is_sound() {
        return Err(ConversionError::SnapshotMetadata);
    }
    let mut snapshot = Snapshot::default();
    let target = snapshot.mut_metadata();
    (target.index, target.term) = (metadata.index, metadata.term);
    target.set_conf_state(conf_state);
    Ok(snapshot)
}

fn lists_of(servers: &ConfState) -> [&[u64]; 4] {
    [&servers.voters, &servers.learners, &servers.voters_outgoing, &servers.learners_next]
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    prop_compose! {
        fn any_entries()(
            index in 0..u64::MAX / 2,
            terms in prop::collection::vec(1..9u64, 0..6),
            data in prop::collection::vec(any::<Vec<u8>>(), 6),
        ) -> (u64, Vec<Entry>) {
            let mut term = 1;
            let entry = |(at, (step, data)): (usize, (u64, Vec<u8>))| {
                term += step;
                Entry { term, index: index + 1 + at as u64, data: data.into(), ..Entry::default() }
            };
            (index, terms.into_iter().zip(data).enumerate().map(entry).collect())
        }
    }

    prop_compose! {
        fn any_message()(
            msg_type in prop::sample::select(MESSAGE_TYPES.to_vec()),
            (index, entries) in any_entries(),
            words: [u64; 6],
            context in prop::collection::vec(any::<u8>(), 0..40),
            reject: bool,
            priority: i64,
            voters in prop::collection::btree_set(10..u64::MAX, 1..5),
        ) -> Message {
            let mut message = Message {
                to: words[0],
                from: words[1],
                term: entries.last().map_or(words[2], |entry| entry.term),
                log_term: 1,
                index,
                entries: entries.into(),
                commit: words[3],
                commit_term: words[4],
                request_snapshot: words[5],
                reject,
                reject_hint: words[0] ^ 7,
                context: context.into(),
                priority,
                ..Message::default()
            };
            message.set_msg_type(msg_type);
            if msg_type == MessageType::MsgSnapshot {
                let metadata = message.mut_snapshot().mut_metadata();
                (metadata.index, metadata.term) = (index + 1, words[4]);
                metadata.set_conf_state(ConfState::from((voters.into_iter().collect::<Vec<_>>(), vec![9])));
            }
            message
        }
    }

    prop_compose! {
        fn any_wire_entry()(entry_type in 0..4u32, term in 0..4u64, index: u64, data: Vec<u8>) -> pb::Entry {
            pb::Entry { entry_type, term, index, data: data.into(), context: Bytes::new() }
        }
    }

    prop_compose! {
        fn any_metadata()(index in 0..3u64, term: u64, voters: Option<Vec<u64>>) -> pb::SnapshotMetadata {
            let conf_state = voters.map(|voters| pb::ConfState { voters, ..Default::default() });
            pb::SnapshotMetadata { index, term, conf_state }
        }
    }

    prop_compose! {
        fn any_wire()(
            msg_type in 0..25u32,
            entries in prop::collection::vec(any_wire_entry(), 0..4),
            snapshot in prop::option::of(any_metadata()),
            index in prop::sample::select(vec![0, 1, u64::MAX - 1, u64::MAX]),
            log_term in 0..4u64,
            context_len in 0..CONTEXT_LEN_MAX * 2,
        ) -> pb::Message {
            let context = vec![0; context_len].into();
            pb::Message { msg_type, entries, snapshot, index, log_term, context, term: 3, ..Default::default() }
        }
    }

    proptest! {
        #[test]
        fn any_message_survives_the_wire(message in any_message()) {
            let bytes = message_to_wire(&message).encode_to_vec();
            let decoded = pb::Message::decode(&bytes[..]).unwrap();
            prop_assert_eq!(message_from_wire(decoded).unwrap(), message);
        }

        #[test]
        fn hostile_bytes_never_panic(bytes: Vec<u8>) {
            let _ = pb::Message::decode(&bytes[..]).map(message_from_wire);
        }

        #[test]
        fn hostile_message_is_refused_or_means_what_it_says(wire in any_wire()) {
            if let Ok(message) = message_from_wire(wire.clone()) {
                let sent = message_to_wire(&message);
                prop_assert_eq!(sent, wire);
                let indexes = message.entries.iter().map(|entry| entry.index);
                let follows = indexes.eq((1..).map_while(|at| message.index.checked_add(at)).take(message.entries.len()));
                prop_assert!(message.get_msg_type() != MessageType::MsgAppend || follows);
                prop_assert_eq!(message.has_snapshot(), message.get_msg_type() == MessageType::MsgSnapshot);
            }
        }
    }

    fn append(entries: &[(u64, u64)]) -> pb::Message {
        let entry =
            |(index, term): &(u64, u64)| pb::Entry { index: *index, term: *term, ..Default::default() };
        let msg_type = MessageType::MsgAppend as u32;
        let entries = entries.iter().map(entry).collect();
        pb::Message { msg_type, term: 7, index: 4, log_term: 5, entries, ..Default::default() }
    }

    fn snapshot(metadata: Option<pb::SnapshotMetadata>) -> pb::Message {
        pb::Message { msg_type: MessageType::MsgSnapshot as u32, snapshot: metadata, ..Default::default() }
    }

    fn metadata(index: u64, voters: Vec<u64>) -> Option<pb::SnapshotMetadata> {
        let conf_state = Some(pb::ConfState { voters, ..Default::default() });
        Some(pb::SnapshotMetadata { index, term: 1, conf_state })
    }

    #[test]
    fn message_that_no_server_sends_is_refused() {
        use ConversionError as E;
        let check = |wire: pb::Message, expect: ConversionError| {
            assert_eq!(message_from_wire(wire).map(|_| ()), Err(expect));
        };
        let of_type = |msg_type: u32| pb::Message { msg_type, ..Default::default() };
        check(of_type(MessageType::MsgHup as u32), E::MessageType(0));
        check(of_type(MessageType::MsgUnreachable as u32), E::MessageType(10));
        check(of_type(99), E::MessageType(99));
        check(append(&[(6, 7)]), E::EntryOrder { index: 6 });
        check(append(&[(5, 4)]), E::EntryOrder { index: 5 });
        check(append(&[(5, 8)]), E::EntryOrder { index: 5 });
        check(append(&[(5, 6), (5, 6)]), E::EntryOrder { index: 5 });
        check(snapshot(None), E::SnapshotMetadata);
        check(
            snapshot(Some(pb::SnapshotMetadata { index: 1, term: 1, conf_state: None })),
            E::SnapshotMetadata,
        );
        check(snapshot(metadata(0, vec![1])), E::SnapshotMetadata);
        check(snapshot(metadata(1, vec![])), E::SnapshotMetadata);
        check(snapshot(metadata(1, vec![1, 2, 2])), E::SnapshotMetadata);
        check(snapshot(metadata(1, vec![0, 1])), E::SnapshotMetadata);
        check(snapshot(metadata(1, vec![1; SERVERS_MAX + 1])), E::TooLarge { what: "the list of servers" });
        let heartbeat = MessageType::MsgHeartbeat as u32;
        check(
            pb::Message { snapshot: metadata(1, vec![1]), ..of_type(heartbeat) },
            E::UnexpectedSnapshot(heartbeat),
        );
        let context = vec![0; CONTEXT_LEN_MAX + 1].into();
        check(pb::Message { context, ..of_type(heartbeat) }, E::TooLarge { what: "a context" });
        let entries = vec![pb::Entry::default(); ENTRIES_MAX + 1];
        check(pb::Message { entries, ..append(&[]) }, E::TooLarge { what: "the number of entries" });
        let data = Bytes::from(vec![0; ENTRY_BYTES_MAX / 2 + 1]);
        let large = |index| pb::Entry { index, term: 6, data: data.clone(), ..Default::default() };
        check(
            pb::Message { entries: vec![large(5), large(6)], ..append(&[]) },
            E::TooLarge { what: "the entries" },
        );
        let change = pb::Entry { index: 5, term: 6, entry_type: 1, ..Default::default() };
        check(pb::Message { entries: vec![change], ..append(&[]) }, E::EntryType(1));
        assert!(message_from_wire(append(&[(5, 5), (6, 7)])).is_ok());
        assert!(message_from_wire(snapshot(metadata(1, vec![1, 2, 3]))).is_ok());
    }

    #[test]
    fn entry_data_moves_without_a_copy() {
        let data = Bytes::from(vec![1, 2, 3]);
        let entry = Entry { index: 1, term: 1, data: data.clone(), ..Entry::default() };
        let mut message = Message { term: 1, entries: vec![entry].into(), ..Message::default() };
        message.set_msg_type(MessageType::MsgAppend);
        let wire = message_to_wire(&message);
        assert_eq!(wire.entries[0].data.as_ptr(), data.as_ptr());
        assert_eq!(message_from_wire(wire).unwrap().entries[0].data.as_ptr(), data.as_ptr());
    }

    #[test]
    fn data_of_a_snapshot_stays_here() {
        let mut message = message_from_wire(snapshot(metadata(1, vec![1]))).unwrap();
        let without = message_to_wire(&message);
        message.mut_snapshot().data = Bytes::from_static(b"where this server keeps it");
        assert_eq!(message_to_wire(&message), without);
    }
}
