//! What `deploy/obs` asks for is there: alerts and dashboards that name a metric of another version show nothing, and nobody notices.

use std::{collections::BTreeSet, fs, path::Path};

use xdpfs_observe::catalogue::{ALL, Kind};

/// All names that a query may use.
fn names() -> BTreeSet<String> {
    let names = ALL.iter().flat_map(|metric| match metric.kind {
        Kind::Counter | Kind::Gauge => vec![metric.name()],
        Kind::Histogram => {
            ["bucket", "sum", "count"].map(|part| format!("{}_{part}", metric.name())).to_vec()
        }
    });
    names.collect()
}

/// The words of `text` that look like a metric of ours.
fn used(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    words.filter(|word| word.starts_with("xdpfs_")).collect()
}

#[test]
fn alerts_and_dashboard_use_metrics_that_there_are() {
    let names = names();
    for (file, at_least) in [("alerts.yml", 10), ("grafana-dashboard.json", 20)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/obs").join(file);
        let text = fs::read_to_string(&path).expect("the file is there");
        let used = used(&text);
        assert!(used.len() >= at_least, "{file} uses {} metrics", used.len());
        for name in used {
            // Those that an explanation refers to have no `_bucket`.
            let is_known = names.contains(name) || names.contains(&format!("{name}_bucket"));
            assert!(is_known, "{file}: there is no {name}");
        }
    }
}

#[test]
fn every_alert_says_what_it_means_and_what_to_do() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/obs/alerts.yml");
    let text = fs::read_to_string(path).expect("the file is there");
    for alert in text.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap_or_default();
        for part in ["expr:", "severity:", "summary:", "consequence:", "action:"] {
            assert!(alert.contains(part), "{name} has no {part}");
        }
    }
}
