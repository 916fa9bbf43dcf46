//! Whether the simulation would find a mistake, shown by mistakes that are made on purpose, one at a time, in the code that
//! servers run.

use std::env;

use super::{Cluster, runs, weather_a_storm};
use crate::mistake::{Mistake, plant};

/// How many seeds a mistake may survive.
const SEEDS_MAX: u64 = 600;
/// How often each mistake is looked for, each time from another seed on, unless `XDPFS_SIM_SEARCHES` says it.
const SEARCHES: u64 = 1;

/// How a mistake was found.
struct Found {
    /// The number of seeds that it took, in each search; the smallest one first.
    seeds: Vec<u64>,
    /// What the first search found.
    why: String,
}

/// The seed that finds the mistake, counted from `from` on, and what it found.
fn search(mistake: Mistake, from: u64) -> Option<(u64, String)> {
    (0..SEEDS_MAX).find_map(|count| {
        let mut cluster = Cluster::stormy(from + count, None);
        plant(Some(mistake));
        let why = runs::panic_of(|| {
            weather_a_storm(&mut cluster);
        });
        plant(None);
        if why.is_some() {
            // What fails by itself shows nothing.
            weather_a_storm(&mut Cluster::stormy(from + count, None));
        }
        why.map(|why| (count + 1, why))
    })
}

fn find(mistake: Mistake, searches: u64) -> Option<Found> {
    let found: Vec<_> = (0..searches).map(|at| search(mistake, at * 10_000)).collect::<Option<_>>()?;
    let why = found.first()?.1.lines().next().unwrap_or_default().chars().take(90).collect();
    let mut seeds: Vec<u64> = found.into_iter().map(|(count, _)| count).collect();
    seeds.sort_unstable();
    Some(Found { seeds, why })
}

fn median(sorted: &[u64]) -> u64 {
    sorted[sorted.len() / 2]
}

/// Says how the mistake was found. Gives the median of the seeds that it took.
fn judge(mistake: Mistake, searches: u64) -> Option<u64> {
    let Some(Found { seeds, why }) = find(mistake, searches) else {
        eprintln!("{mistake:<34?} SURVIVED {SEEDS_MAX} seeds");
        return None;
    };
    let (median, most) = (median(&seeds), seeds.last().copied().unwrap_or_default());
    eprintln!("{mistake:<34?} found in {median:>3} seeds, at most {most:>3}: {why}");
    Some(median)
}

#[test]
fn every_mistake_that_is_planted_is_found() {
    let searches =
        env::var("XDPFS_SIM_SEARCHES").map_or(SEARCHES, |text| text.parse().expect("it is a number"));
    let all = 0..Mistake::ALL.len() as u64;
    let ended = runs::each(all, |at| judge(Mistake::ALL[at as usize], searches));
    let (mut medians, mut survivors) = (Vec::new(), Vec::new());
    for (at, found) in ended {
        match found.expect("a search does not panic") {
            Some(median) => medians.push(median),
            None => survivors.push(Mistake::ALL[at as usize]),
        }
    }
    medians.sort_unstable();
    let (found, all) = (medians.len(), Mistake::ALL.len());
    eprintln!("{found} of {all} mistakes found, in {} seeds as the median", median(&medians));
    assert!(survivors.is_empty(), "the simulation would not find {survivors:?}");
}
