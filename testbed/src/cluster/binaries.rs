//! Where the binaries under test are.

use std::{env, io, path::PathBuf};

/// `XDPFS_BIN_DIR`, or else the directory that cargo built the running executable for: test executables lie in its
/// `deps`, others in it.
///
/// # Errors
/// If neither is known. That the binaries are really there is found out when they are started.
pub(super) fn find() -> io::Result<PathBuf> {
    if let Some(dir) = env::var_os("XDPFS_BIN_DIR") {
        return Ok(dir.into());
    }
    let executable = env::current_exe()?;
    let dir =
        executable.parent().map(|dir| if dir.ends_with("deps") { dir.join("..") } else { dir.to_owned() });
    dir.ok_or_else(|| io::Error::other("the running executable has no directory; set XDPFS_BIN_DIR"))?
        .canonicalize()
}
