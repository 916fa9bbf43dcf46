//! Writes what a fuzzer begins with: `xdpfs-corpus DIR`.

use std::{env, fs, path::PathBuf};

use anyhow::Context as _;
use xdpfs_testrun::differential::corpus;

fn main() -> anyhow::Result<()> {
    let directory = PathBuf::from(env::args_os().nth(1).context("usage: xdpfs-corpus DIR")?);
    fs::create_dir_all(&directory)?;
    for (number, input) in corpus()?.iter().enumerate() {
        fs::write(directory.join(format!("table-{number:04}")), input)?;
    }
    Ok(())
}
