//! The simulation of the metadata servers, for any number of seeds (docs/reliability.md).

use anyhow::ensure;

use crate::sh;

/// Seeds that CI runs.
const SEEDS: u64 = 2000;

const PACKAGE: &str = "xdpfs-meta-server";
const MODULE: &str = "consensus::simulation";

pub(crate) struct Options {
    pub(crate) seeds: u64,
    pub(crate) from: u64,
    /// None: as the seed says.
    pub(crate) replicas: Option<u64>,
    pub(crate) mutants: bool,
}

/// What CI runs. The mistakes are among the tests.
pub(crate) fn for_ci() -> anyhow::Result<()> {
    run(&Options { seeds: SEEDS, from: 0, replicas: None, mutants: false })
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    let Options { seeds, from, replicas, mutants } = options;
    ensure!(*seeds > 0 || *mutants, "nothing to do: give --seeds or --mutants");
    let range = format!("{from}..{}", from.saturating_add(*seeds));
    let replicas = replicas.map(|replicas| replicas.to_string());
    let mut environment = vec![("XDPFS_SIM_SEEDS", range.as_str())];
    environment.extend(replicas.iter().map(|replicas| ("XDPFS_SIM_REPLICAS", replicas.as_str())));
    if *seeds > 0 {
        test("nothing_acknowledged_is_lost_in_any_storm", &environment)?;
    }
    if *mutants {
        let searches = [("XDPFS_SIM_SEARCHES", "9")];
        test("mistakes::every_mistake_that_is_planted_is_found", &searches)?;
    }
    Ok(())
}

/// Tests are built as always, so that nothing is built twice.
fn test(name: &str, environment: &[(&str, &str)]) -> anyhow::Result<()> {
    let name = format!("{MODULE}::{name}");
    let words = ["cargo", "test", "--locked", "-p", PACKAGE, "--lib", "--", "--exact", &name, "--nocapture"];
    sh::run_with(&words, environment)
}
