//! The units of deploy/systemd, as systemd itself reads them.

use std::{fs, path::Path};

use anyhow::{Context as _, ensure};

use crate::sh;

const UNITS: &str = "deploy/systemd";
/// Where the units have the binaries, which a machine that builds them has not.
const INSTALLED: &str = "/usr/local/bin/";

/// Verifies every unit, with and without its drop-in. Whether there is a systemd to do so.
pub(super) fn verify(binaries: &Path) -> anyhow::Result<bool> {
    if !sh::succeeds(&["systemd-analyze", "--version"]) {
        return Ok(false);
    }
    let binaries = format!("{}/", binaries.to_str().context("the path of the target directory is not text")?);
    let mut verified = 0;
    for entry in fs::read_dir(sh::root().join(UNITS))? {
        let path = entry?.path();
        let Some(name) =
            path.file_name().and_then(|name| name.to_str()).filter(|name| name.ends_with(".service"))
        else {
            continue;
        };
        let drop_in =
            fs::read_to_string(sh::root().join(UNITS).join("xdp").join(format!("{name}.d/xdp.conf")));
        // Without it, and with it if there is one.
        for more in [Some(None), drop_in.ok().map(Some)].into_iter().flatten() {
            let place = tempfile::tempdir()?;
            let unit = place.path().join(name);
            fs::write(&unit, fs::read_to_string(&path)?.replace(INSTALLED, &binaries))?;
            if let Some(more) = more {
                let directory = place.path().join(format!("{name}.d"));
                fs::create_dir(&directory)?;
                fs::write(directory.join("xdp.conf"), more)?;
            }
            let unit = unit.to_str().context("the temporary directory is not text")?;
            let output = sh::command(&["systemd-analyze", "verify", "--man=no", unit]).output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            // What is wrong, but not fatal, is only said. Of other units it says things too.
            let about_it: Vec<_> = said.lines().filter(|line| line.contains(name)).collect();
            ensure!(output.status.success() && about_it.is_empty(), "{name}: {said}");
            verified += 1;
        }
    }
    eprintln!("  {verified} variants of units are well-formed");
    ensure!(verified > 0, "there are no units in {UNITS}");
    Ok(true)
}
