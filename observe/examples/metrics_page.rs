//! Prints `docs/metrics.md`; `cargo xtask docs` writes it where it belongs.

use std::io::{self, Write as _};

use xdpfs_observe::catalogue::{self, Process};

const HEAD: &str = "\
# Metrics

With `--http-listen IP:PORT` a meta server, a data node, an edge or a gateway answers `/metrics` in OpenMetrics text, which Prometheus
reads, `/healthz` (the process answers) and `/readyz` (it can serve). Without the option nobody listens. The listener speaks plain HTTP and
asks nobody who they are: it tells load and health, never a name of a bucket or an object. Keep it on a network of operators.

Counters begin at zero with each process; histograms have bounds from 50 µs to 6.6 s, each twice the one before it. This page is
written by `cargo xtask docs` from `observe/src/catalogue.rs`.
";

fn main() -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(HEAD.as_bytes())?;
    for process in [Process::Meta, Process::Node, Process::Edge, Process::Gateway] {
        writeln!(out, "\n## Of a {process}\n\n| Name | Kind | Labels | Meaning |\n|---|---|---|---|")?;
        for metric in catalogue::of(process) {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let (name, kind, help) = (metric.name(), metric.kind, metric.help());
            writeln!(out, "| `{name}` | {kind} | {} | {help} |", labels.join(", "))?;
        }
    }
    Ok(())
}
