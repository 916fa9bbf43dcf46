use std::{error::Error, net::TcpListener};

use xdpfs_meta_server::{
    Config, IdentityError, Listeners, Server, ServerError,
    storage::{Change, LogStore as _, SledStore},
};

use crate::harness::Cluster;

async fn refused(config: Config) -> ServerError {
    let free = || TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { client: free(), peer: free() };
    Server::start_on(config, listeners).await.expect_err("a refusal")
}

fn words(error: &ServerError) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words = format!("{words}: {error}");
        cause = error.source();
    }
    words
}

#[tokio::test]
async fn data_directory_has_one_server_at_a_time() {
    let cluster = Cluster::start().await;
    let error = refused(cluster.config(1)).await;
    assert!(matches!(error, ServerError::InUse { .. }), "{error}");
    assert!(words(&error).contains("in use by another server"), "{error}");
}

#[tokio::test]
async fn lost_store_does_not_come_back_under_its_old_id() {
    let mut cluster = Cluster::start().await;
    cluster.stop(2).await;
    std::fs::remove_dir_all(cluster.data_dir(2)).unwrap();
    let error = refused(cluster.config(2)).await;
    assert!(matches!(error, ServerError::Identity(IdentityError::Empty { id: 2, .. })), "{error}");
    assert!(words(&error).contains("must not come back under its old id"), "{error}");
}

#[tokio::test]
async fn store_of_another_server_is_refused() {
    let mut cluster = Cluster::start().await;
    cluster.stop(2).await;
    let error = refused(Config { data_dir: cluster.data_dir(2), ..cluster.config(1) }).await;
    assert!(matches!(error, ServerError::Identity(IdentityError::OtherServer { stored: 2, .. })), "{error}");
    cluster.restart(2).await;
    cluster.ready().await;
}

#[tokio::test]
async fn list_of_members_that_is_out_of_date_does_no_harm() {
    let mut cluster = Cluster::start().await;
    cluster.list_members().await.unwrap();
    cluster.stop(2).await;
    let mut smaller = cluster.config(2);
    smaller.members.retain(|member| member.id == 2);
    cluster.start_server(smaller).await;
    cluster.ready().await;
    assert_eq!(cluster.status_of(2).await.meta_servers.len(), 3, "the log says who they are");
}

#[tokio::test]
async fn damaged_store_says_what_to_do() {
    let mut cluster = Cluster::start().await;
    cluster.stop(3).await;
    {
        let (mut store, recovered) = SledStore::open(&cluster.data_dir(3).join("store")).unwrap();
        let mut hard_state = recovered.hard_state;
        hard_state.commit += 1000;
        store.stage(Change::HardState(hard_state));
        store.sync().unwrap();
    }
    let error = refused(cluster.config(3)).await;
    assert!(matches!(error, ServerError::Store { .. }), "{error}");
    let words = words(&error);
    assert!(words.contains("damaged") && words.contains("fresh directory"), "{words}");
}

#[tokio::test]
async fn taken_address_is_named() {
    let cluster = Cluster::start().await;
    let config = Config { bootstrap: true, data_dir: cluster.data_dir(9), ..cluster.config(1) };
    let error = Server::start(config).await.expect_err("the address is taken");
    assert!(words(&error).contains(&cluster.endpoint(1)), "{error}");
}
