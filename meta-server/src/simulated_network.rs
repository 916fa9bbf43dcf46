//! Three metadata servers and their clients on a simulated network, in simulated time: the gRPC services that clients and
//! servers speak to in earnest, with all their layers, connections, greetings and streams, over TCP of a simulation.
//!
//! Invariant: a seed is a run. Each has one thread, to which nothing comes from the machine, neither time nor chance
//! (`machine.rs`), in a process of its own. What is not real is the store, which is memory that forgets what was not
//! synced, and how consensus gets its turns (docs/design/0024-the-simulated-network.md).

mod client;
mod cluster;
mod histories;
mod machine;
mod process;
mod scenarios;
mod server;
mod trace;

pub(crate) use self::machine::is_simulated;
