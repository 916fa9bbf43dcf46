//! What most tests say to a cluster.

use std::time::Duration;

use xdpfs_testbed::{CliOutput, Cluster, ClusterOptions, Content};

/// Three metadata servers and three data nodes with a bucket `data`.
pub(crate) fn cluster() -> Cluster {
    cluster_with(ClusterOptions::default())
}

/// The same with other options.
pub(crate) fn cluster_with(options: ClusterOptions) -> Cluster {
    let cluster = Cluster::start(options).expect("the cluster starts");
    done(&cluster, &["mb", "data"]);
    cluster
}

/// Options under which what is given up is also removed within seconds.
pub(crate) fn impatient() -> ClusterOptions {
    let seconds = |name: &str, seconds: &str| (format!("XDPFS_META_{name}_S"), seconds.to_owned());
    let env = vec![seconds("UPLOAD_LEASE", "3"), seconds("CAPABILITY", "4"), seconds("DELETION_GRACE", "5")];
    ClusterOptions { env, ..ClusterOptions::default() }
}

/// Runs to the end with exit code 0.
pub(crate) fn done(cluster: &Cluster, args: &[&str]) -> CliOutput {
    let output = cluster.cli().run(args);
    assert_eq!(output.code, Some(0), "{args:?}: {}", output.stderr);
    output
}

/// Puts `content` at `address`.
pub(crate) fn put(cluster: &Cluster, address: &str, content: &Content) {
    let output = put_within(cluster, address, content, Duration::from_secs(60));
    assert_eq!(output.code, Some(0), "put {address}: {}", output.stderr);
}

/// Puts `content` at `address`, however that ends.
pub(crate) fn put_within(cluster: &Cluster, address: &str, content: &Content, within: Duration) -> CliOutput {
    cluster.cli().invoke(["put", "-", address]).stdin(content.clone()).within(within).run()
}

/// The object at `address` is exactly `content`.
pub(crate) fn holds(cluster: &Cluster, address: &str, content: &Content) {
    let output = get_within(cluster, address, content, Duration::from_secs(60));
    assert_eq!(output.code, Some(0), "get {address}: {}", output.stderr);
}

/// Gets the object at `address`, however that ends; if it ends well, the object is exactly `content`.
pub(crate) fn get_within(cluster: &Cluster, address: &str, content: &Content, within: Duration) -> CliOutput {
    let check = content.shared_check();
    let output = cluster.cli().invoke(["get", address, "-"]).stdout(check.clone()).within(within).run();
    assert!(output.stream_error.is_none(), "get {address}: {:?}", output.stream_error);
    if output.code == Some(0) {
        check.finish().unwrap_or_else(|error| panic!("get {address}: {error}"));
    }
    output
}

/// Nobody sees anything at `address`.
pub(crate) fn holds_nothing(cluster: &Cluster, address: &str) {
    for command in ["stat", "cat"] {
        let output = cluster.cli().run([command, address]);
        assert_eq!(output.code, Some(3), "{command} {address}: {}", output.stderr);
        assert!(output.stdout.is_empty(), "{command} {address} printed something");
    }
}

/// One JSON object that a command printed.
pub(crate) fn json(cluster: &Cluster, args: &[&str]) -> serde_json::Value {
    let output = done(cluster, &[&["--json"], args].concat());
    serde_json::from_str(output.text().trim())
        .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", output.text()))
}
