//! The kernel program under test: loaded, its maps filled, run packet by packet through `BPF_PROG_TEST_RUN`, and held
//! against a model that is written independently of it.
//!
//! Invariant: the model shares the verdict on a datagram (`wire`) and the maps' layout with the program, nothing else.
#![expect(missing_docs, reason = "a harness for this crate's own tests")]

pub mod chain;
pub mod chance;
pub mod differential;
pub mod fixture;
pub mod frames;
pub mod kernel;
pub mod netns;
pub mod oracle;
pub mod reference;
pub mod table;
