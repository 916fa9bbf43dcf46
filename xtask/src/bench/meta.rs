//! The metadata service, beside etcd 3.4: three processes each, on loopback and on the same disk, under the same client.
//!
//! Both clusters stand all the time and are measured in turn, now one first and now the other.

mod pair;

use std::{
    cell::RefCell,
    thread,
    time::{Duration, Instant},
};

use self::pair::{CountedCluster, Pair, Side};
use super::row::{Condition, Row, Scale, rows};

/// Clients, and what it is called with so many.
const PUTS: [(u32, &str); 4] =
    [(1, "meta.put.c1"), (16, "meta.put.c16"), (64, "meta.put.c64"), (256, "meta.put.c256")];
const OBJECT_PUTS: [(u32, &str); 2] = [(1, "meta.put_object.c1"), (64, "meta.put_object.c64")];
const READS: [(u32, &str); 4] =
    [(1, "meta.read.c1"), (16, "meta.read.c16"), (64, "meta.read.c64"), (256, "meta.read.c256")];
const KEYS: u64 = 10_000;
const LISTED: u64 = 1_000_000;
const LARGE: Size = Size {
    count: 10_000_000,
    memory: "meta.bytes_per_object.memory.1e7",
    disk: "meta.bytes_per_object.disk.1e7",
    start: "meta.start.1e7",
    put: "meta.put.at.1e7",
    read: "meta.read.at.1e7",
};
const SIZES: [Size; 3] = [
    Size {
        count: 10_000,
        memory: "meta.bytes_per_object.memory.1e4",
        disk: "meta.bytes_per_object.disk.1e4",
        start: "meta.start.1e4",
        put: "meta.put.at.1e4",
        read: "meta.read.at.1e4",
    },
    Size {
        count: 100_000,
        memory: "meta.bytes_per_object.memory.1e5",
        disk: "meta.bytes_per_object.disk.1e5",
        start: "meta.start.1e5",
        put: "meta.put.at.1e5",
        read: "meta.read.at.1e5",
    },
    Size {
        count: 1_000_000,
        memory: "meta.bytes_per_object.memory.1e6",
        disk: "meta.bytes_per_object.disk.1e6",
        start: "meta.start.1e6",
        put: "meta.put.at.1e6",
        read: "meta.read.at.1e6",
    },
];

const PUT: &str = "one durable entry of the log: a copy of an empty object to one of 10,000 keys, with 256 bytes of user \
                   metadata; etcd: a put of 256 bytes";
const PUT_OBJECT: &str = "BeginPut and CommitPut of an empty object with 256 bytes of user metadata, two durable entries; \
                          etcd: one put of 256 bytes";
const READ: &str = "HeadObject behind a ReadIndex barrier, of one of 10,000 objects; etcd: a linearizable range of one key \
                    with 64 bytes";
const LIST: &str =
    "1,000,000 objects under one prefix, 1000 a page, one client; etcd: ranges of 1000 keys with 64 bytes";
const OBJECTS: &str = "objects without chunks and user metadata, names of 15 bytes; etcd: keys of 15 bytes with 64 bytes; \
                       memory is what is resident in the leader, disk its directory";

/// What is counted under load is counted beside this.
const IDLE: &str = "idle for as long";

/// So many objects, and what measurements are called with them.
struct Size {
    count: u64,
    memory: &'static str,
    disk: &'static str,
    start: &'static str,
    put: &'static str,
    read: &'static str,
}

pub(super) fn put(runs: u32) -> anyhow::Result<Vec<Row>> {
    let pair = Pair::start()?;
    let mut all = Vec::new();
    for (clients, bench) in PUTS {
        all.extend(under(load(&pair, bench, "put", clients, runs)?, PUT));
    }
    for (clients, bench) in OBJECT_PUTS {
        all.extend(under(load(&pair, bench, "put-object", clients, runs)?, PUT_OBJECT));
    }
    Ok(all)
}

pub(super) fn read(runs: u32) -> anyhow::Result<Vec<Row>> {
    let pair = Pair::start()?;
    pair.fill(KEYS)?;
    let mut all = Vec::new();
    for (clients, bench) in READS {
        all.extend(under(load(&pair, bench, "read", clients, runs)?, READ));
    }
    Ok(all)
}

pub(super) fn list(runs: u32) -> anyhow::Result<Vec<Row>> {
    let pair = Pair::start()?;
    pair.fill(LISTED)?;
    let measured = measure(&pair, "meta.list", runs, |side| Ok([side.load(&["list"])?[0]]))?;
    Ok(under(compared("meta.list", [("rate", "objects/s")], measured), LIST))
}

/// What objects take, and what is slower with many of them.
pub(super) fn objects(runs: u32) -> anyhow::Result<Vec<Row>> {
    objects_of(&SIZES, Pair::start, runs)
}

/// The same with ten million, which takes long, beside few. Both systems at once would take more memory than such a machine has.
pub(super) fn many_objects(runs: u32) -> anyhow::Result<Vec<Row>> {
    objects_of([&SIZES[0], &LARGE], Pair::without_reference, runs)
}

fn objects_of<'a>(
    sizes: impl IntoIterator<Item = &'a Size>,
    start: fn() -> anyhow::Result<Pair>,
    runs: u32,
) -> anyhow::Result<Vec<Row>> {
    let mut all = Vec::new();
    for size in sizes {
        let mut pair = start()?;
        let empty = pair.each(|side| side.memory_bytes())?;
        pair.fill(size.count)?;
        // What is done in the background at most every second or so.
        thread::sleep(Duration::from_secs(3));
        let full = pair.each(|side| side.memory_bytes())?;
        let per_object = |full: f64, empty: f64| (full - empty).max(0.0) / size.count as f64;
        let memory: Vec<f64> =
            full.iter().zip(&empty).map(|(full, empty)| per_object(*full, *empty)).collect();
        all.extend(compared(size.memory, [("resident", "bytes")], once(&memory)));
        let disk = pair.each(|side| Ok(side.disk_bytes()? as f64 / size.count as f64))?;
        all.extend(compared(size.disk, [("directory", "bytes")], once(&disk)));
        all.extend(pace(&pair, size.put, "put", runs)?);
        all.extend(pace(&pair, size.read, "read", runs)?);
        let mut starts = vec![Vec::new(); pair.sides().len()];
        for _ in 0..runs.min(3) {
            for (all, took) in starts.iter_mut().zip(pair.restart()?) {
                all.push([took.as_secs_f64() * 1e3]);
            }
        }
        all.extend(compared(size.start, [("until_served", "ms")], starts));
    }
    Ok(under(all, OBJECTS))
}

/// The state in memory, as it is, beside the same objects in sled.
pub(super) fn shape(runs: u32) -> anyhow::Result<Vec<Row>> {
    shape_of("meta.shape.1e6", 1_000_000, runs)
}

/// The same with ten times as many.
pub(super) fn large_shape(runs: u32) -> anyhow::Result<Vec<Row>> {
    shape_of("meta.shape.1e7", 10_000_000, runs)
}

fn shape_of(bench: &'static str, count: u64, runs: u32) -> anyhow::Result<Vec<Row>> {
    let mut measured = [Vec::new(), Vec::new()];
    // What is allocated is the same each time, and the rates hardly differ.
    for run in 0..runs.min(3) {
        for (shape, all) in ["memory", "sled"].into_iter().zip(&mut measured) {
            let values = pair::shape(shape, count)?;
            eprintln!("  {bench} {shape}, run {run}: {values:.1?}");
            all.push(values);
        }
    }
    let metrics = [
        ("put_rate", "puts/s"),
        ("get_rate", "gets/s"),
        ("list_rate", "objects/s"),
        ("allocated", "bytes/object"),
        ("disk", "bytes/object"),
        ("allocations", "per put"),
    ];
    let [memory, sled] = measured;
    let rows = against(pair::IN_SLED, bench, metrics, vec![memory, sled]);
    let what = "in one process, without consensus and without a sync: one chunk an object, three replicas, names of 23 \
                bytes; on disk a snapshot, or sled's directory";
    Ok(rows.into_iter().map(|row| row.under(&[("compared", what.to_owned())])).collect())
}

/// What does not depend on the machine.
pub(super) fn counts(_runs: u32) -> anyhow::Result<Vec<Row>> {
    let pair = Pair::start()?;
    pair.fill(KEYS)?;
    let mut all = Vec::new();
    for (clients, bench) in [("1", "meta.fsyncs.c1"), ("64", "meta.fsyncs.c64")] {
        let counted = pair.each(|side| {
            let before = side.syncs()?;
            let numbers = side.load(&["put", "--clients", clients, "--seconds", "3"])?;
            Ok((side.syncs()? - before) / numbers[3] * 1000.0)
        })?;
        all.extend(under(compared(bench, [("per_1000_puts", "fsyncs")], once(&counted)), PUT));
    }
    let subject = &pair.sides()[0];
    for (clients, bench) in [("1", "meta.heartbeats.c1"), ("64", "meta.heartbeats.c64")] {
        let counted = beside_idle(
            || subject.heartbeats(),
            || subject.load(&["read", "--clients", clients, "--seconds", "3"]),
        )?;
        all.extend(under(against(IDLE, bench, [("per_1000_reads", "heartbeats")], counted), READ));
    }
    let counted_cluster = RefCell::new(CountedCluster::start()?);
    for (clients, bench) in [("1", "meta.allocations.c1"), ("64", "meta.allocations.c64")] {
        let load = || counted_cluster.borrow().load(&["put", "--clients", clients, "--seconds", "3"]);
        let counted = beside_idle(|| counted_cluster.borrow_mut().allocations(), load)?;
        let rows = against(IDLE, bench, [("per_1000_puts", "allocations")], counted);
        let what = "the same put; of three servers in one process, all that they allocate";
        all.extend(rows.into_iter().map(|row| row.under(&[("compared", what.to_owned())])));
    }
    Ok(all)
}

/// How much `count` rises for 1000 operations of `load`, and how much it would have risen without them.
fn beside_idle(
    count: impl Fn() -> anyhow::Result<f64>,
    load: impl Fn() -> anyhow::Result<Vec<f64>>,
) -> anyhow::Result<Measured<1>> {
    // Connections, and what is made once.
    load()?;
    let (began, before) = (Instant::now(), count()?);
    let operations = load()?[3];
    let (took, during) = (began.elapsed(), count()? - before);
    let before = count()?;
    thread::sleep(took);
    let idle = count()? - before;
    Ok(once(&[during / operations * 1000.0, idle / operations * 1000.0]))
}

/// What is said of a system by its operations a second, its median and its 99th percentile.
fn load(pair: &Pair, bench: &'static str, work: &str, clients: u32, runs: u32) -> anyhow::Result<Vec<Row>> {
    let clients = clients.to_string();
    let keys = KEYS.to_string();
    let args = [work, "--clients", &clients, "--seconds", "2", "--keys", &keys];
    let measured = measure(pair, bench, runs, |side| {
        let numbers = side.load(&args)?;
        Ok([numbers[0], numbers[1], numbers[2]])
    })?;
    Ok(compared(bench, [("ops_per_s", "ops/s"), ("p50_us", "us"), ("p99_us", "us")], measured))
}

/// The same of one client, by its latencies.
fn pace(pair: &Pair, bench: &'static str, work: &str, runs: u32) -> anyhow::Result<Vec<Row>> {
    let measured = measure(pair, bench, runs, |side| {
        let numbers = side.load(&[work, "--clients", "1", "--seconds", "2"])?;
        Ok([numbers[1], numbers[2]])
    })?;
    Ok(compared(bench, [("p50_us", "us"), ("p99_us", "us")], measured))
}

/// What is measured of each side, so many times.
type Measured<const METRICS: usize> = Vec<Vec<[f64; METRICS]>>;

/// Measures the sides in turn, once without counting and then `runs` times.
fn measure<const METRICS: usize>(
    pair: &Pair,
    bench: &str,
    runs: u32,
    one: impl Fn(&Side<'_>) -> anyhow::Result<[f64; METRICS]>,
) -> anyhow::Result<Measured<METRICS>> {
    let sides = pair.sides();
    let mut measured = vec![Vec::new(); sides.len()];
    for run in 0..=runs {
        let mut order: Vec<usize> = (0..sides.len()).collect();
        if run % 2 == 1 {
            order.reverse();
        }
        for at in order {
            let values = one(&sides[at])?;
            eprintln!("  {bench} {}, run {run} of {runs}: {values:.1?}", sides[at].name());
            if run > 0 {
                measured[at].push(values);
            }
        }
    }
    Ok(measured)
}

fn once(values: &[f64]) -> Measured<1> {
    values.iter().map(|value| vec![[*value]]).collect()
}

fn compared<const METRICS: usize>(
    bench: &'static str,
    metrics: [(&'static str, &'static str); METRICS],
    measured: Measured<METRICS>,
) -> Vec<Row> {
    against(pair::REFERENCE, bench, metrics, measured)
}

/// One row for each metric; the first side is the subject.
fn against<const METRICS: usize>(
    reference: &'static str,
    bench: &'static str,
    metrics: [(&'static str, &'static str); METRICS],
    measured: Measured<METRICS>,
) -> Vec<Row> {
    let column = |side: usize, at: usize| {
        let values = measured.get(side).map_or(&[][..], Vec::as_slice);
        values.iter().map(|values| values[at]).collect::<Vec<_>>()
    };
    let row = |(at, (metric, unit)): (usize, (&'static str, &'static str))| {
        rows(Scale { bench, unit }, metric, column(0, at), vec![(reference, column(1, at))])
    };
    metrics.into_iter().enumerate().flat_map(row).collect()
}

fn under(rows: Vec<Row>, what: &str) -> Vec<Row> {
    let conditions: [Condition; 2] = [
        ("compared", what.to_owned()),
        (
            "servers",
            "three processes each, loopback, one disk, every acknowledgement behind a sync".to_owned(),
        ),
    ];
    rows.into_iter().map(|row| row.under(&conditions)).collect()
}
