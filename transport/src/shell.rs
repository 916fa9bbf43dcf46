//! Sockets, timers and tasks around the state machines. Nothing here decides anything about the protocol.

mod chunk_client;
mod socket;

pub use chunk_client::{ChunkClient, ChunkClientConfig};
pub use socket::{KERNEL_BUFFER_LEN, ReceiveBuffers, ReceivedBatch, Socket};
