//! The rolling upgrade from the release before this one, whose programs are built from the history of this repository.
//!
//! Invariant: the work tree and git's own records stay as they are; what is built lies below the target directory.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, anyhow, ensure};
use xdpfs_testbed::upgrade::{self, Upgrade};

use crate::{sh, test};

/// Names the commit whose programs count as the release before this one.
const PREVIOUS: &str = "testbed/tests/previous-release";
const BINARIES: &[&str] = &["xdpfs-meta-server", "xdpfs-data-node", "xdpfs-cli"];

/// Upgrades a cluster from the programs of `from`, or else of the commit that is kept as the previous release.
pub(crate) fn test(from: Option<&str>, seed: Option<u64>) -> anyhow::Result<()> {
    let commit = commit(from)?;
    let earlier = binaries_of(&commit)?;
    test::build_binaries()?;
    let clock = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let seed = seed.unwrap_or_else(clock);
    eprintln!("from {commit}, seed {seed}");
    let upgrade = Upgrade { from: earlier, to: sh::target_dir("debug"), seed };
    upgrade::run(&upgrade).map_err(|error| anyhow!("the upgrade from {commit}: {error}"))
}

/// The previous release, if this clone knows it, or can be told of it.
///
/// # Errors
/// It doesn't; the words say what to do.
pub(crate) fn known() -> anyhow::Result<()> {
    let known = commit(None);
    if known.is_err() && sh::succeeds(&["git", "fetch", "--quiet", "--unshallow"]) {
        return commit(None).map(drop);
    }
    known.map(drop)
}

fn commit(from: Option<&str>) -> anyhow::Result<String> {
    let name = match from {
        Some(name) => name.to_owned(),
        None => {
            let text =
                fs::read_to_string(sh::root().join(PREVIOUS)).with_context(|| format!("no {PREVIOUS}"))?;
            let line = text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#'));
            line.with_context(|| format!("{PREVIOUS} names no commit"))?.to_owned()
        }
    };
    let found = sh::output(&["git", "rev-parse", "--verify", "--quiet", &format!("{name}^{{commit}}")]);
    let found = found.map_err(|_| {
        anyhow!(
            "this clone has no commit {name}, of which the earlier programs are built: git fetch --unshallow"
        )
    })?;
    Ok(found.trim().to_owned())
}

/// The programs of a commit, built unless they are there already.
fn binaries_of(commit: &str) -> anyhow::Result<PathBuf> {
    let place = sh::target_dir("upgrade").join(commit);
    let binaries = place.join("bin");
    if BINARIES.iter().all(|name| binaries.join(name).is_file()) {
        return Ok(binaries);
    }
    let source = place.join("source");
    unpack(commit, &source)?;
    // In the same target directory, so that what others have written is built once for both. Cargo would take the crates
    // of both releases for the same ones; it keeps what a wrapper of the compiler makes apart by the wrapper's path. The
    // programs of this release take their places there again afterwards.
    let wrapper = place.join("rustc");
    fs::write(&wrapper, "#!/bin/sh\nexec \"$@\"\n")?;
    fs::set_permissions(&wrapper, Permissions::from_mode(0o755))?;
    let target = sh::target_dir("debug");
    let target = target.parent().context("the target directory has no place")?;
    let manifest = source.join("Cargo.toml").display().to_string();
    let words = ["cargo", "build", "--locked", "--workspace", "--bins", "--manifest-path", &manifest];
    let words = [&words[..], test::host_features()].concat();
    let (target_dir, wrapper) = (target.display().to_string(), wrapper.display().to_string());
    sh::run_with(&words, &[("CARGO_TARGET_DIR", &target_dir), ("RUSTC_WORKSPACE_WRAPPER", &wrapper)])?;
    let new = place.join("new");
    fs::create_dir_all(&new)?;
    for name in BINARIES {
        fs::copy(target.join("debug").join(name), new.join(name)).with_context(|| format!("no {name}"))?;
    }
    // All of them or none.
    fs::rename(&new, &binaries)?;
    fs::remove_dir_all(&source)?;
    Ok(binaries)
}

fn unpack(commit: &str, directory: &Path) -> anyhow::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let archive = directory.with_extension("tar");
    let (archive, directory) = (archive.display().to_string(), directory.display().to_string());
    sh::run(&["git", "archive", "--format=tar", "--output", &archive, commit])?;
    sh::run(&["tar", "-xf", &archive, "-C", &directory])?;
    fs::remove_file(&archive)?;
    ensure!(Path::new(&directory).join("Cargo.lock").is_file(), "{commit} has no Cargo.lock");
    Ok(())
}
