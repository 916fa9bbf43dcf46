//! What a client outside of the containers needs, copied out of one of them.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use tempfile::TempDir;
use xdpfs_testbed::{Cli, namespace::Namespace};

use super::compose::Project;

/// The CA and the root key of a project. Gone from this machine when dropped.
#[derive(Debug)]
pub(super) struct Credentials {
    ca: PathBuf,
    key: String,
    _directory: TempDir,
}

impl Credentials {
    /// Those of a project whose first metadata server has been made.
    pub(super) fn of(project: &Project) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("xdpfs-credentials-").tempdir()?;
        let (ca, key) = (directory.path().join("ca.pem"), directory.path().join("root.key"));
        let server = project.meta_server(1)?;
        project.copy_out(&server, "/tls/ca.pem", &ca)?;
        project.copy_out(&server, "/keys/root.key", &key)?;
        let key = fs::read_to_string(&key).context("the root key can't be read")?.trim().to_owned();
        Ok(Self { ca, key, _directory: directory })
    }

    /// A client of the servers at `endpoint`, with all rights.
    pub(super) fn client(
        &self,
        program: PathBuf,
        endpoint: String,
        namespace: Option<std::sync::Arc<Namespace>>,
    ) -> Cli {
        Cli { program, endpoint, ca: Some(self.ca.clone()), access_key: Some(self.key.clone()), namespace }
    }
}
