//! Counters and events as operators get them.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use xdpfs_proto::admin::v1::{Counter, TraceEvent, TraceHeader};
use xdpfs_wire::{HeaderBytes, MAGIC, Opcode, Reject};

use crate::{event_tap::PacketEvent, xdp::PlaneCounts};

/// Names that are remembered in one trace.
const NAMES_MAX: usize = 64;

/// The names of interfaces, each asked for once.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<u32, String>);

impl Names {
    /// The interface's name, or its number if it has vanished.
    pub(super) fn of(&mut self, interface: u32) -> String {
        if let Some(name) = self.0.get(&interface) {
            return name.clone();
        }
        let name =
            xdpfs_host::interface_at(interface).map_or_else(|_| interface.to_string(), |found| found.name);
        if self.0.len() < NAMES_MAX {
            self.0.insert(interface, name.clone());
        }
        name
    }
}

/// Packets by fate, and refused datagrams by reason.
pub(super) fn counters(counts: &PlaneCounts) -> (Vec<Counter>, Vec<Counter>) {
    let counter = |name: &str, packets: u64| Counter { name: name.to_owned(), packets };
    let fates = counts.fates.iter().map(|(fate, packets)| counter(fate, *packets));
    let rejects = Reject::ALL.iter().zip(counts.rejects).filter(|(_, packets)| *packets > 0);
    (fates.collect(), rejects.map(|(reject, packets)| counter(reject.label(), packets)).collect())
}

/// An event, of which keys, tags and the lower half of the chunk's number are left out.
pub(super) fn trace_event(event: &PacketEvent, lost: u64, interface: String) -> TraceEvent {
    TraceEvent {
        unix_ms: event.at.duration_since(UNIX_EPOCH).map_or(0, duration_ms),
        counter: event.counter.to_owned(),
        interface,
        source: event.source.to_canonical().to_string(),
        header: trace_header(&event.header),
        lost,
    }
}

pub(super) fn duration_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What the bytes say, wrong as it may be: that a field is wrong is what people look for. `None` for foreign bytes.
fn trace_header(bytes: &HeaderBytes) -> Option<TraceHeader> {
    let u16_at = |at: usize| u32::from(u16::from_le_bytes([bytes[at], bytes[at + 1]]));
    let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let opcode = Opcode::from_byte(bytes[3]);
    let opcode = opcode.map_or_else(|| format!("{:#04x}", bytes[3]), |opcode| format!("{opcode:?}"));
    (u16_at(0) == u32::from(MAGIC)).then(|| TraceHeader {
        opcode,
        node_id: u16_at(8),
        node_epoch: u16_at(10),
        key_epoch: bytes[7].into(),
        bucket: u32_at(16),
        chunk_high: u32_at(36),
        expiry: u32_at(20),
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use xdpfs_wire::{
        BucketId, ChunkId, ClientId, Expiry, Flags, HEADER_LEN, Header, KeyEpoch, NodeEpoch, NodeId,
        PieceClass, RequestId, Rights, Status,
    };

    use super::*;

    fn header() -> Header {
        Header {
            opcode: Opcode::GetPiece,
            class: PieceClass::Standard,
            flags: Flags::NONE,
            status: Status::Ok,
            rights: Rights::READ,
            key_epoch: KeyEpoch(3),
            node: NodeId(7),
            node_epoch: NodeEpoch(2),
            client: ClientId(0x1234_5678),
            bucket: BucketId(5),
            expiry: Expiry(1_700_000_000),
            request: RequestId(9),
            offset: 0,
            chunk: ChunkId::new(BucketId(5), 0x0000_00aa_dead_beef),
            length: 100,
            payload_crc: 1,
            tag: 0xfeed_feed_feed_feed,
        }
    }

    fn event(header: HeaderBytes) -> TraceEvent {
        let source = "::ffff:10.0.0.1".parse().unwrap();
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1500);
        let event = PacketEvent { at, counter: "bad_tag", interface: 4, source, header };
        trace_event(&event, 2, "eth0".into())
    }

    #[test]
    fn an_event_tells_what_helps_and_nothing_secret() {
        let event = event(header().encode());
        let said = event.header.clone().unwrap();
        assert_eq!((event.unix_ms, event.lost, event.source.as_str()), (1500, 2, "10.0.0.1"));
        assert_eq!((said.opcode.as_str(), said.node_id, said.node_epoch), ("GetPiece", 7, 2));
        assert_eq!((said.bucket, said.chunk_high, said.key_epoch), (5, 0xaa, 3));
        let all = format!("{event:?}");
        for secret in [0xdead_beef_u64, 0xfeed_feed_feed_feed, 0x1234_5678] {
            assert!(!all.contains(&secret.to_string()), "{all}");
        }
    }

    #[test]
    fn broken_headers_are_told_as_far_as_they_are_ours() {
        let mut bytes = header().encode();
        bytes[3] = 0x7f;
        assert_eq!(event(bytes).header.unwrap().opcode, "0x7f");
        bytes[0] ^= 1;
        assert_eq!(event(bytes).header, None);
        assert_eq!(event([0; HEADER_LEN]).header, None);
    }

    #[test]
    fn interfaces_without_a_name_keep_their_number() {
        let mut names = Names::default();
        assert_eq!(names.of(u32::MAX >> 1), (u32::MAX >> 1).to_string());
    }
}
