//! Certificates, as the command line tool makes them.

use std::{
    io,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
};

/// Makes a CA, certificates for metadata servers at these addresses, and one for all data nodes.
pub(super) fn make(program: &Path, directory: &Path, cluster: &str, servers: &[IpAddr]) -> io::Result<()> {
    let mut command = Command::new(program);
    command.args(["init", "--if-missing", "--cluster", cluster]).arg(directory).stdin(Stdio::null());
    for (address, id) in servers.iter().zip(1..) {
        command.arg("--meta").arg(format!("{id}={address}"));
    }
    let output = command.output()?;
    if output.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()))
}
