//! Debian's packages, where there are any.

use anyhow::ensure;

use crate::sh;

/// Installs packages.
///
/// # Errors
/// Where there is no apt-get, or somebody who may not.
pub(crate) fn install(packages: &[&str]) -> anyhow::Result<()> {
    let named = packages.join(", ");
    ensure!(sh::succeeds(&["apt-get", "--version"]), "there is no apt-get to bring {named}");
    ensure!(sh::is_root(), "only root can install {named}");
    sh::run(&["apt-get", "update"])?;
    let install = [&["apt-get", "install", "--yes", "--no-install-recommends"], packages].concat();
    sh::run_with(&install, &[("DEBIAN_FRONTEND", "noninteractive")])
}
