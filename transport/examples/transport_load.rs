//! Puts load on the chunk protocol between two hosts, from memory to memory, and on what it is compared with. `cargo xtask bench
//! transport` runs it; each call prints one JSON object.
//!
//! ```text
//! transport_load serve IP:PORT                          a data node that has one chunk in memory
//! transport_load stream IP:PORT SECONDS                 reads it end to end, several parts at once
//! transport_load get IP:PORT LENGTH OUTSTANDING SECONDS small parts of it
//! transport_load pump-serve IP:PORT                     answers each request with one segmented send, and does nothing else
//! transport_load pump IP:PORT DATAGRAM SECONDS          asks it, and counts bytes
//! transport_load memcached IP:PORT LENGTH OUTSTANDING SECONDS      gets over TCP, one connection for each
//! transport_load memcached-udp IP:PORT LENGTH OUTSTANDING SECONDS
//! ```
#![expect(clippy::print_stdout, reason = "a tool")]

mod load {
    pub(super) mod memcached;
    pub(super) mod node;
    pub(super) mod pump;
    pub(super) mod reader;
    pub(super) mod times;
}

use std::{env, error::Error, net::SocketAddr, time::Duration};

use load::{memcached, node, pump, reader};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const USAGE: &str = "see the head of transport_load.rs";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let [command, address, rest @ ..] = &args[..] else { return Err(USAGE.into()) };
    let address: SocketAddr = address.parse()?;
    let said = match (*command, rest) {
        ("serve", []) => node::serve(address).await?,
        ("pump-serve", []) => pump::serve(address).await?,
        ("stream", [time]) => reader::stream(address, seconds(time)?).await?,
        ("get", [length, outstanding, time]) => {
            reader::gets(address, length.parse()?, outstanding.parse()?, seconds(time)?).await?
        }
        ("pump", [datagram, time]) => pump::pump(address, datagram.parse()?, seconds(time)?).await?,
        ("memcached", [length, outstanding, time]) => {
            memcached::gets(address, length.parse()?, outstanding.parse()?, seconds(time)?).await?
        }
        ("memcached-udp", [length, outstanding, time]) => {
            memcached::gets_by_udp(address, length.parse()?, outstanding.parse()?, seconds(time)?).await?
        }
        _ => return Err(USAGE.into()),
    };
    println!("{said}");
    Ok(())
}

fn seconds(text: &str) -> Result<Duration> {
    Ok(Duration::from_secs_f64(text.parse()?))
}
