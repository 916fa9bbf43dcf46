//! One look at a process, written as OpenMetrics text.

use std::{fmt, sync::Arc};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, text},
    metrics::MetricType,
    registry::{Registry, Unit as ExposedUnit},
};

use crate::{
    Latency,
    catalogue::{Kind, Metric, Unit},
    process::ProcessMetrics,
};

/// A process that can be looked at. What it tells may take locks for a moment, but waits for nothing.
pub trait Source: fmt::Debug + Send + Sync + 'static {
    /// Gives the values of all its metrics.
    fn collect(&self, scrape: &mut Scrape<'_>);
    /// Whether the process can do what it is there for.
    fn is_ready(&self) -> bool;
}

/// Takes values. Each metric is given once per look.
#[derive(Debug)]
pub struct Scrape<'a> {
    out: Out<'a>,
    result: fmt::Result,
}

/// Where values go.
#[derive(Debug)]
enum Out<'a> {
    /// To be told apart from those of other parts first.
    Noted(Vec<(Metric, Value)>),
    Text(DescriptorEncoder<'a>),
}

/// A value without labels.
#[derive(Debug)]
enum Value {
    Count(u64),
    Latency(Latency),
    Number(f64),
}

impl Scrape<'_> {
    /// A number that rises.
    pub fn counter(&mut self, metric: &Metric, value: u64) {
        if self.note(metric, || Value::Count(value)) {
            return;
        }
        self.write(metric, Kind::Counter, |mut out| count(&mut out, value));
    }

    /// Numbers that rise, each with the values of its labels in the catalogue's order.
    pub fn counters<const N: usize>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = ([impl AsRef<str>; N], u64)>,
    ) {
        self.write(metric, Kind::Counter, |mut out| {
            values.into_iter().try_for_each(|(labels, value)| {
                count(&mut out.encode_family(&with_names(metric, &labels))?, value)
            })
        });
    }

    /// A number.
    pub fn gauge(&mut self, metric: &Metric, value: f64) {
        if self.note(metric, || Value::Number(value)) {
            return;
        }
        self.write(metric, Kind::Gauge, |mut out| out.encode_gauge(&value));
    }

    /// A number that there need not be: without one, only what it would mean is told.
    pub fn optional_gauge(&mut self, metric: &Metric, value: Option<f64>) {
        self.write(metric, Kind::Gauge, |mut out| value.map_or(Ok(()), |value| out.encode_gauge(&value)));
    }

    /// Numbers, each with the values of its labels in the catalogue's order.
    pub fn gauges<const N: usize>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = ([impl AsRef<str>; N], f64)>,
    ) {
        self.write(metric, Kind::Gauge, |mut out| {
            values.into_iter().try_for_each(|(labels, value)| {
                out.encode_family(&with_names(metric, &labels))?.encode_gauge(&value)
            })
        });
    }

    /// How long something takes.
    pub fn latency(&mut self, metric: &Metric, latency: &Latency) {
        if self.note(metric, || Value::Latency(latency.clone())) {
            return;
        }
        self.write(metric, Kind::Histogram, |out| latency.0.encode(out));
    }

    /// How long several things take, each with the values of its labels in the catalogue's order.
    pub fn latencies<'l, const N: usize>(
        &mut self,
        metric: &Metric,
        values: impl IntoIterator<Item = ([impl AsRef<str>; N], &'l Latency)>,
    ) {
        self.write(metric, Kind::Histogram, |mut out| {
            values.into_iter().try_for_each(|(labels, latency)| {
                latency.0.encode(out.encode_family(&with_names(metric, &labels))?)
            })
        });
    }

    /// What several parts of one kind give, each as if it were the only one: the part's name becomes the one label of each
    /// metric. Parts give values without labels.
    pub fn parts<P>(&mut self, parts: impl IntoIterator<Item = (String, P)>)
    where
        P: FnOnce(&mut Scrape<'_>),
    {
        // What belongs to one metric has to be told in one place.
        let mut families: Vec<(Metric, Vec<(String, Value)>)> = Vec::new();
        for (name, part) in parts {
            let mut noting = Scrape { out: Out::Noted(Vec::new()), result: Ok(()) };
            part(&mut noting);
            let Out::Noted(noted) = noting.out else { continue };
            for (metric, value) in noted {
                let value = (name.clone(), value);
                match families.iter_mut().find(|(of, _)| *of == metric) {
                    Some((_, values)) => values.push(value),
                    None => families.push((metric, vec![value])),
                }
            }
        }
        for (metric, values) in &families {
            self.write(metric, metric.kind, |mut out| {
                values.iter().try_for_each(|(name, value)| {
                    let labels = [name];
                    let labels = with_names(metric, &labels);
                    let mut out = out.encode_family(&labels)?;
                    match value {
                        Value::Count(value) => count(&mut out, *value),
                        Value::Latency(latency) => latency.0.encode(out),
                        Value::Number(value) => out.encode_gauge(value),
                    }
                })
            });
        }
    }

    /// Whether the value is to be told later.
    fn note(&mut self, metric: &Metric, value: impl FnOnce() -> Value) -> bool {
        match &mut self.out {
            Out::Noted(noted) => noted.push((*metric, value())),
            Out::Text(_) => return false,
        }
        true
    }

    fn write(&mut self, metric: &Metric, kind: Kind, values: impl FnOnce(MetricEncoder<'_>) -> fmt::Result) {
        let Out::Text(encoder) = &mut self.out else {
            panic!("{} of a part has no labels of its own", metric.base);
        };
        assert_eq!(metric.kind, kind, "{} is given as what it is", metric.base);
        if self.result.is_err() {
            return;
        }
        let kind = match kind {
            Kind::Counter => MetricType::Counter,
            Kind::Gauge => MetricType::Gauge,
            Kind::Histogram => MetricType::Histogram,
        };
        let unit = metric.unit.map(|unit| match unit {
            Unit::Bytes => ExposedUnit::Bytes,
            Unit::Seconds => ExposedUnit::Seconds,
        });
        let (name, help) = (metric.prefixed(), metric.help());
        self.result = encoder.encode_descriptor(&name, help, unit.as_ref(), kind).and_then(values);
    }
}

fn count(out: &mut MetricEncoder<'_>, value: u64) -> fmt::Result {
    out.encode_counter::<NoLabelSet, u64, u64>(&value, None)
}

fn with_names<'l, const N: usize>(
    metric: &Metric,
    labels: &'l [impl AsRef<str>; N],
) -> Vec<(&'static str, &'l str)> {
    assert_eq!(metric.labels.len(), N, "{} has all its labels", metric.base);
    metric.labels.iter().copied().zip(labels.iter().map(AsRef::as_ref)).collect()
}

/// All that one process tells.
#[derive(Debug)]
pub(crate) struct Exposition {
    registry: Registry,
    source: Arc<dyn Source>,
}

#[derive(Debug)]
struct Both {
    process: ProcessMetrics,
    source: Arc<dyn Source>,
}

impl Exposition {
    pub(crate) fn new(process: ProcessMetrics, source: Arc<dyn Source>) -> Self {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(Both { process, source: Arc::clone(&source) }));
        Self { registry, source }
    }

    /// The values as they are now, as OpenMetrics text.
    pub(crate) fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.source.is_ready()
    }
}

impl Collector for Both {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scrape = Scrape { out: Out::Text(encoder), result: Ok(()) };
        self.process.collect(&*self.source, &mut scrape);
        self.source.collect(&mut scrape);
        scrape.result
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::catalogue::{META_COMMIT, META_REQUESTS, STORE_PUT_BYTES, STORE_SYNC, STORE_USED};

    #[derive(Debug)]
    pub(crate) struct Sample;

    impl Source for Sample {
        fn collect(&self, scrape: &mut Scrape<'_>) {
            let latency = Latency::default();
            latency.observe(Duration::from_millis(3));
            scrape.gauge(&STORE_USED, 4096.0);
            scrape.counter(&STORE_PUT_BYTES, 7);
            scrape.counters(&META_REQUESTS, [(["Get\"\n", "OK"], 3)]);
            scrape.latencies(&META_COMMIT, [(["apply"], &latency)]);
        }

        fn is_ready(&self) -> bool {
            true
        }
    }

    #[derive(Debug)]
    struct Parts;

    impl Source for Parts {
        fn collect(&self, scrape: &mut Scrape<'_>) {
            let latency = Latency::default();
            scrape.parts(["a", "b"].map(|name| {
                let latency = latency.clone();
                let collect = move |scrape: &mut Scrape<'_>| {
                    scrape.gauge(&STORE_USED, 1.0);
                    if name == "b" {
                        scrape.counter(&STORE_PUT_BYTES, 7);
                    }
                    scrape.latency(&STORE_SYNC, &latency);
                };
                (name.to_owned(), collect)
            }));
        }

        fn is_ready(&self) -> bool {
            true
        }
    }

    #[test]
    fn parts_are_told_apart_in_one_place_for_each_metric() {
        let text = Exposition::new(ProcessMetrics::new("1.2.3", "node"), Arc::new(Parts)).text().unwrap();
        let lines: Vec<_> = text.lines().filter(|line| line.contains("store_")).collect();
        let at = |line: &str| {
            let place = lines.iter().position(|found| *found == line);
            place.unwrap_or_else(|| panic!("{line} is missing in\n{text}"))
        };
        let used = at(r#"xdpfs_store_used_bytes{disk="a"} 1.0"#);
        assert_eq!(at(r#"xdpfs_store_used_bytes{disk="b"} 1.0"#), used + 1);
        at(r#"xdpfs_store_written_bytes_total{disk="b"} 7"#);
        at(r#"xdpfs_store_sync_seconds_count{disk="a"} 0"#);
        assert_eq!(lines.iter().filter(|line| line.starts_with("# TYPE")).count(), 3, "{text}");
    }

    #[test]
    fn values_are_told_with_unit_help_and_escaped_labels() {
        let text = Exposition::new(ProcessMetrics::new("1.2.3", "meta"), Arc::new(Sample)).text().unwrap();
        for line in [
            "# TYPE xdpfs_store_used_bytes gauge",
            "# UNIT xdpfs_store_used_bytes bytes",
            "xdpfs_store_used_bytes 4096.0",
            "xdpfs_store_written_bytes_total 7",
            r#"xdpfs_meta_requests_total{method="Get\"\n",code="OK"} 3"#,
            r#"xdpfs_meta_commit_stage_seconds_bucket{le="0.0032",stage="apply"} 1"#,
            r#"xdpfs_meta_commit_stage_seconds_count{stage="apply"} 1"#,
            r#"xdpfs_build_info{version="1.2.3",role="meta"} 1.0"#,
            "xdpfs_ready 1.0",
            "# EOF",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is missing in\n{text}");
        }
    }
}
