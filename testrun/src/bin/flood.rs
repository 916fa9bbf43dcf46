//! How many packets one core moves: `xdpfs-flood WAY CASE FRAMES` prints packets a second; `cargo xtask bench xdp.forward`
//! and `xdp.reject` call it.
#![expect(clippy::print_stdout, reason = "a tool")]

use std::env;

use anyhow::{Context as _, bail};
use rustix::thread::{CpuSet, sched_setaffinity};
use xdpfs_testrun::{
    chain::{Chain, Way},
    fixture,
};

/// The core that does everything; the first one often has the interrupts too.
const CORE: usize = 1;

fn main() -> anyhow::Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [way, case, frames] = &args[..] else { bail!("usage: xdpfs-flood WAY CASE FRAMES") };
    let way = Way::ALL.iter().find(|(name, _)| name == way).with_context(|| format!("there is no {way}"))?.1;
    let case = fixture::cases()?.into_iter().find(|known| known.name == *case).context("no such case")?;
    if std::thread::available_parallelism()?.get() > CORE {
        let mut cores = CpuSet::new();
        cores.set(CORE);
        sched_setaffinity(None, &cores)?;
    }
    println!("{:.0}", Chain::build(way)?.rate(&case.datagram, frames.parse()?)?);
    Ok(())
}
