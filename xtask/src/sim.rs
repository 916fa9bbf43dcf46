//! The simulations of the metadata servers, and of whole clusters, for any number of seeds (docs/reliability.md).

use anyhow::ensure;

use crate::sh;

/// Seeds that CI runs, of metadata servers alone and of whole clusters.
const SEEDS: u64 = 2000;
const CLUSTER_SEEDS: u64 = 300;

const PACKAGE: &str = "xdpfs-meta-server";
const STORMS: &str = "consensus::simulation::nothing_acknowledged_is_lost_in_any_storm";
const MISTAKES: &str = "consensus::simulation::mistakes::every_mistake_that_is_planted_is_found";
const CLUSTERS: &str = "simulated_cluster::nothing_acknowledged_is_lost_and_all_replicas_come_back";

pub(crate) struct Options {
    pub(crate) seeds: u64,
    pub(crate) from: u64,
    /// None: as the seed says.
    pub(crate) replicas: Option<u64>,
    pub(crate) mutants: bool,
    /// Seeds of whole clusters.
    pub(crate) clusters: u64,
}

/// What CI runs, with the features of all other tests, so that nothing is built twice. The mistakes are among the tests.
pub(crate) fn for_ci(features: &[&str]) -> anyhow::Result<()> {
    let words = ["cargo", "test", "--locked", "--workspace", "--lib"];
    let range = format!("0..{SEEDS}");
    let words = [&words[..], features].concat();
    test(&words, STORMS, &[("XDPFS_SIM_SEEDS", &range)])?;
    test(&words, CLUSTERS, &[("XDPFS_CLUSTER_SEEDS", &format!("0..{CLUSTER_SEEDS}"))])
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Options { seeds, from, replicas, mutants, clusters } = options;
    ensure!(*seeds > 0 || *mutants || *clusters > 0, "nothing to do: give --seeds, --clusters or --mutants");
    let range = format!("{from}..{}", from.saturating_add(*seeds));
    let replicas = replicas.map(|replicas| replicas.to_string());
    let mut environment = vec![("XDPFS_SIM_SEEDS", range.as_str())];
    environment.extend(replicas.iter().map(|replicas| ("XDPFS_SIM_REPLICAS", replicas.as_str())));
    let words = ["cargo", "test", "--locked", "-p", PACKAGE, "--lib"];
    if *seeds > 0 {
        test(&words, STORMS, &environment)?;
    }
    if *mutants {
        let searches = [("XDPFS_SIM_SEARCHES", "9")];
        test(&words, MISTAKES, &searches)?;
    }
    if *clusters > 0 {
        let range = format!("{from}..{}", from.saturating_add(*clusters));
        test(&words, CLUSTERS, &[("XDPFS_CLUSTER_SEEDS", &range)])?;
    }
    Ok(())
}

fn test(words: &[&str], name: &str, environment: &[(&str, &str)]) -> anyhow::Result<()> {
    sh::run_with(&[words, &["--", "--exact", name, "--nocapture"]].concat(), environment)
}
