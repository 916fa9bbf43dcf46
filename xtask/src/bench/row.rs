//! Results: what was measured, against what.

use std::collections::BTreeMap;

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
    /// The median; not a number if it can't be measured here.
    reference_value: f64,
    runs: usize,
    /// On what, and beside what, it was measured.
    conditions: Vec<Condition>,
}

/// Something that the numbers depend on.
pub(super) type Condition = (&'static str, String);

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
    let references: Vec<_> =
        references.iter().map(|reference| reference.name).zip(reference_values).collect();
    Ok(rows(scale, subject.name, values, references))
}

/// One row for each reference, from what was measured in turn. A reference without values could not be measured.
pub(super) fn rows(
    scale: Scale,
    metric: &'static str,
    values: Vec<f64>,
    references: Vec<(&'static str, Vec<f64>)>,
) -> Vec<Row> {
    let value = median(values);
    let row = |(reference, all): (&'static str, Vec<f64>)| Row {
        bench: scale.bench,
        metric,
        unit: scale.unit,
        value,
        reference,
        runs: all.len(),
        reference_value: median(all),
        conditions: Vec::new(),
    };
    references.into_iter().map(row).collect()
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
            "conditions": self.conditions.iter().cloned().collect::<BTreeMap<_, _>>(),
        })
    }

    /// The row with more conditions.
    pub(super) fn under(mut self, conditions: &[Condition]) -> Self {
        self.conditions.extend_from_slice(conditions);
        self
    }

    fn ratio(&self) -> f64 {
        self.value / self.reference_value
    }
}

pub(super) fn print(rows: &[Row]) {
    let mut conditions: &[Condition] = &[];
    println!("{:<33}{:<24}{:>12} {:<14}{:>7}  reference", "bench", "metric", "value", "unit", "ratio");
    for row in rows {
        if row.conditions != conditions {
            conditions = &row.conditions;
            let said: Vec<_> = conditions.iter().map(|(name, value)| format!("{name} {value}")).collect();
            println!("-- {}", said.join(", "));
        }
        let Row { bench, metric, value, unit, reference, reference_value, runs, .. } = row;
        let ratio = row.ratio();
        if reference_value.is_nan() {
            println!("{bench:<33}{metric:<24}{value:>12.1} {unit:<14}      -  MISSING: {reference}");
            continue;
        }
        println!(
            "{bench:<33}{metric:<24}{value:>12.1} {unit:<14}{ratio:>7.3}  {reference_value:.1} {reference} ({runs} runs)"
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
    fn a_reference_that_is_missing_has_no_value() {
        let scale = Scale { bench: "a.b", unit: "MiB/s" };
        let rows = rows(scale, "rate", vec![1.0], vec![("gone", Vec::new())]);
        let row = rows.first().expect("one row").to_json();
        assert_eq!((&row["reference_value"], &row["runs"]), (&Value::Null, &json!(0)));
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
        let under = |row: Row| row.under(&[("cores", "2".to_owned())]).to_json();
        let rows: Vec<Value> = rows.into_iter().map(under).collect();
        let row = |reference: &str, reference_value: f64, ratio: f64| {
            json!({
                "bench": "a.b", "metric": "rate", "unit": "MiB/s", "value": 30.0, "reference": reference,
                "reference_value": reference_value, "ratio": ratio, "runs": 3, "conditions": {"cores": "2"},
            })
        };
        assert_eq!(rows, [row("one", 15.0, 2.0), row("other", 60.0, 0.5)]);
    }
}
