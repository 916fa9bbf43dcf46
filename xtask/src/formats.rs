//! Keeps what the present programs write to disk, for later ones to be tested with.

use std::{env, fs, path::Path};

use anyhow::{Context as _, ensure};
use xdpfs_testbed::{Cluster, keepsake};

use crate::sh;

/// Writes an archive of this name. Before a format changes, this is how its last version is kept.
pub(crate) fn keep(name: &str) -> anyhow::Result<()> {
    let archive = sh::root().join("testbed/tests/formats").join(format!("{name}.tar.gz"));
    let interfaces = sh::root().join("proto/tests/releases").join(name);
    for kept in [&archive, &interfaces] {
        ensure!(!kept.exists(), "{} is kept for good; choose another name", kept.display());
    }
    // Or else those of another release, which the testbed finds by that.
    if env::var_os("XDPFS_BIN_DIR").is_none() {
        sh::run(&["cargo", "build", "--locked", "--workspace", "--bins"])?;
    }
    let mut cluster = Cluster::start(keepsake::options())?;
    keepsake::fill(&mut cluster)?;
    keepsake::check(&cluster)?;
    keepsake::pack(cluster, &archive).context("it can't be kept")?;
    println!("wrote {}", archive.display());
    keep_interfaces(&interfaces)?;
    println!("wrote {}", interfaces.display());
    Ok(())
}

/// The interfaces as they are, for `proto/tests/compatibility`.
fn keep_interfaces(directory: &Path) -> anyhow::Result<()> {
    copy_all(&sh::root().join("proto/xdpfs"), &directory.join("xdpfs"))
}

fn copy_all(from: &Path, to: &Path) -> anyhow::Result<()> {
    if !from.is_dir() {
        fs::copy(from, to).with_context(|| format!("can't write {}", to.display()))?;
        return Ok(());
    }
    fs::create_dir_all(to).with_context(|| format!("can't make {}", to.display()))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        copy_all(&entry.path(), &to.join(entry.file_name()))?;
    }
    Ok(())
}
