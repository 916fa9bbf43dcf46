//! Packets by chance: requests that are right or nearly so, spoilt in ways that come near a rule.

use std::{env, net::IpAddr};

use fastrand::Rng;
use xdpfs_wire::{
    BucketId, Capability, ChunkId, ClientId, EpochSecret, Expiry, Flags, Header, KeyEpoch, KeyEpochs as _,
    NodeEpoch, NodeId, Opcode, PieceClass, RequestId, Rights, SipKey, Status,
    payload::{GET_BURST_LEN, REQUEST_PADDING_MIN},
};

use crate::{
    fixture::{NOW, PORT, Secrets},
    frames::{EDGE_V4, EDGE_V6, FRAME_LEN_MAX, NODE_SIDE_V4, REPLY_V4, REPLY_V6, WRAPPINGS, Wrapping},
};

#[derive(Debug)]
pub struct Chance(Rng);

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    /// One packet that the kernel takes for a test.
    pub fn packet(&mut self) -> Vec<u8> {
        let mut packet = if self.0.u8(..) < 8 { self.noise() } else { self.frame() };
        if self.0.u8(..) < 96 {
            for _ in 0..self.0.usize(1..4) {
                self.spoil(&mut packet);
            }
        }
        packet.truncate(FRAME_LEN_MAX);
        packet.resize(packet.len().max(14), 0);
        packet
    }

    /// One packet from a node, or nearly so.
    pub fn reply(&mut self) -> Vec<u8> {
        let wrapping = if self.0.bool() { REPLY_V4 } else { REPLY_V6 };
        let destination = match (wrapping.destination, self.0.u8(..)) {
            (usual, 0..64) => usual,
            (IpAddr::V4(_), 64..80) => EDGE_V4.into(),
            (IpAddr::V4(_), 80..96) => NODE_SIDE_V4.into(),
            (IpAddr::V6(_), 64..96) => EDGE_V6.into(),
            (IpAddr::V4(_), _) => IpAddr::from(self.0.u32(..).to_be_bytes()),
            (IpAddr::V6(_), _) => IpAddr::from(self.0.u128(..).to_be_bytes()),
        };
        let wrapping = Wrapping { destination, ..wrapping };
        let mut datagram = vec![0; self.0.usize(..1500)];
        self.0.fill(&mut datagram);
        let mut packet = wrapping.frame(self.0.u16(..), &datagram);
        let check_at = wrapping.udp_at() + 6;
        match self.0.u8(..) {
            0..32 => {
                let partial = wrapping.partial_check(&packet);
                packet[check_at..check_at + 2].copy_from_slice(&partial.to_be_bytes());
            }
            32..48 => packet[check_at..check_at + 2].fill(0),
            _ => {}
        }
        if self.0.u8(..) < 64 {
            self.spoil(&mut packet);
        }
        // The kernel tests no classifier by a packet without an IP header.
        packet.resize(packet.len().max(14 + 40), 0);
        packet
    }

    fn noise(&mut self) -> Vec<u8> {
        let mut noise = vec![0; self.0.usize(14..200)];
        self.0.fill(&mut noise);
        noise
    }

    fn frame(&mut self) -> Vec<u8> {
        let (_, wrapping) = WRAPPINGS[self.0.usize(..WRAPPINGS.len())];
        let source = match wrapping.source {
            IpAddr::V4(_) => IpAddr::from(self.0.u32(..).to_be_bytes()),
            IpAddr::V6(_) => IpAddr::from(self.0.u128(..).to_be_bytes()),
        };
        let wrapping = Wrapping { source, ..wrapping };
        let datagram = self.datagram();
        let port = if self.0.u8(..) < 8 { self.0.u16(..) } else { PORT };
        let mut frame = wrapping.frame(port, &datagram);
        let check_at = wrapping.udp_at() + 6;
        match self.0.u8(..) {
            0..32 => {
                let partial = wrapping.partial_check(&frame);
                frame[check_at..check_at + 2].copy_from_slice(&partial.to_be_bytes());
            }
            32..48 => frame[check_at..check_at + 2].fill(0),
            _ => {}
        }
        frame
    }

    fn datagram(&mut self) -> Vec<u8> {
        // Nine requests, and rarely a reply.
        let opcodes = 9 + usize::from(self.0.u8(..) < 16);
        let opcode = Opcode::ALL[self.0.usize(..opcodes)];
        let class = PieceClass::ALL[self.0.usize(..3)];
        let (length, payload_len) = self.sizes(opcode, class);
        let bucket = BucketId(self.0.u32(..4));
        let chunk_bucket = if self.0.u8(..) < 16 { BucketId(9) } else { bucket };
        let rights = match self.0.u8(..) {
            0..16 => Rights(self.0.u8(..4)),
            _ => opcode.rights_needed(),
        };
        let header = Header {
            opcode,
            class,
            flags: if self.0.bool() { Flags::ACK_WANTED } else { Flags::NONE },
            status: Status::Ok,
            rights,
            key_epoch: KeyEpoch(if self.0.u8(..) < 16 { self.0.u8(..) } else { self.0.u8(7..9) }),
            node: NodeId(if self.0.u8(..) < 16 { self.0.u16(..) } else { self.0.u16(3..8) }),
            node_epoch: NodeEpoch(if self.0.u8(..) < 32 { self.0.u16(6..10) } else { 9 }),
            client: ClientId(self.0.u32(..)),
            bucket,
            expiry: Expiry(if self.0.u8(..) < 32 {
                NOW.0 - 2 + self.0.u32(..4)
            } else {
                NOW.0 + self.0.u32(1..100)
            }),
            request: RequestId(self.0.u32(..)),
            offset: if self.0.u8(..) < 8 { self.0.u32(..) } else { self.0.u32(..1 << 26) },
            chunk: ChunkId::new(chunk_bucket, self.0.u64(..)),
            length,
            payload_crc: self.0.u32(..),
            tag: 0,
        };
        let secret = Secrets.secret(header.key_epoch).unwrap_or(EpochSecret(SipKey { k0: 1, k1: 2 }));
        let mut datagram = Capability::claimed_by(&header).key(secret).seal(&header).to_vec();
        let header_len = datagram.len();
        datagram.resize(header_len + payload_len, 0);
        self.0.fill(&mut datagram[header_len..]);
        datagram
    }

    /// Length field and bytes of payload, right or off by one.
    fn sizes(&mut self, opcode: Opcode, class: PieceClass) -> (u32, usize) {
        let piece = class.piece_len();
        let length = self.0.u32(1..=piece);
        let (length, payload_len) = match opcode {
            Opcode::GetPiece => (length, length as usize),
            Opcode::GetBurst => (self.0.u32(1..1 << 20), GET_BURST_LEN),
            Opcode::PutWhole | Opcode::PutData => (length, REQUEST_PADDING_MIN.max(length as usize)),
            Opcode::PutOpen | Opcode::PutCommit => (self.0.u32(1..1 << 22), REQUEST_PADDING_MIN),
            Opcode::PutAbort => (0, 0),
            _ => (0, REQUEST_PADDING_MIN),
        };
        match self.0.u8(..) {
            0..8 => (length, payload_len + 1),
            8..16 => (length, payload_len.saturating_sub(1)),
            16..20 => (0, payload_len),
            20..24 => (self.0.u32(..), payload_len),
            _ => (length, payload_len),
        }
    }

    /// Spoils it in one way.
    pub fn spoil(&mut self, packet: &mut Vec<u8>) {
        if packet.is_empty() {
            return;
        }
        // Headers are where the rules are.
        let near = packet.len().min(130);
        let until = if self.0.u8(..) < 224 { near } else { packet.len() };
        let at = self.0.usize(..until);
        match self.0.u8(..8) {
            0..3 => packet[at] ^= 1 << self.0.u8(..8),
            3..5 => packet[at] = self.0.u8(..),
            5 => packet.truncate(at.max(1)),
            6 => packet.extend((0..self.0.usize(1..64)).map(|_| 0xee)),
            _ => packet[at] = [0, 1, 0x45, 17, 0xff][self.0.usize(..5)],
        }
    }
}

/// What the environment says, or what a normal run takes.
///
/// # Panics
/// If it says something that is no number.
pub fn setting(name: &str, default: u64) -> u64 {
    env::var(name).map_or(default, |value| value.parse().expect("a number"))
}
