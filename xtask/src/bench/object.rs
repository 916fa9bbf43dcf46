//! Whole objects through the command line tool, as a user sees them.

use std::path::Path;

use super::{
    bed::{Bed, text, timed},
    reference::{self, REPLICAS},
    row::{Measurement, Row, Scale, compare},
};

const MIB: u64 = 1 << 20;
const LARGE_BYTES: u64 = 256 * MIB;
const SMALL_FILES: u64 = 500;
const SMALL_BYTES: u64 = 4 << 10;

/// A put is acknowledged when its replicas are durable, so the references make as many copies durable, or send as
/// many bytes.
pub(super) fn put(bed: &Bed, runs: u32) -> anyhow::Result<Vec<Row>> {
    let source = bed.file(&bed.empty_dir("put")?, "large", LARGE_BYTES)?;
    let scale = Scale { bench: "object.put", unit: "MiB/s" };
    let subject =
        Measurement::new("throughput", || Ok(rate(bed.call(&["put", text(&source)?, "bench/large"])?)));
    let references = vec![
        Measurement::new("copying the file to three files on the same disk, each with fsync", || {
            let dir = bed.empty_dir("put-reference")?;
            Ok(rate(timed(|| reference::copy_durably(&source, &dir))?))
        }),
        Measurement::new("sending the file three times over one TCP connection on loopback", || {
            Ok(rate(timed(|| reference::over_tcp(&source, REPLICAS))?))
        }),
    ];
    compare(scale, runs, subject, references)
}

/// Both sides have the bytes in the page cache; so do the references.
pub(super) fn get(bed: &Bed, runs: u32) -> anyhow::Result<Vec<Row>> {
    let source = bed.file(&bed.empty_dir("get")?, "large", LARGE_BYTES)?;
    bed.call(&["put", text(&source)?, "bench/large"])?;
    let scale = Scale { bench: "object.get", unit: "MiB/s" };
    let subject = Measurement::new("throughput", || Ok(rate(bed.call(&["get", "bench/large", "-"])?)));
    let references = vec![
        Measurement::new("cat of the file into a pipe", || Ok(rate(timed(|| reference::cat(&source))?))),
        Measurement::new("sending the file once over one TCP connection on loopback", || {
            Ok(rate(timed(|| reference::over_tcp(&source, 1))?))
        }),
    ];
    compare(scale, runs, subject, references)
}

/// What each object costs besides its bytes.
pub(super) fn small(bed: &Bed, runs: u32) -> anyhow::Result<Vec<Row>> {
    let tree = bed.empty_dir("small")?;
    for number in 0..SMALL_FILES {
        bed.file(&tree, &number.to_string(), SMALL_BYTES)?;
    }
    let scale = Scale { bench: "object.small", unit: "objects/s" };
    let put = compare(
        scale,
        runs,
        Measurement::new("put_rate", || {
            Ok(object_rate(bed.call(&["put", "-r", text(&tree)?, "bench/small/"])?))
        }),
        vec![Measurement::new(
            "writing each file three times on the same disk, each with fsync and rename",
            || {
                let dir = bed.empty_dir("small-reference")?;
                Ok(object_rate(timed(|| reference::copy_tree_durably(&tree, &dir))?))
            },
        )],
    )?;
    let got = |dir: &Path| bed.call(&["get", "-r", "bench/small/", text(dir)?]);
    let get = compare(
        scale,
        runs,
        Measurement::new("get_rate", || Ok(object_rate(got(&bed.empty_dir("small-copy")?)?))),
        vec![Measurement::new("copying each file on the same disk without fsync", || {
            let dir = bed.empty_dir("small-reference")?;
            Ok(object_rate(timed(|| reference::copy_tree(&tree, &dir))?))
        })],
    )?;
    Ok([put, get].concat())
}

fn rate(took: std::time::Duration) -> f64 {
    (LARGE_BYTES / MIB) as f64 / took.as_secs_f64()
}

fn object_rate(took: std::time::Duration) -> f64 {
    SMALL_FILES as f64 / took.as_secs_f64()
}
