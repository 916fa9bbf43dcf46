//! How long many things took.

use std::time::Duration;

#[derive(Debug, Default)]
pub(crate) struct Times(Vec<f64>);

impl Times {
    pub(crate) fn note(&mut self, took: Duration) {
        self.0.push(took.as_secs_f64() * 1e6);
    }

    pub(crate) fn append(&mut self, mut others: Self) {
        self.0.append(&mut others.0);
    }

    /// As JSON, for so much time.
    pub(crate) fn summary(mut self, time: Duration) -> String {
        self.0.sort_by(f64::total_cmp);
        let count = self.0.len();
        let at = |share: f64| {
            let index = (count as f64 * share) as usize;
            self.0.get(index.min(count.saturating_sub(1))).copied().unwrap_or_default()
        };
        format!(
            r#"{{"ops_per_s":{:.1},"p50_us":{:.1},"p99_us":{:.1},"p999_us":{:.1}}}"#,
            count as f64 / time.as_secs_f64(),
            at(0.5),
            at(0.99),
            at(0.999)
        )
    }
}
