//! Results: what was measured, against what.

use serde_json::{Value, json};

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    bench: &'static str,
    metric: &'static str,
    unit: &'static str,
    /// The median.
    value: f64,
    reference: &'static str,
    /// The median.
    reference_value: f64,
    runs: usize,
}

/// One thing that is measured again and again.
pub(super) struct Measurement<'a> {
    /// What it is; for references with what exactly is done.
    pub(super) name: &'static str,
    pub(super) run: Box<dyn FnMut() -> anyhow::Result<f64> + 'a>,
}

impl<'a> Measurement<'a> {
    pub(super) fn new(name: &'static str, run: impl FnMut() -> anyhow::Result<f64> + 'a) -> Self {
        Self { name, run: Box::new(run) }
    }
}

/// The group, and the unit of its numbers.
#[derive(Clone, Copy)]
pub(super) struct Scale {
    pub(super) bench: &'static str,
    pub(super) unit: &'static str,
}

/// Runs subject and references in turn, once without counting and then `runs` times; one row for each reference.
pub(super) fn compare(
    scale: Scale,
    runs: u32,
    mut subject: Measurement<'_>,
    mut references: Vec<Measurement<'_>>,
) -> anyhow::Result<Vec<Row>> {
    let mut values = Vec::new();
    let mut reference_values = vec![Vec::new(); references.len()];
    for run in 0..=runs {
        let value = (subject.run)()?;
        let others =
            references.iter_mut().map(|reference| (reference.run)()).collect::<anyhow::Result<Vec<_>>>()?;
        let Scale { bench, unit } = scale;
        let name = subject.name;
        if run == 0 {
            continue;
        }
        eprintln!("  {bench} {name}, run {run} of {runs}: {value:.1} {unit} against {others:.1?}");
        values.push(value);
        reference_values.iter_mut().zip(others).for_each(|(all, value)| all.push(value));
    }
    let value = median(values);
    let row = |(reference, all): (&Measurement<'_>, Vec<f64>)| Row {
        bench: scale.bench,
        metric: subject.name,
        unit: scale.unit,
        value,
        reference: reference.name,
        runs: all.len(),
        reference_value: median(all),
    };
    Ok(references.iter().zip(reference_values).map(row).collect())
}

impl Row {
    pub(super) fn to_json(&self) -> Value {
        json!({
            "bench": self.bench,
            "metric": self.metric,
            "unit": self.unit,
            "value": self.value,
            "reference": self.reference,
            "reference_value": self.reference_value,
            "ratio": self.ratio(),
            "runs": self.runs,
        })
    }

    fn ratio(&self) -> f64 {
        self.value / self.reference_value
    }
}

pub(super) fn print(rows: &[Row]) {
    println!("{:<14}{:<24}{:>10} {:<14}{:>7}  reference", "bench", "metric", "value", "unit", "ratio");
    for row in rows {
        let Row { bench, metric, value, unit, reference, reference_value, runs, .. } = row;
        let ratio = row.ratio();
        println!(
            "{bench:<14}{metric:<24}{value:>10.1} {unit:<14}{ratio:>7.3}  {reference_value:.1} {reference} ({runs} runs)"
        );
    }
}

/// The middle one, or between the two in the middle.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2).copied().unwrap_or(f64::NAN);
    let lower = values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN);
    f64::midpoint(lower, upper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle() {
        assert_eq!(median(vec![3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(vec![7.0]), 7.0);
    }

    #[test]
    fn each_reference_gets_a_row_and_the_first_run_does_not_count() {
        let mut runs = 0.0;
        let subject = Measurement::new("rate", || {
            runs += 1.0;
            Ok(runs * 10.0)
        });
        let references = vec![Measurement::new("one", || Ok(15.0)), Measurement::new("other", || Ok(60.0))];
        let scale = Scale { bench: "a.b", unit: "MiB/s" };
        let rows = compare(scale, 3, subject, references).expect("nothing can fail");
        let rows: Vec<Value> = rows.iter().map(Row::to_json).collect();
        let row = |reference: &str, reference_value: f64, ratio: f64| {
            json!({
                "bench": "a.b", "metric": "rate", "unit": "MiB/s", "value": 30.0, "reference": reference,
                "reference_value": reference_value, "ratio": ratio, "runs": 3,
            })
        };
        assert_eq!(rows, [row("one", 15.0, 2.0), row("other", 60.0, 0.5)]);
    }
}
