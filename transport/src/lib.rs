//! The chunk protocol's state machines. They own no socket and no clock: datagrams and the time go in, datagrams,
//! deadlines and events come out, so that every loss and every reordering can be replayed from a seed.
//!
//! - [`ClientEndpoint`] reads and writes chunks: it owns windows, timers and retransmission.
//! - [`NodeEndpoint`] answers: it keeps nothing for reads, and for writes only what its memory bound allows.
//!
//! The feature `tokio` adds a thin shell with sockets and timers; without it the crate does no I/O.
//! The protocol is described in `docs/protocol.md`.

mod assembly;
mod checksum;
pub mod client;
mod datagram;
pub mod node;
#[cfg(feature = "tokio")]
pub mod shell;

pub use checksum::{crc32c, crc32c_combine};
pub use client::{ClientConfig, ClientEndpoint, Counters, SessionKey, Target, TransferError};
pub use datagram::{BURST_BYTES_MAX, Peer, Transmit};
pub use node::{NodeConfig, NodeEndpoint};
#[cfg(feature = "tokio")]
pub use shell::{ChunkClient, ChunkClientConfig};
