//! What a node says of itself to whoever watches it.

use std::{net::SocketAddr, time::Duration};

use tempfile::TempDir;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use xdpfs_data_node::{Config, DataNode, HealthConfig, StartError};

use crate::{
    config,
    fake_meta::{FakeMeta, Role},
};

/// What has to happen does so within this.
const PATIENCE: Duration = Duration::from_secs(20);

/// An address that is free, as far as anyone can know.
fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Asks until it is answered so.
async fn until(address: SocketAddr, expect: ServingStatus) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect_lazy());
    let wait = async {
        loop {
            let request = HealthCheckRequest { service: "xdpfs.DataNode".to_owned() };
            match client.check(request).await {
                Ok(answer) if answer.get_ref().status() == expect => return,
                _ => tokio::task::yield_now().await,
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "it never became {expect:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn node_serves_while_it_is_registered_and_hears_of_a_leader() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let listen = free_address();
    let health = HealthConfig { listen, leader_silent_max: Duration::from_millis(500) };
    meta.heard().role = Role::Follower(None);
    let starting = tokio::spawn(DataNode::start(Config { health: Some(health), ..config(&home, &meta) }));
    until(listen, ServingStatus::NotServing).await;
    meta.heard().role = Role::Leader;
    until(listen, ServingStatus::Serving).await;
    meta.heard().role = Role::Follower(None);
    until(listen, ServingStatus::NotServing).await;
    meta.heard().role = Role::Leader;
    until(listen, ServingStatus::Serving).await;
    starting.await.unwrap().unwrap().shutdown().await;
    // Nobody answers any more, so the address is free again.
    std::net::TcpListener::bind(listen).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_is_taken_is_named() {
    let (home, meta) = (TempDir::new().unwrap(), FakeMeta::start().await);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let health = Some(HealthConfig::new(taken.local_addr().unwrap()));
    let refused = DataNode::start(Config { health, ..config(&home, &meta) }).await.expect_err("it is taken");
    assert!(matches!(refused, StartError::Health { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&taken.local_addr().unwrap().to_string()), "{refused}");
    assert!(meta.heard().registrations.is_empty(), "it never got as far as registering");
}
