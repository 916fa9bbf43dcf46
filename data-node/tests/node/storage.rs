//! A directory that does not keep what receipts promise.

use tempfile::TempDir;
use xdpfs_data_node::{Config, DataNode, StartError, storage_probe};

use crate::fake_meta::FakeMeta;

#[tokio::test]
async fn node_in_memory_says_so_and_does_not_start_where_that_is_not_wanted() {
    // In memory, but on hosts that are set up by hand.
    let home = TempDir::new_in("/dev/shm").or_else(|_| TempDir::new()).unwrap();
    let doubt = storage_probe::of_file_system(home.path());
    let meta = FakeMeta::start().await;
    let config = Config::new(home.path().join("data"), vec![meta.endpoint()]);
    if let Some(expect) = doubt {
        let refused = DataNode::start(Config { require_durable: true, ..config.clone() }).await.unwrap_err();
        assert!(matches!(refused, StartError::Storage { doubt, .. } if doubt == expect), "{refused:?}");
        assert!(refused.to_string().contains("--require-durable"), "{refused}");
        assert!(!home.path().join("data").exists(), "nothing is made there");
    }
    let node = DataNode::start(config).await.unwrap();
    let said = meta.next_heartbeat().await.storage_doubts;
    match doubt {
        Some(doubt) => assert_eq!(said, [doubt.label()]),
        None => assert!(said.iter().all(|doubt| doubt == "fast_sync"), "{said:?}"),
    }
    node.shutdown().await;
}
