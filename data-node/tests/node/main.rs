//! A real data node between a real chunk client and a metadata service that the test holds in its hand.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod disks;
mod fake_meta;
mod fetches;
mod health;
mod orders;
mod place;
mod program;
mod refusals;
mod refused;
mod registration;
mod storage;
mod transfers;
mod writer;

use tempfile::TempDir;
use xdpfs_data_node::{Config, DataNode};

use fake_meta::FakeMeta;

fn config(home: &TempDir, meta: &FakeMeta) -> Config {
    Config::new(home.path().join("data"), vec![meta.endpoint()])
}

async fn start(home: &TempDir, meta: &FakeMeta) -> DataNode {
    DataNode::start(config(home, meta)).await.unwrap()
}
