//! `node drain-plan`: what it would take to free data nodes of their chunks. It moves nothing.

use std::{fmt::Write as _, time::Duration};

use bytesize::ByteSize;
use clap::Args;
use serde::Serialize;
use xdpfs_client::{DrainPlan, DrainTarget, ObjectClient};

use crate::{
    commands::status::{lay_out, table, trimmed},
    console::Console,
    failure::{Exit, Failure},
    units::{count, human_bytes},
};

/// Say what it would take to free data nodes of their chunks; move nothing.
///
/// Every replica on these nodes is placed anew, on paper, by the rules that puts go by. `xdpfs-cli node drain` moves them.
#[derive(Debug, Args)]
pub(super) struct DrainPlanArguments {
    /// The numbers of the data nodes, which are all freed at once.
    #[arg(value_name = "NODE", required = true)]
    pub(super) nodes: Vec<u32>,
    /// Bytes per second that would be moved in all, for the estimate of the time.
    #[arg(long, value_name = "SIZE", default_value = "100MiB", value_parser = parse_rate)]
    pub(super) rate: u64,
}

pub(super) fn parse_rate(text: &str) -> Result<u64, String> {
    let rate: ByteSize =
        text.parse().map_err(|error| format!("{error}: write bytes per second, or 100MiB"))?;
    if rate.as_u64() == 0 { Err("it must be more than nothing".to_owned()) } else { Ok(rate.as_u64()) }
}

#[derive(Debug, Serialize)]
struct PlanRecord<'a> {
    nodes: &'a [u32],
    /// Always: no plan moves anything.
    dry_run: bool,
    /// False: time ran out, and the numbers are about the objects that were looked at.
    complete: bool,
    /// Every replica has a place, and all objects were looked at.
    fits: bool,
    objects_looked_at: u64,
    chunks_looked_at: u64,
    replicas: u64,
    bytes: u64,
    targets: Vec<TargetRecord>,
    replicas_unplaced: u64,
    bytes_unplaced: u64,
    objects_short: u64,
    objects_short_sample: &'a [String],
    chunks_crowded: u64,
    chunks_out_of_reach: u64,
    open_uploads: u64,
    rate_bytes_per_second: u64,
    seconds: u64,
}

#[derive(Debug, Serialize)]
struct TargetRecord {
    node: u32,
    replicas: u64,
    bytes: u64,
    free_bytes: u64,
}

impl From<&DrainTarget> for TargetRecord {
    fn from(target: &DrainTarget) -> Self {
        let DrainTarget { node, replicas, bytes, free_bytes } = *target;
        Self { node, replicas, bytes, free_bytes }
    }
}

/// Whether everything would find a place.
fn fits(plan: &DrainPlan) -> bool {
    plan.complete && plan.replicas_unplaced == 0
}

/// How long it takes to move what has a place.
fn seconds(plan: &DrainPlan, rate: u64) -> u64 {
    plan.bytes.saturating_sub(plan.bytes_unplaced).div_ceil(rate.max(1))
}

/// Shows the plan.
pub(super) async fn run<C: ObjectClient>(
    arguments: &DrainPlanArguments,
    client: &C,
    console: &mut Console,
) -> Result<Exit, Failure> {
    let plan = client.drain_plan(&arguments.nodes).await?;
    let record = PlanRecord {
        nodes: &arguments.nodes,
        dry_run: true,
        complete: plan.complete,
        fits: fits(&plan),
        objects_looked_at: plan.objects_looked_at,
        chunks_looked_at: plan.chunks_looked_at,
        replicas: plan.replicas,
        bytes: plan.bytes,
        targets: plan.targets.iter().map(TargetRecord::from).collect(),
        replicas_unplaced: plan.replicas_unplaced,
        bytes_unplaced: plan.bytes_unplaced,
        objects_short: plan.objects_short,
        objects_short_sample: &plan.objects_short_sample,
        chunks_crowded: plan.chunks_crowded,
        chunks_out_of_reach: plan.chunks_out_of_reach,
        open_uploads: plan.open_uploads,
        rate_bytes_per_second: arguments.rate,
        seconds: seconds(&plan, arguments.rate),
    };
    console.answer(&record, || plan_text(&plan, arguments))?;
    console.flush()?;
    Ok(Exit::Done)
}

fn plan_text(plan: &DrainPlan, arguments: &DrainPlanArguments) -> String {
    let nodes: Vec<_> = arguments.nodes.iter().map(u32::to_string).collect();
    let mut text = format!(
        "plan to free data node {}; nothing is moved\n  {} of {} would move, {}\n",
        nodes.join(", "),
        count(plan.replicas, "replica"),
        human_bytes(plan.bytes),
        duration_text(plan, arguments.rate),
    );
    let mut line = |words: String| {
        // Writing to a string cannot fail.
        let _infallible = writeln!(text, "  {words}");
    };
    if !plan.complete {
        line(format!(
            "NOT ALL: time ran out after {}; the rest would come on top; give more with --timeout",
            count(plan.objects_looked_at, "object")
        ));
    }
    if plan.replicas_unplaced > 0 {
        line(format!(
            "NO PLACE for {} of {}: {} would have fewer replicas than now",
            count(plan.replicas_unplaced, "replica"),
            human_bytes(plan.bytes_unplaced),
            count(plan.objects_short, "object")
        ));
        plan.objects_short_sample.iter().for_each(|name| line(format!("  {name}")));
        line("  -> add data nodes with room, in other failure domains, or free fewer at once".to_owned());
    } else if plan.complete {
        line("the other nodes have room for all of them".to_owned());
    }
    if plan.chunks_crowded > 0 {
        line(format!("{} would lie in fewer failure domains than now", count(plan.chunks_crowded, "chunk")));
    }
    if plan.chunks_out_of_reach > 0 {
        let chunks = count(plan.chunks_out_of_reach, "chunk");
        line(format!("{chunks} can't be copied at present: no node that holds them is alive"));
    }
    if plan.open_uploads > 0 {
        line(format!("{} not counted: they end by themselves", count(plan.open_uploads, "open upload")));
    }
    if plan.targets.is_empty() {
        return text;
    }
    let mut table = table(&["TO NODE", "REPLICAS", "BYTES", "FREE NOW", "FREE THEN"]);
    for target in &plan.targets {
        table.add_row([
            target.node.to_string(),
            target.replicas.to_string(),
            human_bytes(target.bytes),
            human_bytes(target.free_bytes),
            human_bytes(target.free_bytes.saturating_sub(target.bytes)),
        ]);
    }
    lay_out(&mut table, &[1, 2, 3, 4]);
    format!("{text}\n{}\n", trimmed(&table))
}

fn duration_text(plan: &DrainPlan, rate: u64) -> String {
    let time = humantime::format_duration(Duration::from_secs(seconds(plan, rate)));
    format!("{time} at {} per second", human_bytes(rate))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arguments() -> DrainPlanArguments {
        DrainPlanArguments { nodes: vec![3, 4], rate: 1 << 20 }
    }

    fn plan() -> DrainPlan {
        DrainPlan {
            complete: true,
            replicas: 10,
            bytes: 10 << 20,
            targets: vec![DrainTarget { node: 5, replicas: 10, bytes: 10 << 20, free_bytes: 30 << 20 }],
            ..DrainPlan::default()
        }
    }

    #[test]
    fn plan_that_fits_says_so_and_how_long_it_takes() {
        let expect = "\
plan to free data node 3, 4; nothing is moved
  10 replicas of 10.0 MiB would move, 10s at 1.0 MiB per second
  the other nodes have room for all of them

TO NODE  REPLICAS     BYTES  FREE NOW  FREE THEN
5              10  10.0 MiB  30.0 MiB   20.0 MiB
";
        assert_eq!(plan_text(&plan(), &arguments()), expect);
        assert!(fits(&plan()));
    }

    #[test]
    fn what_speaks_against_a_plan_is_named() {
        let short = DrainPlan {
            replicas_unplaced: 4,
            bytes_unplaced: 4 << 20,
            objects_short: 2,
            objects_short_sample: vec!["photos/cat".into()],
            chunks_crowded: 1,
            chunks_out_of_reach: 3,
            open_uploads: 1,
            complete: false,
            ..plan()
        };
        assert!(!fits(&short) && !fits(&DrainPlan { complete: false, ..plan() }));
        assert_eq!(seconds(&short, 1 << 20), 6);
        let text = plan_text(&short, &arguments());
        for words in [
            "NOT ALL",
            "NO PLACE for 4 replicas",
            "photos/cat",
            "1 chunk would",
            "3 chunks can't",
            "1 open upload",
        ] {
            assert!(text.contains(words), "{words}: {text}");
        }
    }

    #[test]
    fn rates_are_more_than_nothing() {
        assert_eq!(parse_rate("100MiB"), Ok(100 << 20));
        for bad in ["0", "fast", "-1"] {
            assert!(parse_rate(bad).is_err(), "{bad}");
        }
    }
}
