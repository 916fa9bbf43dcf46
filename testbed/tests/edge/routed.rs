//! Without an edge's help: the network is as it should be, so what fails in the other tests is not its fault.

use xdpfs_testbed::Content;

use crate::{
    crossing::other_traffic_crosses,
    support::{NETWORKS, holds, put, routed},
};

#[test]
fn objects_come_and_go_where_the_edge_only_routes() {
    for network in NETWORKS {
        let cluster = routed(network);
        let content = Content::new(1, 16 << 20);
        let (put, got) = (put(&cluster, "data/key", &content), holds(&cluster, "data/key", &content));
        println!("{network:?}: put {put:?}, got {got:?}");
        other_traffic_crosses(&cluster);
    }
}
