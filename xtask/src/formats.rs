//! Keeps what the present programs write to disk, for later ones to be tested with.

use anyhow::{Context as _, ensure};
use xdpfs_testbed::{Cluster, keepsake};

use crate::sh;

/// Writes an archive of this name. Before a format changes, this is how its last version is kept.
pub(crate) fn keep(name: &str) -> anyhow::Result<()> {
    let archive = sh::root().join("testbed/tests/formats").join(format!("{name}.tar.gz"));
    ensure!(!archive.exists(), "{} is kept for good; choose another name", archive.display());
    sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    let cluster = Cluster::start(keepsake::options())?;
    keepsake::fill(&cluster)?;
    keepsake::check(&cluster)?;
    keepsake::pack(cluster, &archive).context("it can't be kept")?;
    println!("wrote {}", archive.display());
    Ok(())
}
