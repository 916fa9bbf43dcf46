//! The gRPC interfaces as others' tools see them: the lint of buf, and what it says has changed since each release that is still met.

use std::fs;

use anyhow::Context as _;

use crate::{setup, sh};

const INTERFACES: &str = "proto";
const RELEASES: &str = "proto/tests/releases";
/// As npm knows it.
const BUF: &str = "@bufbuild/buf@1.75.0";

/// Brings buf, which fails where npm can't be had.
pub(crate) fn bring() -> anyhow::Result<()> {
    setup::for_examples()?;
    let place = sh::target_dir("buf");
    let (program, stamp) = (place.join("node_modules/.bin/buf"), place.join("package"));
    if program.exists() && fs::read_to_string(&stamp).is_ok_and(|brought| brought == BUF) {
        return Ok(());
    }
    fs::create_dir_all(&place).with_context(|| format!("cannot make {}", place.display()))?;
    sh::run(&["npm", "install", "--prefix", &text(&place)?, "--no-audit", "--no-fund", "--silent", BUF])?;
    fs::write(&stamp, BUF).with_context(|| format!("cannot write {}", stamp.display()))
}

/// Checks all interfaces, by `proto/buf.yaml`.
pub(crate) fn check() -> anyhow::Result<()> {
    bring()?;
    let place = sh::target_dir("buf");
    let buf = text(&place.join("node_modules/.bin/buf"))?;
    sh::run(&[&buf, "lint", INTERFACES])?;
    let releases = sh::root().join(RELEASES);
    for entry in fs::read_dir(&releases).with_context(|| format!("cannot read {}", releases.display()))? {
        let release = entry?.path();
        // buf takes no input that lies within a module.
        let copy = place.join("release");
        if copy.exists() {
            fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
        }
        sh::run(&["cp", "-r", &text(&release)?, &text(&copy)?])?;
        sh::run(&[&buf, "breaking", INTERFACES, "--against", &text(&copy)?])?;
    }
    Ok(())
}

fn text(path: &std::path::Path) -> anyhow::Result<String> {
    path.to_str().map(ToOwned::to_owned).context("the path of the target directory is not text")
}
