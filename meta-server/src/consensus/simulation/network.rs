//! Messages on their way: late, lost, doubled, out of order. They travel as bytes, through the same conversions as
//! between real servers.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use prost::Message as _;
use raft::{
    SnapshotStatus,
    eraftpb::{Message, MessageType},
};
use tokio::sync::oneshot;
use xdpfs_proto::raft::v1 as pb;

use super::{
    super::{Input, core::ReceivedSnapshot, message_from_wire, message_to_wire},
    random::Random,
    server::Media,
};
use crate::{
    state_machine::State,
    storage::{SnapshotMeta, SnapshotSource as _},
};

/// How bad the network is.
#[derive(Clone, Debug, Default)]
pub(super) struct Weather {
    pub(super) delay_max_ms: u64,
    /// One in so many; zero is none.
    pub(super) lost_one_in: u64,
    pub(super) doubled_one_in: u64,
}

struct Parcel {
    from: u64,
    to: u64,
    message: Vec<u8>,
    /// Where the sender keeps the snapshot that this message carries.
    snapshot: Option<SnapshotMeta>,
    /// The second copy of a message.
    copy: bool,
}

/// A snapshot that its receiver has.
struct Delivered {
    from: u64,
    to: u64,
    installed: oneshot::Receiver<()>,
    until_ms: u64,
}

#[derive(Default)]
pub(super) struct Network {
    parcels: BTreeMap<(u64, u64), Parcel>,
    next: u64,
    /// From and to.
    pub(super) blocked: BTreeSet<(u64, u64)>,
    delivered: Vec<Delivered>,
    sent: BTreeMap<(u64, i32), u64>,
    pub(super) snapshots: u64,
    pub(super) lost: u64,
    pub(super) doubled: u64,
    pub(super) cut_off: u64,
}

impl Network {
    pub(super) fn send(&mut self, message: &Message, weather: &Weather, random: &mut Random, now_ms: u64) {
        *self.sent.entry((message.from, message.get_msg_type() as i32)).or_default() += 1;
        let is_snapshot = message.get_msg_type() == MessageType::MsgSnapshot;
        let snapshot = is_snapshot.then(|| {
            SnapshotMeta::decode(&message.get_snapshot().data).expect("it says where the snapshot is kept")
        });
        let (from, to) = (message.from, message.to);
        let copies = if random.one_in(weather.doubled_one_in) { 2 } else { 1 };
        self.doubled += copies - 1;
        for copy in 0..copies {
            if snapshot.is_none() && random.one_in(weather.lost_one_in) {
                self.lost += 1;
                continue;
            }
            let delay_ms = 1 + random.below(weather.delay_max_ms * if is_snapshot { 10 } else { 1 });
            let message = message_to_wire(message).encode_to_vec();
            let parcel = Parcel { from, to, message, snapshot: snapshot.clone(), copy: copy > 0 };
            self.next += 1;
            self.parcels.insert((now_ms + delay_ms, self.next), parcel);
        }
    }

    /// How many messages of this type a server has sent.
    pub(super) fn sent(&self, from: u64, msg_type: MessageType) -> u64 {
        self.sent.get(&(from, msg_type as i32)).copied().unwrap_or_default()
    }

    /// What arrives now, and what senders of snapshots get to know.
    pub(super) fn deliver(
        &mut self,
        media: &Media,
        weather: &Weather,
        random: &mut Random,
        now_ms: u64,
    ) -> Vec<(u64, Input)> {
        let later = self.parcels.split_off(&(now_ms + 1, 0));
        let due = std::mem::replace(&mut self.parcels, later);
        let mut inputs = self.finished(now_ms);
        for parcel in due.into_values() {
            let lost = self.blocked.contains(&(parcel.from, parcel.to));
            self.cut_off += u64::from(lost);
            if let Some(meta) = &parcel.snapshot {
                let gone = random.one_in(weather.lost_one_in);
                self.lost += u64::from(gone && !lost);
                let lost = lost || gone;
                inputs.push(self.deliver_snapshot(&parcel, meta, media, lost, now_ms));
            } else if lost {
                inputs.push((parcel.from, Input::Unreachable(parcel.to)));
            } else {
                inputs.push((parcel.to, Input::Message(Box::new(decode(&parcel.message)))));
            }
        }
        inputs
    }

    fn deliver_snapshot(
        &mut self,
        parcel: &Parcel,
        meta: &SnapshotMeta,
        media: &Media,
        lost: bool,
        now_ms: u64,
    ) -> (u64, Input) {
        let source = &media[&parcel.from];
        let part = |part| source.part(meta.generation, part).expect("memory does not fail");
        let pieces: Option<Vec<Bytes>> = (0..meta.parts).map(part).collect();
        let Some(pieces) = pieces.filter(|_| !lost) else {
            return (parcel.from, Input::SnapshotSent(parcel.to, SnapshotStatus::Failure));
        };
        let state = State::decode(&pieces.concat()[..]).expect("it was encoded");
        let (installed, answer) = oneshot::channel();
        if !parcel.copy {
            let (from, to) = (parcel.from, parcel.to);
            self.delivered.push(Delivered { from, to, installed: answer, until_ms: now_ms + 500 });
        }
        let message = decode(&parcel.message);
        let received = ReceivedSnapshot { message, pieces, state: Box::new(state), installed };
        self.snapshots += 1;
        (parcel.to, Input::PeerSnapshot(Box::new(received)))
    }

    fn finished(&mut self, now_ms: u64) -> Vec<(u64, Input)> {
        let mut inputs = Vec::new();
        self.delivered.retain_mut(|delivered| {
            let status = match delivered.installed.try_recv() {
                Ok(()) => SnapshotStatus::Finish,
                Err(oneshot::error::TryRecvError::Empty) if now_ms < delivered.until_ms => return true,
                Err(_) => SnapshotStatus::Failure,
            };
            inputs.push((delivered.from, Input::SnapshotSent(delivered.to, status)));
            false
        });
        inputs
    }
}

fn decode(bytes: &[u8]) -> Message {
    let wire = pb::Message::decode(bytes).expect("it was encoded");
    message_from_wire(wire.clone())
        .unwrap_or_else(|error| panic!("a server sent what another one refuses: {error}: {wire:?}"))
}
