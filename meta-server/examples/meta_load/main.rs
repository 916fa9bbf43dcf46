//! Puts load on three metadata servers, or on three servers of etcd 3.4, by one and the same loop: `meta_load --help`.
//!
//! All requests go to the leader, over as many connections for either; what it prints is numbers, for `cargo xtask bench`.
#![expect(clippy::print_stdout, reason = "a tool")]

mod drive;
mod etcd;
mod system;
mod xdpfs;

use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand, ValueEnum};

use self::{drive::Load, etcd::Etcd, system::System, xdpfs::Xdpfs};

#[derive(Debug, Parser)]
struct Arguments {
    #[arg(long)]
    system: Kind,
    /// Of all servers, with commas between them.
    #[arg(long, value_delimiter = ',')]
    endpoints: Vec<String>,
    #[command(subcommand)]
    work: Work,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Kind {
    Etcd,
    Xdpfs,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Put this many objects under one prefix, many in one entry of the log.
    Fill { count: u64 },
    /// List everything under that prefix, page by page. Prints objects a second.
    List,
    /// Durable puts of small values. Prints operations a second, the median and the 99th percentile in microseconds, and
    /// how many operations there were, those of the warm-up included.
    Put(Pace),
    /// Whole puts of empty objects: two requests, and two entries of the log. Prints the same.
    PutObject(Pace),
    /// Linearizable reads of what was filled in. Prints the same.
    Read(Pace),
    /// Wait until one linearizable read succeeds. Prints which of the endpoints leads, from zero on.
    Serve,
}

#[derive(Clone, Copy, Debug, clap::Args)]
struct Pace {
    #[arg(long)]
    clients: usize,
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// How many keys there are to choose from.
    #[arg(long, default_value_t = 10_000)]
    keys: u64,
}

/// What clients do over and over.
#[derive(Clone, Copy, Debug)]
enum Operation {
    Put,
    PutObject,
    Read,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let Arguments { system, endpoints, work } = Arguments::parse();
    match system {
        Kind::Etcd => run(Etcd::find(&endpoints).await?, work).await,
        Kind::Xdpfs => run(Xdpfs::find(&endpoints).await?, work).await,
    }
}

async fn run<S: System>(system: S, work: Work) -> anyhow::Result<()> {
    let (operation, pace) = match work {
        Work::Fill { count } => return system.fill(count).await.context("the keys cannot be filled in"),
        Work::List => {
            println!("{:.0}", drive::list(&system).await?);
            return Ok(());
        }
        Work::Serve => {
            println!("{}", system.leader());
            return Ok(());
        }
        Work::Put(pace) => (Operation::Put, pace),
        Work::PutObject(pace) => (Operation::PutObject, pace),
        Work::Read(pace) => (Operation::Read, pace),
    };
    let Pace { clients, seconds, keys } = pace;
    let load = Load { clients, keys, seconds: Duration::from_secs_f64(seconds) };
    let drive::Measured { per_second, p50_us, p99_us, operations } =
        drive::run(&system, operation, load).await?;
    println!("{per_second:.1} {p50_us:.1} {p99_us:.1} {operations}");
    Ok(())
}
