//! The chunk store on a disk, beside fio in the same directory.
//!
//! Both start from nothing in each run: a fresh store, and files that have their space but no bytes yet.

mod fio;
mod load;

use self::{
    fio::Fio,
    load::{Load, Numbers},
};
use super::row::{Condition, Row, Scale, rows};

const MIB: u64 = 1 << 20;
/// How long fio, and the store, are measured in each run.
const SECONDS: &str = "0.6";
/// The files of one run take no more than this.
const BYTES_MAX: u64 = 2048 * MIB;
const FILLED_BYTES: u64 = 1024 * MIB;
const DEPTH: u32 = 32;
/// What one request of the protocol asks for.
const BURST: u64 = 60 << 10;
const CHURNED: &str = "536870912";
const CHURNED_CHUNK: &str = "65536";

/// Chunks of one length, by several writers.
struct Write {
    length: u64,
    /// By one, 16 and 64 writers.
    benches: [(u32, &'static str); 3],
}

const WRITES: [Write; 4] = [
    Write {
        length: 1 << 10,
        benches: [(1, "store.write.1k.w1"), (16, "store.write.1k.w16"), (64, "store.write.1k.w64")],
    },
    Write {
        length: 4 << 10,
        benches: [(1, "store.write.4k.w1"), (16, "store.write.4k.w16"), (64, "store.write.4k.w64")],
    },
    Write {
        length: 64 << 10,
        benches: [(1, "store.write.64k.w1"), (16, "store.write.64k.w16"), (64, "store.write.64k.w64")],
    },
    Write {
        length: 4 << 20,
        benches: [(1, "store.write.4m.w1"), (16, "store.write.4m.w16"), (64, "store.write.4m.w64")],
    },
];
/// From this length on the disk's bandwidth is what matters.
const LARGE_MIN: u64 = MIB;

/// So little that what is read at random comes from the disk, and enough for checksums of large chunks' pages.
const LITTLE_CACHE: &str = "33554432";
const IN_SYNC: &str = "fio: O_DIRECT and O_DSYNC, a thread and a file for each writer";
const BANDWIDTH: &str = "fio: 4 MiB one after another, O_DIRECT, depth 4, not made durable";
const ONE_EACH: &str = "one durable write for each record";

const OPENS: [(u64, &str, &str); 2] = [
    (100_000, "store.open.clean.1e5", "store.open.killed.1e5"),
    (1_000_000, "store.open.clean.1e6", "store.open.killed.1e6"),
];

pub(super) fn write(runs: u32) -> anyhow::Result<Vec<Row>> {
    let load = Load::prepare()?;
    let fio = Fio::find(load.directory());
    let mut all = Vec::new();
    for Write { length, benches } in WRITES {
        let is_large = length >= LARGE_MIN;
        let reference = if is_large { BANDWIDTH } else { IN_SYNC };
        let mut rates = Vec::new();
        for (writers, bench) in benches {
            let (length_text, writers_text, bytes_max) =
                (length.to_string(), writers.to_string(), BYTES_MAX.to_string());
            let args = ["write", "--length", &length_text, "--writers", &writers_text];
            let args = [&args[..], &["--seconds", SECONDS, "--bytes-max", &bytes_max]].concat();
            let fio_args = if is_large { Fio::bandwidth() } else { Fio::in_sync(length, writers, BYTES_MAX) };
            let measured = in_turn(
                bench,
                runs,
                || {
                    let numbers = load.on_fresh_store(&args)?;
                    numbers.several(["ops_per_s", "bytes_per_s", "p50_us", "p99_us", "fsyncs_per_1000"])
                },
                || {
                    let Some(done) = fio.write(&fio_args)? else { return Ok(None) };
                    Ok(Some([done.per_second, done.bytes_per_s, done.p50_us, done.p99_us, 1000.0]))
                },
            )?;
            let metrics = [
                ("ops_per_s", "records/s", reference),
                ("bytes_per_s", "bytes/s", reference),
                ("p50_us", "us", reference),
                ("p99_us", "us", reference),
                ("fsyncs", "per 1000", ONE_EACH),
            ];
            rates.push(measured.clone().map(|side| side.iter().map(|values| values[0]).collect::<Vec<_>>()));
            all.extend(compared(bench, metrics, measured));
        }
        if let ([one, .., many], (_, bench)) = (&rates[..], benches[2]) {
            let over = |side: usize| -> Vec<f64> {
                many[side].iter().zip(&one[side]).map(|(many, one)| many / one).collect()
            };
            let scale = Scale { bench, unit: "times" };
            all.extend(rows(scale, "over_one_writer", over(0), vec![(reference, over(1))]));
        }
    }
    Ok(under(
        all,
        "chunks into a fresh store; where fio writes 1 KiB, 4 KiB are meant: O_DIRECT can do no less",
    ))
}

pub(super) fn read(runs: u32) -> anyhow::Result<Vec<Row>> {
    let load = Load::prepare()?;
    let fio = Fio::find(load.directory());
    let depth = DEPTH.to_string();
    let mut all = Vec::new();
    let random = Fio::random_pages(DEPTH, FILLED_BYTES);
    let by_length = [(4 << 10, "store.read.random4k"), (4 * MIB, "store.read.random4k.in_4m")];
    for (length, bench) in by_length {
        load.fill(FILLED_BYTES / length, length)?;
        let measured = in_turn(
            bench,
            runs,
            || {
                let args = ["read-random", "--depth", &depth, "--seconds", SECONDS, "--cache", LITTLE_CACHE];
                let numbers = load.call(&args)?;
                numbers.several(["ops_per_s", "p50_us", "p99_us"])
            },
            || Ok(fio.read(&random)?.map(|done| [done.per_second, done.p50_us, done.p99_us])),
        )?;
        const REFERENCE: &str = "fio: random pages of a file, O_DIRECT, io_uring, depth 32";
        let metrics =
            [("ops_per_s", "pages/s", REFERENCE), ("p50_us", "us", REFERENCE), ("p99_us", "us", REFERENCE)];
        all.extend(compared(bench, metrics, measured));
    }
    let cached = Fio::cached_pages();
    let with_and_without = [("store.read.cached4k", "134217728"), ("store.read.cached4k.without_cache", "0")];
    for (bench, cache) in with_and_without {
        let measured = in_turn(
            bench,
            runs,
            || {
                let args = ["read-cached", "--seconds", SECONDS, "--cache", cache];
                load.call(&args)?.several(["ns_per_page"])
            },
            || Ok(fio.read(&cached)?.map(|done| [1e9 / done.per_second])),
        )?;
        let reference = "fio: pread of pages that the kernel has in memory";
        all.extend(compared(bench, [("per_page", "ns", reference)], measured));
    }
    load.fill(FILLED_BYTES / (64 * MIB), 64 * MIB)?;
    let (burst, ahead) = (Fio::bursts(BURST, 1, FILLED_BYTES), Fio::bursts(MIB, 4, FILLED_BYTES));
    let burst_text = BURST.to_string();
    const BURSTS: &str = "fio: the same bursts of a file, O_DIRECT, one at a time";
    const AHEAD: &str = "fio: 1 MiB after another, O_DIRECT, depth 4";
    for (bench, at_once, read_ahead, fio_args, reference) in [
        ("store.read.seq64m", "1", "2097152", &burst, BURSTS),
        ("store.read.seq64m", "4", "2097152", &ahead, AHEAD),
        ("store.read.seq64m.without_read_ahead", "1", "0", &burst, BURSTS),
    ] {
        let measured = in_turn(
            bench,
            runs,
            || {
                let means = ["--read-ahead", read_ahead, "--at-once", at_once];
                let args = ["read-sequential", "--burst", &burst_text, "--seconds", SECONDS];
                load.call(&[&args[..], &means].concat())?.several(["bytes_per_s"])
            },
            || Ok(fio.read(fio_args)?.map(|done| [done.bytes_per_s])),
        )?;
        all.extend(compared(bench, [("bytes_per_s", "bytes/s", reference)], measured));
    }
    Ok(under(all, "chunks of one length, 1 GiB in all; fio: a file of as much"))
}

/// How long it takes to open, and what the store then takes in memory.
pub(super) fn open(runs: u32) -> anyhow::Result<Vec<Row>> {
    let load = Load::prepare()?;
    let mut all = Vec::new();
    let mut resident = Vec::new();
    let mut map = Vec::new();
    for (chunks, clean_bench, killed_bench) in OPENS {
        load.fill(chunks, 256)?;
        let (mut clean, mut killed) = (Vec::new(), Vec::new());
        let mut last = Numbers::default();
        for run in 1..=runs.min(3) {
            last = load.call(&["open"])?;
            load.fill_until_killed(chunks, 256)?;
            let values = [last.one("ms")?, load.call(&["open"])?.one("ms")?];
            eprintln!("  {clean_bench} and killed, run {run}: {values:.1?}");
            clean.push(values[0]);
            killed.push(values[1]);
        }
        // Of those that were there at the last opening; some came by being killed.
        resident.push((last.one("chunks")?, last.one("resident_bytes")?));
        map.push(last.one("map_bytes_per_chunk")?);
        let scale = |bench| Scale { bench, unit: "ms" };
        let (was_killed, was_closed) = ("the same store, killed", "the same store, closed");
        all.extend(rows(scale(clean_bench), "until_open", clean.clone(), vec![(was_killed, killed.clone())]));
        all.extend(rows(scale(killed_bench), "until_open", killed, vec![(was_closed, clean)]));
    }
    if let [(few, small), (many, large)] = resident[..] {
        // The rest does not depend on how many there are.
        let each = (large - small) / (many - few);
        let scale = Scale { bench: "store.bytes_per_chunk", unit: "bytes" };
        let reference = "HashMap of 16 bytes for each chunk";
        all.extend(rows(scale, "resident", vec![each], vec![(reference, map.split_off(1))]));
    }
    Ok(under(all, "chunks of 256 bytes; killed by SIGKILL while it puts 256 at a time"))
}

/// What compaction writes, and who notices that it runs.
pub(super) fn churn(_runs: u32) -> anyhow::Result<Vec<Row>> {
    let load = Load::prepare()?;
    let size = ["--capacity", CHURNED, "--length", CHURNED_CHUNK];
    let churned = load.on_fresh_store(&[&["churn"], &size[..], &["--times", "3"]].concat())?;
    let scale = Scale { bench: "store.write_amplification", unit: "times" };
    let reference = "the bytes of the chunks";
    let mut all = rows(scale, "written", vec![churned.one("amplification")?], vec![(reference, vec![1.0])]);
    let beside = load.on_fresh_store(&[&["read-beside"], &size[..], &["--seconds", "2"]].concat())?;
    let idle = [beside.one("idle_p50_us")?, beside.one("idle_p99_us")?];
    for (bench, names) in [
        ("store.read.beside_compaction", ["compaction_p50_us", "compaction_p99_us"]),
        ("store.read.beside_scrub", ["scrub_p50_us", "scrub_p99_us"]),
    ] {
        let reference = "the idle store";
        let metrics = [("p50_us", "us", reference), ("p99_us", "us", reference)];
        all.extend(compared(bench, metrics, [vec![beside.several(names)?], vec![idle]]));
    }
    let moved = format!(
        "a store of 512 MiB in 128 segments, three quarters full of chunks of 64 KiB, three times its size put; {} MiB moved \
         and {} MiB scrubbed without a rate while pages were read one at a time",
        beside.one("moved_bytes")? as u64 / MIB,
        beside.one("scrubbed_bytes")? as u64 / MIB
    );
    Ok(under(all, &moved))
}

/// What is measured of the store and of fio, so many times.
type Measured<const METRICS: usize> = [Vec<[f64; METRICS]>; 2];

/// Measures the two in turn, `runs` times, now one first and now the other. Nothing is warm afterwards that wasn't before.
fn in_turn<const METRICS: usize>(
    bench: &str,
    runs: u32,
    store: impl Fn() -> anyhow::Result<[f64; METRICS]>,
    fio: impl Fn() -> anyhow::Result<Option<[f64; METRICS]>>,
) -> anyhow::Result<Measured<METRICS>> {
    let mut measured = [Vec::new(), Vec::new()];
    for run in 1..=runs {
        let (ours, theirs) = if run % 2 == 0 {
            let ours = store()?;
            (ours, fio()?)
        } else {
            let theirs = fio()?;
            (store()?, theirs)
        };
        eprintln!("  {bench}, run {run} of {runs}: {ours:.1?}, fio {theirs:.1?}");
        measured[0].push(ours);
        measured[1].extend(theirs);
    }
    Ok(measured)
}

/// One row for each metric, which is a name, a unit, and what the reference is.
fn compared<const METRICS: usize>(
    bench: &'static str,
    metrics: [(&'static str, &'static str, &'static str); METRICS],
    measured: Measured<METRICS>,
) -> Vec<Row> {
    let column = |side: usize, at: usize| measured[side].iter().map(|values| values[at]).collect::<Vec<_>>();
    let row = |(at, (metric, unit, reference))| {
        rows(Scale { bench, unit }, metric, column(0, at), vec![(reference, column(1, at))])
    };
    metrics.into_iter().enumerate().flat_map(row).collect()
}

fn under(rows: Vec<Row>, what: &str) -> Vec<Row> {
    let conditions: [Condition; 2] =
        [("compared", what.to_owned()), ("disk", "that of the build directory".to_owned())];
    rows.into_iter().map(|row| row.under(&conditions)).collect()
}
