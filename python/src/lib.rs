//! The native half of the Python package `xdpfs`: the Rust client behind classes that wait, or give what can be awaited.
//!
//! Invariants: nobody waits for the network while holding the interpreter's lock, and no worker thread of the runtime ever
//! waits for that lock. What is made here is private to the package; names, defaults and documentation are in
//! `xdpfs/*.py`.

mod asyncio;
mod client;
mod data;
mod failure;
mod object;
mod process;
mod reader;
mod wait;
mod writer;

#[pyo3::pymodule]
mod _native {
    #[pymodule_export]
    use crate::{
        asyncio::settle,
        client::NativeClient,
        object::{BucketInfo, ObjectInfo},
        reader::NativeReader,
        writer::NativeWriter,
    };
}
