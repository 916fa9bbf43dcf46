//! The Python package beside the Rust client that it is made of, on one cluster, and beside boto3 on a server of its own.
//!
//! Each run is a process that puts all objects and then gets them, and says how long each took.

use std::path::PathBuf;

use anyhow::Context as _;

use super::{
    bed::Bed,
    row::{Measurement, Row, Scale, compare},
};
use crate::{python, sh};

/// What is moved in a run, and how.
struct Load {
    put: &'static str,
    get: &'static str,
    size: u64,
    count: u64,
    /// How many objects at once.
    parallel: u64,
    unit: &'static str,
    /// What a second is worth, in `unit`.
    per_run: f64,
}

const LARGE: Load = Load {
    put: "sdk.python.put.64m",
    get: "sdk.python.get.64m",
    size: 64 << 20,
    count: 8,
    parallel: 1,
    unit: "MiB/s",
    per_run: 8.0 * 64.0,
};
const SMALL: Load = Load {
    put: "sdk.python.put.4k",
    get: "sdk.python.get.4k",
    size: 4 << 10,
    count: 10_000,
    parallel: 16,
    unit: "objects/s",
    per_run: 10_000.0,
};

/// What else is installed for the comparison.
const BOTO3: &[&str] = &["boto3==1.44.5", "moto[s3,server]==5.2.5"];

/// Objects of 64 MiB, one after the other.
pub(super) fn large(bed: &Bed, runs: u32) -> anyhow::Result<Vec<Row>> {
    measure(bed, runs, &LARGE)
}

/// Objects of 4 KiB, sixteen at a time.
pub(super) fn small(bed: &Bed, runs: u32) -> anyhow::Result<Vec<Row>> {
    measure(bed, runs, &SMALL)
}

fn measure(bed: &Bed, runs: u32, load: &Load) -> anyhow::Result<Vec<Row>> {
    let environment = python::Environment::bring()?;
    environment.install(&python::wheel(&environment)?)?;
    let has_boto3 = environment.pip(BOTO3).is_ok();
    sh::run(&["cargo", "build", "--locked", "--release", "-p", "xdpfs-client", "--example", "transfers"])?;
    let interpreter = environment.python();
    let interpreter = interpreter.to_str().context("the environment's path is not text")?;
    let rust: PathBuf = sh::target_dir("release").join("examples/transfers");
    let rust = rust.to_str().context("the target directory is not text")?;
    let moved = [load.size, load.count, load.parallel].map(|number| number.to_string());
    let [size, count, parallel] = moved.each_ref().map(String::as_str);
    let cluster = [bed.cluster.endpoint(), "bench", size, count, parallel];
    let by_python = [&[interpreter, "python/benches/transfers.py"], &cluster[..]].concat();
    let by_rust = [&[rust], &cluster[..]].concat();
    let by_boto3 = [interpreter, "python/benches/transfers.py", "--boto3", size, count, parallel];
    let mut rows = Vec::new();
    for (bench, which) in [(load.put, 0), (load.get, 1)] {
        let rate = |words: &[&str]| -> anyhow::Result<f64> { Ok(load.per_run / took(words, which)?) };
        let mut references =
            vec![Measurement::new("rust_client: the same by client/examples/transfers.rs", || {
                rate(&by_rust)
            })];
        if has_boto3 {
            let about =
                "boto3 on moto's S3 server, one Python process with objects in its memory, nothing durable";
            references.push(Measurement::new(about, || rate(&by_boto3)));
        }
        let scale = Scale { bench, unit: load.unit };
        rows.extend(compare(scale, runs, Measurement::new("rate", || rate(&by_python)), references)?);
    }
    Ok(rows)
}

/// How long the puts of a run took, or its gets.
fn took(words: &[&str], which: usize) -> anyhow::Result<f64> {
    let said = sh::output(words)?;
    let seconds = said.split_whitespace().nth(which).context("a run says two times")?;
    Ok(seconds.parse()?)
}
