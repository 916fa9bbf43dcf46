//! The datagrams of the chunk protocol: ids, the fixed header, the capability and its tag, and the verdict on a
//! datagram. One definition for clients, data nodes and the kernel program.
//!
//! Invariant: no allocation, no clock, no randomness, no `unsafe`, no dependency. The same code is compiled for the
//! host and for BPF, so loops have constant bounds and every read is checked against the slice it reads.
//!
//! The normative text is `docs/protocol.md`; sections are cited as `§n`.
#![no_std]
#![forbid(unsafe_code)]

mod capability;
mod cookie;
mod header;
mod ids;
mod opcode;
pub mod payload;
mod receipt;
mod siphash;
mod status;
mod validate;

pub use capability::{Capability, CapabilityKey, EpochSecret};
pub use cookie::{COOKIE_WINDOW_S, Cookie, CookieSecret};
pub use header::{Flags, HEADER_LEN, Header, HeaderBytes, MAGIC, ParseError, PieceClass, VERSION};
pub use ids::{
    BucketId, CHUNK_LEN_MAX, ChunkId, ClientId, Expiry, KeyEpoch, NodeEpoch, NodeId, RequestId, Rights,
};
pub use opcode::Opcode;
pub use receipt::{Receipt, ReceiptKey};
pub use siphash::{SipKey, siphash_2_4};
pub use status::{Advice, Status};
pub use validate::{Accepted, KeyEpochs, Reject, TargetNode, check_lease, is_write, validate_request};
