//! What an edge says of itself to whoever watches it.

use std::{future::pending, net::SocketAddr, time::Duration};

use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use xdpfs_data_node::{EdgeConfig, HealthConfig, PreparedEdge};

use crate::{config, fake_meta::FakeMeta, in_time};

/// Asks until it is answered so.
async fn until(address: SocketAddr, expect: ServingStatus) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let mut client = HealthClient::new(endpoint.connect_lazy());
    in_time("the health", async {
        loop {
            let request = HealthCheckRequest { service: "xdpfs.Edge".to_owned() };
            match client.check(request).await {
                Ok(answer) if answer.get_ref().status() == expect => return,
                _ => tokio::task::yield_now().await,
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn edge_serves_once_it_knows_who_is_behind_it_and_as_long_as_that_is_news() {
    let meta = FakeMeta::start().await;
    let listen = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let health = HealthConfig { listen, leader_silent_max: Duration::from_millis(500) };
    meta.heard().leaderless = true;
    let prepared = PreparedEdge::new(EdgeConfig { health: Some(health), ..config(&meta) }).unwrap();
    let starting = tokio::spawn(async move { prepared.start(pending()).await });
    until(listen, ServingStatus::NotServing).await;
    meta.heard().leaderless = false;
    until(listen, ServingStatus::Serving).await;
    meta.heard().leaderless = true;
    until(listen, ServingStatus::NotServing).await;
    meta.heard().leaderless = false;
    until(listen, ServingStatus::Serving).await;
    starting.await.unwrap().unwrap().unwrap().shutdown().await;
}
