//! A real edge on loopback, without a kernel program, between clients and nodes that the test holds in its hand.

#![expect(clippy::unwrap_used, reason = "a test that meets the unexpected has failed")]

mod client;
mod fake_meta;
mod fake_node;
mod flows;
mod health;
mod leader;
mod refused;
mod relayed;

use std::{future::pending, time::Duration};

use xdpfs_data_node::{Edge, EdgeConfig, PreparedEdge};

use fake_meta::FakeMeta;

/// What has to happen does so within this.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(meta: &FakeMeta) -> EdgeConfig {
    EdgeConfig { advertise: Some(fake_meta::EDGE.to_owned()), ..EdgeConfig::new(vec![meta.endpoint()]) }
}

async fn start(meta: &FakeMeta) -> Edge {
    start_with(config(meta)).await
}

async fn start_with(config: EdgeConfig) -> Edge {
    PreparedEdge::new(config).unwrap().start(pending()).await.unwrap().unwrap()
}

async fn in_time<T>(what: &str, happens: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, happens).await {
        Ok(happened) => happened,
        Err(_) => panic!("{what} did not happen"),
    }
}
