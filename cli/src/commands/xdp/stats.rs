//! `xdp stats`: what the kernel program has counted, once or again and again.

use std::{collections::BTreeMap, time::Duration};

use clap::Args;
use serde::Serialize;
use xdpfs_proto::admin::v1::{Counter, StatsRequest, StatsResponse};

use super::connection::Connection;
use crate::{
    console::Console,
    failure::{Exit, Failure},
};

/// Show how many packets the kernel program has seen, and what became of them.
#[derive(Clone, Copy, Debug, Args)]
#[command(after_help = "\
The fates add up to the packets seen. The reasons add up to the fates refused, answered and
answer_withheld.

Examples:
  xdpfs-cli xdp stats
  xdpfs-cli xdp stats --watch 1
  xdpfs-cli xdp stats --json | jq .rejects.bad_tag")]
pub(super) struct StatsArguments {
    /// Show how many came per second since the last look, every so many seconds, until interrupted.
    #[arg(long, value_name = "SECONDS", value_parser = parse_seconds)]
    watch: Option<Duration>,
}

/// The answer as JSON.
#[derive(Debug, Serialize)]
struct StatsRecord<'a> {
    uptime_ms: u64,
    fates: BTreeMap<&'a str, u64>,
    rejects: BTreeMap<&'a str, u64>,
    /// Only when watched, and from the second look on.
    #[serde(skip_serializing_if = "Option::is_none")]
    per_second: Option<BTreeMap<&'a str, u64>>,
}

/// Asks and shows.
pub(super) async fn run(
    arguments: StatsArguments,
    connection: &mut Connection,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let mut before = None;
    loop {
        let answer = connection.service.stats(StatsRequest {}).await;
        let stats = answer.map_err(|status| connection.failure(&status))?.into_inner();
        show(&stats, before.as_ref(), console)?;
        let Some(interval) = arguments.watch else { return Ok(Exit::Done) };
        before = Some(stats);
        tokio::time::sleep(interval).await;
    }
}

fn show(stats: &StatsResponse, before: Option<&StatsResponse>, console: &mut Console) -> Result<(), Failure> {
    let per_second = before.map(|before| rates(stats, before));
    let record = StatsRecord {
        uptime_ms: stats.uptime_ms,
        fates: by_name(&stats.fates),
        rejects: by_name(&stats.rejects),
        per_second: per_second.clone(),
    };
    console.answer(&record, || text(stats, per_second.as_ref()))?;
    console.flush()
}

fn by_name(counters: &[Counter]) -> BTreeMap<&str, u64> {
    counters.iter().map(|counter| (counter.name.as_str(), counter.packets)).collect()
}

/// Packets per second of each counter, without zeros.
fn rates<'a>(stats: &'a StatsResponse, before: &StatsResponse) -> BTreeMap<&'a str, u64> {
    let elapsed_ms = stats.uptime_ms.saturating_sub(before.uptime_ms).max(1);
    let known = by_name(&before.fates).into_iter().chain(by_name(&before.rejects));
    let known: BTreeMap<_, _> = known.collect();
    let counters = stats.fates.iter().chain(&stats.rejects);
    let rate = |counter: &'a Counter| {
        // A program that was loaded anew counts from zero.
        let new = counter.packets.saturating_sub(known.get(counter.name.as_str()).copied().unwrap_or(0));
        (counter.name.as_str(), new.saturating_mul(1000) / elapsed_ms)
    };
    counters.map(rate).filter(|(_, rate)| *rate > 0).collect()
}

fn text(stats: &StatsResponse, per_second: Option<&BTreeMap<&str, u64>>) -> String {
    let row = |name: &str, packets: u64| match per_second {
        Some(rates) => {
            format!("  {name:<18} {packets:>14} {:>12}/s\n", rates.get(name).copied().unwrap_or(0))
        }
        None => format!("  {name:<18} {packets:>14}\n"),
    };
    let rows = |counters: &[Counter]| -> String {
        let named = by_name(counters);
        named.iter().map(|(name, packets)| row(name, *packets)).collect()
    };
    let seen: u64 = stats.fates.iter().map(|counter| counter.packets).sum();
    let mut text = format!("{seen} packets seen\n{}", rows(&stats.fates));
    if !stats.rejects.is_empty() {
        let refused: u64 = stats.rejects.iter().map(|counter| counter.packets).sum();
        text += &format!("{refused} refused, by reason\n{}", rows(&stats.rejects));
    }
    text
}

fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .filter(|interval| *interval >= MIN_INTERVAL)
        .ok_or_else(|| "write seconds, 0.1 or more".to_owned())
}

/// More often shows nothing more.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::{Look, tests::Printed};

    fn stats(uptime_ms: u64, local: u64, bad_tag: u64) -> StatsResponse {
        let counter = |name: &str, packets| Counter { name: name.into(), packets };
        StatsResponse {
            uptime_ms,
            fates: vec![counter("local", local), counter("refused", bad_tag)],
            rejects: vec![counter("bad_tag", bad_tag)],
        }
    }

    #[test]
    fn people_get_sums_and_rates() {
        let (mut console, printed) = Printed::console(Look::default());
        show(&stats(1000, 10, 3), None, &mut console).unwrap();
        show(&stats(3000, 20, 3), Some(&stats(1000, 10, 3)), &mut console).unwrap();
        let expect = "\
13 packets seen
  local                          10
  refused                         3
3 refused, by reason
  bad_tag                         3
23 packets seen
  local                          20            5/s
  refused                         3            0/s
3 refused, by reason
  bad_tag                         3            0/s
";
        assert_eq!(printed.out(), expect);
    }

    #[test]
    fn scripts_get_one_line_for_each_look() {
        let (mut console, printed) = Printed::console(Look { json: true, quiet: false });
        show(&stats(3000, 20, 3), Some(&stats(1000, 10, 3)), &mut console).unwrap();
        let expect = concat!(
            r#"{"uptime_ms":3000,"fates":{"local":20,"refused":3},"rejects":{"bad_tag":3},"#,
            r#""per_second":{"local":5}}"#,
            "\n"
        );
        assert_eq!(printed.out(), expect);
    }

    #[test]
    fn a_program_that_was_loaded_anew_has_no_negative_rate() {
        assert!(rates(&stats(2000, 1, 0), &stats(1000, 50, 9)).is_empty());
    }

    #[test]
    fn intervals_are_seconds() {
        assert_eq!(parse_seconds("1"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_seconds("0.5"), Ok(Duration::from_millis(500)));
        for bad in ["0", "-1", "soon", "inf", "1e300"] {
            assert!(parse_seconds(bad).is_err(), "{bad}");
        }
    }
}
