//! What the kernel program and its user side share: where a datagram lies in its frame, what the maps hold, how
//! frames are rewritten, and how a packet can end.
//!
//! Invariant: no `unsafe`, no allocation, no clock. The kernel program supplies pointers, maps and time; everything
//! that can be decided without them is decided here, so that it can be tested on the host.
#![no_std]
#![forbid(unsafe_code)]

mod checksum;
mod decision;
mod fate;
mod frame;
pub mod maps;
mod rate;
mod rewrite;

pub use checksum::Checksum;
pub use decision::Decision;
pub use fate::{Action, COUNTERS, Fate, counter_label};
pub use frame::{Envelope, Frame, HEADERS_LEN_MAX, Ip, PORTS_MAX, Ports, is_for_many};
pub use rate::Rate;
pub use rewrite::{
    ANSWER_LEN, Detour, Unroutable, V4Headers, V4Request, V6Headers, V6Request, answer_v4, answer_v6,
};
