//! Puts load on a chunk store in a directory on a real disk: `store_load --help`.
//!
//! What it prints is one line of JSON, numbers by name, for `cargo xtask bench store`.
#![expect(clippy::print_stdout, reason = "a tool")]

mod churn;
mod latencies;
mod open;
mod read;
mod read_path;
mod rig;
mod write;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    /// Of the store; made if it isn't there.
    #[arg(long)]
    directory: PathBuf,
    #[command(subcommand)]
    work: Work,
}

#[derive(Debug, Subcommand)]
enum Work {
    /// Put chunks, each writer one after another. Prints rates, durable writes, and how long a put takes.
    Write(write::Load),
    /// Put so many chunks, numbered from zero on, as fast as it goes.
    Fill(rig::Chunks),
    /// The same behind those that are there, and then more of them until somebody kills the process; says `ready` in between.
    FillUntilKilled(rig::Chunks),
    /// Read single pages at random places of what was filled in. Prints pages a second and how long a page takes.
    ReadRandom(read::Random),
    /// Read a few pages again and again. Prints the time of one.
    ReadCached(read::Again),
    /// Read chunks from end to end, in bursts. Prints bytes a second.
    ReadSequential(read::Sequential),
    /// Open the store and close it. Prints how long that took, and what the index takes in memory.
    Open,
    /// Replace random chunks of a store that is three quarters full. Prints what that has written to the disk.
    Churn(churn::Churn),
    /// Read single pages of an idle store, then beside compaction, then beside a scrub. Prints how long a page takes.
    ReadBeside(churn::Beside),
}

fn main() -> anyhow::Result<()> {
    let Arguments { directory, work } = Arguments::parse();
    let numbers = match work {
        Work::Write(load) => write::run(&directory, load)?,
        Work::Fill(chunks) => rig::fill(&directory, chunks)?,
        Work::FillUntilKilled(chunks) => rig::fill_until_killed(&directory, chunks)?,
        Work::ReadRandom(load) => read::random(&directory, load)?,
        Work::ReadCached(load) => read::again(&directory, load)?,
        Work::ReadSequential(load) => read::sequential(&directory, load)?,
        Work::Open => open::run(&directory)?,
        Work::Churn(churn) => churn::run(&directory, churn)?,
        Work::ReadBeside(beside) => churn::read_beside(&directory, beside)?,
    };
    println!("{numbers}");
    Ok(())
}
