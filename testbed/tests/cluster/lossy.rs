//! A path that loses, reorders, doubles and corrupts costs time and nothing else.

use std::time::Duration;

use xdpfs_testbed::{ClusterOptions, Content, ShimOptions, udp_shim::Rates};

use crate::support::{cluster_with, done, holds, put};

const RATES: Rates = Rates { loss: 5.0, reorder: 5.0, duplicate: 2.0, corrupt: 1.0 };

#[test]
fn transfers_finish_on_a_bad_path_and_corruption_is_counted() {
    let shim = ShimOptions { rates: RATES, seed: 20 };
    let cluster = cluster_with(ClusterOptions { shim: Some(shim), ..ClusterOptions::default() });
    // Many small chunks make many short datagrams, of which the header is the larger part.
    done(&cluster, &["mb", "small-chunks", "--chunk-size", "64KiB"]);
    let large = Content::new(8, 48 << 20);
    for address in ["data/large", "small-chunks/large"] {
        put(&cluster, address, &large);
        holds(&cluster, address, &large);
    }
    for size in [0, 1, 1344, 1345, 65_537, 1 << 20] {
        let address = format!("data/{size}");
        put(&cluster, &address, &Content::new(size, size));
        holds(&cluster, &address, &Content::new(size, size));
    }
    done(&cluster, &["rm", "data/large"]);

    for (node, _) in cluster.all_data_nodes().iter().enumerate() {
        let counters = cluster.shim(node).expect("the path is lossy").counters();
        println!("before node {}: {counters:?}", node + 1);
        assert_eq!(counters.crowded, 0, "the relay itself refused clients: {counters:?}");
        // A twentieth is lost and a hundredth corrupted of what came; a third of that is beyond chance.
        let at_least = |percent: f64| (counters.received as f64 * percent / 100.0 / 3.0) as u64;
        assert!(counters.received > 10_000, "{counters:?}");
        assert!(counters.lost > at_least(RATES.loss), "{counters:?}");
        assert!(counters.reordered > at_least(RATES.reorder), "{counters:?}");
        assert!(counters.duplicated > at_least(RATES.duplicate), "{counters:?}");
        assert!(counters.corrupted > at_least(RATES.corrupt), "{counters:?}");
    }
    // A flipped bit in the header spoils the tag, one behind it the payload's checksum.
    for reason in ["bad_tag", "corrupt"] {
        let counted = cluster.await_status(Duration::from_secs(10), |status| status.rejects(reason) > 0);
        assert!(
            counted.is_some(),
            "{reason} was never counted: {:?}",
            cluster.status().map(|status| status.raw)
        );
    }
}
