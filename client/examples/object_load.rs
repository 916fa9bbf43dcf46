//! Puts or gets objects of one size, several at a time, for so many seconds, and prints one JSON object: `object_load ENDPOINTS put
//! BUCKET SIZE AT_ONCE SECONDS`, or `get`, which puts some first. `object_load http://IP:PORT/ put|get - SIZE AT_ONCE SECONDS` does the
//! same to a WebDAV server. `cargo xtask bench e2e` runs it.
#![expect(clippy::print_stdout, reason = "a tool")]

mod object_load {
    pub(super) mod web;
}

use std::{
    env,
    error::Error,
    fs,
    time::{Duration, Instant},
};

use bytes::Bytes;
use object_load::web::Web;
use tokio::{io::AsyncReadExt as _, task::JoinSet};
use xdpfs_client::{Client, ClientConfig, GetOptions, ObjectClient as _, PutOptions};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

/// Before the clock counts.
const WARM_UP: Duration = Duration::from_millis(300);
/// What is got again and again: as many objects as make up this, but some at least.
const GOT_BYTES: usize = 256 << 20;
const GOT_MIN: usize = 2;
const GOT_MAX: usize = 256;

/// What is measured.
#[derive(Clone)]
enum Store {
    Xdpfs { client: Client, bucket: String },
    Web(Web),
}

impl Store {
    async fn put(&self, key: &str, bytes: Bytes) -> Result<()> {
        match self {
            Self::Xdpfs { client, bucket } => {
                client.put_bytes(bucket, key, bytes, PutOptions::default()).await?;
                Ok(())
            }
            Self::Web(web) => web.put(key, &bytes).await,
        }
    }

    /// Reads an object to its end and throws it away; its length.
    async fn get(&self, key: &str, buffer: &mut [u8]) -> Result<usize> {
        match self {
            Self::Xdpfs { client, bucket } => {
                let mut stream = client.get(bucket, key, GetOptions::default()).await?;
                let mut length = 0;
                loop {
                    match stream.read(buffer).await? {
                        0 => return Ok(length),
                        read => length += read,
                    }
                }
            }
            Self::Web(web) => web.get(key, buffer).await,
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let [endpoints, what, bucket, size, at_once, seconds] = &args[..] else {
        return Err("see the head of object_load.rs".into());
    };
    let (size, at_once): (usize, usize) = (size.parse()?, at_once.parse()?);
    let time = Duration::from_secs_f64(seconds.parse()?);
    let store = match endpoints.strip_prefix("http://") {
        Some(host) => Store::Web(Web::new(host.trim_end_matches('/').parse()?)),
        None => {
            let client = Client::connect(ClientConfig::new(endpoints.parse()?))?;
            Store::Xdpfs { client, bucket: bucket.clone() }
        }
    };
    // Bytes that do not compress.
    let mut word = size as u64 | 1;
    let mut next = || {
        word = word.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23);
        word.to_le_bytes()
    };
    let bytes = Bytes::from((0..size.div_ceil(8)).flat_map(|_| next()).take(size).collect::<Vec<_>>());
    let is_put = what == "put";
    let objects = (GOT_BYTES / size.max(1)).clamp(GOT_MIN, GOT_MAX);
    for object in 0..if is_put { 0 } else { objects } {
        store.put(&format!("got-{size}-{object}"), bytes.clone()).await?;
    }
    let from = Instant::now() + WARM_UP;
    let until = from + time;
    let cpu_before = cpu_s()?;
    let mut workers = JoinSet::new();
    for worker in 0..at_once {
        let (store, bytes) = (store.clone(), bytes.clone());
        workers.spawn(async move {
            let mut times = Vec::new();
            let mut buffer = vec![0; 256 << 10];
            for number in worker.. {
                let began = Instant::now();
                if began >= until {
                    break;
                }
                if is_put {
                    store.put(&format!("put-{size}-{worker}-{}", number % 64), bytes.clone()).await?;
                } else {
                    let got = store.get(&format!("got-{size}-{}", number % objects), &mut buffer).await?;
                    if got != size {
                        return Err(format!("{got} bytes of {size}").into());
                    }
                }
                times.push((began, began.elapsed()));
            }
            Ok::<_, Box<dyn Error + Send + Sync>>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = workers.join_next().await {
        times.extend(done??);
    }
    let cpu = cpu_s()? - cpu_before;
    let all = times.len() as f64;
    let end = Instant::now().max(until);
    let counted = times.iter().filter(|(began, _)| *began >= from);
    let mut took: Vec<f64> = counted.map(|(_, took)| took.as_secs_f64() * 1e6).collect();
    took.sort_by(f64::total_cmp);
    let at = |share: f64| took.get((took.len() as f64 * share) as usize).copied().unwrap_or(f64::NAN);
    let per_second = took.len() as f64 / (end - from).as_secs_f64();
    println!(
        r#"{{"ops_per_s":{per_second:.2},"bytes_per_s":{:.0},"p50_us":{:.1},"p99_us":{:.1},"client_cpu_s_per_gb":{:.3},"bytes":{:.0}}}"#,
        per_second * size as f64,
        at(0.5),
        at(0.99),
        cpu / (all * size as f64 / 1e9),
        all * size as f64
    );
    Ok(())
}

/// What this process has used of all cores.
fn cpu_s() -> Result<f64> {
    let line = fs::read_to_string("/proc/self/stat")?;
    let after_name = line.rsplit(')').next().unwrap_or_default();
    let mut fields = after_name.split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|ticks| ticks.parse::<f64>().ok()).unwrap_or_default();
    Ok((ticks() + ticks()) / 100.0)
}
