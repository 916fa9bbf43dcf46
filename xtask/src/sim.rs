//! The simulation of the metadata servers, for any number of seeds (docs/reliability.md).

use anyhow::ensure;

use crate::sh;

/// Seeds that CI runs.
const SEEDS: u64 = 2000;

const PACKAGE: &str = "xdpfs-meta-server";
const MODULE: &str = "consensus::simulation";
const STORMS: &str = "nothing_acknowledged_is_lost_in_any_storm";

pub(crate) struct Options {
    pub(crate) seeds: u64,
    pub(crate) from: u64,
    /// None: as the seed says.
    pub(crate) replicas: Option<u64>,
    pub(crate) mutants: bool,
}

/// What CI runs, with the features of all other tests, so that nothing is built twice. The mistakes are among the tests.
pub(crate) fn for_ci(features: &[&str]) -> anyhow::Result<()> {
    let words = ["cargo", "test", "--locked", "--workspace", "--lib"];
    let range = format!("0..{SEEDS}");
    test(&[&words[..], features].concat(), STORMS, &[("XDPFS_SIM_SEEDS", &range)])
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Options { seeds, from, replicas, mutants } = options;
    ensure!(*seeds > 0 || *mutants, "nothing to do: give --seeds or --mutants");
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
        test(&words, "mistakes::every_mistake_that_is_planted_is_found", &searches)?;
    }
    Ok(())
}

fn test(words: &[&str], name: &str, environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let name = format!("{MODULE}::{name}");
    sh::run_with(&[words, &["--", "--exact", &name, "--nocapture"]].concat(), environment)
}
